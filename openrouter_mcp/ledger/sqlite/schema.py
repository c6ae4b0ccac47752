"""The tables of the book, and how those of older versions become what they are now."""

import sqlite3

from openrouter_mcp.ledger.sqlite import sums

VERSION = 6
_FIRST_WITH_SUMS = 4
_LATER = (("charges", "caller"), ("slots", "caller"), ("batches", "caller"), ("charges", "holder"))  # columns
_SCHEMA = """
CREATE TABLE IF NOT EXISTS slots (
    id INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, at REAL NOT NULL, made REAL NOT NULL,
    caller TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS slots_by_time ON slots (account, at);
CREATE TABLE IF NOT EXISTS accounts (
    account TEXT PRIMARY KEY, day INTEGER, day_limit INTEGER, elsewhere INTEGER,
    minute_stop REAL NOT NULL DEFAULT 0, day_stop REAL NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS names (key TEXT PRIMARY KEY, account TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS cooldowns (
    model TEXT PRIMARY KEY, until REAL NOT NULL, reason TEXT NOT NULL, failures INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS charges (
    id INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, day INTEGER NOT NULL, model TEXT NOT NULL,
    amount TEXT NOT NULL, cost TEXT, generation TEXT NOT NULL DEFAULT '', ended REAL,
    inquiries INTEGER NOT NULL DEFAULT 0, caller TEXT NOT NULL DEFAULT '', holder TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS charges_by_day ON charges (account, day);
CREATE INDEX IF NOT EXISTS charges_open ON charges (account) WHERE cost IS NULL;
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY, account TEXT NOT NULL, day INTEGER NOT NULL, holder TEXT NOT NULL, until REAL NOT NULL,
    requests INTEGER NOT NULL, caller TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS promises (charge INTEGER PRIMARY KEY, batch TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS closures (at REAL NOT NULL, reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS holders (holder TEXT PRIMARY KEY, seen REAL NOT NULL);
"""


def upgrade(db: sqlite3.Connection, version: int) -> None:
    """Bring the book of an older `version` up to date; 0 is an empty file."""
    for statement in f"{_SCHEMA}{sums.SCHEMA}".split(";"):
        db.execute(statement)
    for table, column in _LATER:
        if not any(name == column for _, name, *_ in db.execute(f"PRAGMA table_info({table})")):
            db.execute(f"ALTER TABLE {table} ADD COLUMN {column} TEXT NOT NULL DEFAULT ''")
    if 0 < version < _FIRST_WITH_SUMS:
        sums.take_over(db)
