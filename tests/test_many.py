"""Batches: one model and many prompts, answered in order, at the allowance's pace, with a reason for each failure."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from calls import PATIENT, Call, Clock, some_turns
from many import AT_ONCE, MODEL, SAYS, Picky, asked, ended, outcomes, passed, tasks
from mcp import Client
from pydantic import SecretStr
from served import held_back
from support import ERAS, SETTINGS, Time, ask, connected, opened, until

from openrouter_mcp.errors import ModelBusy
from openrouter_mcp.policy import Policy
from openrouter_mcp.sandbox import Fault, Sandbox, faults
from openrouter_mcp.server import build

MIB = 1024 * 1024


@pytest.fixture
def at() -> Time:
    """Noon, on a clock that only waiting moves."""
    time = Time()
    time.now += 43_200 - time.now % 86_400
    return time


@pytest.fixture
def sandbox(at: Time) -> Picky:
    """OpenRouter on the server's clock."""
    return Picky(at)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that tests set forward; it is not near midnight."""
    clock = Clock(monkeypatch)
    clock.now += 43_200 - clock.now % 86_400
    return clock


# --- what comes back --------------------------------------------------------------------------------------------------


async def test_answers_come_in_the_order_of_the_prompts_whichever_is_done_first(sandbox: Picky, at: Time) -> None:
    gate = held_back(sandbox)
    async with connected(sandbox, at=at, waits=AT_ONCE) as client:
        _, record, _ = await ask(client, "ask_many", prompts=tasks(6), model=MODEL)
        await until(lambda: len(asked(sandbox)) == 6 and sandbox.open_streams == 1)
        gate.opened.set()
        text, record, is_error = await ended(client, record["id"])
        assert not is_error
        assert record["status"] == "complete"
        assert [row["prompt"] for row in record["rows"]] == [1, 2, 3, 4, 5, 6]
        places = [text.index(f"## {number}. {task}") for number, task in enumerate(tasks(6), 1)]
        assert places == sorted(places)
        for task, row in zip(tasks(6), record["rows"], strict=True):
            single, _, _ = await ask(client, "read_answer", id=row["id"])
            assert f"was asked: '{task}'" in single
    assert text.startswith(f"Batch {record['id']} is done: 6 of 6 answered.")


async def test_identical_prompts_are_asked_once_and_answered_each(sandbox: Picky, at: Time) -> None:
    prompts = ["Red?", "Blue?", "Red?", "Red? ", "\ud83dHalf?", "\ufffdHalf?"]
    async with connected(sandbox, at=at) as client:
        text, record, _ = await ask(client, "ask_many", prompts=prompts, model=MODEL)
    assert sorted(asked(sandbox)) == sorted(["Red?", "Blue?", "Red? ", "\ufffdHalf?"])
    assert record["answered"] == len(record["rows"]) == 6
    ids = [row["id"] for row in record["rows"]]
    assert ids[0] == ids[2]
    assert ids[4] == ids[5]
    assert len(set(ids)) == 4
    assert text.count("was asked: 'Red?'") == 2  # once for `Red?`, once for the one with a space
    assert "3 | the same as 1 |" in text


async def test_identical_prompts_on_different_pages_are_shown_on_each(sandbox: Picky, at: Time) -> None:
    async with connected(sandbox, at=at) as client:
        _, record, _ = await ask(client, "ask_many", prompts=[*tasks(10), "Task 3."], model=MODEL)
        text, record, _ = await ask(client, "read_answer", id=record["id"], page=2)
    assert [row["prompt"] for row in record["rows"]] == [11]
    assert "was asked: 'Task 3.'" in text
    assert len(sandbox.chats) == 10


async def test_an_empty_prompt_in_the_middle_is_a_row_and_the_others_are_answered(sandbox: Picky, at: Time) -> None:
    async with connected(sandbox, at=at) as client:
        text, record, is_error = await ask(client, "ask_many", prompts=["One?", " \n", "Two?"], model=MODEL)
        assert not is_error
        assert outcomes(record) == ["complete", "invalid_request", "complete"]
        assert "invalid_request: The prompt is empty." in text
        assert (record["answered"], record["failed"]) == (2, 1)
        assert "2 of 3 answered, 1 failed" in text
        _, credits_, _ = await ask(client, "check_credits")
    assert asked(sandbox) == ["One?", "Two?"]
    assert credits_["free_requests"]["remaining"] == 48


@pytest.mark.parametrize("model", [MODEL, ""])
@pytest.mark.parametrize(
    ("prompts", "code", "says"),
    [
        ([], "invalid_request", "prompts must have 1 or more entries"),
        (tasks(101), "invalid_request", "prompts must have 100 entries or fewer"),
        (["", " "], "invalid_request", "The prompt is empty."),
        (["x" * (MIB + 1)], "too_large", "the limit is 1048576"),
        (["x" * MIB, "y" * MIB, "z" * MIB, "w" * MIB, "v"], "too_large", "together; the limit is 4194304"),
        ("Why?", "invalid_request", "prompts must be a list"),
        ([1, 2], "invalid_request", "must be text"),
    ],
    ids=["none", "101", "all empty", "one too large", "too large together", "no list", "numbers"],
)
async def test_what_cannot_be_asked_at_all_is_refused_as_a_whole(
    sandbox: Picky, at: Time, model: str, *, prompts: list[str], code: str, says: str
) -> None:
    async with connected(sandbox, at=at) as client:
        text, record, is_error = await ask(client, "ask_many", prompts=prompts, model=model)
        assert (is_error, record["code"]) == (True, code)
        assert says in text
        assert (await ask(client, "read_answer"))[1]["rows"] == []
        _, _, is_error = await ask(client, "ask_many", prompts=tasks(45), model=model)  # nothing was promised to it
        assert not is_error


async def test_a_prompt_that_is_too_large_is_a_row(sandbox: Picky, at: Time) -> None:
    async with connected(sandbox, at=at) as client:
        _, record, is_error = await ask(client, "ask_many", prompts=["One?", "x" * (MIB + 1)], model=MODEL)
    assert not is_error
    assert outcomes(record) == ["complete", "too_large"]
    assert asked(sandbox) == ["One?"]


async def test_half_a_character_in_the_system_prompt_is_replaced(sandbox: Picky, at: Time) -> None:
    async with connected(sandbox, at=at) as client:
        _, record, is_error = await ask(client, "ask_many", prompts=["One?"], model=MODEL, system="Be \ud83d kind.")
    assert not is_error
    assert outcomes(record) == ["complete"]
    assert sandbox.chats[0].body["messages"][0] == {"role": "system", "content": "Be \ufffd kind."}


async def test_system_and_output_limit_go_with_every_prompt(sandbox: Picky, at: Time) -> None:
    async with connected(sandbox, at=at) as client:
        await ask(client, "ask_many", prompts=tasks(3), model=MODEL, system="Be brief.", max_tokens=7)
    assert len(sandbox.chats) == 3
    assert {chat.body["max_tokens"] for chat in sandbox.chats} == {7}
    assert {chat.body["messages"][0]["content"] for chat in sandbox.chats} == {"Be brief."}


# --- which model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["", "openrouter/free"])
async def test_without_a_model_free_ones_of_our_choice_are_asked(sandbox: Picky, at: Time, model: str) -> None:
    async with connected(sandbox, at=at) as client:
        _, record, _ = await ask(client, "ask_many", prompts=tasks(4), model=model)
    assert outcomes(record) == ["complete"] * 4
    for chat in sandbox.chats:
        assert chat.body["model"] == "globex/large:free"
        assert all(id_.endswith(":free") for id_ in chat.body["models"])


async def test_without_a_model_the_users_default_is_asked(sandbox: Picky, at: Time) -> None:
    settings = replace(SETTINGS, policy=Policy(default_model=MODEL))
    async with connected(sandbox, at=at, settings=settings) as client:
        await ask(client, "ask_many", prompts=tasks(2))
    assert [chat.body["model"] for chat in sandbox.chats] == [MODEL] * 2


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("acme/tinny:free", "unknown_model"),
        ("acme/tiny", "not_free"),
        ("openrouter/auto", "not_free"),
        ("globex/large:free", "not_allowed"),
        ("x" * 201, "invalid_request"),
    ],
)
async def test_a_model_that_may_not_be_asked_is_refused_as_a_whole(
    sandbox: Picky, at: Time, model: str, code: str
) -> None:
    settings = replace(SETTINGS, policy=Policy(denied=("globex/",)))
    async with connected(sandbox, at=at, settings=settings) as client:
        _, record, is_error = await ask(client, "ask_many", prompts=tasks(3), model=model)
        assert (is_error, record["code"]) == (True, code)
        assert (await ask(client, "read_answer"))[1]["rows"] == []
    assert sandbox.chats == []


# --- failures ---------------------------------------------------------------------------------------------------------


async def test_failures_are_rows_with_their_reasons(sandbox: Picky, at: Time) -> None:
    sandbox.spoiled = {
        "Task 2.": faults.server_error(503, "Provider overloaded"),
        "Task 3.": faults.pool_busy(),
        "Task 4.": Fault(answer="none"),
        "Task 5.": faults.moderation(),
    }
    async with connected(sandbox, at=at) as client:
        text, record, is_error = await ask(client, "ask_many", prompts=tasks(6), model=MODEL)
    assert not is_error
    assert outcomes(record) == ["complete", "upstream", "model_busy", "empty_answer", "blocked", "complete"]
    assert text.startswith(f"Batch {record['id']} is done: 2 of 6 answered, 4 failed.")
    sections = text.split("\n\n## ")[1:]
    assert SAYS in sections[0]
    assert sections[1].startswith("2. Task 2.\n\nupstream: ")
    assert "Provider overloaded" in sections[1]
    assert "model_busy: " in sections[2]
    assert "sent no text" in sections[3]
    assert "blocked: " in sections[4]


async def test_a_batch_without_any_answer_is_an_error(sandbox: Picky, at: Time) -> None:
    sandbox.fail(faults.moderation(), times=None)
    async with connected(sandbox, at=at) as client:
        text, record, is_error = await ask(client, "ask_many", prompts=tasks(3), model=MODEL)
    assert is_error
    assert record["code"] == "blocked"
    assert text.startswith(f"blocked: Batch {record['id']} is done: 0 of 3 answered, 3 failed.")


@pytest.mark.parametrize(("times", "outcome"), [(2, "complete"), (3, "model_busy")])
async def test_a_prompt_that_meets_a_busy_model_is_asked_three_times_with_pauses_between(
    sandbox: Picky, at: Time, times: int, outcome: str
) -> None:
    sandbox.fail(faults.pool_busy(), times=times)
    async with connected(sandbox, at=at) as client:
        _, record, _ = await ask(client, "ask_many", prompts=tasks(1), model=MODEL)
    assert outcomes(record) == [outcome]
    assert len(sandbox.chats) == 3
    assert [after - before for before, after in itertools.pairwise(sandbox.sent_at)] == [30.0, 60.0]


async def test_a_model_that_failed_lately_is_waited_for(sandbox: Picky, at: Time) -> None:
    async with opened(sandbox, at=at, waits=AT_ONCE) as app, Client(build(app)) as client:
        started = at.now
        await app.ledger.failed([MODEL], ModelBusy("busy", hint_s=100.0))
        _, record, _ = await ask(client, "ask_many", prompts=tasks(2), model=MODEL)
        _, record, _ = await ended(client, record["id"])
    assert outcomes(record) == ["complete"] * 2
    assert sandbox.sent_at == [started + 100.0] * 2


FOR_ALL: dict[str, tuple[Callable[[float], Fault], str]] = {
    "the day's limit": (lambda now: faults.day_limit(now=now), "daily_quota"),
    "a key that is not accepted any more": (lambda _: faults.bad_key(), "bad_key"),
    "a negative balance": (lambda _: faults.negative_balance(), "no_credit"),
    "the data policy": (lambda _: faults.privacy(), "privacy"),
    "the end of a free promotion": (lambda _: faults.free_ended(), "not_free"),
}


@pytest.mark.parametrize(("fault", "code"), FOR_ALL.values(), ids=FOR_ALL)
async def test_what_every_other_prompt_would_meet_too_ends_the_batch(
    sandbox: Picky, at: Time, fault: Callable[[float], Fault], code: str
) -> None:
    sandbox.spoiled["Task 5."] = fault(at.now)
    gate = held_back(sandbox)  # the first
    for _ in range(3):
        sandbox.fail(Fault(delay_first_s=0, delay_token_s=1))
    async with connected(sandbox, at=at, waits=AT_ONCE) as client:
        _, record, _ = await ask(client, "ask_many", prompts=tasks(12), model=MODEL)
        await until(lambda: len(sandbox.chats) == 5 and sandbox.open_streams == 4)
        await some_turns()
        gate.opened.set()
        _, record, is_error = await ended(client, record["id"])
        assert not is_error
        assert outcomes(record) == ["complete"] * 4 + [code] * 6
        assert [row["attempts"] for row in record["rows"]] == [1] * 5 + [0] * 5
        text, record, _ = await ask(client, "read_answer", id=record["id"], page=2)
        assert outcomes(record) == [code] * 2
        assert f"## 12. Task 12.\n\n{code}: " in text
    assert asked(sandbox) == tasks(5)


async def test_without_a_model_the_failure_of_one_does_not_end_the_batch(sandbox: Picky, at: Time) -> None:
    sandbox.spoiled["Task 1."] = faults.privacy()
    async with connected(sandbox, at=at) as client:
        _, record, _ = await ask(client, "ask_many", prompts=tasks(8))
    assert outcomes(record) == ["privacy"] + ["complete"] * 7


async def test_who_waited_for_a_turn_when_the_batch_ended_is_not_asked(clock: Clock) -> None:
    sandbox = Picky(clock)
    gate, bad = held_back(sandbox), replace(faults.bad_key(), delay_headers_s=1)
    sandbox.spoiled["Task 15."] = bad
    async with connected(sandbox, at=clock, timeouts=PATIENT, waits=AT_ONCE) as client:
        _, record, _ = await ask(client, "ask_many", prompts=tasks(20), model=MODEL)
        await until(lambda: len(sandbox.chats) == 15)
        await some_turns()  # three prompts wait for the minute to pass
        gate.opened.set()
        await some_turns()
        await passed(clock, 65)
        await ended(client, record["id"])
        _, record, _ = await ask(client, "read_answer", id=record["id"], page=2)
    assert outcomes(record) == ["complete"] * 4 + ["bad_key"] * 6
    assert asked(sandbox) == tasks(15)


async def test_a_guard_that_closes_meanwhile_ends_the_batch(clock: Clock) -> None:
    sandbox = Picky(clock)
    async with (
        opened(sandbox, at=clock, timeouts=PATIENT, waits=AT_ONCE) as app,
        Client(build(app)) as client,
    ):
        _, record, _ = await ask(client, "ask_many", prompts=tasks(20), model=MODEL)
        await until(lambda: len(sandbox.chats) == 15)
        await some_turns()
        await app.ledger.spending.close("another process saw a bill")
        await passed(clock, 65)
        _, record, _ = await ended(client, record["id"], page=2)
    assert outcomes(record) == ["complete"] * 5 + ["guard_closed"] * 5
    assert len(sandbox.chats) == 15


async def test_a_batch_that_the_guard_refuses_leaves_nothing_promised(sandbox: Picky, at: Time) -> None:
    async with opened(sandbox, at=at) as app, Client(build(app)) as client:
        await app.ledger.spending.close("another process saw a bill")
        _, record, is_error = await ask(client, "ask_many", prompts=tasks(45), model=MODEL)
        assert (is_error, record["code"]) == (True, "guard_closed")
        await app.ledger.spending.acknowledge(await app.ledger.spending.closures(), [])
        _, _, is_error = await ask(client, "ask_many", prompts=tasks(45), model=MODEL)
        assert not is_error
    assert len(sandbox.chats) == 45


async def test_ten_failures_in_a_row_end_it(sandbox: Picky, at: Time) -> None:
    sandbox.spoiled = {task: faults.moderation() for task in tasks(30, first=2)}
    async with connected(sandbox, at=at) as client:
        _, record, _ = await ask(client, "ask_many", prompts=tasks(31), model=MODEL)
        assert outcomes(record) == ["complete"] + ["blocked"] * 9
        _, record, _ = await ask(client, "read_answer", id=record["id"], page=4)
        assert outcomes(record) == ["blocked"]
    assert 11 <= len(sandbox.chats) <= 15  # those under way are not called off


async def test_failures_with_answers_between_them_do_not_end_it(sandbox: Picky, at: Time) -> None:
    sandbox.spoiled = {task: faults.moderation() for number, task in enumerate(tasks(30)) if number % 5}
    async with connected(sandbox, at=at) as client:
        _, record, _ = await ask(client, "ask_many", prompts=tasks(30), model=MODEL)
    assert (record["answered"], record["failed"]) == (6, 24)
    assert len(sandbox.chats) == 30


# --- pace -------------------------------------------------------------------------------------------------------------


async def test_a_batch_takes_fifteen_requests_of_any_minute(sandbox: Picky, at: Time) -> None:
    async with connected(sandbox, at=at) as client:
        _, record, is_error = await ask(client, "ask_many", prompts=tasks(45), model=MODEL)
    assert not is_error
    assert record["answered"] == 45
    assert len(sandbox.sent_at) == 45  # none was refused and asked again
    for moment in sandbox.sent_at:
        assert sum(moment <= other < moment + 60 for other in sandbox.sent_at) <= 15
    assert sandbox.sent_at[-1] - sandbox.sent_at[0] == 122


async def test_single_questions_find_room_at_once_beside_a_batch(clock: Clock) -> None:
    sandbox = Picky(clock)
    async with connected(sandbox, at=clock, timeouts=PATIENT, waits=replace(AT_ONCE, plain=5)) as client:
        async with anyio.create_task_group() as group:
            call = Call(group, client, "ask_many", token=False, prompts=tasks(40), model=MODEL)
            await until(lambda: len(sandbox.chats) == 15)
            await some_turns()
            assert len(sandbox.chats) == 15
            for number in range(5):
                text, record, _ = await ask(client, prompt=f"Single {number}?", model=MODEL)
                assert record["status"] == "complete", text
            assert len(sandbox.chats) == 20
            await passed(clock, 55)
            assert len(sandbox.chats) == 20
            _, record, _ = await ask(client, "check_credits")
            assert record["free_requests"]["used"] == 20  # no moment to come is taken before it is near
            await passed(clock, 10)
            await until(lambda: len(sandbox.chats) == 35)
            _, record, _ = await ask(client, prompt="Between?", model=MODEL)
            assert record["status"] == "complete"
            await passed(clock, 65)
            _, record = await call.result()
        for _ in range(100):  # a busy machine may need some more
            if record["status"] != "running":
                break
            await passed(clock, 5)
            _, record, _ = await ask(client, "read_answer", id=record["id"], wait_seconds=0)
    assert record["answered"] == 40
    for moment in sandbox.sent_at:
        assert sum(moment <= other < moment + 60 for other in sandbox.sent_at) <= 20


async def test_two_batches_share_the_fifteen(sandbox: Picky, at: Time) -> None:
    async with connected(sandbox, at=at, waits=AT_ONCE) as client:
        ids = [
            (await ask(client, "ask_many", prompts=tasks(20, first=first), model=MODEL))[1]["id"] for first in (1, 21)
        ]
        assert [(await ended(client, id_))[1]["answered"] for id_ in ids] == [20, 20]
    assert len(sandbox.sent_at) == 40
    for moment in sandbox.sent_at:
        assert sum(moment <= other < moment + 60 for other in sandbox.sent_at) <= 15


# --- deadlines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("token", "deadline_s"), [(False, 55), (True, 180)])
async def test_what_is_done_by_the_deadline_comes_back_with_the_id_and_the_rest_goes_on(
    clock: Clock, *, token: bool, deadline_s: int
) -> None:
    sandbox = Picky(clock)
    gate = held_back(sandbox)
    sandbox.spoiled = {"Task 3.": Fault(delay_first_s=0, delay_token_s=1)}
    async with (
        connected(sandbox, era="legacy", at=clock, timeouts=PATIENT) as client,
        anyio.create_task_group() as group,
    ):
        call = Call(group, client, "ask_many", token=token, prompts=tasks(12), model=MODEL)
        await until(lambda: len(sandbox.chats) == 12 and sandbox.open_streams == 2)
        await passed(clock, deadline_s - 5)
        assert not call.is_over
        await passed(clock, 5)
        text, record = await call.result()
        id_ = record["id"]
        assert record["status"] == "running"
        assert (record["answered"], record["page"], record["pages"]) == (10, 1, 2)
        assert outcomes(record) == ["running", "complete", "running"] + ["complete"] * 7
        assert record["to_go_s"] == deadline_s * 2 // 10
        assert text.startswith(f"Batch {id_} is being asked: 10 of 12 answered, about ")
        assert f'read_answer(id="{id_}") waits for more.' in text
        assert f'[page 1 of 2; read_answer(id="{id_}", page=2) has the next]' in text
        reading = Call(group, client, "read_answer", id=id_, wait_seconds=20)
        await some_turns()
        await passed(clock, 15)
        assert not reading.is_over
        await passed(clock, 5)
        assert (await reading.result())[1]["status"] == "running"
        reading = Call(group, client, "read_answer", id=id_)
        await some_turns()
        gate.opened.set()
        _, record = await reading.result()
        assert outcomes(record) == ["complete"] * 10
        assert record["to_go_s"] is None
    assert len(sandbox.chats) == 12


async def test_how_long_it_still_takes_follows_from_the_allowance_too(clock: Clock) -> None:
    sandbox = Picky(clock)
    async with connected(sandbox, at=clock, waits=AT_ONCE, timeouts=PATIENT) as client:
        _, record, _ = await ask(client, "ask_many", prompts=tasks(40), model=MODEL)
        await until(lambda: len(sandbox.chats) == 15)
        await some_turns()
        _, record, _ = await ask(client, "read_answer", id=record["id"])
    assert record["answered"] == 15
    assert 60 <= record["to_go_s"] <= 130  # 122 in truth


async def test_progress_names_the_id_and_rises(clock: Clock) -> None:
    sandbox = Picky(clock)
    sandbox.spoiled["Task 4."] = Fault(then="stall", after_tokens=1)
    async with (
        connected(sandbox, era="legacy", at=clock, timeouts=PATIENT) as client,
        anyio.create_task_group() as group,
    ):
        call = Call(group, client, "ask_many", prompts=[*tasks(4), "Task 1."], model=MODEL)
        await until(lambda: len(sandbox.chats) == 4 and sandbox.open_streams == 1)
        for times in range(2, 37):
            clock.jump(5)
            await until(lambda: len(call.told) >= times)  # noqa: B023 - waited for at once
            await some_turns()
        await passed(clock, 10)
        _, record = await call.result()
        reading = Call(group, client, "read_answer", id=record["id"], wait_seconds=10)
        for times in (1, 2):
            await until(lambda: len(reading.told) >= times)  # noqa: B023 - waited for at once
            clock.jump(5)
        await passed(clock, 10)
        await reading.result()
        group.cancel_scope.cancel()
    for each, least in ((call, 36), (reading, 2)):
        assert len(each.told) >= least
        assert all(one < next_ for (one, _), (next_, _) in itertools.pairwise(each.told))
        assert all(f"(id {record['id']})" in words for _, words in each.told)
        assert each.told[-1][1].startswith("3 of 4 prompts done, about ")
    assert call.told[0][1].partition(" prompts done")[0] == "0 of 4"


# --- reading ----------------------------------------------------------------------------------------------------------


async def test_a_page_has_ten_prompts(sandbox: Picky, at: Time) -> None:
    async with connected(sandbox, at=at) as client:
        first, record, _ = await ask(client, "ask_many", prompts=tasks(23), model=MODEL)
        id_, seen = record["id"], []
        for page in (1, 2, 3):
            text, record, _ = await ask(client, "read_answer", id=id_, page=page)
            assert (record["page"], record["pages"], record["answered"]) == (page, 3, 23)
            seen += [row["prompt"] for row in record["rows"]]
            assert (f'read_answer(id="{id_}", page={page + 1}) has the next' in text) == (page < 3)
            assert page > 1 or text == first
        assert seen == list(range(1, 24))
        text, record, is_error = await ask(client, "read_answer", id=id_, page=4)
        assert (is_error, record["code"]) == (True, "invalid_request")
        assert "has 3 pages; page 4 is not one of them" in text
    assert len(sandbox.chats) == 23


async def test_long_answers_are_cut_to_their_share_and_read_whole_by_their_ids(sandbox: Picky, at: Time) -> None:
    async with connected(sandbox, at=at) as client:
        text, record, _ = await ask(client, "ask_many", prompts=["Write 2000 words.", *tasks(4)], model=MODEL)
        assert len(text) < 20_000
        row = record["rows"][0]
        assert f'[cut here; read_answer(id="{row["id"]}") has all' in text
        whole, _, _ = await ask(client, "read_answer", id=row["id"])
    assert len(whole) > 9000


async def test_each_answer_can_be_continued(sandbox: Picky, at: Time) -> None:
    async with connected(sandbox, at=at) as client:
        _, record, _ = await ask(client, "ask_many", prompts=tasks(2), model=MODEL, system="Be kind.")
        _, _, is_error = await ask(client, prompt="And then?", continue_from=record["rows"][1]["id"])
    assert not is_error
    said = [message["content"] for message in sandbox.chats[-1].body["messages"]]
    assert (said[0], said[1], said[3]) == ("Be kind.", "Task 2.", "And then?")
    assert "was asked: 'Task 2.'" in said[2]
    assert sandbox.chats[-1].body["model"] == MODEL


async def test_a_list_has_the_batch_and_not_its_single_answers(sandbox: Picky, at: Time) -> None:
    async with connected(sandbox, at=at) as client:
        _, single, _ = await ask(client, prompt="Alone?", model=MODEL)
        at.now += 1
        _, first, _ = await ask(client, "ask_many", prompts=tasks(3), model=MODEL)
        at.now += 60
        sandbox.fail(faults.moderation())
        _, second, _ = await ask(client, "ask_many", prompts=tasks(2))
        text, record, _ = await ask(client, "read_answer")
    assert [row["id"] for row in record["rows"]] == [second["id"], first["id"], single["id"]]
    assert [row.get("prompts") for row in record["rows"]] == [2, 3, None]
    assert [row.get("failed") for row in record["rows"]] == [1, 0, None]
    assert f"{first['id']} | {MODEL} | complete, 3 of 3 answered | 60 s | Task 1." in text
    assert f"{second['id']} | free models | complete, 1 of 2 answered, 1 failed | 1 s | Task 1." in text


@pytest.mark.usefixtures("where")
async def test_a_batch_is_its_callers_and_its_accounts_alone(sandbox: Picky, at: Time, tmp_path: Path) -> None:
    mine = replace(SETTINGS, state_dir=tmp_path)
    async with connected(sandbox, at=at, settings=mine) as client:
        _, record, _ = await ask(client, "ask_many", prompts=tasks(2), model=MODEL)
    stranger = Sandbox(clock=at.clock)
    stranger.account.user = "user_other"
    over_http = replace(mine, caller="http")
    another = replace(mine, key=SecretStr("sk-or-v1-anothers0123456789"))
    for settings, upstream in ((over_http, sandbox), (another, stranger)):
        async with connected(upstream, at=at, settings=settings) as client:
            assert (await ask(client, "read_answer"))[1]["rows"] == []
            for id_ in (record["id"], record["rows"][0]["id"], "batch-nonsense"):
                for cancel in (False, True):
                    _, unknown, is_error = await ask(client, "read_answer", id=id_, cancel=cancel)
                    assert (is_error, unknown["code"]) == (True, "unknown_answer")
    async with connected(sandbox, at=at, settings=mine) as client:
        _, again, _ = await ask(client, "read_answer", id=record["id"])
    assert again["status"] == "complete"


async def test_a_batch_is_kept_for_a_day(sandbox: Picky, at: Time) -> None:
    async with connected(sandbox, at=at) as client:
        _, record, _ = await ask(client, "ask_many", prompts=tasks(2), model=MODEL)
        at.now += 86_399
        assert (await ask(client, "read_answer", id=record["id"]))[1]["answered"] == 2
        at.now += 2
        _, gone, is_error = await ask(client, "read_answer", id=record["id"])
        assert (is_error, gone["code"]) == (True, "unknown_answer")
        assert (await ask(client, "read_answer"))[1]["rows"] == []


# --- stopping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(("after_s", "goes_on"), [(0, False), (45, False), (50, True)])
async def test_a_cancel_stops_it_unless_it_can_be_the_clients_time_out(
    clock: Clock, era: str, after_s: int, *, goes_on: bool
) -> None:
    sandbox = Picky(clock)
    gate = held_back(sandbox)
    sandbox.spoiled = {task: Fault(delay_first_s=0, delay_token_s=1) for task in tasks(12)}
    async with connected(sandbox, era=era, at=clock, timeouts=PATIENT) as client:
        async with anyio.create_task_group() as group:
            call = Call(group, client, "ask_many", token=False, prompts=tasks(12), model=MODEL)
            await until(lambda: sandbox.open_streams == 5)
            await passed(clock, after_s)
            call.cancel()
        await some_turns()
        (row,) = (await ask(client, "read_answer"))[1]["rows"]
        if goes_on:
            gate.opened.set()
            _, record, _ = await ended(client, row["id"])
            assert record["answered"] == 12
        else:
            await until(lambda: sandbox.open_streams == 0)
            assert row["status"] == "cancelled"
            assert row["answered"] == 0
            await passed(clock, 35)
    assert len(sandbox.chats) == (12 if goes_on else 5)


async def test_a_stopped_batch_keeps_what_was_answered_and_says_what_became_of_the_rest(clock: Clock) -> None:
    sandbox = Picky(clock)
    sandbox.spoiled = {task: Fault(then="stall", after_tokens=2) for task in tasks(5, first=3)}
    async with (
        opened(sandbox, at=clock, timeouts=PATIENT, waits=AT_ONCE) as app,
        Client(build(app)) as client,
    ):
        _, record, _ = await ask(client, "ask_many", prompts=tasks(12), model=MODEL)
        await until(lambda: len(sandbox.chats) == 7 and sandbox.open_streams == 5)
        await some_turns()
        text, record, is_error = await ask(client, "read_answer", id=record["id"], cancel=True)
        assert not is_error
        assert record["status"] == "cancelled"
        assert record["answered"] == 2
        assert text.startswith(f"Batch {record['id']} was stopped: 2 of 12 answered.")
        assert outcomes(record) == ["complete"] * 2 + ["cancelled"] * 8
        assert [bool(row["id"]) for row in record["rows"]] == [True] * 7 + [False] * 3
        assert "[incomplete: it was stopped here: the batch was stopped]" in text
        assert "## 9. Task 9.\n\n[incomplete: it was not asked any more]" in text
        assert sandbox.open_streams == 0
        again, _, _ = await ask(client, "read_answer", id=record["id"], cancel=True)
        assert again == text
        assert (await app.ledger.standing()).use.today == 7
        sandbox.spoiled.clear()
        await passed(clock, 65)
        _, record, is_error = await ask(client, "ask_many", prompts=tasks(38, first=100), model=MODEL)
        assert not is_error  # 50 less the 7 that were sent, less five
    assert not {task for task in asked(sandbox) if task in tasks(5, first=8)}


async def test_what_waits_for_its_moment_when_the_batch_is_stopped_was_never_sent(clock: Clock) -> None:
    sandbox = Picky(clock)
    async with (
        opened(sandbox, at=clock, timeouts=PATIENT, waits=AT_ONCE) as app,
        Client(build(app)) as client,
    ):
        slots = await app.ledger.reserve(15, longest_wait=0.0)
        clock.jump(60.5)  # a slot half a second away is taken
        _, record, _ = await ask(client, "ask_many", prompts=tasks(3), model=MODEL)
        await some_turns()
        text, record, _ = await ask(client, "read_answer", id=record["id"], cancel=True)
        assert outcomes(record) == ["cancelled"] * 3
        assert [row["id"] for row in record["rows"]] == [""] * 3
        assert "0 of 3 answered" in text
        assert "[$0 in all]" in text
        assert (await app.ledger.standing()).use.today == len(slots)
    assert sandbox.chats == []


# --- the day ----------------------------------------------------------------------------------------------------------


async def test_a_batch_larger_than_what_is_left_less_five_is_refused_with_the_number_that_fits(
    sandbox: Picky, at: Time
) -> None:
    async with connected(sandbox, at=at) as client:
        for number in range(3):
            await ask(client, prompt=f"Single {number}?", model=MODEL)
        text, record, is_error = await ask(client, "ask_many", prompts=tasks(43), model=MODEL)
        assert (is_error, record["code"]) == (True, "daily_quota")
        assert "This needs 43 free requests, one a prompt; 42 fit today" in text
        assert "Send 42 or fewer" in text
        assert len(sandbox.chats) == 3
        _, record, is_error = await ask(client, "ask_many", prompts=[*tasks(42), "Task 1."], model=MODEL)
        assert not is_error
        assert record["answered"] == 43
        _, record, is_error = await ask(client, "ask_many", prompts=tasks(1), model=MODEL)
        assert (is_error, record["code"]) == (True, "daily_quota")
        at.now += 61
        _, record, is_error = await ask(client, prompt="Single?", model=MODEL)
        assert not is_error
    assert len(sandbox.chats) == 46


async def test_two_batches_cannot_both_have_what_is_left_and_a_stopped_one_gives_it_back(clock: Clock) -> None:
    sandbox = Picky(clock)
    sandbox.spoiled = {task: Fault(then="stall", after_tokens=1) for task in tasks(5)}
    async with connected(sandbox, at=clock, timeouts=PATIENT, waits=AT_ONCE) as client:
        _, first, _ = await ask(client, "ask_many", prompts=tasks(30), model=MODEL)
        text, record, is_error = await ask(client, "ask_many", prompts=tasks(16, first=50), model=MODEL)
        assert (is_error, record["code"]) == (True, "daily_quota")
        await until(lambda: sandbox.open_streams == 5)
        text, _, _ = await ask(client, "ask_many", prompts=tasks(16, first=50), model=MODEL)
        assert "Nothing was sent." in text
        _, record, _ = await ask(client, "read_answer", id=first["id"], cancel=True)
        assert record["status"] == "cancelled"
        _, record, is_error = await ask(client, "ask_many", prompts=tasks(40, first=50), model=MODEL)
        assert not is_error  # 45 less the five that were sent
        assert record["status"] == "running"


# --- kept answers -----------------------------------------------------------------------------------------------------


async def test_a_repeated_prompt_is_answered_from_what_is_kept(sandbox: Picky, at: Time) -> None:
    settings = replace(SETTINGS, repeat_s=600.0)
    async with connected(sandbox, at=at, settings=settings) as client:
        sandbox.account.per_day = 8
        await ask(client, prompt="Task 2.", model=MODEL)
        _, record, _ = await ask(client, "ask_many", prompts=tasks(3), model=MODEL)
        assert asked(sandbox)[0] == "Task 2."
        assert sorted(asked(sandbox)[1:]) == ["Task 1.", "Task 3."]
        assert [bool(row.get("age_s") is not None) for row in record["rows"]] == [False, True, False]
        await ask(client, prompt="Another?", model=MODEL)
        at.now += 599
        text, record, is_error = await ask(client, "ask_many", prompts=tasks(3), model=MODEL)
        assert not is_error  # although less is left of the day than five
        assert record["answered"] == 3
        assert text.count("nothing was sent and nothing is used up") == 3
        assert "was asked: 'Task 2.'" in text
        text, record, _ = await ask(client, "ask_many", prompts=[*tasks(3), "Task 4."], model=MODEL)
        assert record["code"] == "daily_quota"
        assert text.startswith("daily_quota: This needs 1 free requests")
    assert len(sandbox.chats) == 4


# --- arguments --------------------------------------------------------------------------------------------------------


async def test_without_a_key_nothing_is_begun(sandbox: Picky, at: Time) -> None:
    async with connected(sandbox, at=at, settings=replace(SETTINGS, key=None)) as client:
        arguments: dict[str, Any] = {"prompts": tasks(2), "model": MODEL}
        _, record, is_error = await ask(client, "ask_many", **arguments)
        assert (is_error, record["code"]) == (True, "no_key")
    assert sandbox.requests == []
