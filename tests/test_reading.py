"""Reading: what was not ready, cut off or hung up on is there by its id, page by page, without another request."""

import asyncio
import json
import tracemalloc
from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client
from pydantic import SecretStr
from served import HASTY, MODEL, Gate, Said, Served, held_back, says, served
from support import ERAS, SETTINGS, ask, opened, until

from openrouter_mcp.pages import PAGE
from openrouter_mcp.reading import Timeouts
from openrouter_mcp.sandbox import Fault, Sandbox, faults
from openrouter_mcp.sandbox.transport import StreamingTransport
from openrouter_mcp.server import build
from openrouter_mcp.writing import Waits


@pytest.fixture
def gate(sandbox: Sandbox) -> Gate:
    """Holds back the next answer after its first token."""
    return held_back(sandbox)


# --- not ready in time ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
async def test_what_is_not_done_after_55_seconds_is_handed_over_with_its_text_so_far_and_its_id(
    sandbox: Sandbox, gate: Gate, monkeypatch: pytest.MonkeyPatch, era: str
) -> None:
    loop, results = asyncio.get_running_loop(), list[Said]()
    now = loop.time

    async def asking() -> None:
        results.append(await here.ask())

    async with served(sandbox, timeouts=Timeouts(line=999), era=era) as here, anyio.create_task_group() as group:
        group.start_soon(asking)
        await until(lambda: "[sandbox]" in here.arrived())
        monkeypatch.setattr(loop, "time", lambda: now() + 54)
        await anyio.wait_all_tasks_blocked()
        assert results == []
        monkeypatch.setattr(loop, "time", lambda: now() + 55)
        await until(lambda: bool(results))
        ((text, record, is_error),) = results
        assert not is_error
        assert record["status"] == "running"
        assert text.splitlines() == [
            "[sandbox] ",
            "",
            f'[still writing: writing, 1 token; read_answer(id="{record["id"]}") waits for more]',
        ]
        monkeypatch.undo()
        gate.opened.set()
        text, record, _ = await here.read(record["id"], wait=True)
    assert record["status"] == "complete"
    assert text.startswith("[sandbox] acme/tiny:free was asked: 'Why?'")
    assert "still writing" not in text
    assert len(sandbox.chats) == 1


async def test_reading_waits_for_the_rest_as_long_as_it_is_told_to_also_two_at_once(
    sandbox: Sandbox, gate: Gate
) -> None:
    texts: list[str] = []

    async def reading(here: Served, id_: str) -> None:
        texts.append((await here.read(id_, wait=True))[0])

    async with served(sandbox, waits=HASTY) as here:
        _, record, _ = await here.ask()
        await until(lambda: "[sandbox]" in here.arrived())
        standing = await here.app.ledger.standing()
        text, record, _ = await here.read(record["id"])
        assert record["status"] == "running"
        assert text.startswith("[sandbox] \n\n[still writing: ")
        async with anyio.create_task_group() as group:
            group.start_soon(reading, here, record["id"])
            group.start_soon(reading, here, record["id"])
            await anyio.wait_all_tasks_blocked()
            assert texts == []
            gate.opened.set()
        assert texts[0] == texts[1]
        assert "No real model has read this." in texts[0]
        assert texts[0] == (await here.read(record["id"]))[0]
        assert (await here.app.ledger.standing()).use == standing.use  # nor does it count as a request


async def test_a_call_that_is_refused_after_its_id_was_shown_says_why_by_that_id(sandbox: Sandbox) -> None:
    async with served(sandbox, waits=HASTY) as here:
        text, record, _ = await here.ask(model="acme/tiny")
        assert "[still writing: starting; " in text
        text, record, is_error = await here.read(record["id"], wait=True)
        assert is_error
        assert record["code"] == "not_free"
        assert text.startswith("not_free: ")
        assert [row["status"] for row in await here.rows()] == ["error"]
    assert sandbox.chats == []


# --- pages ----------------------------------------------------------------------------------------------------------


async def test_a_long_answer_is_read_page_by_page_without_all_of_it_being_copied(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "\n\n".join(f"Paragraph {number} " + "of words " * 40 for number in range(5600)).strip()
    sandbox.fail(says(*(said[place : place + 4999] for place in range(0, len(said), 4999))))
    async with served(sandbox) as here:
        text, record, _ = await here.ask()
        assert record["page"] == 1
        assert record["pages"] > 100
        monkeypatch.setattr("openrouter_mcp.archive.sqlite.SQLiteArchive.text", None)  # all of it
        found, id_, count = "", record["id"], record["pages"]
        for page in range(1, count + 1):
            text, record, _ = await here.read(id_, page=page)
            if page < count:
                text, _, last = text.rpartition("\n\n[")
                assert (
                    last == f'page {page} of {count}; read_answer(id="{record["id"]}", page={page + 1}) has the next]'
                )
            found += text.rpartition("\n\n[")[0] if page == 1 else text
            assert len(text) < PAGE + 200
        assert found == said
        text, record, is_error = await here.read(id_, page=count + 1)
    assert is_error
    assert text.startswith("invalid_request: ")
    assert f"has {count} pages" in text
    assert len(sandbox.chats) == 1


async def test_the_pages_of_what_is_still_written_can_be_read_and_do_not_change(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    def in_blocks(text: str) -> list[str]:
        return [text[place : place + 2500] for place in range(0, len(text), 2500)]

    monkeypatch.setattr("openrouter_mcp.sandbox.answers.words", in_blocks)
    gate.most = 10
    async with served(sandbox, waits=HASTY) as here:
        _, record, _ = await here.ask(prompt="Write 9000 words.")
        id_ = record["id"]
        await until(lambda: len(here.arrived()) == 27_500)
        first, record, _ = await here.read(id_)
        assert f'read_answer(id="{id_}", page=2) has the next' in first
        assert (record["status"], record["page"], record["pages"]) == ("running", 1, 2)
        second, _, _ = await here.read(id_, page=2)
        third, _, is_error = await here.read(id_, page=3)
        assert is_error
        assert "has 2 pages so far" in third
        gate.opened.set()
        await here.read(id_, wait=True)
        whole, record, _ = await here.read(id_, page=2)
        assert record["pages"] > 2
        assert whole.startswith(second.partition("\n\n[still writing")[0])
        assert (await here.read(id_))[0].startswith(first.partition("\n\n[still writing")[0])


# --- the list -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
async def test_whoever_hung_up_finds_the_answer_in_the_list_newest_first(
    sandbox: Sandbox, gate: Gate, era: str
) -> None:
    """A cancel after 50 seconds is what a client's time-out looks like: the call goes on."""
    async with served(sandbox, era=era) as here:
        async with anyio.create_task_group() as group:
            group.start_soon(partial(here.ask, prompt="Which was\nhung up on? " + "word " * 50))
            await until(lambda: "[sandbox]" in here.arrived())
            here.at.now += 50
            group.cancel_scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert sandbox.open_streams == 1
        here.at.now += 70
        await here.ask(prompt="Which came last?")
        text, record, _ = await here.read()
        (newest, hung_up) = record["rows"]
        assert (newest["status"], hung_up["status"]) == ("complete", "running")
        head, _, names, last, lost = text.splitlines()
        assert head == "Your newest answers; read_answer(id=...) reads one."
        assert names == "id | model | state | age | question"
        assert last == f"{newest['id']} | {MODEL} | complete | 1 s | Which came last?"
        assert lost.startswith(f"{hung_up['id']} | {MODEL} | running | 2 min | Which was hung up on? word word")
        assert len(lost) < 160
        gate.opened.set()
        text, _, _ = await here.read(hung_up["id"], wait=True)
    assert "No real model has read this." in text
    assert len(sandbox.chats) == 2


async def test_what_was_cancelled_is_kept_as_far_as_it_came(sandbox: Sandbox, gate: Gate) -> None:
    async with served(sandbox, waits=HASTY) as here:
        _, record, _ = await here.ask()
        await until(lambda: "[sandbox]" in here.arrived())
        text, record, is_error = await here.read(record["id"], cancel=True)
        assert sandbox.open_streams == 0
        assert not is_error
        assert record["status"] == "cancelled"
        assert text.startswith(
            "[sandbox]\n\n[incomplete: it was stopped here: read_answer was called with cancel]\n\n["
        )
        assert (text, record, False) == await here.read(record["id"], cancel=True)
    assert not gate.opened.is_set()


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_that_was_cancelled_is_kept_too_as_far_as_it_came(sandbox: Sandbox, gate: Gate, era: str) -> None:
    async with served(sandbox, era=era) as here:
        async with anyio.create_task_group() as group:
            group.start_soon(here.ask)
            await until(lambda: "[sandbox]" in here.arrived())
            here.at.now += 49
            group.cancel_scope.cancel()
        await until(lambda: not here.app.writing.running(""))
        assert sandbox.open_streams == 0
        (row,) = await here.rows()
        text, record, _ = await here.read(row["id"])
    assert record["status"] == "cancelled"
    assert text.startswith("[sandbox]\n\n[incomplete: it was stopped here: the call was cancelled]\n\n[")
    assert not gate.opened.is_set()


async def test_what_failed_is_kept_with_its_error_and_what_was_refused_before_it_was_sent_is_not(
    sandbox: Sandbox,
) -> None:
    async with served(sandbox) as here:
        text, record, _ = await here.read()
        assert text == "No answers are kept: nothing was asked in the last day."
        for refused in ({"model": "acme/tiny"}, {"model": "acme/nothing:free"}, {"prompt": " "}, {"max_tokens": 0}):
            assert (await here.ask(**refused))[2]
        text, record, _ = await here.ask("compare_models", prompt="Why?", models=["acme/tiny", "acme/nothing:free"])
        assert [row["id"] for row in record["rows"]] == ["", ""]
        assert text.count(" | - | - | - | -") == 2
        assert await here.rows() == []
        sandbox.fail(faults.server_error(503), times=2)
        said, record, is_error = await here.ask()
        assert is_error
        (row,) = await here.rows()
        assert (row["status"], row["code"]) == ("error", "upstream")
        text, record, is_error = await here.read(row["id"])
    assert is_error
    assert text == said
    assert (record["code"], record["attempts"]) == ("upstream", 2)


# --- not an answer of theirs ----------------------------------------------------------------------------------------


async def test_an_answer_is_its_accounts_by_whichever_of_its_keys_and_nobody_elses(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    mine = replace(SETTINGS, state_dir=tmp_path)
    other_key = replace(mine, key=SecretStr("sk-or-v1-" + "another-key-of-somebody"))
    stranger = Sandbox()
    stranger.account.user = "user_stranger"
    async with served(sandbox, settings=mine) as here:
        said, record, _ = await here.ask()
        for id_ in ("nonsense", record["id"].upper(), record["id"] + " ", "\x1b[2J" * 50, record["id"][:-1] + "%"):
            text, wrong, is_error = await here.read(id_)
            assert is_error
            assert wrong["code"] == "unknown_answer"
            assert "read_answer without an id lists yours; else ask again." in text
            assert text.isprintable()
            assert len(text) < 250
        async with served(stranger, settings=other_key) as there:
            await there.ask("check_credits")
            more: dict[str, Any]
            for more in ({}, {"cancel": True}, {"page": 2}):
                text, wrong, is_error = await there.read(record["id"], **more)
                assert is_error
                assert wrong["code"] == "unknown_answer"
            _, wrong, is_error = await there.ask(continue_from=record["id"])
            assert wrong["code"] == "unknown_answer"
            assert await there.rows() == []
            assert stranger.chats == []
    async with served(sandbox, settings=replace(other_key, key=SecretStr("sk-or-v1-" + "my-own-second-key"))) as again:
        await again.ask("check_credits")
        assert (await again.read(record["id"]))[0] == said


# --- partial answers ------------------------------------------------------------------------------------------------

PARTIAL: dict[str, tuple[Fault, dict[str, Any], str]] = {
    "broken": (Fault(then="reset", after_tokens=3), {}, "it broke off here: The connection to OpenRouter broke"),
    "error event": (Fault(then="error", after_tokens=3), {}, "it broke off here: "),
    "stalled": (Fault(then="stall", after_tokens=3), {}, "it broke off here: OpenRouter fell silent"),
    "ended early": (Fault(then="end", after_tokens=3), {}, "it ended here without saying that it was done"),
    "cut off": (
        Fault(),
        {"max_tokens": 3},
        "cut off at max_tokens (3); ask_model with continue_from its id has it go on",
    ),
    "not JSON": (
        Fault(
            body=b'data: {"choices":[{"delta":{"content":"[sandbox] caf"}}]}\n\ndata: {"choices":[{"delta":{"con\xff'
        ),
        {},
        "it broke off here: OpenRouter's reply is not JSON",
    ),
}


@pytest.mark.parametrize(("fault", "arguments", "why"), PARTIAL.values(), ids=PARTIAL)
async def test_a_partial_answer_is_an_answer_and_says_later_too_why_it_is_not_whole(
    sandbox: Sandbox, tmp_path: Path, fault: Fault, arguments: dict[str, Any], why: str
) -> None:
    sandbox.fail(fault)
    settings = replace(SETTINGS, state_dir=tmp_path)
    async with served(sandbox, settings=settings, timeouts=Timeouts(line=0.05)) as here:
        text, record, is_error = await here.ask(**arguments)
        assert not is_error
        assert record["status"] == "partial"
        assert text.startswith("[sandbox]")
        assert f"\n\n[incomplete: {why}" in text
        assert await here.read(record["id"]) == (text, record, False)
    async with served(sandbox, settings=settings) as here:
        assert await here.read(record["id"]) == (text, record, False)
    assert len(sandbox.chats) == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(answer="reasoning"), "Raise max_tokens"),
        (Fault(answer="none"), "does not bill"),
        (says(" \u200b\n\u200d"), ""),
    ],
    ids=["all reasoning", "empty", "nothing to be seen"],
)
async def test_an_answer_without_words_is_an_error_then_and_later(sandbox: Sandbox, fault: Fault, words: str) -> None:
    sandbox.fail(fault, times=None)
    async with served(sandbox) as here:
        said, _, is_error = await here.ask(model="hooli/thinker:free")
        assert is_error
        assert words in said
        (row,) = await here.rows()
        text, record, is_error = await here.read(row["id"])
    assert is_error
    assert text == said
    assert record["code"] == "empty_answer"


async def test_a_model_that_sends_100_megabytes_is_cut_at_8_and_fills_no_memory(sandbox: Sandbox) -> None:
    block, sent = "words and words " * 2**14, [0]  # a quarter of a megabyte

    class Endless(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncGenerator[bytes]:
            event = json.dumps({"choices": [{"delta": {"content": block}}]}).encode()
            while sent[0] < 400:
                sent[0] += 1
                yield b"data: " + event + b"\n\n"

    class Chat(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            if request.method == "POST":
                return httpx2.Response(200, stream=Endless())
            return await StreamingTransport(sandbox.app).handle_async_request(request)

    async with served(sandbox, transport=Chat()) as here:
        await here.ask("list_free_models")
        tracemalloc.start()
        try:
            _, record, is_error = await here.ask()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert not is_error
        assert record["status"] == "partial"
        assert sent[0] <= 34
        assert peak < 48 * 2**20
        text, _, _ = await here.read(record["id"], page=record["pages"])
    assert text.endswith("[incomplete: cut off here: the answer is over 8388608 bytes]")
    assert record["pages"] > 400


async def test_halves_of_a_character_and_hidden_ones_are_sent_kept_and_read_without_harm(sandbox: Sandbox) -> None:
    sandbox.fail(says("It \ud83d", "works\x1b[2J\u202e", " ", "\u200bwell. ", "\udc00"))
    async with served(sandbox) as here:
        said, record, is_error = await here.ask(prompt="Half \ud83d of it", system="\udc00")
        assert not is_error
        assert said.startswith("It works[2J well.\n\n[")
        assert (await here.read(record["id"]))[0] == said
        text, _, _ = await here.read()
        assert "Half  of it" in text or "Half \N{REPLACEMENT CHARACTER} of it" in text
        await here.ask(continue_from=record["id"])
    assert sandbox.chats[1].body["messages"][1]["content"] == "Half \N{REPLACEMENT CHARACTER} of it"


# --- comparisons ----------------------------------------------------------------------------------------------------

FENCE = "```\n" + "a = 1\n" * 2500 + "```"
LONG = {
    "a long one": "word " * 3000,
    "a short page before a fence that fits on the next": "word " * 1600 + "\n" + FENCE,
}


@pytest.mark.parametrize("long", LONG.values(), ids=LONG)
async def test_the_answers_of_a_comparison_are_cut_to_their_share_and_read_whole_by_their_ids(
    sandbox: Sandbox, long: str
) -> None:
    sandbox.fail(says(long), model=MODEL)
    sandbox.fail(says("Short."), model="globex/large:free")
    async with served(sandbox) as here:
        text, record, _ = await here.ask("compare_models", prompt="Why?", models=[MODEL, "globex/large:free"])
        first, second = (row["id"] for row in record["rows"])
        assert f'[cut here; read_answer(id="{first}") has all ' in text
        assert f'read_answer(id="{second}")' not in text
        assert len(text) < PAGE
        assert all(f" | {id_}\n" in text for id_ in (first, second))
        read, _, _ = await here.read(first)
        assert read.startswith(long[:8000])
        assert (await here.read(second))[0].startswith("Short.\n\n[globex/large:free, ")
        assert len(await here.rows()) == 2


async def test_a_row_that_is_not_ready_says_so_and_is_read_by_its_id(sandbox: Sandbox) -> None:
    gate = held_back(sandbox, MODEL)
    async with served(sandbox, waits=HASTY) as here:
        text, record, is_error = await here.ask("compare_models", prompt="Why?", models=[MODEL, "globex/large:free"])
        assert not is_error
        assert record["status"] == "running"
        id_ = record["rows"][0]["id"]
        assert f"{MODEL} | still writing | - | - | - | - | {id_}" in text
        assert f'[still writing; read_answer(id="{id_}") waits for more]' in text
        gate.opened.set()
        for row in record["rows"]:
            text, _, _ = await here.read(row["id"], wait=True)
            assert "No real model has read this." in text
    assert len(sandbox.chats) == 2


async def test_a_fault_of_ours_after_the_answer_was_handed_over_is_said_and_logged(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate = anyio.Event()

    async def broken(*_: object) -> None:
        await gate.wait()
        raise KeyError("a detail")

    async with opened(sandbox, waits=Waits(plain=0.0)) as app, Client(build(app)) as client:
        monkeypatch.setattr(app.ledger, "answered", broken)
        _, record, _ = await ask(client, prompt="Hi", model="acme/tiny:free")
        assert record["status"] == "running"
        gate.set()
        (running,) = app.writing.running("").values()
        assert running.task
        await until(running.task.done)
        text, record, is_error = await ask(client, "read_answer", id=record["id"])
    assert is_error
    assert (record["status"], record["code"]) == ("error", "internal")
    assert "by a fault of this server" in text
    assert "a detail" in caplog.text
