"""What runs in the engine: one script of several files, read once, with the figures that both books go by."""

from functools import cache
from importlib.resources import files

from openrouter_mcp.ledger.book import (
    DEAD_S,
    FIRST_INQUIRY_S,
    KEPT_DAYS,
    LEASE_S,
    LONGEST_COOLDOWN_S,
    LONGEST_MINUTE_STOP_S,
    MOST_INQUIRIES,
    SEAL_KEPT_S,
)
from openrouter_mcp.ledger.slots import DAY_S, NEW_DAY_S
from openrouter_mcp.ledger.sums import HEALTH_DAYS, MOST
from openrouter_mcp.ledger.sums import KEPT_DAYS as SUMS_KEPT_DAYS

VERSION = 1  # of what the names hold
_FILES = ("prelude", "sums", "models", "requests", "money", "batches", "last")  # each may use those before it
_FIGURES = {
    "VERSION": VERSION,
    "DAY_S": DAY_S,
    "NEW_DAY_S": NEW_DAY_S,
    "ROUNDING_S": 1e-6,  # as in slots.earliest
    "THIS_MOMENT_S": 1e-3,  # so that what is taken this very moment counts as taken
    "KEPT_DAYS": KEPT_DAYS,
    "SUMS_KEPT_DAYS": SUMS_KEPT_DAYS,
    "HEALTH_DAYS": HEALTH_DAYS,
    "LONGEST_MONTH_DAYS": 31,
    "MOST": MOST,
    "MOST_AT_ONCE": 100,  # of what is old is forgotten, so that nobody waits long
    "MOST_INQUIRIES": MOST_INQUIRIES,
    "FIRST_INQUIRY_S": FIRST_INQUIRY_S,
    "DEAD_S": DEAD_S,
    "LEASE_S": LEASE_S,
    "LEASE_TOLERANCE_S": 1.0,
    "LONGEST_COOLDOWN_S": LONGEST_COOLDOWN_S,
    "LONGEST_MINUTE_STOP_S": LONGEST_MINUTE_STOP_S,
    "SEAL_KEPT_S": SEAL_KEPT_S,
    "GIVEN_UP_S": 600,  # as long as what was sent may be under way
}


@cache
def script() -> str:
    """The whole of it, in Lua."""
    figures = "".join(f"local {name} = {value!r}\n" for name, value in _FIGURES.items())
    texts = [files(__package__).joinpath(f"{name}.lua").read_text("utf-8") for name in _FILES]
    return figures + "\n".join(texts)
