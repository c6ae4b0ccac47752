"""The questions to the person that were answered, by their seals. Blocking."""

from openrouter_mcp.ledger.book import SEAL_KEPT_S
from openrouter_mcp.ledger.sqlite.file import File

_SCHEMA = "CREATE TABLE IF NOT EXISTS seals (seal TEXT PRIMARY KEY, until REAL NOT NULL)"


def seal(book: File, seal: str, now: float) -> bool:
    """`Book.seal`."""
    with book.transaction(durable=True) as db:
        db.execute(_SCHEMA)  # where nobody is asked, the book goes without
        db.execute("DELETE FROM seals WHERE until < ?", (now,))
        return db.execute("INSERT OR IGNORE INTO seals VALUES (?, ?)", (seal, now + SEAL_KEPT_S)).rowcount == 1
