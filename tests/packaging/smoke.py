# ruff: noqa: T201 - says what it did
"""Builds the package and uses it as a stranger does: installed alone, started in an empty folder, asked a question.

This Python, and each given that there is, gets the sdist with the lowest allowed dependencies and the wheel with the
highest. Needs the package index, so it is no test of pytest's.

uv run python tests/packaging/smoke.py [PYTHON ...]
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE
from typing import Any

ROOT = Path(__file__).parents[2]
LONGEST_S = 60
_CLIENT = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "smoke", "version": "1"}}
_ASK = {"name": "ask_model", "arguments": {"prompt": "Why is the sky blue?"}}
_SCRIPTS = "Scripts" if sys.platform == "win32" else "bin"


def main() -> None:
    """Build, install and ask, two at a time; the first failure ends it."""
    pythons = [sys.executable, *(python for python in sys.argv[1:] if Path(python).exists())]
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as workers:
        folder = Path(name)
        uv("build", "--quiet", "--out-dir", str(folder / "dist"), str(ROOT))
        (wheel,), (sdist,) = (list((folder / "dist").glob(form)) for form in ("*.whl", "*.tar.gz"))
        jobs = [
            (python, how, artefact, folder / f"{number}-{how}")
            for number, python in enumerate(pythons)
            for how, artefact in (("lowest-direct", sdist), ("highest", wheel))
        ]
        for said in workers.map(lambda job: installed(*job), jobs):
            print(said, flush=True)


def installed(python: str, resolution: str, artefact: Path, folder: Path) -> str:
    """Install `artefact` for `python` into an environment in `folder`, and use it there."""
    uv("venv", "--quiet", "--no-project", "--python", python, str(folder / "env"))
    scripts = folder / "env" / _SCRIPTS
    where = ("--python", str(scripts / "python"), "--resolution", resolution)
    uv("pip", "install", "--quiet", *where, str(artefact))
    command = str(scripts / "openrouter-mcp")
    alone = {name: value for name, value in os.environ.items() if name in ("SYSTEMROOT", "TEMP", "TMP")}
    home = folder / "home"
    home.mkdir()
    alone |= {"HOME": str(home), "USERPROFILE": str(home), "LOCALAPPDATA": str(home)}
    shown = subprocess.run([command, "--version"], stdout=PIPE, cwd=home, env=alone, check=True, timeout=LONGEST_S)
    name, version = shown.stdout.decode().split()
    with subprocess.Popen(
        [command, "--sandbox", "--log-format", "none"], stdin=PIPE, stdout=PIPE, cwd=home, env=alone
    ) as server:
        try:
            served = request(server, 1, "initialize", _CLIENT)["serverInfo"]
            assert (served["name"], served["version"]) == (name, version), served
            tools = request(server, 2, "tools/list", {})["tools"]
            answer = request(server, 3, "tools/call", _ASK)
            assert not answer["isError"], answer
            assert "'Why is the sky blue?'" in answer["content"][0]["text"], answer
            assert server.stdin
            server.stdin.close()
            assert server.wait(LONGEST_S) == 0
        finally:
            server.kill()
    return f"{artefact.name} under {python} with the {resolution} dependencies: {version}, {len(tools)} tools, answers"


def request(server: subprocess.Popen[bytes], number: int, method: str, params: Mapping[str, object]) -> Any:
    """Send one request of the protocol; its result."""
    assert server.stdin
    assert server.stdout
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    server.stdin.write(json.dumps(message).encode() + b"\n")
    server.stdin.flush()
    reply = json.loads(server.stdout.readline())
    assert reply["id"] == number, reply
    return reply["result"]


def uv(*arguments: str) -> None:
    """Run `uv`. Bytecode for whole environments that start one server would take longer than all the rest."""
    environment = os.environ | {"UV_COMPILE_BYTECODE": "0"}
    subprocess.run(["uv", *arguments], check=True, env=environment)  # noqa: S607 - whichever uv runs this


if __name__ == "__main__":
    main()
