"""Money after a paid request was sent: what is booked, what stays held while its cost is not known, and until when."""

import ssl
import threading
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import httpx2
import pytest
from budgets import CALL, NOTHING, THREE, TINY, WORST, booked, budget, noon, served
from mcp import Client
from support import Time, ask, until

from openrouter_mcp.app import open_app
from openrouter_mcp.ledger.sqlite.book import SQLiteBook
from openrouter_mcp.reading import Timeouts
from openrouter_mcp.sandbox import Fault, Sandbox, faults
from openrouter_mcp.sandbox.transport import StreamingTransport
from openrouter_mcp.server import build

HASTY = Timeouts(line=0.05, first_token=0.1, between_tokens=0.1)


@pytest.fixture
def at() -> Time:
    return noon()


# --- what goes wrong upstream ---------------------------------------------------------------------------------------

# `faults.md`, column P: fault, requests when it strikes every time, code or status, how many stay held
FAULTS: dict[str, tuple[Fault, int, str, int]] = {
    "healthy": (Fault(comments=3), 1, "complete", 0),
    "reset before any reply": (Fault(reset=True), 1, "may_have_been_billed", 1),
    "headers, then reset": (Fault(then="reset"), 1, "may_have_been_billed", 1),
    "accepted, then silence": (Fault(delay_headers_s=600), 1, "may_have_been_billed", 1),
    "silence before the first token": (Fault(comments=0, delay_first_s=4), 1, "may_have_been_billed", 1),
    "dribbled bytes, no line": (Fault(then="dribble", every_s=0.01), 1, "may_have_been_billed", 1),
    "HTML 502": (faults.html_error(), 1, "may_have_been_billed", 1),
    "comments for ever": (Fault(then="comments", every_s=0.01), 1, "timeout", 1),
    "a bomb": (faults.gzip_bomb(9 * 2**20), 1, "too_large", 1),
    "stall after 5 tokens": (Fault(then="stall", after_tokens=5), 1, "partial", 1),
    "reset after 5 tokens": (Fault(then="reset", after_tokens=5), 1, "partial", 1),
    "end without [DONE]": (Fault(then="end", after_tokens=5), 1, "partial", 1),
    "error event": (Fault(then="error", after_tokens=5), 1, "partial", 1),
    "choices[0].error": (Fault(then="choice_error", after_tokens=5), 1, "partial", 1),
    "endless tokens": (Fault(then="tokens", every_s=0), 1, "partial", 1),
    "200 with an error": (faults.ok_with_error(), 2, "upstream", 2),
    "no content": (Fault(answer="none"), 2, "empty_answer", 0),
    "reasoning only": (Fault(answer="reasoning"), 1, "empty_answer", 0),
    "busy pool": (faults.pool_busy(), 2, "model_busy", 0),
    "Retry-After of a day": (faults.server_error(503, retry_after=86_400), 1, "upstream", 0),
    "402 in-flight budget": (faults.in_flight_budget(4), 2, "no_credit", 0),
    "402 no credit": (faults.no_credit(), 1, "no_credit", 0),
    "401": (faults.bad_key(), 1, "bad_key", 0),
    "403 moderation": (faults.moderation(), 1, "blocked", 0),
    "403 region": (faults.region(), 1, "blocked", 0),
    "403 budget": (faults.budget_spent(), 1, "no_credit", 0),
    "404 privacy": (faults.privacy(TINY), 1, "privacy", 0),
    "redirect": (faults.redirect("https://evil.example/"), 1, "bad_reply", 0),
    **{str(status): (faults.server_error(status), 2, "upstream", 0) for status in (408, 500, 502, 503, 504, 529)},
}


@pytest.mark.parametrize(("fault", "requests", "code", "held"), FAULTS.values(), ids=FAULTS)
async def test_a_lasting_fault_costs_few_paid_requests_and_what_is_not_known_stays_held(  # noqa: PLR0917 - a table
    sandbox: Sandbox, at: Time, monkeypatch: pytest.MonkeyPatch, fault: Fault, requests: int, code: str, held: int
) -> None:
    monkeypatch.setattr("openrouter_mcp.transcript.MAX_REPLY_BYTES", 300)
    sandbox.fail(fault, times=None)
    async with served(sandbox, timeouts=HASTY, at=at) as (app, client):
        text, record, _ = await ask(client, **CALL)
        assert record.get("code", record["status"]) == code
        assert record["attempts"] == len(sandbox.chats) == requests
        spent, reserved = await booked(app)
        assert reserved == held * WORST
        assert held or spent == sandbox.bill
        assert "of the day's $1 left" in text
        assert ("Up to $0.0000627 may have been billed" in text) is (code == "may_have_been_billed")
        assert ("cost unknown, $0.0000627 stays reserved until OpenRouter tells" in text) is (code == "partial")
        at.now += 5
        await ask(client, "check_credits")
        assert (await booked(app))[0] == sandbox.bill  # learned meanwhile, where OpenRouter has it
        sandbox.clear()
        _, _, is_error = await ask(client, **CALL)
        assert not is_error  # nothing of that closes the guard


@pytest.mark.parametrize("name", [name for name, (_, requests, _, _) in FAULTS.items() if requests == 2])
async def test_a_passing_fault_is_met_by_a_second_paid_try(sandbox: Sandbox, name: str) -> None:
    fault, _, _, held = FAULTS[name]
    sandbox.fail(fault)
    async with served(sandbox) as (app, client):
        _, record, is_error = await ask(client, **CALL)
        assert not is_error
        assert record["attempts"] == len(sandbox.chats) == 2
        assert await booked(app) == (sandbox.bill, WORST if held else NOTHING)


UNTRUSTED = httpx2.ConnectError("handshake")
UNTRUSTED.__cause__ = ssl.SSLCertVerificationError("self-signed")


@pytest.mark.parametrize(
    ("error", "requests"),
    [(httpx2.ConnectError("refused"), 3), (httpx2.ConnectTimeout("no route"), 3), (UNTRUSTED, 1)],
)
async def test_what_never_left_the_machine_costs_nothing(
    sandbox: Sandbox, at: Time, error: Exception, requests: int
) -> None:
    tries: list[str] = []
    reachable = StreamingTransport(sandbox.app)

    class Unreachable(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            if request.method != "POST":
                return await reachable.handle_async_request(request)
            tries.append(request.url.path)
            raise error

    async with open_app(budget("1"), transport=Unreachable(), sleep=at.sleep) as app, Client(build(app)) as client:
        _, record, _ = await ask(client, **CALL)
        assert await booked(app) == (NOTHING, NOTHING)
    assert record["code"] == "network"
    assert len(tries) == requests


@pytest.mark.parametrize("first", [faults.ok_with_error(), Fault(answer="none", cost=0.00001)])
async def test_all_tries_of_a_call_together_keep_to_its_budget(sandbox: Sandbox, first: Fault) -> None:
    """What the first may have cost, or did cost, is not there for the second."""
    sandbox.fail(first)
    async with served(sandbox) as (_, client):
        _, record, _ = await ask(client, **CALL, max_cost_usd="0.00007")
    assert record["code"] in ("upstream", "empty_answer")
    assert record["attempts"] == len(sandbox.chats) == 1


async def test_a_second_try_that_was_lost_is_told_as_what_may_have_been_billed(sandbox: Sandbox) -> None:
    sandbox.fail(faults.server_error(503))
    sandbox.fail(Fault(reset=True))
    async with served(sandbox) as (_, client):
        text, record, _ = await ask(client, **CALL)
    assert record["code"] == "may_have_been_billed"
    assert record["attempts"] == len(sandbox.chats) == 2
    assert "Try again" not in text


async def test_a_comparison_of_priced_models_has_a_row_for_each_fault(sandbox: Sandbox, at: Time) -> None:
    models = [TINY, "acme/old", "soylent/chat", "tyrell/polyglot"]
    sandbox.fail(faults.pool_busy(), times=None, model=models[1])
    sandbox.fail(Fault(reset=True), times=None, model=models[2])
    sandbox.fail(Fault(comments=9, delay_first_s=0.05), model=models[3])
    async with served(sandbox, at=at) as (app, client):
        _, record, _ = await ask(client, "compare_models", prompt="Hi", max_tokens=100, models=models)
        spent, held = await booked(app)
    codes = [row.get("code", row["status"]) for row in record["rows"]]
    assert codes == ["complete", "model_busy", "may_have_been_billed", "complete"]
    assert [chat.body["model"] for chat in sandbox.chats].count(models[1]) == 2
    assert len(sandbox.chats) == 5
    assert (spent, held) == (sandbox.bill, 18 * Decimal("8e-8") + 100 * Decimal("3e-7"))


# --- what it cost, learned later ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [(Fault(reset=True), "(no generation id came)"), (Fault(then="reset"), "(generation gen-")],
    ids=["without an id", "with an id"],
)
async def test_what_may_have_been_billed_is_held_until_openrouter_tells_or_the_day_ends(
    sandbox: Sandbox, at: Time, fault: Fault, words: str
) -> None:
    sandbox.fail(fault)
    async with served(sandbox, at=at) as (app, client):
        text, _, is_error = await ask(client, **CALL)
        assert is_error
        assert f"Up to $0.0000627 may have been billed for it {words}" in text
        assert "Asking again would cost again" in text
        at.now += 3600
        shown, _, _ = await ask(client, "check_credits")
        known = "gen-" in words
        assert ("and $0.0000627 held for calls whose cost is not known yet" in shown) is not known
        assert await booked(app) == (NOTHING, NOTHING if known else WORST)
        at.now += 43_200
        assert (await app.guard.budget()).left == 1


async def test_openrouter_is_asked_what_a_broken_answer_cost_ever_later_and_four_times(
    sandbox: Sandbox, at: Time
) -> None:
    sandbox.fail(Fault(then="end", after_tokens=5))
    sandbox.fail(faults.refusal(404, "Generation not found"), times=3, path="/generation")
    async with served(sandbox, at=at) as (app, client):
        _, record, _ = await ask(client, **CALL)
        began, asked = at.now, []
        for seconds in (4, 5, 6, 19, 20, 79, 80, 319):
            at.now = began + seconds
            await ask(client, "check_credits")
            asked.append(len([one for one in sandbox.requests if one.path == "/generation"]))
        assert asked == [0, 1, 1, 1, 2, 2, 3, 3]
        assert await booked(app) == (NOTHING, WORST)
        at.now = began + 320
        await ask(client, **CALL)  # another call learns it just so
        assert await booked(app) == (sandbox.bill, NOTHING)
        assert sandbox.requests[-2].query == {"id": record["generation_id"]}


@pytest.mark.parametrize("told", [None, "0.5", -1, float("nan"), True])
async def test_a_cost_that_openrouter_never_tells_is_asked_for_four_times_and_stays_held(
    sandbox: Sandbox, at: Time, told: object
) -> None:
    sandbox.fail(Fault(then="end", after_tokens=5))
    async with served(sandbox, at=at) as (app, client):
        _, record, _ = await ask(client, **CALL)
        sandbox.account.generations[record["generation_id"]]["total_cost"] = told
        for _ in range(8):
            at.now += 1000
            await ask(client, "check_credits")
        assert len([one for one in sandbox.requests if one.path == "/generation"]) == 4
        assert await booked(app) == (NOTHING, WORST)


@pytest.mark.parametrize("asked_by", ["check_credits", "ask_model"])
async def test_a_broken_answer_that_turns_out_dearer_than_was_held_closes_the_guard(
    sandbox: Sandbox, at: Time, asked_by: str
) -> None:
    sandbox.fail(Fault(then="end", after_tokens=5))
    async with served(sandbox, at=at) as (app, client):
        _, record, _ = await ask(client, **CALL)
        sandbox.account.generations[record["generation_id"]]["total_cost"] = 0.5
        sandbox.clear()
        at.now += 5
        text, _, _ = await ask(client, asked_by, **(CALL if asked_by == "ask_model" else {}))
        assert f"generation {record['generation_id']} cost $0.50, and $0.0000627" in text
        for model in (TINY, "acme/tiny:free", ""):
            _, record, _ = await ask(client, prompt="Hi", model=model)
            assert record["code"] == "guard_closed"
        assert await booked(app) == (Decimal("0.5"), NOTHING)
    assert sandbox.chats == []


@pytest.mark.parametrize("breaks", [False, True])
async def test_a_call_on_the_accounts_own_provider_key_costs_what_both_charge(
    sandbox: Sandbox, at: Time, *, breaks: bool
) -> None:
    own = Fault(is_byok=True, cost=0.00001, upstream_cost=0.00002)
    sandbox.fail(replace(own, then="end", after_tokens=5) if breaks else own)
    async with served(sandbox, at=at) as (app, client):
        await ask(client, **CALL)
        at.now += 5
        await ask(client, "check_credits")
        assert await booked(app) == (Decimal("0.00003"), NOTHING)
        assert not (await app.guard.budget()).closures


@pytest.mark.parametrize("cost", ['"0.5"', "NaN", "-1", "1e400", "true", "null", "Infinity", "{}"])
async def test_a_cost_that_cannot_be_read_stays_held(sandbox: Sandbox, cost: str) -> None:
    event = '{"model": "acme/tiny", "choices": [{"delta": {"content": "Yes."}, "finish_reason": "stop"}], "usage": '
    sandbox.fail(Fault(body=f'data: {event} {{"cost": {cost}}}}}\n\ndata: [DONE]\n\n'.encode()))
    async with served(sandbox) as (app, client):
        text, record, _ = await ask(client, **CALL)
        assert text.startswith("Yes.")
        assert "cost unknown, $0.0000627 stays reserved until OpenRouter tells" in text
        assert record["cost_usd"] is None
        assert await booked(app) == (NOTHING, WORST)
        assert not (await app.guard.budget()).closures


NAMELESS = {"x-generation-id": ""}  # as behind a proxy that drops what it does not know
THOUGHT = b'data: {"choices": [{"delta": {"reasoning": "Hm."}, "finish_reason": "length"}]}\n\ndata: [DONE]\n\n'
BOMB = faults.gzip_bomb(9 * 2**20)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(body=THOUGHT, headers=NAMELESS), "empty_answer"),
        (replace(BOMB, headers={**BOMB.headers, **NAMELESS}), "too_large"),
    ],
)
async def test_what_ran_and_left_neither_cost_nor_id_stays_held(sandbox: Sandbox, fault: Fault, code: str) -> None:
    sandbox.fail(fault)
    async with served(sandbox) as (app, client):
        _, record, _ = await ask(client, **CALL)
        assert record["code"] == code
        assert await booked(app) == (NOTHING, WORST)


# --- cancelled ------------------------------------------------------------------------------------------------------


async def cancelled(
    client: Client, moment: anyio.Event, tool: str, arguments: dict[str, Any], then: Callable[[], object] = int
) -> None:
    """Call a tool, and hang up when the `moment` has come; `then` happens right after."""
    async with anyio.create_task_group() as group:
        group.start_soon(partial(ask, client, tool, **arguments))
        with anyio.fail_after(5):
            await moment.wait()
        group.cancel_scope.cancel()
        then()


async def test_a_paid_answer_cancelled_midway_is_held_until_its_cost_is_learned(sandbox: Sandbox, at: Time) -> None:
    writing, tokens = anyio.Event(), []

    async def stall_at_the_fifth(seconds: float) -> None:
        tokens.append(seconds)
        if len(tokens) == 5:
            writing.set()
            await anyio.sleep_forever()

    sandbox.sleep, sandbox.token_delay_s = stall_at_the_fifth, 1.0
    async with served(sandbox, at=at) as (app, client):
        await cancelled(client, writing, "ask_model", CALL)
        await until(lambda: sandbox.open_streams == 0)
        assert await booked(app) == (NOTHING, WORST)
        with anyio.fail_after(5):
            while (await booked(app))[1]:
                at.now += 5
                await ask(client, "check_credits")
        assert await booked(app) == (sandbox.bill, NOTHING)
    assert sandbox.bill > 0


CALLS: list[tuple[str, dict[str, Any]]] = [("ask_model", CALL), ("compare_models", {"prompt": "Hi", "models": THREE})]


@pytest.mark.parametrize(("tool", "arguments"), CALLS)
@pytest.mark.parametrize("path", ["/models/user", "/key"])
async def test_a_call_cancelled_before_anything_was_sent_holds_nothing(
    sandbox: Sandbox, path: str, tool: str, arguments: dict[str, Any]
) -> None:
    waiting = anyio.Event()

    async def wait_for_ever(_: float) -> None:
        waiting.set()
        await anyio.sleep_forever()

    sandbox.sleep = wait_for_ever
    sandbox.fail(Fault(delay_headers_s=1), path=path)
    async with served(sandbox) as (app, client):
        await cancelled(client, waiting, tool, arguments)
        assert await booked(app) == (NOTHING, NOTHING)
    assert sandbox.chats == []


@pytest.mark.parametrize(("tool", "arguments"), CALLS)
async def test_a_call_cancelled_while_its_money_is_being_reserved_gives_it_back(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tool: str, arguments: dict[str, Any]
) -> None:
    reserved, cancel_came, hold = anyio.Event(), threading.Event(), SQLiteBook.hold

    def hold_and_wait(*arguments: Any, **more: Any) -> Any:
        held = hold(*arguments, **more)
        anyio.from_thread.run_sync(reserved.set)
        assert cancel_came.wait(5)
        return held

    monkeypatch.setattr(SQLiteBook, "hold", hold_and_wait)
    async with served(sandbox) as (app, client):
        await cancelled(client, reserved, tool, arguments, cancel_came.set)
        with anyio.fail_after(5):
            while await booked(app) != (NOTHING, NOTHING):
                await anyio.lowlevel.checkpoint()
    assert sandbox.chats == []
