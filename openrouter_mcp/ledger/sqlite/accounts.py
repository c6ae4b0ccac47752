"""Whose a key is, and what OpenRouter says of an account. Blocking; each is one transaction."""

import sqlite3

from openrouter_mcp.ledger.sqlite.file import File


def account_of(db: sqlite3.Connection, key: str) -> str:
    """The account that the hash of a key is known to belong to; that hash itself until it is."""
    row = db.execute("SELECT account FROM names WHERE key = ?", (key,)).fetchone()
    return str(row[0]) if row else key


def account(book: File, key: str) -> str:
    """`Book.account`."""
    return account_of(book.db, key)


def stop(book: File, key: str, until: float, *, daily: bool) -> None:
    """`Book.stop`."""
    column = "day_stop" if daily else "minute_stop"
    with book.transaction() as db:
        stop = (
            f"INSERT INTO accounts (account, {column}) VALUES (?, ?) ON CONFLICT (account) "  # noqa: S608 - our own names
            f"DO UPDATE SET {column} = max({column}, excluded.{column})"
        )
        db.execute(stop, (account_of(db, key), until))
