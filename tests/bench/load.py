"""Many calls of paid models at once, over HTTP and over stdio: what each adds to upstream's own time, how long the
event loop took no turn, and the memory."""

import asyncio
import json
import re
import statistics
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE

import child
from child import Child
from measures import Row

_HERE = Path(__file__).parent
_WATCHED = str(_HERE / "watched.py")
QUICK, _SLOW = "globex/large", "acme/tiny"  # both cost money
_PROMPT = "Why is the sky blue?"
_QUICK_MS, _SLOW_MS = 20.0, 4000.0  # what the model takes before its first word
_TOKEN = "a-token-of-the-measurement-" + "x" * 16
_MONEY = {
    "OPENROUTER_MCP_HTTP_TOKEN": _TOKEN,
    "OPENROUTER_MCP_DAILY_BUDGET_USD": "1000000",
    "OPENROUTER_MCP_CALL_BUDGET_USD": "1",
}
_ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "0"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
_HEAD = {
    "accept": "application/json, text/event-stream",
    "authorization": f"Bearer {_TOKEN}",
    "mcp-protocol-version": "2026-07-28",
    "mcp-method": "tools/call",
    "host": "HOST",
    "content-type": "application/json",
}
_MOST_ADDED_MS = {50: 150.0, 200: 500.0}
_MOST_GAP_MS, _MOST_IDLE_MIB, _MOST_MORE_MIB = 50.0, 100.0, 60.0
_IDLE = 1000  # connections
_LONGEST_S = 600.0


def loads(runs: int, rounds: int, one_by_one: int) -> list[Row]:
    """Times (ms) of so many `rounds` of calls by many callers side by side, of `runs` bursts, and of single calls
    beside idle connections."""
    with an_upstream() as upstream:
        with serving(upstream) as served:
            rows = asyncio.run(_over_http(upstream, served, rounds, one_by_one))
        with serving(upstream) as served, _bare(upstream) as bare:
            rows += asyncio.run(_in_bursts(served.port, bare, runs))
        with _started(upstream) as served:
            rows += _over_stdio(upstream, served, rounds)
    return rows


# --- over HTTP --------------------------------------------------------------------------------------------------------


async def _over_http(upstream: int, served: "_Served", rounds: int, one_by_one: int) -> list[Row]:
    memory = Row("resident memory of an idle HTTP server", "MiB", most=_MOST_IDLE_MIB)
    more = Row("peak memory of it at 200 calls at once, above that", "MiB", most=_MOST_MORE_MIB)
    await burst(served.port, 5, asking(QUICK))  # what is made once is made
    before = child.resident_mib(served.process)
    rows: list[Row] = []
    for count in (50, 200):
        added, gaps = _rows(count, "HTTP")
        alone = p95(await _side_by_side(upstream, count, rounds, _openrouter(_SLOW)))
        begin = time.monotonic()
        added.ours = [p95(await _side_by_side(served.port, count, rounds, asking(_SLOW))) - alone]
        gaps.ours = [served.longest_gap_ms(begin)]
        rows += [added, gaps]
    peak = child.peak_mib(served.process)
    if before is not None and peak is not None:
        memory.ours, more.ours = [before], [peak - before]
    return [*rows, memory, more, await _beside_idle_ones(served.port, one_by_one)]


async def _side_by_side(port: int, count: int, rounds: int, request: bytes) -> list[float]:
    """Milliseconds of each request of `count` callers, who each ask so many times in turn, out of step."""

    async def ask_in_turn(place: int) -> list[float]:
        await asyncio.sleep(place / count * _SLOW_MS / 1000)
        return [took for _ in range(rounds) for took in await burst(port, 1, request)]

    return [took for each in await asyncio.gather(*map(ask_in_turn, range(count))) for took in each]


async def _in_bursts(ours: int, bare: int, runs: int) -> list[Row]:
    """All in the very same moment."""
    rows = [Row(f"{count} calls in the same moment over HTTP, 95th percentile", "ms") for count in (50, 200)]
    for row, count in zip(rows, (50, 200), strict=True):
        for run in range(runs + 1):
            our = p95(await burst(ours, count, asking(QUICK)))
            its = p95(await burst(bare, count, asking(QUICK, "ask")))
            if run:
                row.ours.append(our)
                row.bare.append(its)
    return rows


async def _beside_idle_ones(port: int, one_by_one: int) -> Row:
    """Single calls, in turn without and beside connections on which nothing is said."""
    row = Row(f"call beside {_IDLE} idle connections, against one without them", "ms", most=1.1)
    for _ in range(one_by_one):
        row.bare += await burst(port, 1, asking(QUICK))
        async with _idle(port):
            row.ours += await burst(port, 1, asking(QUICK))
    return row


@asynccontextmanager
async def _idle(port: int) -> AsyncGenerator[None]:
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(_IDLE)]
    try:
        yield
    finally:
        for _, writer in connections:
            writer.close()


async def burst(port: int, count: int, request: bytes) -> list[float]:
    """Milliseconds of each of `count` requests sent at once, each on a connection of its own that is open already."""
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    try:
        async with asyncio.timeout(_LONGEST_S):
            whole = request.replace(b"HOST", f"127.0.0.1:{port}".encode(), 1)
            return list(await asyncio.gather(*(_asked(*connection, whole) for connection in connections)))
    finally:
        for _, writer in connections:
            writer.close()


async def _asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> float:
    """Milliseconds until the whole of a good reply is there."""
    begin = time.perf_counter()
    writer.write(request)
    reply = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", reply.lower())
    reply += await (reader.readexactly(int(length[1])) if length else reader.readuntil(b"0\r\n\r\n"))
    took = (time.perf_counter() - begin) * 1000
    if b" 200 OK" not in reply or b'"isError":true' in reply or b'"error":' in reply:
        raise RuntimeError(f"it was answered {reply.decode()[-600:]}")
    return took


def asking(model: str, tool: str = "ask_model") -> bytes:
    """A call of a tool: https://modelcontextprotocol.io/specification/2026-07-28/basic/transports."""
    params = _question(model, tool) | {"_meta": _ENVELOPE}
    return _post("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}, tool)


def _question(model: str, tool: str = "ask_model") -> child.Json:
    return {"name": tool, "arguments": {"prompt": _PROMPT, "model": model}}


def _openrouter(model: str) -> bytes:
    """What such a call has us ask."""
    messages = [{"role": "user", "content": _PROMPT}]
    return _post("/api/v1/chat/completions", {"model": model, "messages": messages, "max_tokens": 4096, "stream": True})


def _post(path: str, body: object, tool: str = "") -> bytes:
    data = json.dumps(body).encode()
    head = _HEAD | {"mcp-name": tool, "content-length": str(len(data))}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
    return "\r\n".join(lines).encode() + data


# --- over stdio -------------------------------------------------------------------------------------------------------


def _over_stdio(upstream: int, served: "_Served", rounds: int) -> list[Row]:
    rows = added, gaps = _rows(50, "stdio")
    threading.Thread(target=_read_log, args=(served.process,), daemon=True).start()
    child.initialize(served.process)
    _through_pipes(served.process, 5, 1, QUICK)
    alone = p95(asyncio.run(_side_by_side(upstream, 50, rounds, _openrouter(_SLOW))))
    begin = time.monotonic()
    added.ours = [p95(_through_pipes(served.process, 50, rounds, _SLOW)) - alone]
    gaps.ours = [served.longest_gap_ms(begin)]
    return [*rows]


def _through_pipes(server: Child, count: int, rounds: int, model: str) -> list[float]:
    """Milliseconds of `rounds` calls for each of `count`, of which so many are always under way, sent out of step."""
    begun: dict[int, float] = {}

    def ask() -> None:
        for place in range(count * rounds):
            free.acquire()
            if place < count:
                pause.wait(_SLOW_MS / 1000 / count)
            begun[child.send(server, "tools/call", _question(model))] = time.perf_counter()

    free, pause = threading.Semaphore(count), threading.Event()
    asking = threading.Thread(target=ask)
    asking.start()
    took = []
    for _ in range(count * rounds):
        number = child.answered(server)
        took.append((time.perf_counter() - begun[number]) * 1000)
        free.release()
    asking.join()
    return took


# --- the servers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Served:
    """Our server, the file it writes the gaps to, and its port if it has one."""

    process: Child
    gaps: Path
    port: int = 0

    def longest_gap_ms(self, begin: float) -> float:
        """Of those since `begin` (on the clock that all processes share), at least as long as the loop is to sleep."""
        lines = [json.loads(line) for line in self.gaps.read_text().splitlines()]
        return max((gap * 1000 for at, gap in lines if at >= begin), default=0.0)


@contextmanager
def _started(upstream: int, *arguments: str, **settings: str) -> Generator[_Served]:
    with tempfile.TemporaryDirectory() as folder:
        gaps = Path(folder) / "gaps"
        gaps.touch()
        own = {"OPENROUTER_MCP_STATE_DIR": folder, "OPENROUTER_MCP_CACHE_DIR": folder, **_MONEY, **settings}
        base_url = f"http://127.0.0.1:{upstream}/api/v1"
        with child.started(
            (_WATCHED, str(gaps), *arguments), base_url, stderr=PIPE, longest_s=_LONGEST_S, **own
        ) as process:
            yield _Served(process, gaps)


@contextmanager
def serving(upstream: int, **settings: str) -> Generator[_Served]:
    """Over HTTP, for who shows the token."""
    with _started(upstream, "serve", "--port", "0", **settings) as served:
        assert served.process.stderr
        said = served.process.stderr.readline().decode()
        threading.Thread(target=_read_log, args=(served.process,), daemon=True).start()
        yield _Served(served.process, served.gaps, int(said.rpartition(":")[2]))


def _read_log(server: Child) -> None:
    """A line for each call, until it ends; whoever does not read it holds the server up."""
    assert server.stderr
    for _ in server.stderr:
        pass


@contextmanager
def an_upstream() -> Generator[int]:
    """The port of a sandbox."""
    with child.started(
        (str(_HERE / "upstream.py"), str(_QUICK_MS), f"{_SLOW}={_SLOW_MS}"), longest_s=_LONGEST_S
    ) as upstream:
        yield int(child.read_line(upstream))


@contextmanager
def _bare(upstream: int) -> Generator[int]:
    """The port of a bare server."""
    with child.started(
        (str(_HERE / "bare.py"), "--http"), f"http://127.0.0.1:{upstream}/api/v1", longest_s=_LONGEST_S
    ) as bare:
        yield int(child.read_line(bare))


def _rows(count: int, way: str) -> tuple[Row, Row]:
    return (
        Row(
            f"{count} calls under way over {way}, 95th percentile, less upstream's own",
            "ms",
            most=_MOST_ADDED_MS[count],
        ),
        Row(f"{count} calls under way over {way}, longest gap of the event loop", "ms", most=_MOST_GAP_MS),
    )


def p95(times: list[float]) -> float:
    return statistics.quantiles(times, n=20, method="inclusive")[18]
