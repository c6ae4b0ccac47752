"""The same question again is answered from what is kept, where the user wants that; and old files stay readable."""

import json
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from budgets import NOTHING, TINY, booked, budget
from pydantic import SecretStr
from served import HASTY, MODEL, Served, held_back, says, served
from support import CANARY, SETTINGS, Time, ask, until
from test_consent import POLICY, Person, with_person

from openrouter_mcp.archive.sqlite import VERSION, SQLiteArchive
from openrouter_mcp.errors import BadSetting
from openrouter_mcp.ledger.allowance import _hash
from openrouter_mcp.sandbox import Fault, Sandbox, faults
from openrouter_mcp.sandbox.answers import Answer
from openrouter_mcp.settings import Settings, load

HOUR = replace(SETTINGS, repeat_s=3600.0)
TWO = [MODEL, "globex/large:free"]


@pytest.fixture
def kept(tmp_path: Path) -> Settings:
    """Settings that give an answer again for an hour, and keep it in a folder of the test."""
    return replace(HOUR, state_dir=tmp_path / "state")


@pytest.fixture
def everywhere(where: str, kept: Settings) -> Settings:  # noqa: ARG001 - it sees to it
    """The same, which keep answers in the folder or in an engine."""
    return kept


def composed(parts: list[str]) -> Answer:
    """What a model of the sandbox says, in these tokens."""
    return Answer([], parts, [], "stop")


async def is_anew(here: Served, **arguments: Any) -> bool:
    """Whether this question is sent, as far as one request and no more."""
    before = len(here.sandbox.chats)
    _, record, _ = await here.ask(**arguments)
    asked = len(here.sandbox.chats) - before
    assert asked == ("age_s" not in record)
    return bool(asked)


# --- the same again ---------------------------------------------------------------------------------------------------


async def test_the_same_question_gets_the_same_answer_marked_with_its_age(sandbox: Sandbox) -> None:
    async with served(sandbox, settings=HOUR) as here:
        text, record, _ = await here.ask(system="Be brief.", max_tokens=500)
        assert "age_s" not in record
        here.at.now += 600
        before = len(sandbox.requests)
        again, repeated, is_error = await here.ask(system="Be brief.", max_tokens=500)
        assert len(sandbox.requests) == before
    assert not is_error
    assert again.partition("\n\n[")[0] == text.partition("\n\n[")[0]
    assert "[note: this answers the same question that was asked 10 min ago; nothing was sent" in again
    assert ", $0; id " in again
    same = ("id", "status", "model", "provider", "generation_id", "prompt_tokens", "completion_tokens", "seconds")
    assert {name: repeated[name] for name in same} == {name: record[name] for name in same}
    assert (repeated["age_s"], repeated["attempts"], repeated["cost_usd"]) == (600, 0, "0")


async def test_unless_the_user_says_so_the_same_question_is_asked_anew(sandbox: Sandbox) -> None:
    assert load({}).repeat_s == 0
    async with served(sandbox) as here:
        assert await is_anew(here)
        assert await is_anew(here)


async def test_it_is_given_again_for_so_long_and_no_longer_and_the_latest_counts(sandbox: Sandbox) -> None:
    async with served(sandbox, settings=HOUR) as here:
        assert await is_anew(here)
        here.at.now += 3600
        assert not await is_anew(here)
        here.at.now += 1
        assert await is_anew(here)
        here.at.now += 3000
        _, record, _ = await here.ask()
    assert record["age_s"] == 3000


DIFFERENT: dict[str, dict[str, Any]] = {
    "another model": {"model": "globex/large:free"},
    "our choice of a model": {"model": ""},
    "another prompt": {"prompt": "Why? "},
    "a system prompt": {"system": "Be brief."},
    "another limit": {"max_tokens": 8191},
}


@pytest.mark.parametrize("arguments", DIFFERENT.values(), ids=DIFFERENT)
async def test_what_differs_in_anything_is_asked_anew(sandbox: Sandbox, arguments: dict[str, Any]) -> None:
    async with served(sandbox, settings=HOUR) as here:
        assert await is_anew(here)
        assert await is_anew(here, **arguments)
        assert not await is_anew(here, **arguments)
        assert not await is_anew(here)


async def test_another_conversation_before_it_makes_it_another_question(sandbox: Sandbox) -> None:
    async with served(sandbox, settings=HOUR) as here:
        _, one, _ = await here.ask()
        _, other, _ = await here.ask(prompt="Why not?")
        assert await is_anew(here, prompt="And then?")
        assert await is_anew(here, prompt="And then?", continue_from=one["id"])
        assert await is_anew(here, prompt="And then?", continue_from=other["id"])
        assert not await is_anew(here, prompt="And then?", continue_from=one["id"])
        text, record, _ = await here.ask(prompt="And then?", continue_from=other["id"])
        assert "This is turn 2 of the conversation." in text
        assert await is_anew(here, prompt="And now?", continue_from=record["id"])
        assert len(sandbox.chats[-1].body["messages"]) == 5


@pytest.mark.parametrize(
    "parts", [["word " * 9000], ["word " * 3000, "\n\n```\n", "code\n" * 6000, "```\n\nThat is it."]]
)
async def test_all_pages_of_a_long_answer_fit_together(
    sandbox: Sandbox, everywhere: Settings, parts: list[str]
) -> None:
    sandbox.fail(says(*parts))
    async with served(sandbox, settings=everywhere) as here:
        await here.ask()
        text, record, _ = await here.ask()
        assert record["age_s"] == 0
        pages = [text.partition("\n\n[note: ")[0]]
        for page in range(2, record["pages"] + 1):
            text, _, _ = await here.read(record["id"], page=page)
            pages.append(text.rpartition("\n\n[page ")[0] or text)
    assert "".join(pages) == "".join(parts).rstrip()


async def test_a_page_that_was_cut_as_the_answer_came_is_cut_there_again(
    sandbox: Sandbox, everywhere: Settings
) -> None:
    """A code fence looked short enough for a page of its own when the first page was cut; it is not."""
    parts = ["word\n" * 3600, "```\n", *["code " * 600] * 10, "\n```\n", "That is it."]

    async def slowly(_: float) -> None:
        list(next(iter(here.app.writing.running("").values())).draft.text)  # as somebody who reads along

    sandbox.sleep, sandbox.token_delay_s = slowly, 1.0
    async with served(sandbox, settings=everywhere) as here:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("openrouter_mcp.sandbox.chat.compose", lambda *_: composed(parts))
            await here.ask()
        text, record, _ = await here.ask()
        assert record["age_s"] == 0
        pages = [text.partition("\n\n[note: ")[0]]
        for page in range(2, record["pages"] + 1):
            text, _, _ = await here.read(record["id"], page=page)
            pages.append(text.rpartition("\n\n[page ")[0] or text)
    assert "".join(pages) == "".join(parts)


# --- what is never given again ----------------------------------------------------------------------------------------

NOT_WHOLE: dict[str, tuple[Fault, dict[str, Any], str]] = {
    "partial": (Fault(then="end", after_tokens=3), {}, "partial"),
    "cut off": (Fault(), {"max_tokens": 5}, "partial"),
    "failed": (faults.moderation(), {}, "error"),
    "empty": (Fault(answer="reasoning"), {}, "error"),
    "with a warning": (Fault(model="vandelay/unheard-of"), {}, "complete"),
}


@pytest.mark.parametrize(("fault", "arguments", "status"), NOT_WHOLE.values(), ids=NOT_WHOLE)
async def test_what_is_not_whole_or_carries_a_warning_is_not_given_again(
    sandbox: Sandbox, fault: Fault, arguments: dict[str, Any], status: str
) -> None:
    sandbox.fail(fault)
    async with served(sandbox, settings=HOUR) as here:
        _, record, _ = await here.ask(**arguments)
        assert record["status"] == status
        assert await is_anew(here, **arguments)


async def test_a_whole_answer_is_given_again_although_a_later_one_broke_off(sandbox: Sandbox) -> None:
    async with served(sandbox, settings=HOUR) as here:
        _, first, _ = await here.ask()
        here.at.now += 3601
        sandbox.fail(Fault(then="end", after_tokens=3))
        _, broken, _ = await here.ask()
        here.at.now -= 60
        _, record, _ = await here.ask()
    assert broken["status"] == "partial"
    assert (record["id"], record["age_s"]) == (first["id"], 3541)


async def test_what_is_still_written_or_was_stopped_is_not_given_again(sandbox: Sandbox) -> None:
    for _ in range(2):
        held_back(sandbox)
    async with served(sandbox, settings=HOUR, waits=replace(HASTY, heartbeat=0.01)) as here:
        ids: list[str] = []
        for _ in range(2):
            _, record, _ = await here.ask()
            ids.append(record["id"])
            await until(lambda: len(sandbox.chats) == len(ids))
            await until(lambda: all(each.saved for each in here.app.writing.running("").values()))
        for id_ in ids:
            _, stopped, _ = await here.read(id_, cancel=True, wait=True)
            assert stopped["status"] == "cancelled"
        here.app.writing.waits = replace(HASTY, plain=60.0)
        assert await is_anew(here)
        assert not await is_anew(here)


async def test_what_was_finished_after_the_deadline_is_given_again(sandbox: Sandbox) -> None:
    gate = held_back(sandbox)
    async with served(sandbox, settings=HOUR, waits=HASTY) as here:
        _, record, _ = await here.ask()
        await until(lambda: sandbox.open_streams == 1)
        gate.opened.set()
        await here.read(record["id"], wait=True)
        _, again, _ = await here.ask()
    assert again["id"] == record["id"]
    assert again["status"] == "complete"


# --- whose ------------------------------------------------------------------------------------------------------------


async def test_no_other_account_gets_it_and_another_key_of_the_same_one_does(
    sandbox: Sandbox, everywhere: Settings
) -> None:
    other_key = replace(everywhere, key=SecretStr("sk-or-v1-" + "another0123456789"))
    stranger = Sandbox()
    stranger.account.user = "user_stranger"
    async with served(sandbox, settings=everywhere) as here:
        assert await is_anew(here)
    async with served(stranger, settings=other_key) as there:
        assert await is_anew(there)
        assert not await is_anew(there)
    async with served(sandbox, settings=replace(everywhere, key=SecretStr("sk-or-v1-" + "third0123456789"))) as here:
        await here.ask("check_credits")  # by which it learns whose the key is
        assert not await is_anew(here)


async def test_no_other_caller_gets_it(sandbox: Sandbox, everywhere: Settings) -> None:
    over_http = replace(everywhere, caller="http")
    async with served(sandbox, settings=everywhere) as here, served(sandbox, settings=over_http) as there:
        for one in (here, there):
            assert await is_anew(one)
            assert not await is_anew(one)
            assert await is_anew(one, prompt=f"From {one.app.settings.caller}")
        assert await is_anew(here, prompt="From http")
        assert await is_anew(there, prompt="From ")


# --- other processes --------------------------------------------------------------------------------------------------


async def test_a_restarted_server_and_its_sibling_have_it_too(sandbox: Sandbox, everywhere: Settings) -> None:
    async with served(sandbox, settings=everywhere) as here, served(sandbox, settings=everywhere) as sibling:
        _, record, _ = await here.ask()
        _, beside, _ = await sibling.ask()
    async with served(sandbox, settings=everywhere) as here:
        text, after, _ = await here.ask()
    assert record["id"] == beside["id"] == after["id"]
    assert f"[sandbox] {MODEL} was asked: 'Why?'" in text
    assert len(sandbox.chats) == 1


async def test_what_is_not_kept_on_disk_is_given_again_in_its_process_alone(sandbox: Sandbox, kept: Settings) -> None:
    kept = replace(kept, keep_answers=False)
    async with served(sandbox, settings=kept) as here, served(sandbox, settings=kept) as sibling:
        assert await is_anew(here)
        assert not await is_anew(here)
        assert await is_anew(sibling)
    async with served(sandbox, settings=kept) as here:
        assert await is_anew(here)


async def test_of_several_whole_answers_the_latest_is_given_again(sandbox: Sandbox, everywhere: Settings) -> None:
    at = Time()
    async with served(sandbox, settings=replace(everywhere, repeat_s=0.0), at=at) as here:
        for _ in range(2):
            at.now += 100
            _, record, _ = await here.ask()
    async with served(sandbox, settings=everywhere, at=at) as here:
        _, again, _ = await here.ask()
    assert again["id"] == record["id"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("", 0.0), ("0", 0.0), ("1", 1.0), (" 3600 ", 3600.0), ("86400", 86_400.0)]
)
def test_for_how_long_is_a_setting(text: str, seconds: float) -> None:
    assert load({"OPENROUTER_MCP_CACHE_SECONDS": text}).repeat_s == seconds


@pytest.mark.parametrize("text", ["-1", "86401", "1.5", "an hour", "1e3", "\u0661"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(
        BadSetting, match="OPENROUTER_MCP_CACHE_SECONDS must be a whole number of seconds from 0 to 86400"
    ):
        load({"OPENROUTER_MCP_CACHE_SECONDS": text})


# --- money ------------------------------------------------------------------------------------------------------------


async def test_what_was_paid_for_is_given_again_for_nothing(sandbox: Sandbox) -> None:
    settings = replace(budget("1"), repeat_s=60.0)
    async with served(sandbox, settings=settings) as here:
        _, record, _ = await here.ask(model=TINY)
        bill = sandbox.bill
        for more in ({}, {"max_cost_usd": 0}, {"max_cost_usd": 0.5}):
            text, again, _ = await here.ask(model=TINY, **more)
            assert again["id"] == record["id"]
            assert again["cost_usd"] == "0"
            assert ", $0; id " in text
        assert await booked(here.app) == (bill, NOTHING)
        _, later, _ = await here.read(record["id"])
    assert Decimal(later["cost_usd"]) == sandbox.bill == bill > 0


async def test_what_the_budget_cut_short_is_not_given_to_who_may_spend_more(sandbox: Sandbox) -> None:
    settings = replace(budget("1"), repeat_s=60.0)
    async with served(sandbox, settings=settings) as here:
        _, short, _ = await here.ask(model=TINY, prompt="Write 1000 words.", max_cost_usd=0.0004)
        _, whole, _ = await here.ask(model=TINY, prompt="Write 1000 words.")
    assert [short["status"], whole["status"]] == ["partial", "complete"]


async def test_nobody_is_asked_whether_to_spend_on_what_is_kept(sandbox: Sandbox) -> None:
    person = Person(sandbox)
    async with with_person(sandbox, person) as (client, app):
        app.answers._repeat_s = 60.0
        asked: dict[str, Any] = {"prompt": "Why?", "model": "globex/large"}
        _, first, _ = await ask(client, **asked)
        _, again, _ = await ask(client, **asked)
        assert again["id"] == first["id"]
        assert len(person.questions) == 1
        _, record, _ = await ask(client, "compare_models", prompt="Why?", models=["globex/large", "initech/coder"])
        assert [row["status"] for row in record["rows"]] == ["complete"] * 2
        assert len(person.questions) == 1  # what is left to ask is below the limit
        models = ["globex/large", "initech/coder", "initech/cache"]
        await ask(client, "compare_models", prompt="Why?", models=models)
        assert len(person.questions) == 2
        assert "'initech/cache'" in person.questions[1]
        assert "globex/large" not in person.questions[1]
        assert sandbox.chats.pop().body["model"] == "initech/cache"
    assert POLICY.confirm_above is not None


# --- comparisons ------------------------------------------------------------------------------------------------------


async def test_a_comparison_asks_only_those_who_have_not_answered_yet(sandbox: Sandbox) -> None:
    async with served(sandbox, settings=HOUR) as here:
        _, first, _ = await here.ask(model=TWO[1])
        here.at.now += 600
        text, record, is_error = await here.ask("compare_models", prompt="Why?", models=TWO)
        assert not is_error
        assert [chat.body["model"] for chat in sandbox.chats] == [TWO[1], TWO[0]]
        assert [row["model"] for row in record["rows"]] == TWO
        assert [row.get("age_s") for row in record["rows"]] == [None, 600]
        assert record["rows"][1]["id"] == first["id"]
        fresh, old = text.split("\n\n## ")[1:]
        assert "this answers the same question" not in fresh
        assert "[note: this answers the same question that was asked 10 min ago; nothing was sent" in old
        assert all(f"[sandbox] {model} was asked: 'Why?'" in text for model in TWO)
        before = len(sandbox.requests)
        here.at.now += 1000  # also longer than a catalogue is trusted
        _, again, _ = await here.ask("compare_models", prompt="Why?", models=TWO[::-1])
        assert len(sandbox.requests) == before
        assert [row["id"] for row in again["rows"]] == [row["id"] for row in record["rows"]][::-1]
        assert not await is_anew(here)
        assert (await here.app.ledger.standing()).use.today == 2


async def test_kept_answers_are_judged_as_new_ones_are_and_the_judge_is_asked_anew(sandbox: Sandbox) -> None:
    judge = "initech/coder:free"
    async with served(sandbox, settings=HOUR) as here:
        for _ in range(2):
            _, record, _ = await here.ask("compare_models", prompt="Why?", models=TWO, judge=judge)
            assert {rank["model"] for rank in record["judge"]["ranking"]} == set(TWO)
        assert "age_s" not in record["judge"]
        question = sandbox.chats[-1].body["messages"]
        assert await is_anew(here, model=judge, system=question[0]["content"], prompt=question[1]["content"])
        _, record, _ = await here.ask(model=judge, prompt="")  # as the judge's is until there is something to judge
        assert record["code"] == "invalid_request"
    assert sorted(chat.body["model"] for chat in sandbox.chats[:4]) == sorted([*TWO, judge, judge])


async def test_one_kept_answer_and_a_new_one_that_fails_are_nothing_to_judge(sandbox: Sandbox) -> None:
    sandbox.fail(faults.moderation(), model=TWO[1])
    async with served(sandbox, settings=HOUR) as here:
        await here.ask()
        text, record, is_error = await here.ask("compare_models", prompt="Why?", models=TWO, judge="initech/coder:free")
    assert not is_error
    assert [row["status"] for row in record["rows"]] == ["complete", "error"]
    assert "nothing to judge" in text
    assert len(sandbox.chats) == 2


# --- files of the version before --------------------------------------------------------------------------------------

VERSION_1 = """
CREATE TABLE answers (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, caller TEXT NOT NULL, parent TEXT NOT NULL, at REAL NOT NULL,
    seen REAL NOT NULL, process TEXT NOT NULL, stop INTEGER NOT NULL DEFAULT 0, system TEXT NOT NULL,
    prompt TEXT NOT NULL, facts TEXT NOT NULL, size INTEGER NOT NULL
);
CREATE INDEX answers_by_time ON answers (at);
CREATE TABLE pages (
    answer TEXT NOT NULL REFERENCES answers ON DELETE CASCADE, number INTEGER NOT NULL, text TEXT NOT NULL,
    PRIMARY KEY (answer, number)
);
PRAGMA user_version=1;
"""
FACTS_1 = {
    "models": [MODEL], "served": MODEL, "provider": "Acme Cloud", "generation_id": "gen-1", "finish_reason": "stop",
    "usage": {"prompt_tokens": 12, "completion_tokens": 21, "reasoning_tokens": 0, "cost": "0", "own_key": False,
              "unclear": False},
    "code": "", "problem": "", "retry_after_s": None, "warning": "", "note": "", "held": "0", "before": "0",
    "seconds": 1.5, "attempts": 1, "allowance": "", "thoughts": 0, "words": 21, "begun": True, "running": False,
    "cancelled": False,
}  # fmt: skip


def written_by_version_1(db: sqlite3.Connection, id_: str, at: float, *pages: str) -> None:
    """An answer as that version writes it."""
    facts = json.dumps({"id": id_} | FACTS_1)
    db.execute(
        "INSERT INTO answers (id, owner, caller, parent, at, seen, process, system, prompt, facts, size) "
        "VALUES (?, ?, '', '', ?, ?, '1-old', '', 'Why?', ?, ?)",
        (id_, _hash(CANARY), at, at, facts, 4 + len("".join(pages))),
    )
    db.executemany("INSERT INTO pages VALUES (?, ?, ?)", [(id_, page, text) for page, text in enumerate(pages, 1)])
    db.commit()


@pytest.fixture
def old(kept: Settings) -> sqlite3.Connection:
    """A file of version 1, open as in a server of that version that goes on."""
    assert kept.state_dir
    kept.state_dir.mkdir(mode=0o700)
    db = sqlite3.connect(kept.state_dir / "answers.db")
    (kept.state_dir / "answers.db").chmod(0o600)
    db.executescript(VERSION_1)
    return db


async def test_answers_of_version_1_are_read_listed_and_continued(
    sandbox: Sandbox, kept: Settings, old: sqlite3.Connection
) -> None:
    at = Time()
    written_by_version_1(old, "before", at.now - 60, "The first page.", "The second page.")
    for _ in range(2):  # also once it is of this version
        async with served(sandbox, settings=kept, at=at) as here:
            text, record, is_error = await here.read("before")
            assert not is_error
            assert text.startswith("The first page.\n\n[acme/tiny:free via Acme Cloud, 12 in + 21 out tokens, 1.5 s")
            assert (record["status"], record["pages"]) == ("complete", 2)
            assert (await here.read("before", page=2))[0] == "The second page."
            assert "before" in [row["id"] for row in await here.rows()]
            await here.ask(prompt="And then?", continue_from="before", system=f"{sandbox.requests}")
            assert [message["content"] for message in sandbox.chats[-1].body["messages"]][1:] == [
                "Why?", "The first page.The second page.", "And then?",
            ]  # fmt: skip
    assert old.execute("PRAGMA user_version").fetchone() == (VERSION,)
    old.close()
    assert kept.state_dir
    assert [path.name for path in kept.state_dir.iterdir() if "broken" in path.name] == []


async def test_of_an_answer_of_version_1_nobody_knows_what_it_answers_so_it_is_asked_anew(
    sandbox: Sandbox, kept: Settings, old: sqlite3.Connection
) -> None:
    at = Time()
    written_by_version_1(old, "before", at.now - 60, "The first page.")
    async with served(sandbox, settings=kept, at=at) as here:
        assert await is_anew(here)
        assert not await is_anew(here)
    old.close()


async def test_a_server_of_version_1_goes_on_beside_one_of_this(
    sandbox: Sandbox, kept: Settings, old: sqlite3.Connection
) -> None:
    at = Time()
    async with served(sandbox, settings=kept, at=at) as here:
        _, record, _ = await here.ask()
        written_by_version_1(old, "beside", at.now, "From beside.")
        assert (await here.read("beside"))[0].startswith("From beside.")
        assert {row["id"] for row in await here.rows()} == {"beside", record["id"]}
    old.close()


class AtOnce(sqlite3.Connection):
    """Looks for the version at the same moment as three others."""

    together = threading.Barrier(4, timeout=5.0)
    looked = False

    def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
        found = super().execute(sql, *more)
        if sql == "PRAGMA user_version" and not self.looked:
            self.looked = True
            self.together.wait()
        return found


async def test_servers_that_find_a_file_of_version_1_at_once_all_bring_it_up_to_date(
    kept: Settings, old: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kept.state_dir
    path = kept.state_dir / "answers.db"
    written_by_version_1(old, "before", 0.0, "The first page.")
    old.close()
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=AtOnce))
    found: list[str] = []

    def open_it() -> None:
        with closing(SQLiteArchive(path)) as archive:
            found.append(archive.text("before"))

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(anyio.to_thread.run_sync, open_it)
    assert found == ["The first page."] * 4


async def test_what_comes_with_megabytes_is_asked_anew(sandbox: Sandbox, tmp_path: Path) -> None:
    """To tell whether it is the same would hold up everybody."""
    (tmp_path / "book.txt").write_text("word " * 300_000)
    (tmp_path / "page.txt").write_text("word " * 300)
    async with served(sandbox, settings=replace(HOUR, files=(tmp_path,))) as here:
        for name, anew in (("page.txt", False), ("book.txt", True)):
            call: dict[str, Any] = {"model": "wonka/long:free", "attach": [name]}
            await here.ask(**call)
            assert await is_anew(here, **call) is anew
