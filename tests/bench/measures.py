"""What is measured: each function runs ours and the bare server strictly in turn, after one warm-up of each."""

import json
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import bpe_openai
import child
from child import Child

_HERE = Path(__file__).parent
_OURS = ("-m", "openrouter_mcp")
_BARE = (str(_HERE / "bare.py"),)
_UNPACED = str(_HERE / "book.py")  # our server, with more free requests a minute than are measured
_MODEL = "acme/tiny:free"
_SLOW = ("globex/large:free", "initech/coder:free", "cyberdyne/json:free", "tyrell/polyglot:free", "soylent/chat:free")
_TALKER = "hooli/thinker:free"
_PROMPT = "Why is the sky blue?"
DELAY_MS = 20.0
SLOW_MS = 200.0
AT_ONCE = 64
PROMPTS = 100
_BATCH_AT_ONCE = 5
_MANY_MODELS = 10_000  # thirty times as many as there are
_SEARCH_MS = 20.0


@dataclass
class Row:
    """The runs of one measurement in `unit`. `most` is the aim: for the ratio of medians, or without a bare server
    for our median itself."""

    name: str
    unit: str
    ours: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    most: float | None = None


def startup(runs: int) -> list[Row]:
    """Times from the spawn (ms), and the memory (MiB) then."""
    rows = [
        Row("spawn to `initialize` answer", "ms", most=1.1),
        Row("spawn to `tools/list` answer", "ms", most=1.1),
        Row("resident memory after `tools/list`", "MiB", most=1.1),
    ]
    for run in range(runs + 1):
        ours, bare = _spawn(_OURS), _spawn((*_BARE, "--trivial"))
        for row, our, its in zip(rows, ours, bare, strict=True):
            if run and our is not None and its is not None:
                row.ours.append(our)
                row.bare.append(its)
    return rows


def _spawn(arguments: tuple[str, ...]) -> tuple[float, float, float | None]:
    """One start: ms to `initialize`, ms to `tools/list`, MiB."""
    begin = time.perf_counter()
    with child.started(arguments) as server:
        child.initialize(server)
        initialized = time.perf_counter()
        child.send(server, "tools/list")
        child.answer(server)
        listed = time.perf_counter()
        return (initialized - begin) * 1000, (listed - begin) * 1000, child.resident_mib(server)


def calls(one_by_one: int, bursts: int, comparisons: int) -> list[Row]:
    """Times of calls (ms) over the sandbox on loopback; the arguments are counts of runs."""
    row, told, burst, compared, in_all = (
        Row(f"call, less the {DELAY_MS:g} ms upstream takes", "ms"),
        Row("call with progress, against our own without", "ms", most=1.1),
        Row(f"{AT_ONCE} calls at once", "ms"),
        Row(f"`compare_models` of 5 of {SLOW_MS:g} ms each, against one alone", "ms", most=1.1),
        Row(f"`compare_models` of 5 of {SLOW_MS:g} ms each, in all", "ms", most=SLOW_MS * 1.1),
    )
    ask = {"prompt": _PROMPT, "model": _MODEL}
    with _over_loopback() as (ours, bare):
        _in_turn(row, one_by_one, lambda: _call(ours, "ask_model", ask), lambda: _call(bare, "ask", ask))
        row.ours = [ms - DELAY_MS for ms in row.ours]
        row.bare = [ms - DELAY_MS for ms in row.bare]
        _in_turn(
            told,
            one_by_one,
            lambda: _call(ours, "ask_model", ask, meta={"progressToken": "any"}),
            lambda: _call(ours, "ask_model", ask),
        )
        _in_turn(
            burst, bursts, lambda: _call(ours, "ask_model", ask, AT_ONCE), lambda: _call(bare, "ask", ask, AT_ONCE)
        )
        compare = {"prompt": _PROMPT, "models": [*_SLOW]}
        alone = {"prompt": _PROMPT, "model": _SLOW[0]}
        _in_turn(
            compared, comparisons, lambda: _call(ours, "compare_models", compare), lambda: _call(bare, "ask", alone)
        )
        in_all.ours = compared.ours
    return [row, told, burst, compared, in_all]


def comparisons_at_once(runs: int) -> list[Row]:
    """Times of many at once (ms), against as many questions."""
    row = Row(f"{AT_ONCE} such comparisons at once, against {AT_ONCE * len(_SLOW)} questions", "ms")
    compare = {"prompt": _PROMPT, "models": [*_SLOW]}
    alone = {"prompt": _PROMPT, "model": _SLOW[0]}
    with _over_loopback() as (ours, bare):
        _in_turn(
            row,
            runs,
            lambda: _call(ours, "compare_models", compare, AT_ONCE),
            lambda: _call(bare, "ask", alone, AT_ONCE * len(_SLOW)),
        )
    return [row]


def batches(runs: int, looks: int) -> list[Row]:
    """What a batch adds to the time of its answers, and what the look for one that was left adds to another call."""
    least_ms = PROMPTS / _BATCH_AT_ONCE * DELAY_MS
    batch = Row(f"`ask_many` of {PROMPTS}, a prompt, less the {least_ms:g} ms all take upstream", "ms")
    look = Row("`list_free_models`, against ours without a look for batches", "ms")
    added = Row("what that look adds to `list_free_models`", "us")
    many = {"prompts": [f"{_PROMPT} {number}" for number in range(PROMPTS)], "model": _MODEL}
    with (
        _upstream() as base_url,
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as other,
        child.started((_UNPACED, folder), base_url) as ours,
        child.started((_UNPACED, other, "--no-look"), base_url) as blind,
    ):
        child.initialize(ours)
        child.initialize(blind)
        _call(ours, "ask_many", many)
        batch.ours = [(_call(ours, "ask_many", many) - least_ms) / PROMPTS for _ in range(runs)]
        _in_turn(look, looks, lambda: _call(ours, "list_free_models", {}), lambda: _call(blind, "list_free_models", {}))
    added.ours = [(its - without) * 1000 for its, without in zip(look.ours, look.bare, strict=True)]
    return [batch, look, added]


def long_answers(runs: int) -> list[Row]:
    """What an answer of 2 MB costs, in servers that have answered but one short question: ms, and MiB at the peak."""
    rows = [
        Row("2 MB answer", "ms"),
        Row("peak memory above that before a 2 MB answer", "MiB"),
        Row("page 2 of the 2 MB answer", "ms"),
        Row("page 100 of the 2 MB answer", "ms"),
    ]
    for _ in range(runs):
        with _over_loopback() as (ours, bare):
            _long_answer(ours, "ask_model", [row.ours for row in rows])
            _long_answer(bare, "ask", [row.bare for row in rows[:2]])
    return rows


def _long_answer(server: Child, tool: str, columns: list[list[float]]) -> None:
    """A value for each of `columns`, as far as there are any."""
    _call(server, tool, {"prompt": _PROMPT, "model": _MODEL})
    before = child.resident_mib(server)
    begin = time.perf_counter()
    child.send(server, "tools/call", {"name": tool, "arguments": {"prompt": _PROMPT, "model": _TALKER}})
    answer = child.answer(server)
    columns[0].append((time.perf_counter() - begin) * 1000)
    peak = child.peak_mib(server)
    if before is not None and peak is not None:
        columns[1].append(peak - before)
    for column, page in zip(columns[2:], (2, 100), strict=False):
        column.append(_call(server, "read_answer", {"id": answer["_meta"]["openrouter"]["id"], "page": page}))


def searches(runs: int) -> list[Row]:
    """Times (ms) of calls that look through a list of 10,000 models, once it is read; the aim is for a search."""
    calls: Mapping[str, tuple[str, Mapping[str, object]]] = {
        "`find_models` by words": ("find_models", {"search": "vendor-7 coder", "max_price": 100}),
        "`find_models` by abilities and a task": ("find_models", {"needs": ["tools", "reasoning"], "sort": "code"}),
        "`find_models` of all, by price": ("find_models", {"sort": "price", "limit": 50}),
        "`list_free_models` for a task": ("list_free_models", {"task": "translation into German"}),
    }
    rows = [Row(f"{name}, over {_MANY_MODELS:,} models", "ms") for name in calls]
    rows[0].most = _SEARCH_MS
    with (
        _upstream("--models", str(_MANY_MODELS)) as base_url,
        tempfile.TemporaryDirectory() as folder,
        child.started((_UNPACED, folder), base_url) as ours,
    ):
        child.initialize(ours)
        for row, (tool, arguments) in zip(rows, calls.values(), strict=True):
            _call(ours, tool, arguments)
            row.ours = [_call(ours, tool, arguments) for _ in range(runs)]
    return rows


@contextmanager
def _over_loopback() -> Generator[tuple[Child, Child]]:
    """Our server and the bare one, initialized, over one upstream."""
    with (
        _upstream() as base_url,
        tempfile.TemporaryDirectory() as folder,
        child.started((_UNPACED, folder), base_url) as ours,
        child.started(_BARE, base_url) as bare,
    ):
        child.initialize(ours)
        child.initialize(bare)
        yield ours, bare


@contextmanager
def _upstream(*more: str) -> Generator[str]:
    """The address of one; with `more` arguments instead of that for the model that talks."""
    slow, long = (f"{model}={SLOW_MS}" for model in _SLOW), more or ("--long", _TALKER)
    with child.started((str(_HERE / "upstream.py"), str(DELAY_MS), *slow, *long)) as upstream:
        yield f"http://127.0.0.1:{int(child.read_line(upstream))}/api/v1"


def _in_turn(row: Row, runs: int, ours: Callable[[], float], bare: Callable[[], float]) -> None:
    ours(), bare()
    for _ in range(runs):
        row.ours.append(ours())
        row.bare.append(bare())


def _call(
    server: Child, tool: str, arguments: Mapping[str, object], times: int = 1, meta: Mapping[str, object] | None = None
) -> float:
    """Milliseconds until all of `times` calls, sent at once, are answered."""
    begin = time.perf_counter()
    for _ in range(times):
        child.send(server, "tools/call", {"name": tool, "arguments": arguments, "_meta": meta or {}})
    for _ in range(times):
        child.answer(server)
    return (time.perf_counter() - begin) * 1000


def listing() -> list[Row]:
    """The size of our `tools/list`: bytes and o200k tokens of the compact JSON of its `tools`."""
    with child.started(_OURS) as server:
        child.initialize(server)
        child.send(server, "tools/list")
        tools = child.answer(server)["tools"]
    text = json.dumps(tools, separators=(",", ":"), ensure_ascii=False)
    tokens = bpe_openai.get_encoding("o200k_base").encode_ordinary(text)
    return [
        Row("`tools/list`, compact JSON", "bytes", [len(text.encode())]),
        Row("`tools/list`, compact JSON", "o200k tokens", [len(tokens)], most=1800),
    ]
