"""Foreign clients: where they lie, when their tests are skipped, and how one is run against a server of ours."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from processes import CLEAN, SERVER, environment, spawned
from support import CANARY

HERE = Path(__file__).parent
_FOLDER = os.environ.get("OPENROUTER_MCP_TEST_NODE") or Path.home() / ".cache/openrouter-mcp-tests/node"
FOLDER = Path(_FOLDER).absolute()
PACKAGES = FOLDER / "node_modules"
LONGEST_S = 60

_PREPARED = FOLDER / "packages.txt"
needs_node = pytest.mark.skipif(
    not _PREPARED.exists() or _PREPARED.read_text() != (HERE / "packages.txt").read_text(),
    reason=f"{FOLDER} does not hold Node 22 and the clients that are tested with; run tests/interop/prepare",
)

TRANSPORTS = ("stdio", "http", "sse")
# Beyond ASCII and beyond 16 bits, joined, from right to left, and combining: "é" in two characters, which stay two.
WORDS = "Grüße, 世界 👩‍🚀 שלום العربية e\u0301?"


@dataclass(frozen=True)
class Target:
    """A server of ours: over stdio the command that a client starts it by, else where it listens already."""

    transport: str
    address: str = ""
    arguments: Sequence[str] = ()
    settings: dict[str, str] | None = None  # of its environment


@contextmanager
def serving(*arguments: str, **settings: str) -> Generator[str]:
    """The address of `openrouter-mcp serve` on a free port."""
    with spawned("serve", "--port", "0", *arguments, **settings) as process:
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        assert line.startswith("openrouter-mcp: serving "), line
        yield line.split()[-1]


@contextmanager
def node(*command: str | Path) -> Generator[subprocess.Popen[bytes]]:
    """`node COMMAND` with pipes to all three of its streams and a home of its own; killed if it has not ended by
    itself."""
    executable = PACKAGES / "node/bin" / ("node.exe" if sys.platform == "win32" else "node")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        variables = {"OPENROUTER_MCP_TEST_NODE": str(FOLDER), "HOME": home, "USERPROFILE": home}
        pipe = subprocess.PIPE
        with subprocess.Popen(
            [executable, *command], stdin=pipe, stdout=pipe, stderr=pipe, env=CLEAN | variables
        ) as process:
            try:
                yield process
            finally:
                process.kill()


def output(process: subprocess.Popen[bytes]) -> tuple[str, str]:
    """All that it prints on stdout and stderr until it ends, the key not among it. Ends its stdin."""
    shown, complaints = (stream.decode() for stream in process.communicate(timeout=LONGEST_S))
    assert CANARY not in shown + complaints
    return shown, complaints


@contextmanager
def started(script: str, target: Target, **given: Any) -> Generator[subprocess.Popen[bytes]]:
    """One of the scenarios beside this file, under way with a client of the SDK for TypeScript."""
    server = target.address or {
        "command": SERVER[0],
        "args": [*SERVER[1:], *target.arguments],
        "env": environment(**target.settings or {}),
    }
    given |= {"transport": target.transport, "server": server}
    with node(HERE / f"{script}.mjs", json.dumps(given)) as process:
        yield process


def seen(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What a scenario saw."""
    shown, complaints = output(process)
    assert process.returncode == 0, complaints
    return dict(json.loads(shown))


def ran(script: str, target: Target, **given: Any) -> dict[str, Any]:
    """What a scenario saw that needs no word from here."""
    with started(script, target, **given) as process:
        return seen(process)
