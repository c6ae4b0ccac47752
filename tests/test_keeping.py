"""Keeping: answers outlive the server that wrote them, its siblings see them, and no disk's trouble loses one."""

import sqlite3
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from served import HASTY, MODEL, Served, held_back, says, served
from support import SETTINGS, Time, until

from openrouter_mcp.archive import Archive, Entry
from openrouter_mcp.sandbox import Fault, Sandbox
from openrouter_mcp.settings import Settings

BUSY = replace(HASTY, heartbeat=0.01, poll=0.01)


@pytest.fixture
def kept(tmp_path: Path) -> Settings:
    """Settings that keep answers in a folder of the test."""
    return replace(SETTINGS, state_dir=tmp_path / "state")


def file_of(settings: Settings) -> Path:
    assert settings.state_dir is not None
    return settings.state_dir / "answers.db"


def sql(settings: Settings, statement: str) -> list[Any]:
    """Do that to the file, as somebody else would."""
    with sqlite3.connect(file_of(settings)) as db:
        rows = db.execute(statement).fetchall()
    db.close()
    return rows


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
        sandbox.fail(Fault(then="end", after_tokens=3))
        partial, _, _ = await here.ask()
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
    sandbox: Sandbox, kept: Settings, monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    monkeypatch.setattr(f"openrouter_mcp.archive.{limit}", most)
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
    assert sql(kept, "SELECT count(*) FROM pages") == [(3,)]


async def test_an_answer_is_kept_for_a_day(sandbox: Sandbox, kept: Settings) -> None:
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
    assert len(sql(kept, "SELECT id FROM answers")) == 1


async def test_whoever_wants_nothing_kept_on_disk_has_it_in_memory_alone(sandbox: Sandbox, kept: Settings) -> None:
    kept = replace(kept, keep_answers=False)
    async with served(sandbox, settings=kept) as here:
        said, record, _ = await here.ask()
        assert (await here.read(record["id"]))[0] == said
        assert not file_of(kept).exists()
        assert b"Why?" not in b"".join(path.read_bytes() for path in file_of(kept).parent.iterdir())
    async with served(sandbox, settings=kept) as here:
        assert await here.rows() == []


async def test_the_file_is_its_users_alone(sandbox: Sandbox, kept: Settings) -> None:
    async with served(sandbox, settings=kept) as here:
        await here.ask()
    assert stat.S_IMODE(file_of(kept).stat().st_mode) == 0o600
    assert stat.S_IMODE(file_of(kept).parent.stat().st_mode) == 0o700


# --- a disk in trouble ------------------------------------------------------------------------------------------------


async def test_a_full_disk_loses_nothing_that_arrived_and_hides_nothing_that_was_kept(
    sandbox: Sandbox, kept: Settings
) -> None:
    async with served(sandbox, settings=kept) as here:
        before, first, _ = await here.ask(prompt="Before?")
        (archive,) = filter(None, [here.app.answers._keeping._disk])
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
    sandbox: Sandbox, kept: Settings, monkeypatch: pytest.MonkeyPatch, *, recovers: bool
) -> None:
    full, written, refused, save = [False], [0], [0], Archive.save

    def save_unless_full(archive: Archive, entry: Entry, pages: Sequence[Any], size: int) -> bool:
        if full[0] and archive.db.execute("PRAGMA database_list").fetchone()[2]:
            refused[0] += 1
            raise sqlite3.OperationalError("database or disk is full")
        written[0] += 1
        return save(archive, entry, pages, size)

    def in_blocks(text: str) -> list[str]:
        return [text[place : place + 2500] for place in range(0, len(text), 2500)]

    monkeypatch.setattr(Archive, "save", save_unless_full)
    monkeypatch.setattr("openrouter_mcp.sandbox.answers.words", in_blocks)
    gate = held_back(sandbox)
    async with served(sandbox, settings=kept, waits=BUSY) as here:
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
    async with served(sandbox, settings=kept) as here:
        here.at.now += 60
        text, record, _ = await here.read(record["id"])
        assert record["status"] == ("complete" if recovers else "partial")
        assert text.startswith(whole[:2500])


def garbage(path: Path) -> None:
    path.write_bytes(b"no book of anything\n" * 1000)


def broken_inside(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


@pytest.mark.parametrize("spoil", [garbage, broken_inside])
async def test_a_broken_file_is_set_aside_and_a_new_one_begun(
    sandbox: Sandbox, kept: Settings, spoil: Callable[[Path], None]
) -> None:
    async with served(sandbox, settings=kept) as here:
        await here.ask()
    spoil(file_of(kept))
    broken = file_of(kept).read_bytes()
    async with served(sandbox, settings=kept) as here:
        said, record, is_error = await here.ask()
        assert not is_error
    (aside,) = file_of(kept).parent.glob("answers.db.broken-*")
    assert aside.read_bytes() == broken
    async with served(sandbox, settings=kept) as here:
        assert (await here.read(record["id"]))[0] == said


def newer(path: Path) -> None:
    Archive(path).close()
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
    sandbox: Sandbox, kept: Settings, caplog: pytest.LogCaptureFixture, plant: Callable[[Path], None]
) -> None:
    path = file_of(kept)
    path.parent.mkdir(mode=0o700)
    plant(path)
    before = path.read_bytes() if path.is_file() else b""
    async with served(sandbox, settings=kept) as here:
        for _ in range(2):
            said, record, is_error = await here.ask()
            assert not is_error
            assert (await here.read(record["id"]))[0] == said
        assert len(await here.rows()) == 2
    assert (path.read_bytes() if path.is_file() else b"") == before
    assert caplog.text.count("cannot be written; they are kept in memory for now") == 1
    assert "Why?" not in caplog.text


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
async def test_a_planted_row_is_unknown_or_harmless(sandbox: Sandbox, kept: Settings, columns: dict[str, str]) -> None:
    async with served(sandbox, settings=kept) as here:
        said, record, _ = await here.ask(prompt="Mine?")
    names = ["owner", "caller", "parent", "at", "seen", "process", "stop", "system", "prompt", "facts", "size"]
    values = ", ".join(columns.get(name, name) for name in names)
    sql(kept, f"INSERT INTO answers (id, {', '.join(names)}) SELECT 'planted', {values} FROM answers")  # noqa: S608
    sql(kept, "INSERT INTO pages VALUES ('planted', 1, 'Planted words.')")
    async with served(sandbox, settings=kept) as here:
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
