"""Batches under real processes: a `kill -9` loses none, asks few twice and costs nothing; one process asks each."""

import asyncio
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from budgets import TINY
from processes import Upstream, initialize, receive, send, spawned, wait_until

from openrouter_mcp.asking import SPARE
from openrouter_mcp.ledger.book import LEASE_S
from openrouter_mcp.results import PAGE
from openrouter_mcp.sandbox.chat import PATH

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
CHILD = [sys.executable, str(Path(__file__).with_name("many_child.py"))]
FREE = "acme/tiny:free"
LIMIT, WINDOW, SHORT_LEASE_S = 40, 0.5, 1.2
AT_ONCE = 5
WORST = Decimal("0.00006345")  # of one of `prompts`, to TINY: 23 tokens in, 100 out
_ids = itertools.count(2)


class Line:
    """Where the answers of a sandbox wait their turn: as many as are let through are written, in their order."""

    def __init__(self, upstream: Upstream) -> None:
        self.let_through = 0
        self.arrived: list[float] = []  # when each question did
        sandbox = upstream.sandbox
        sandbox.delay_s, sandbox.sleep, self._serve, self._turns = 1e-3, self._wait, sandbox.app, itertools.count()
        sandbox.app = self._app
        account = sandbox.account
        account.per_minute, account.window_s, account.per_day = LIMIT, WINDOW * 0.75, 1000

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].endswith(PATH):
            self.arrived.append(time.time())
        await self._serve(scope, receive, send)

    async def _wait(self, _: float) -> None:
        turn = next(self._turns)
        while turn >= self.let_through:  # noqa: ASYNC110 - what the test says comes from another thread
            await asyncio.sleep(0.002)

    def holds_back(self) -> bool:
        """Whether as many wait as a batch asks at once, and all before them have their answers."""
        return len(self.arrived) == self.let_through + AT_ONCE

    def open(self) -> None:
        """Let all through."""
        self.let_through = sys.maxsize


@contextmanager
def upstreams() -> Generator[tuple[Upstream, Line]]:
    with Upstream() as upstream:
        line = Line(upstream)
        try:
            yield upstream, line
        finally:
            line.open()


def server(upstream: Upstream, lease: float = LEASE_S, **more: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    return spawned(str(LIMIT), str(WINDOW), str(lease), command=CHILD, **upstream.settings, **more)


def begin(process: subprocess.Popen[bytes], tool: str, **arguments: Any) -> int:
    """Call a tool and wait for nothing."""
    id_ = next(_ids)
    send(process, "tools/call", id_=id_, name=tool, arguments=arguments)
    return id_


def result(process: subprocess.Popen[bytes], id_: int) -> tuple[str, dict[str, Any]]:
    while (message := receive(process)).get("id") != id_:
        pass
    return message["result"]["content"][0]["text"], message["result"]["_meta"]["openrouter"]


def call(process: subprocess.Popen[bytes], tool: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
    """A tool's text and record."""
    return result(process, begin(process, tool, **arguments))


def prompts(count: int) -> list[str]:
    return [f"Say {number:03}" for number in range(count)]


def prompts_of(upstream: Upstream) -> list[str]:
    """What was asked, in its order."""
    return [chat.body["messages"][-1]["content"] for chat in upstream.sandbox.chats]


def asked(upstream: Upstream) -> Counter[str]:
    """How often each prompt was."""
    return Counter(prompts_of(upstream))


def kept(upstream: Upstream, file: str, query: str) -> list[tuple[Any, ...]]:
    """What a book's file, which is whole, holds."""
    with closing(sqlite3.connect(Path(upstream.settings["OPENROUTER_MCP_STATE_DIR"]) / file)) as peek:
        assert peek.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return peek.execute(query).fetchall()


def under_way(upstream: Upstream, among: list[str]) -> set[str]:
    """The prompts whose answers are being written, by the book."""
    rows = kept(upstream, "answers.db", "SELECT place, facts FROM plan_rows")
    return {among[place] for place, facts in rows if json.loads(facts)["running"]}


def lease_of(upstream: Upstream) -> float:
    """Until when the process that asks the one batch has it for its own, if nothing more is heard of it."""
    ((until,),) = kept(upstream, "ledger.db", "SELECT until FROM batches")
    return float(until)


def done(process: subprocess.Popen[bytes], batch: str, pages: int) -> list[dict[str, Any]]:
    """The records of all its answers, once there are no more to come."""
    wait_until(lambda: call(process, "read_answer", id=batch, wait_seconds=9)[1]["status"] == "complete")
    read = [call(process, "read_answer", id=batch, page=page)[1] for page in range(1, pages + 1)]
    return [row for page in read for row in page["rows"]]


def terminate(process: subprocess.Popen[bytes]) -> None:
    process.terminate()


def close_stdin(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def kill(process: subprocess.Popen[bytes], upstream: Upstream) -> None:
    """As `kill -9` does; returns when nobody upstream waits for it any more."""
    process.kill()
    process.wait(5)
    wait_until(lambda: upstream.sandbox.open_streams == 0)


def test_a_batch_of_100_outlives_a_kill_9_and_costs_nothing_more_than_what_was_under_way() -> None:
    with upstreams() as (upstream, line), ExitStack() as stack:
        wanted = prompts(100)
        line.let_through = 60
        first = stack.enter_context(server(upstream, SHORT_LEASE_S))
        initialize(first)
        begin(first, "ask_many", prompts=wanted, model=FREE)
        wait_until(line.holds_back)
        kill(first, upstream)
        leased_until = lease_of(upstream)
        lost = under_way(upstream, wanted)
        before = len(upstream.sandbox.requests)
        line.open()

        second = stack.enter_context(server(upstream, SHORT_LEASE_S))
        initialize(second)
        wait_until(lambda: time.time() > leased_until)
        for _ in range(20):
            send(second, "tools/list", id_=0)
            assert receive(second)["id"] == 0
        assert len(upstream.sandbox.requests) == before
        call(second, "list_free_models")
        wait_until(lambda: len(line.arrived) > 65)
        (listed,) = call(second, "read_answer")[1]["rows"]
        rows = done(second, listed["id"], 10)
        slots = sorted(at for (at,) in kept(upstream, "ledger.db", "SELECT at FROM slots"))

    assert [row["prompt"] for row in rows] == [*range(1, 101)]
    assert {row["status"] for row in rows} == {"complete"}
    assert len(lost) == AT_ONCE
    assert asked(upstream) == Counter(wanted) + Counter(lost)
    assert upstream.sandbox.bill == 0
    most = LIMIT - SPARE
    assert all(last - first >= WINDOW - 1e-5 for first, last in zip(slots, slots[most:], strict=False))
    assert all(last - first >= WINDOW * 0.75 for first, last in zip(line.arrived, line.arrived[most:], strict=False))


def test_a_batch_in_another_process_is_listed_read_page_by_page_and_cancelled_and_asked_by_one_alone() -> None:
    with upstreams() as (upstream, line), ExitStack() as stack:
        wanted = prompts(30)
        line.let_through = 13
        first, second = (stack.enter_context(server(upstream)) for _ in range(2))
        initialize(first), initialize(second)
        asking = begin(first, "ask_many", prompts=wanted, model=FREE)
        wait_until(line.holds_back)

        (listed,) = call(second, "read_answer")[1]["rows"]
        assert (listed["status"], listed["answered"], listed["prompts"]) == ("running", 13, 30)
        for page, there in ((1, 10), (2, 3), (3, 0)):
            text, record = call(second, "read_answer", id=listed["id"], page=page, wait_seconds=0)
            assert "in another process" in text
            rows = [row["prompt"] for row in record["rows"] if row["status"] == "complete"]
            assert rows == [*range((page - 1) * PAGE + 1, (page - 1) * PAGE + there + 1)]
            assert all(wanted[number - 1] in text for number in rows)
        assert asked(upstream) == Counter(wanted[: 13 + AT_ONCE])

        text, record = call(second, "read_answer", id=listed["id"], cancel=True)
        assert (record["status"], record["answered"]) == ("cancelled", 13)
        assert result(first, asking)[1]["status"] == "cancelled"
        wait_until(lambda: upstream.sandbox.open_streams == 0)
        line.open()
        for process in (first, second):
            call(process, "list_free_models")
            assert call(process, "read_answer", id=listed["id"])[1]["status"] == "cancelled"
    assert asked(upstream) == Counter(wanted[: 13 + AT_ONCE])
    assert all(chat.closed_early for chat in upstream.sandbox.chats[13:])


def test_what_a_server_leaves_that_is_told_to_end_is_gone_on_with_at_once_and_by_one_alone() -> None:
    with upstreams() as (upstream, line), ExitStack() as stack:
        servers = [stack.enter_context(server(upstream)) for _ in range(3)]
        for process in servers:
            initialize(process)
        for round_, (end, status) in enumerate(((terminate, 128 + signal.SIGTERM), (close_stdin, 0))):
            process, *others = servers[round_:]
            wanted = [f"{prompt} in round {round_}" for prompt in prompts(20)]
            begun = len(line.arrived)
            line.let_through = begun + 8
            begin(process, "ask_many", prompts=wanted, model=FREE)
            wait_until(line.holds_back)
            end(process)
            assert process.wait(5) == status
            left = time.time()
            line.open()
            for calling in [(other, begin(other, "list_free_models")) for other in others]:
                result(*calling)
            batch = call(others[0], "read_answer")[1]["rows"][0]["id"]
            for other in others:
                rows = done(other, batch, 2)
                assert [row["status"] for row in rows] == ["complete"] * 20
            assert line.arrived[-1] - left < LEASE_S / 3
            lost = prompts_of(upstream)[begun + 8 : begun + 8 + AT_ONCE]
            assert Counter(prompts_of(upstream)[begun:]) == Counter(wanted) + Counter(lost)


def test_a_paid_batch_outlives_a_kill_9_within_its_budget_and_holds_no_money_for_what_was_never_sent() -> None:
    budget = f"{24 * WORST:.6f}"
    with upstreams() as (upstream, line), ExitStack() as stack:
        wanted = prompts(20)
        money = {"OPENROUTER_MCP_DAILY_BUDGET_USD": budget, "OPENROUTER_MCP_CALL_BUDGET_USD": budget}
        first, second = (stack.enter_context(server(upstream, SHORT_LEASE_S, **money)) for _ in range(2))
        initialize(first), initialize(second)
        line.let_through = 10
        begin(first, "ask_many", prompts=wanted, model=TINY, max_tokens=100)
        wait_until(line.holds_back)
        kill(first, upstream)
        assert kept(upstream, "ledger.db", "SELECT count(*) FROM promises") == [(5,)]
        lost, before, leased_until = under_way(upstream, wanted), upstream.sandbox.bill, lease_of(upstream)
        line.let_through = 15
        wait_until(lambda: bool(call(second, "list_free_models")) and line.holds_back())
        assert kept(upstream, "ledger.db", "SELECT count(*) FROM promises") == [(5,)]
        assert kept(upstream, "ledger.db", "SELECT count(*) FROM charges WHERE cost IS NULL") == [(5 + 10,)]
        line.open()
        (listed,) = call(second, "read_answer")[1]["rows"]
        rows = done(second, listed["id"], 2)
        charges = kept(upstream, "ledger.db", "SELECT amount, cost FROM charges")
        assert kept(upstream, "ledger.db", "SELECT count(*) FROM promises") == [(0,)]

    assert line.arrived[15] >= leased_until
    assert {row["status"] for row in rows} == {"complete"}
    assert asked(upstream) == Counter(wanted) + Counter(lost)
    costs = [Decimal(cost) for _, cost in charges if cost is not None]
    held = [Decimal(amount) for amount, cost in charges if cost is None]
    assert 0 < before < sum(costs) == upstream.sandbox.bill == sum(Decimal(row["cost_usd"]) for row in rows)
    assert held == [WORST] * len(lost) == [WORST] * AT_ONCE
    assert sum(costs) + sum(held) <= Decimal(budget)
