"""Answers on disk for a day, so that a restarted server still has them, and its siblings do too. Blocking; SQLite.

They hold prompts: the file is its user's alone (`ledger.place`), and every row names the account and the caller it is
for. What the file says is read as data and nothing else.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from openrouter_mcp.errors import UnusableBook
from openrouter_mcp.text import encodable, number, one_line
from openrouter_mcp.transcript import Answer
from openrouter_mcp.wire import amount

VERSION = 2
MOST_ANSWERS = 500
MOST_BYTES = 64 * 1024 * 1024
KEPT_S = 86_400.0
_BUSY_S = 5.0
_FIRST_WORDS = 80  # characters of the question, in a list
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
_COLUMNS = "parent, at, seen, process, system, prompt, facts, batch, question"
_FACTS = TypeAdapter(Answer)


@dataclass(frozen=True)
class Entry:
    """An answer as it is kept: asked `at` (epoch seconds) by `caller` of the account `owner`, continuing `parent` if
    that is not empty, or a part of `batch`; last `seen` alive in `process` while it was written. `question` is the
    fingerprint of what was asked."""

    answer: Answer
    owner: str
    caller: str
    parent: str
    at: float
    seen: float
    process: str
    system: str
    prompt: str
    batch: str = ""
    question: str = ""

    @property
    def first_words(self) -> str:
        """Of the question."""
        return one_line(self.prompt, _FIRST_WORDS)


class Archive:
    """The file at `path`, or ":memory:"."""

    def __init__(self, path: Path | str) -> None:
        self.db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        with ExitStack() as unless_prepared:
            unless_prepared.callback(self.db.close)
            self.db.text_factory = _decoded
            version = self._version()
            self.db.execute("PRAGMA foreign_keys=ON")
            self.db.execute("PRAGMA journal_mode=TRUNCATE")
            self.db.execute("PRAGMA synchronous=OFF")  # as the book: whole after any end but a power cut
            if version < VERSION:
                self._bring_up_to_date()
            unless_prepared.pop_all()

    def _version(self) -> int:
        version = int(self.db.execute("PRAGMA user_version").fetchone()[0])
        if version > VERSION:
            raise UnusableBook("the answers were written by a newer version of openrouter-mcp")
        return version

    def _bring_up_to_date(self) -> None:
        with self.db:
            self.db.execute("BEGIN IMMEDIATE")
            changes = _FROM_1 if self._version() == 1 else ""  # again: a sibling may have been first
            for statement in f"{changes} {_SCHEMA} PRAGMA user_version={VERSION}".split(";"):
                self.db.execute(statement)

    def count(self) -> int:
        """How many answers there are, whosever they are."""
        return int(self.db.execute("SELECT count(*) FROM answers").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self.db.close()

    def save(self, entry: Entry, pages: Sequence[str], size: int) -> bool:
        """Write what is new of an answer whose text has `size` characters by now; whether somebody wants it stopped."""
        settled = max(0, self.pages(entry.answer.id) - 1)  # the last one written may have grown since
        with self.db:
            self.db.execute("BEGIN IMMEDIATE")
            self.db.execute(
                "INSERT INTO answers (id, owner, caller, parent, at, seen, process, batch, question, system, prompt, "
                "facts, size) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) "
                "DO UPDATE SET seen = excluded.seen, facts = excluded.facts, size = excluded.size",
                (
                    *(entry.answer.id, entry.owner, entry.caller, entry.parent, entry.at, entry.seen, entry.process),
                    *(
                        entry.batch,
                        entry.question,
                        encodable(entry.system),
                        encodable(entry.prompt),
                        write_facts(entry.answer),
                    ),
                    len(entry.system) + len(entry.prompt) + size,
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
        """The answer of that id, if it is `caller`'s and the account's, by whichever of its names."""
        row = self.db.execute(
            f"SELECT owner, {_COLUMNS} FROM answers WHERE id = ? AND caller = ?",  # noqa: S608 - our own names
            (id_, caller),
        ).fetchone()
        return _entry(row, caller) if row and row[0] in owners else None

    def same(self, question: str, owners: Sequence[str], caller: str, since: float) -> list[Entry]:
        """The caller's answers to the same `question` asked `since` then, newest first."""
        rows = self.db.execute(
            f"SELECT owner, {_COLUMNS} FROM answers WHERE question = ? AND caller = ? AND at >= ? "  # noqa: S608 - ours
            "ORDER BY at DESC",
            (question, caller, since),
        ).fetchall()
        return [entry for row in rows if row[0] in owners and (entry := _entry(row, caller))]

    def newest(self, owners: Sequence[str], caller: str, count: int) -> list[Entry]:
        """The caller's latest answers but those in batches, newest first."""
        marks = ", ".join("?" for _ in owners)
        rows = self.db.execute(
            f"SELECT owner, {_COLUMNS} FROM answers WHERE owner IN ({marks}) AND caller = ? AND batch = '' "  # noqa: S608 - marks
            "ORDER BY at DESC LIMIT ?",
            (*owners, caller, count),
        )
        return [entry for row in rows if (entry := _entry(row, caller))]

    def pages(self, id_: str) -> int:
        """How many pages the answer has."""
        return int(self.db.execute("SELECT count(*) FROM pages WHERE answer = ?", (id_,)).fetchone()[0])

    def page(self, id_: str, number_: int) -> str:
        """One page, counted from 1."""
        where = "WHERE answer = ? AND number = ?"
        row = self.db.execute(f"SELECT text FROM pages {where}", (id_, number_)).fetchone()  # noqa: S608 - our own words
        return str(row[0]) if row else ""

    def text(self, id_: str) -> str:
        """All pages."""
        rows = self.db.execute("SELECT text FROM pages WHERE answer = ? ORDER BY number", (id_,))
        return "".join(str(text) for (text,) in rows)

    def forget(self, id_: str) -> None:
        """Nothing is kept of the answer any more."""
        self.db.execute("DELETE FROM answers WHERE id = ?", (id_,))

    def stop(self, id_: str) -> None:
        """Ask the process that writes the answer to stop."""
        with self.db:
            self.db.execute("UPDATE answers SET stop = 1 WHERE id = ?", (id_,))

    def tidy(self, now: float) -> None:
        """Forget what is older than a day, and the oldest of what is too many or too much."""
        with self.db:
            self.db.execute("BEGIN IMMEDIATE")
            self.db.execute("DELETE FROM answers WHERE at < ?", (now - KEPT_S,))
            self.db.execute("DELETE FROM plans WHERE at < ?", (now - KEPT_S,))
            size = 0
            rows = self.db.execute("SELECT id, size FROM answers ORDER BY at DESC").fetchall()
            for place, (id_, bytes_) in enumerate(rows):
                size += int(number(bytes_) or 0)
                if place >= MOST_ANSWERS or size > MOST_BYTES:
                    self.db.execute("DELETE FROM answers WHERE id = ?", (id_,))


def _decoded(text: bytes) -> str:
    """A text that is none must not hide the others."""
    return text.decode("utf-8", "replace")


def write_facts(answer: Answer) -> str:
    """What is known of the answer, but for its text, as JSON."""
    return _FACTS.dump_json(answer).decode()


def read_facts(facts: object) -> Answer | None:
    """The same as an answer again; None when it is not what it should be."""
    try:
        answer = _FACTS.validate_json(str(facts))
    except ValidationError:
        return None
    amounts = [amount(usd) for usd in (answer.held, answer.before, answer.usage.cost or Decimal(0))]
    return None if None in amounts else answer


def _entry(row: tuple[object, ...], caller: str) -> Entry | None:
    """A row as what it should be; None for one that is not."""
    owner, parent, at, seen, process, system, prompt, facts, batch, question = row
    answer = read_facts(facts)
    return None if answer is None else Entry(
        answer, str(owner), caller, str(parent), number(at) or 0.0, number(seen) or 0.0, str(process), str(system),
        str(prompt), str(batch), str(question),
    )  # fmt: skip
