"""Real servers as child processes, stopped by their own handle, and the command line within this one."""

import io
import json
import logging
import os
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any
from unittest.mock import patch

import uvicorn
from support import CANARY

from openrouter_mcp.cli import main
from openrouter_mcp.sandbox import Sandbox

_BOOKS = tempfile.TemporaryDirectory(prefix="openrouter-mcp-tests-", ignore_cleanup_errors=True)
_STREAMS = ("in", "out", "err")
SERVER = [sys.executable, "-m", "openrouter_mcp"]
# Never the tester's own settings: a key in the environment must not be sent anywhere. And servers may keep their
# bytecode, which makes the next one start in half the time.
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith("OPENROUTER") and name != "PYTHONDONTWRITEBYTECODE"
}


def environment(**settings: str) -> dict[str, str]:
    """A clean environment with `settings`: books of its own, and a proxy nobody listens on, so that whatever goes out
    fails at once."""
    return (
        CLEAN
        | dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
        | {"PYTHONWARNINGS": "error"}
        | {name: tempfile.mkdtemp(dir=_BOOKS.name) for name in ("OPENROUTER_MCP_STATE_DIR", "OPENROUTER_MCP_CACHE_DIR")}
        | settings
    )


@contextmanager
def spawned(*arguments: str, command: Sequence[str] = SERVER, **settings: str) -> Generator[subprocess.Popen[bytes]]:
    """`openrouter-mcp ARGUMENTS` with pipes to all three of its streams; killed if it has not ended by itself."""
    process = subprocess.Popen(
        [*command, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**settings),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
        assert process.stderr is not None
        assert process.stderr.closed or CANARY.encode() not in process.stderr.read()


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`openrouter-mcp ARGUMENTS`, to its end."""
    done = subprocess.run(
        [*SERVER, *arguments], env=environment(**settings), input=b"", capture_output=True, timeout=60, check=False
    )
    shown = [output.decode().replace(os.linesep, "\n") for output in (done.stdout, done.stderr)]
    assert CANARY not in "".join(shown)
    return subprocess.CompletedProcess(done.args, done.returncode, *shown)


class _Stream(io.TextIOWrapper):
    """A stream of the process that is in memory and may pass for a terminal's."""

    def __init__(self, holds: bytes = b"", *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(holds), encoding="utf-8", write_through=True)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def text(self) -> str:
        """All that was written."""
        self.seek(0)
        return self.read()


def called(
    *arguments: str, stdin: str | bytes = "", terminal: str = "", **settings: str
) -> subprocess.CompletedProcess[str]:
    """`openrouter-mcp ARGUMENTS` to its end, like `run`, but in this process and at a tenth of its cost: with an
    environment, streams and a log of its own, which are as before afterwards. The streams named in `terminal` ("in",
    "out", "err") pass for a terminal's."""
    typed = stdin.encode() if isinstance(stdin, str) else stdin
    streams = [_Stream(typed if name == "in" else b"", terminal=name in terminal.split()) for name in _STREAMS]
    into, out, err = streams
    with ExitStack() as own:
        own.enter_context(patch.dict(os.environ, environment(**settings), clear=True))
        own.enter_context(patch("sys.stdin", into))
        own.enter_context(redirect_stdout(out))
        own.enter_context(redirect_stderr(err))
        own.enter_context(_log_of_its_own())
        try:
            status = main(arguments)
        except SystemExit as wrong:  # how argparse ends
            status = int(wrong.code or 0)
        shown = [stream.text() for stream in (out, err)]
    assert CANARY not in "".join(shown)
    return subprocess.CompletedProcess(arguments, status, *shown)


@contextmanager
def _log_of_its_own() -> Generator[None]:
    """Handlers and levels can be set that are gone afterwards; pytest's own are neither closed nor heard."""
    root = logging.getLogger()
    before = {name: logging.getLogger(name).level for name in ("", *list(root.manager.loggerDict))}
    try:
        with patch.object(root, "handlers", []):
            yield
    finally:
        for name in ("", *list(root.manager.loggerDict)):
            logging.getLogger(name).setLevel(before.get(name, logging.NOTSET))


def on_a_terminal(
    *arguments: str, replies: Sequence[tuple[str, str]] = (), apart: bool = False, **settings: Any
) -> tuple[int, str, str]:
    """`openrouter-mcp ARGUMENTS` on a pseudo-terminal, where each of `replies` is typed once its question is the last
    thing shown: its status, what the terminal showed, and what went to stdout where that is kept `apart`."""
    import pty  # not on Windows

    master, slave = pty.openpty()
    shown, typing = b"", list(replies)
    out = subprocess.PIPE if apart else slave
    its_own = environment(**{"TERM": "xterm", **settings})
    with subprocess.Popen([*SERVER, *arguments], stdin=slave, stdout=out, stderr=slave, env=its_own) as process:
        os.close(slave)
        with suppress(OSError):  # how a terminal ends
            while select.select([master], [], [], 20)[0] and (piece := os.read(master, 4096)):
                shown += piece
                if typing and shown.decode(errors="replace").endswith(typing[0][0]):
                    os.write(master, typing.pop(0)[1].encode())
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()  # if it has not ended
        said = process.stdout.read().decode() if process.stdout else ""
    os.close(master)
    assert CANARY not in shown.decode() + said
    return process.returncode, shown.decode(), said


def send(process: subprocess.Popen[bytes], method: str, *, id_: int | None = None, **params: Any) -> None:
    """Write one JSON-RPC message; a notification when it has no id."""
    assert process.stdin is not None
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
    if id_ is not None:
        message["id"] = id_
    process.stdin.write(json.dumps(message).encode() + b"\n")
    process.stdin.flush()


def receive(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The next line of stdout, which must be JSON-RPC."""
    assert process.stdout is not None
    message = json.loads(process.stdout.readline())
    assert message["jsonrpc"] == "2.0"
    return dict(message)


def initialize(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The handshake of 2025-11-25."""
    client = {"name": "test", "version": "1"}
    send(process, "initialize", id_=1, protocolVersion="2025-11-25", capabilities={}, clientInfo=client)
    answer = receive(process)
    send(process, "notifications/initialized")
    return answer


class Upstream:
    """The sandbox on a loopback port, in a thread of this process, so that a test can look inside."""

    def __init__(self) -> None:
        self.sandbox = Sandbox()
        self._books = tempfile.TemporaryDirectory()
        self.connections: set[tuple[str, int]] = set()  # every one there was, by the caller's address

        async def app(scope: Any, receive: Any, send: Any) -> None:
            self.connections.add(scope["client"])
            await self.sandbox.app(scope, receive, send)

        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> "Upstream":
        self._thread.start()
        wait_until(lambda: self._server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(5)
        self._books.cleanup()

    @property
    def settings(self) -> dict[str, str]:
        """The environment of a server, or of `settings.load`, that is to use it."""
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return {
            "OPENROUTER_API_KEY": CANARY,
            "OPENROUTER_BASE_URL": f"http://127.0.0.1:{port}/api/v1",
            "OPENROUTER_MCP_STATE_DIR": self._books.name,
            "OPENROUTER_MCP_CACHE_DIR": self._books.name,
        }


def wait_until(condition: Callable[[], bool], *, seconds: int = 10) -> None:
    """Wait for what another process or thread brings about, so many seconds at most."""
    moment = threading.Event()
    for _ in range(100 * seconds):
        if condition():
            return
        moment.wait(0.01)
    raise AssertionError(f"it did not come to that in {seconds} s")
