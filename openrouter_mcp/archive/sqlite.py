"""The archive in a file of SQLite, so that a restarted server still has the answers, and its siblings do too."""

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

from openrouter_mcp.archive.entry import (
    COLUMNS,
    KEPT_S,
    MOST_ANSWERS,
    MOST_BYTES,
    Archive,
    Entry,
    read_entry,
    read_kept,
    write_facts,
    write_plan,
)
from openrouter_mcp.ledger.sqlite.file import File
from openrouter_mcp.plans import Kept, Plan, State
from openrouter_mcp.text import encodable, number
from openrouter_mcp.transcript import Answer

VERSION = 2
_BUSY_S = 5.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, caller TEXT NOT NULL, parent TEXT NOT NULL, at REAL NOT NULL,
    seen REAL NOT NULL, process TEXT NOT NULL, stop INTEGER NOT NULL DEFAULT 0, system TEXT NOT NULL,
    prompt TEXT NOT NULL, facts TEXT NOT NULL, size INTEGER NOT NULL,
    batch TEXT NOT NULL DEFAULT '', question TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS answers_by_time ON answers (at);
CREATE INDEX IF NOT EXISTS answers_by_question ON answers (question);
CREATE TABLE IF NOT EXISTS pages (
    answer TEXT NOT NULL REFERENCES answers ON DELETE CASCADE, number INTEGER NOT NULL, text TEXT NOT NULL,
    PRIMARY KEY (answer, number)
);
CREATE TABLE IF NOT EXISTS plans (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, caller TEXT NOT NULL, at REAL NOT NULL, state TEXT NOT NULL DEFAULT '',
    plan TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS plan_rows (
    plan TEXT NOT NULL REFERENCES plans ON DELETE CASCADE, place INTEGER NOT NULL, facts TEXT NOT NULL,
    PRIMARY KEY (plan, place)
);
"""
_FROM_1 = """
ALTER TABLE answers ADD COLUMN batch TEXT NOT NULL DEFAULT '';
ALTER TABLE answers ADD COLUMN question TEXT NOT NULL DEFAULT '';
"""
_COLUMNS = ", ".join(COLUMNS)


class SQLiteArchive(File, Archive):
    """The file at `path`, or ":memory:". What each method does stands at `Archive`."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(path, version=VERSION, upgrade=_upgrade, busy_s=_BUSY_S)
        self.db.text_factory = _decoded
        self.db.execute("PRAGMA foreign_keys=ON")

    def count(self) -> int:
        return int(self.db.execute("SELECT count(*) FROM answers").fetchone()[0])

    # --- answers

    def save(self, entry: Entry, pages: Sequence[str], size: int) -> bool:
        settled = max(0, self.pages(entry.answer.id) - 1)  # the last one written may have grown since
        with self.transaction():
            self.db.execute(
                "INSERT INTO answers (id, owner, caller, parent, at, seen, process, batch, question, system, prompt, "
                "facts, size) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) "
                "DO UPDATE SET seen = excluded.seen, facts = excluded.facts, size = excluded.size",
                (
                    *(entry.answer.id, entry.owner, entry.caller, entry.parent, entry.at, entry.seen, entry.process),
                    *(entry.batch, entry.question, encodable(entry.system), encodable(entry.prompt)),
                    *(write_facts(entry.answer), len(entry.system) + len(entry.prompt) + size),
                ),
            )
            self.db.executemany(
                "INSERT INTO pages (answer, number, text) VALUES (?, ?, ?) "
                "ON CONFLICT (answer, number) DO UPDATE SET text = excluded.text",
                [(entry.answer.id, page, text) for page, text in enumerate(pages[settled:], settled + 1)],
            )
            self.db.execute("DELETE FROM pages WHERE answer = ? AND number > ?", (entry.answer.id, len(pages)))
            stop = self.db.execute("SELECT stop FROM answers WHERE id = ?", (entry.answer.id,)).fetchone()
            return bool(stop and stop[0])

    def find(self, id_: str, owners: Sequence[str], caller: str) -> Entry | None:
        row = self.db.execute(
            f"SELECT owner, {_COLUMNS} FROM answers WHERE id = ? AND caller = ?",  # noqa: S608 - our own names
            (id_, caller),
        ).fetchone()
        return read_entry(row, caller) if row and row[0] in owners else None

    def same(self, question: str, owners: Sequence[str], caller: str, since: float) -> list[Entry]:
        rows = self.db.execute(
            f"SELECT owner, {_COLUMNS} FROM answers WHERE question = ? AND caller = ? AND at >= ? "  # noqa: S608 - ours
            "ORDER BY at DESC",
            (question, caller, since),
        ).fetchall()
        return [entry for row in rows if row[0] in owners and (entry := read_entry(row, caller))]

    def newest(self, owners: Sequence[str], caller: str, count: int) -> list[Entry]:
        marks = ", ".join("?" for _ in owners)
        rows = self.db.execute(
            f"SELECT owner, {_COLUMNS} FROM answers WHERE owner IN ({marks}) AND caller = ? AND batch = '' "  # noqa: S608 - marks
            "ORDER BY at DESC LIMIT ?",
            (*owners, caller, count),
        )
        return [entry for row in rows if (entry := read_entry(row, caller))]

    def pages(self, id_: str) -> int:
        return int(self.db.execute("SELECT count(*) FROM pages WHERE answer = ?", (id_,)).fetchone()[0])

    def page(self, id_: str, number_: int) -> str:
        where = "WHERE answer = ? AND number = ?"
        row = self.db.execute(f"SELECT text FROM pages {where}", (id_, number_)).fetchone()  # noqa: S608 - our own words
        return str(row[0]) if row else ""

    def text(self, id_: str) -> str:
        rows = self.db.execute("SELECT text FROM pages WHERE answer = ? ORDER BY number", (id_,))
        return "".join(str(text) for (text,) in rows)

    def forget(self, id_: str) -> None:
        self.db.execute("DELETE FROM answers WHERE id = ?", (id_,))

    def stop(self, id_: str) -> None:
        with self.db:
            self.db.execute("UPDATE answers SET stop = 1 WHERE id = ?", (id_,))

    def tidy(self, now: float) -> None:
        with self.transaction():
            self.db.execute("DELETE FROM answers WHERE at < ?", (now - KEPT_S,))
            self.db.execute("DELETE FROM plans WHERE at < ?", (now - KEPT_S,))
            size = 0
            rows = self.db.execute("SELECT id, size FROM answers ORDER BY at DESC").fetchall()
            for place, (id_, bytes_) in enumerate(rows):
                size += int(number(bytes_) or 0)
                if place >= MOST_ANSWERS or size > MOST_BYTES:
                    self.db.execute("DELETE FROM answers WHERE id = ?", (id_,))

    # --- batches

    def save_plan(self, plan: Plan) -> None:
        with self.db:
            self.db.execute(
                "INSERT OR IGNORE INTO plans (id, owner, caller, at, plan) VALUES (?, ?, ?, ?, ?)",
                (plan.id, plan.owner, plan.caller, plan.at, write_plan(plan)),
            )

    def note(self, id_: str, rows: Mapping[int, Answer]) -> None:
        with self.db:
            self.db.executemany(
                "INSERT OR REPLACE INTO plan_rows (plan, place, facts) SELECT id, ?, ? FROM plans WHERE id = ?",
                [(place, write_facts(answer), id_) for place, answer in rows.items()],
            )

    def settle(self, id_: str, state: State) -> None:
        with self.db:
            self.db.execute("UPDATE plans SET state = ? WHERE id = ? AND state = ?", (state, id_, State.OPEN))

    def find_plan(self, id_: str, owners: Sequence[str], caller: str) -> Kept | None:
        found = self.db.execute(
            "SELECT owner, id, state, plan FROM plans WHERE id = ? AND caller = ?", (id_, caller)
        ).fetchone()
        return self._kept(*found[1:]) if found and found[0] in owners else None

    def newest_plans(self, owners: Sequence[str], caller: str, since: float) -> list[Kept]:
        rows = self.db.execute(
            "SELECT owner, id, state, plan FROM plans WHERE caller = ? AND at > ? ORDER BY at DESC", (caller, since)
        ).fetchall()
        return [kept for row in rows if row[0] in owners and (kept := self._kept(*row[1:]))]

    def left_open(self, owners: Sequence[str], caller: str, since: float) -> list[str]:
        rows = self.db.execute(
            "SELECT owner, id FROM plans WHERE caller = ? AND at > ? AND state = ?", (caller, since, State.OPEN)
        ).fetchall()
        return [str(id_) for owner, id_ in rows if owner in owners]

    def is_stopped(self, id_: str) -> bool:
        row = self.db.execute("SELECT state FROM plans WHERE id = ?", (id_,)).fetchone()
        return bool(row) and row[0] == State.STOPPED

    def _kept(self, id_: object, state: object, plan: object) -> Kept | None:
        rows = self.db.execute("SELECT place, facts FROM plan_rows WHERE plan = ?", (id_,)).fetchall()
        return read_kept(id_, state, plan, rows)

    # --- moving

    def hand_over(self, to: Archive) -> bool:
        """Move one answer or batch to another archive; whether there was one to move."""
        for table, move in (("answers", self._move_answer), ("plans", self._move_plan)):
            row = self.db.execute(f"SELECT id, owner, caller FROM {table} ORDER BY at LIMIT 1").fetchone()  # noqa: S608 - ours
            if row:
                move(to, *row)
                self.db.execute(f"DELETE FROM {table} WHERE id = ?", row[:1])  # noqa: S608 - ours
                return True
        return False

    def _move_answer(self, to: Archive, id_: str, owner: str, caller: str) -> None:
        if entry := self.find(id_, [owner], caller):
            pages = [self.page(id_, place + 1) for place in range(self.pages(id_))]
            to.save(entry, pages, sum(map(len, pages)))
        if self.db.execute("SELECT stop FROM answers WHERE id = ?", (id_,)).fetchone()[0]:
            to.stop(id_)

    def _move_plan(self, to: Archive, id_: str, owner: str, caller: str) -> None:
        if kept := self.find_plan(id_, [owner], caller):
            to.save_plan(kept.plan)
            to.note(id_, kept.rows)
            to.settle(id_, kept.state)


def _upgrade(db: sqlite3.Connection, version: int) -> None:
    for statement in f"{_FROM_1 if version == 1 else ''} {_SCHEMA}".split(";"):
        db.execute(statement)


def _decoded(text: bytes) -> str:
    """A text that is none must not hide the others."""
    return text.decode("utf-8", "replace")
