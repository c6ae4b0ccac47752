"""A program of ours as a child process, and MCP spoken to it over its raw pipes: no client of the SDK is measured."""

import itertools
import json
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from threading import Timer
from typing import Any

Json = dict[str, Any]
Child = Popen[bytes]

LONGEST_S = 60.0
_numbers = itertools.count(1)


@contextmanager
def started(
    arguments: Sequence[str],
    base_url: str = "",
    *,
    stderr: int | None = None,
    longest_s: float = LONGEST_S,
    **settings: str,
) -> Generator[Child]:
    """`python` with `arguments`, told of the upstream at `base_url` and of no other than these `settings`.

    Killed at the end, and after `longest_s` seconds whatever happens, so that no read waits for ever.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("OPENROUTER_") and name != "PYTHONDONTWRITEBYTECODE"
    }
    if base_url:
        environment |= {"OPENROUTER_BASE_URL": base_url, "OPENROUTER_API_KEY": "any"}
    with Popen(
        [sys.executable, *arguments], stdin=PIPE, stdout=PIPE, stderr=stderr, env=environment | settings
    ) as child:
        watchdog = Timer(longest_s, child.kill)
        watchdog.daemon = True
        try:
            watchdog.start()
            yield child
        finally:
            watchdog.cancel()
            child.kill()


def read_line(child: Child) -> bytes:
    """The next line of the child's stdout.

    Raises:
        RuntimeError: when it has ended.
    """
    assert child.stdout
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(f"{_name(child)} ended before it answered")
    return line


def send(child: Child, method: str, params: Json | None = None, *, wants_answer: bool = True) -> int:
    """Send a request, or a notification that wants no answer; its number."""
    assert child.stdin
    number = next(_numbers)
    message = {"jsonrpc": "2.0", **({"id": number} if wants_answer else {}), "method": method, "params": params or {}}
    child.stdin.write(json.dumps(message).encode() + b"\n")
    child.stdin.flush()
    return number


def answer(child: Child) -> Json:
    """The result of whichever request is answered next; notifications are passed over.

    Raises:
        RuntimeError: when it is an error of the protocol or of a tool.
    """
    return _next(child)[1]


def answered(child: Child) -> int:
    """The number of whichever request is answered next, as `answer` does."""
    return _next(child)[0]


def _next(child: Child) -> tuple[int, Json]:
    while "id" not in (message := json.loads(read_line(child))):
        pass
    result: Json = message.get("result") or {}
    if not result or result.get("isError"):
        raise RuntimeError(f"{_name(child)} answered {message}")
    return message["id"], result


def _name(child: Child) -> str:
    return " ".join(str(part) for part in child.args) if isinstance(child.args, list) else str(child.pid)


def initialize(child: Child) -> None:
    """Shake hands as most clients still do."""
    client = {"name": "bench", "version": "0"}
    send(child, "initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client})
    answer(child)
    send(child, "notifications/initialized", wants_answer=False)


def resident_mib(child: Child) -> float | None:
    """Resident memory in MiB; None where there is no /proc to say."""
    return _memory_mib(child, "VmRSS:")


def peak_mib(child: Child) -> float | None:
    """The most it ever was."""
    return _memory_mib(child, "VmHWM:")


def _memory_mib(child: Child, name: str) -> float | None:
    status = Path(f"/proc/{child.pid}/status")
    if not status.exists():
        return None
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024
