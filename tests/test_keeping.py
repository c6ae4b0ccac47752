"""Keeping: answers outlive the server that wrote them, its siblings see them, and no trouble loses one."""

import sqlite3
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis
from served import HASTY, MODEL, Served, held_back, says, served
from support import SETTINGS, Time, until

from openrouter_mcp.archive.entry import Entry
from openrouter_mcp.archive.sqlite import SQLiteArchive
from openrouter_mcp.engine import PREFIX, Engine
from openrouter_mcp.sandbox import Fault, Sandbox
from openrouter_mcp.settings import Settings

BUSY = replace(HASTY, heartbeat=0.01, poll=0.01)


@pytest.fixture
def on_disk(tmp_path: Path) -> Settings:
    """Settings that keep answers in a folder of the test."""
    return replace(SETTINGS, state_dir=tmp_path / "state")


@pytest.fixture
def kept(where: str, on_disk: Settings) -> Settings:  # noqa: ARG001 - it sees to it
    """Settings that keep answers, in a folder or in an engine."""
    return on_disk


def file_of(settings: Settings) -> Path:
    assert settings.state_dir is not None
    return settings.state_dir / "answers.db"


def sql(settings: Settings, statement: str) -> list[Any]:
    """Do that to the file, as somebody else would."""
    with sqlite3.connect(file_of(settings)) as db:
        rows = db.execute(statement).fetchall()
    db.close()
    return rows


def how_many(settings: Settings, where: str, what: str) -> int:
    """How many `answers` are kept, or `pages` of them where each has one."""
    if not where:
        return int(sql(settings, f"SELECT count(*) FROM {what}")[0][0])  # noqa: S608 - our own words
    with redis.Redis.from_url(where) as client:
        return len(client.keys(f"{PREFIX}archive:{what.removesuffix('s') if what == 'answers' else what}:*"))


def in_blocks(text: str) -> list[str]:
    """What a model of the sandbox says, in tokens of 2500 characters."""
    return [text[place : place + 2500] for place in range(0, len(text), 2500)]


async def all_of(here: Served, id_: str) -> str:
    """The text of every page."""
    text, record, _ = await here.read(id_)
    pages = [text] + [(await here.read(id_, page=page))[0] for page in range(2, record["pages"] + 1)]
    parts = [page.rpartition("\n\n[page ")[0] if "\n\n[page " in page else page for page in pages]
    return "".join([parts[0].rpartition("\n\n[")[0], *parts[1:]])


async def said_so_far(here: Served, id_: str) -> tuple[str, dict[str, Any]]:
    """What an answer says as soon as it says something."""
    await until(lambda: here.sandbox.open_streams == 1)
    with anyio.fail_after(5):
        while True:
            text, record, _ = await here.read(id_)
            if text.startswith("[sandbox]"):
                return text, record


# --- another process --------------------------------------------------------------------------------------------------


async def test_a_restarted_server_still_has_what_was_finished_and_what_was_not(
    sandbox: Sandbox, kept: Settings
) -> None:
    sandbox.fail(says("word " * 9000))
    async with served(sandbox, settings=kept) as here:
        whole, record, _ = await here.ask()
        second, _, _ = await here.read(record["id"], page=2)
        here.at.now += 1
        sandbox.fail(Fault(then="end", after_tokens=3))
        partial, _, _ = await here.ask()
        here.at.now += 1
        held_back(sandbox)
        here.app.writing.waits = HASTY
        await here.ask()
        await until(lambda: "[sandbox]" in here.arrived())
    assert sandbox.open_streams == 0
    async with served(Sandbox(), settings=kept) as here:
        cut_off, half, first = await here.rows()
        assert [row["status"] for row in (cut_off, half, first)] == ["cancelled", "partial", "complete"]
        assert (await here.read(first["id"]))[0] == whole
        assert (await here.read(first["id"], page=2))[0] == second
        assert (await here.read(half["id"]))[0] == partial
        text, _, _ = await here.read(cut_off["id"])
        assert text.startswith("[sandbox]\n\n[incomplete: it was stopped here: the server was stopped]")


async def test_what_another_process_writes_is_listed_read_and_waited_for(sandbox: Sandbox, kept: Settings) -> None:
    gate = held_back(sandbox)
    async with (
        served(sandbox, settings=kept, waits=BUSY) as here,
        served(sandbox, settings=kept, waits=BUSY, at=here.at) as there,
    ):
        _, record, _ = await here.ask()
        text, record = await said_so_far(there, record["id"])
        assert record["status"] == "running"
        assert text.startswith("[sandbox] \n\n[still writing, in another process of this server; read_answer(id=")
        listed, _, _ = await there.read()
        assert f"{record['id']} | {MODEL} | running in another process | " in listed
        assert "in another process" not in (await here.read())[0]
        gate.opened.set()
        text, record, _ = await there.read(record["id"], wait=True)
        assert record["status"] == "complete"
        assert text == (await here.read(record["id"]))[0]
    assert len(sandbox.chats) == 1


async def test_what_another_process_writes_can_be_stopped(sandbox: Sandbox, kept: Settings) -> None:
    held_back(sandbox)
    async with (
        served(sandbox, settings=kept, waits=BUSY) as here,
        served(sandbox, settings=kept, waits=BUSY, at=here.at) as there,
    ):
        _, record, _ = await here.ask()
        await said_so_far(there, record["id"])
        text, record, _ = await there.read(record["id"], cancel=True, wait=True)
        assert record["status"] == "cancelled"
        assert text.startswith("[sandbox]\n\n[incomplete: it was stopped here: read_answer was called with cancel]")
        assert sandbox.open_streams == 0


async def test_what_a_process_left_that_died_is_a_partial_answer(sandbox: Sandbox, kept: Settings) -> None:
    held_back(sandbox)
    at, later = Time(), Time()
    later.now = at.now
    async with (
        served(sandbox, settings=kept, waits=BUSY, at=at) as here,
        served(sandbox, settings=kept, at=later) as there,
    ):
        _, record, _ = await here.ask()
        await said_so_far(there, record["id"])
        later.now = at.now + 30
        assert [row["status"] for row in await there.rows()] == ["running"]
        later.now = at.now + 31
        assert [row["status"] for row in await there.rows()] == ["partial"]
        text, record, is_error = await there.read(record["id"], wait=True)
        assert not is_error
        assert text.startswith("[sandbox] \n\n[incomplete: its server ended before it was done]")


# --- how much, how long, for whom -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "most"), [("MOST_ANSWERS", 3), ("MOST_BYTES", 20_000)], ids=["500", "64 MiB"])
async def test_the_oldest_are_forgotten_when_they_are_too_many_or_too_much(
    sandbox: Sandbox, kept: Settings, where: str, monkeypatch: pytest.MonkeyPatch, *, limit: str, most: int
) -> None:
    monkeypatch.setattr(f"openrouter_mcp.archive.{'redis' if where else 'sqlite'}.{limit}", most)
    ids = []
    async with served(sandbox, settings=kept) as here:
        for _ in range(5):
            here.at.now += 1
            sandbox.fail(says("word " * 1700))
            ids.append((await here.ask())[1]["id"])
        here.at.now += 1
        ids.append((await here.ask(prompt="Short?"))[1]["id"])
        assert [row["id"] for row in await here.rows()] == ids[:2:-1]
        text, record, _ = await here.read(ids[2])
    assert record["code"] == "unknown_answer"
    assert "answers stay for a day, the newest 500" in text
    assert (how_many(kept, where, "answers"), how_many(kept, where, "pages")) == (3, 3)


async def test_an_answer_is_kept_for_a_day(sandbox: Sandbox, kept: Settings, where: str) -> None:
    async with served(sandbox, settings=kept) as here:
        said, record, _ = await here.ask()
        here.at.now += 86_399
        assert (await here.read(record["id"]))[0] == said
        here.at.now += 2
        assert await here.rows() == []
        _, gone, is_error = await here.read(record["id"])
        assert is_error
        assert gone["code"] == "unknown_answer"
        await here.ask()
    assert how_many(kept, where, "answers") == 1


async def test_whoever_wants_nothing_kept_on_disk_has_it_in_memory_alone(sandbox: Sandbox, on_disk: Settings) -> None:
    kept = replace(on_disk, keep_answers=False)
    async with served(sandbox, settings=kept) as here:
        said, record, _ = await here.ask()
        assert (await here.read(record["id"]))[0] == said
        assert not file_of(kept).exists()
        assert b"Why?" not in b"".join(path.read_bytes() for path in file_of(kept).parent.iterdir())
    async with served(sandbox, settings=kept) as here:
        assert await here.rows() == []


async def test_the_file_is_its_users_alone(sandbox: Sandbox, on_disk: Settings) -> None:
    async with served(sandbox, settings=on_disk) as here:
        await here.ask()
    assert stat.S_IMODE(file_of(on_disk).stat().st_mode) == 0o600
    assert stat.S_IMODE(file_of(on_disk).parent.stat().st_mode) == 0o700


# --- a disk in trouble ------------------------------------------------------------------------------------------------


async def test_a_full_disk_loses_nothing_that_arrived_and_hides_nothing_that_was_kept(
    sandbox: Sandbox, on_disk: Settings
) -> None:
    async with served(sandbox, settings=on_disk) as here:
        before, first, _ = await here.ask(prompt="Before?")
        archive = here.app.answers._keeping._lasting
        assert isinstance(archive, SQLiteArchive)
        (pages,) = archive.db.execute("PRAGMA page_count").fetchone()
        archive.db.execute(f"PRAGMA max_page_count={pages}")
        sandbox.fail(says(long := ("word " * 9000).rstrip()))
        here.at.now += 1
        _, second, is_error = await here.ask(prompt="Meanwhile?")
        assert not is_error
        assert await all_of(here, second["id"]) == long
        assert (await here.read(first["id"]))[0] == before
        assert [row["id"] for row in await here.rows()] == [second["id"], first["id"]]


@pytest.mark.parametrize("recovers", [True, False])
async def test_a_disk_that_is_full_for_a_while_leaves_no_hole(
    sandbox: Sandbox, on_disk: Settings, monkeypatch: pytest.MonkeyPatch, *, recovers: bool
) -> None:
    full, written, refused, save = [False], [0], [0], SQLiteArchive.save

    def save_unless_full(archive: SQLiteArchive, entry: Entry, pages: Sequence[Any], size: int) -> bool:
        if full[0] and archive.db.execute("PRAGMA database_list").fetchone()[2]:
            refused[0] += 1
            raise sqlite3.OperationalError("database or disk is full")
        written[0] += 1
        return save(archive, entry, pages, size)

    monkeypatch.setattr(SQLiteArchive, "save", save_unless_full)
    monkeypatch.setattr("openrouter_mcp.sandbox.answers.words", in_blocks)
    gate = held_back(sandbox)
    async with served(sandbox, settings=on_disk, waits=BUSY) as here:
        _, record, _ = await here.ask(prompt="Write 15000 words.")
        await until(lambda: len(here.arrived()) == 2500)
        before = written[0]
        await until(lambda: written[0] > before + 1)
        full[0], gate.most = True, 20
        step, gate.opened = gate.opened, anyio.Event()
        step.set()
        await until(lambda: len(here.arrived()) > 50_000)
        seen = refused[0]
        await until(lambda: refused[0] > seen + 1)
        full[0] = not recovers
        gate.opened.set()
        _, last, _ = await here.read(record["id"], wait=True)
        assert last["status"] == "complete"
        full[0] = False
        whole = await all_of(here, record["id"])
        (row,) = await here.rows()
        assert row["status"] == "complete"
        _, again, _ = await here.ask(prompt="Write 15000 words.")
        await until(lambda: not here.app.writing.running(""))
        assert whole == await all_of(here, again["id"])
    async with served(sandbox, settings=on_disk) as here:
        here.at.now += 60
        text, record, _ = await here.read(record["id"])
        assert record["status"] == "complete"  # at the latest it was written when the first ended
        assert text.startswith(whole[:2500])


def garbage(path: Path) -> None:
    path.write_bytes(b"no book of anything\n" * 1000)


def broken_inside(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


@pytest.mark.parametrize("spoil", [garbage, broken_inside])
async def test_a_broken_file_is_set_aside_and_a_new_one_begun(
    sandbox: Sandbox, on_disk: Settings, spoil: Callable[[Path], None]
) -> None:
    async with served(sandbox, settings=on_disk) as here:
        await here.ask()
    spoil(file_of(on_disk))
    broken = file_of(on_disk).read_bytes()
    async with served(sandbox, settings=on_disk) as here:
        said, record, is_error = await here.ask()
        assert not is_error
    (aside,) = file_of(on_disk).parent.glob("answers.db.broken-*")
    assert aside.read_bytes() == broken
    async with served(sandbox, settings=on_disk) as here:
        assert (await here.read(record["id"]))[0] == said


def newer(path: Path) -> None:
    SQLiteArchive(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    db.close()


def a_link(path: Path) -> None:
    (path.parent / "elsewhere").write_bytes(b"")
    path.symlink_to(path.parent / "elsewhere")


def not_to_be_opened(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("plant", [newer, a_link, not_to_be_opened])
async def test_where_the_file_must_be_left_alone_answers_are_kept_in_memory_and_a_warning_says_so(
    sandbox: Sandbox, on_disk: Settings, caplog: pytest.LogCaptureFixture, plant: Callable[[Path], None]
) -> None:
    path = file_of(on_disk)
    path.parent.mkdir(mode=0o700)
    plant(path)
    before = path.read_bytes() if path.is_file() else b""
    async with served(sandbox, settings=on_disk) as here:
        for _ in range(2):
            said, record, is_error = await here.ask()
            assert not is_error
            assert (await here.read(record["id"]))[0] == said
        assert len(await here.rows()) == 2
    assert (path.read_bytes() if path.is_file() else b"") == before
    assert caplog.text.count("cannot be written; they are kept in memory for now") == 1
    assert "Why?" not in caplog.text


# --- an engine in trouble ---------------------------------------------------------------------------------------------


def engine_of(here: Served) -> Engine:
    """Where the server keeps its answers."""
    engine = here.app.answers._keeping._place
    assert isinstance(engine, Engine)
    return engine


@pytest.mark.parametrize("where", ["engine"], indirect=True)
async def test_what_an_engine_that_is_away_cannot_keep_is_moved_to_it_when_it_is_back(
    sandbox: Sandbox, kept: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(sandbox, settings=kept) as here, served(sandbox, settings=kept, at=here.at) as there:
        before, first, _ = await here.ask(prompt="Before?")
        engine_of(here).away = "it is switched off"
        here.at.now += 1
        meanwhile, second, is_error = await here.ask(prompt="Meanwhile?", system="Be brief.")
        assert not is_error
        here.at.now += 1
        await here.ask(prompt="And on?", continue_from=second["id"])
        assert (await here.read(second["id"]))[0] == meanwhile
        assert (await there.read(second["id"]))[1]["code"] == "unknown_answer"
        await here.app.answers._keeping.mend()
        assert (await there.read(second["id"]))[1]["code"] == "unknown_answer"
        assert engine_of(here).try_again()
        await here.app.answers._keeping.mend()
        assert (await here.read(first["id"]))[0] == before
        for each in (here, there):
            assert (await each.read(second["id"]))[0] == meanwhile
            assert [row["status"] for row in await each.rows()] == ["complete"] * 3
        await there.ask(prompt="And there?", continue_from=second["id"])
        assert [one["content"] for one in sandbox.chats[-1].body["messages"]][:2] == ["Be brief.", "Meanwhile?"]
        assert here.app.answers._keeping._memory is None
    assert caplog.text.count("cannot be written; they are kept in memory for now") == 1


@pytest.mark.parametrize("where", ["engine"], indirect=True)
async def test_an_answer_is_whole_although_the_engine_was_away_while_it_was_written(
    sandbox: Sandbox, kept: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openrouter_mcp.sandbox.answers.words", in_blocks)
    gate = held_back(sandbox)
    gate.most = 20
    async with (
        served(sandbox, settings=kept, waits=BUSY) as here,
        served(sandbox, settings=kept, waits=BUSY, at=here.at) as there,
    ):
        _, record, _ = await here.ask(prompt="Write 15000 words.")
        await said_so_far(there, record["id"])
        engine_of(here).away = "it is switched off"
        await until(lambda: here.app.answers._keeping._memory is not None)
        gate.opened.set()
        _, last, _ = await here.read(record["id"], wait=True)
        assert (last["status"], last["pages"]) == ("complete", 5)
        assert (await there.read(record["id"]))[1]["status"] == "running"
        whole = await all_of(here, record["id"])
        assert engine_of(here).try_again()
        await here.app.answers._keeping.mend()
        assert (await there.read(record["id"]))[1]["status"] == "complete"
        assert await all_of(there, record["id"]) == whole


@pytest.mark.parametrize("where", ["engine"], indirect=True)
@pytest.mark.parametrize("stopped", [False, True])
async def test_a_batch_under_way_goes_on_while_the_engine_is_away_and_is_found_there_when_it_is_back(
    sandbox: Sandbox, kept: Settings, *, stopped: bool
) -> None:
    gate = held_back(sandbox)
    async with (
        served(sandbox, settings=kept, waits=BUSY) as here,
        served(sandbox, settings=kept, waits=BUSY, at=here.at) as there,
    ):
        _, record, _ = await here.ask("ask_many", prompts=["One?", "Two?", "Three?"], model=MODEL)
        id_ = record["id"]
        await until(lambda: sandbox.open_streams == 1 and len(here.app.batches.asked[id_].rows) == 2)
        await here.rows()  # after what is still being written down
        engine_of(here).away = "it is switched off"
        _, record, _ = await here.read(id_)
        assert (record["status"], record["answered"]) == ("running", 2)
        if not stopped:
            gate.opened.set()
        _, ended, _ = await here.read(id_, wait=True, cancel=stopped)
        assert (ended["status"], ended["answered"]) == (("cancelled", 2) if stopped else ("complete", 3))
        _, again, _ = await here.read(id_)
        assert again["rows"] == ended["rows"]
        assert engine_of(here).try_again()
        await here.app.answers._keeping.mend()
        for each in (here, there):
            _, again, _ = await each.read(id_)
            assert (again["status"], again["rows"]) == (ended["status"], ended["rows"])
        _, listed, _ = await there.read()
        assert [row["id"] for row in listed["rows"]] == [id_]


@pytest.mark.parametrize("where", ["engine"], indirect=True)
async def test_what_cannot_be_read_because_the_engine_is_away_is_not_called_lost(
    sandbox: Sandbox, kept: Settings
) -> None:
    async with served(sandbox, settings=kept) as here:
        _, answer, _ = await here.ask()
        _, batch, _ = await here.ask("ask_many", prompts=["One?"], model=MODEL)
        await here.read(batch["id"], wait=True)
        engine_of(here).away = "it is switched off"
        for record in (answer, batch):
            text, unknown, is_error = await here.read(record["id"])
            assert (is_error, unknown["code"]) == (True, "unknown_answer")
            assert "it is switched off. Nothing is lost by that; read it again in a minute." in text
        assert engine_of(here).try_again()
        assert not (await here.read(answer["id"]))[2]
        assert "the newest 500" in (await here.read("nonsense"))[0]


@pytest.mark.parametrize("where", ["engine"], indirect=True)
async def test_what_concerns_an_answer_elsewhere_is_said_to_the_engine_when_it_is_back(
    sandbox: Sandbox, kept: Settings
) -> None:
    held_back(sandbox)
    async with (
        served(sandbox, settings=kept, waits=BUSY) as here,
        served(sandbox, settings=kept, waits=BUSY, at=here.at) as there,
    ):
        _, record, _ = await here.ask()
        await said_so_far(there, record["id"])
        engine_of(there).away = "it is switched off"
        for id_ in ("nobody's", record["id"]):
            await there.app.answers._keeping.stop(id_)
        assert engine_of(there).try_again()
        await there.app.answers._keeping.mend()
        text, record, _ = await here.read(record["id"], wait=True)
        assert record["status"] == "cancelled"
        assert "read_answer was called with cancel" in text


@pytest.mark.parametrize("where", ["engine"], indirect=True)
@pytest.mark.parametrize(
    "columns",
    [
        {"facts": "junk"},
        {"facts": "[1, 2]"},
        {"facts": b"\xff\x00"},
        {"facts": '{"id": "planted", "running": false, "held": "-1e999999"}'},
        {"at": "noon", "seen": "9e999"},
        {"size": "much"},
        {"prompt": b"\xff"},
        {"parent": "planted"},
        {"stop": "please"},
    ],
    ids=str,
)
async def test_what_is_planted_in_an_engine_is_unknown_or_harmless(
    sandbox: Sandbox, kept: Settings, where: str, columns: dict[str, str | bytes]
) -> None:
    async with served(sandbox, settings=kept) as here:
        said, record, _ = await here.ask(prompt="Mine?")
        with redis.Redis.from_url(where) as client:
            name = f"{PREFIX}archive:"
            columns = client.hgetall(f"{name}answer:{record['id']}") | columns
            client.hset(f"{name}answer:planted", mapping=columns)
            client.hset(f"{name}sizes", "planted", columns.get("size", 1))
            client.zadd(f"{name}answers", {"planted": float("inf"), "nowhere": here.at.now})
            client.rpush(f"{name}pages:planted", "Planted words.")
        text, _, is_error = await here.read("planted")
        assert len(text) < 500
        assert text.startswith("unknown_answer: " if is_error else ("Planted words.", "[sandbox]"))
        assert (await here.read(record["id"]))[0] == said
        assert record["id"] in (await here.read())[0]
        text, _, _ = await here.ask(continue_from="planted")
        assert not text.startswith("internal: ")
        _, _, is_error = await here.ask()
        assert not is_error
        assert len(await here.rows()) >= 2
        assert not engine_of(here).away


# --- a planted file ---------------------------------------------------------------------------------------------------

FACTS = '\'{"id": "planted", "models": ["acme/tiny:free"], "running": false, %s}\''
PLANTED = {
    "facts that are no JSON": {"facts": "'junk'"},
    "facts of another kind": {"facts": "'[1, 2]'"},
    "no facts": {"facts": "'{}'"},
    "facts that are no text": {"facts": "x'ff00'"},
    "a cost of a million digits": {"facts": FACTS % '"usage": {"cost": "1e999999"}'},
    "an amount held of as many": {"facts": FACTS % '"held": "-1e999999"'},
    "endless seconds": {"facts": FACTS % '"seconds": 1e999'},
    "a moment that is none": {"at": "'noon'"},
    "a moment beyond all": {"at": "9e999", "seen": "9e999"},
    "a size that is none": {"size": "'much'"},
    "a size beyond all": {"size": "9e999"},
    "bytes that are no text": {"prompt": "CAST(x'ff' AS TEXT)"},
    "its own parent": {"parent": "'planted'"},
}


@pytest.mark.parametrize("columns", PLANTED.values(), ids=PLANTED)
async def test_a_planted_row_is_unknown_or_harmless(
    sandbox: Sandbox, on_disk: Settings, columns: dict[str, str]
) -> None:
    async with served(sandbox, settings=on_disk) as here:
        said, record, _ = await here.ask(prompt="Mine?")
    names = ["owner", "caller", "parent", "at", "seen", "process", "stop", "system", "prompt", "facts", "size"]
    values = ", ".join(columns.get(name, name) for name in names)
    sql(on_disk, f"INSERT INTO answers (id, {', '.join(names)}) SELECT 'planted', {values} FROM answers")  # noqa: S608
    sql(on_disk, "INSERT INTO pages VALUES ('planted', 1, 'Planted words.')")
    async with served(sandbox, settings=on_disk) as here:
        text, _, is_error = await here.read("planted")
        assert len(text) < 500
        assert text.startswith("unknown_answer: " if is_error else "Planted words.")
        assert (await here.read(record["id"]))[0] == said
        listed, _, is_error = await here.read()
        assert not is_error
        assert record["id"] in listed
        assert len(listed) < 1000
        text, _, _ = await here.ask(continue_from="planted")
        assert not text.startswith("internal: ")
        assert all(len(chat.body["messages"]) <= 3 for chat in sandbox.chats)
        _, _, is_error = await here.ask()
        assert not is_error
        assert len(await here.rows()) >= 2
