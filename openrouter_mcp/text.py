"""Text from outside, made safe to show: no invisible characters, no terminal escapes, nothing without an encoding."""

import math
import unicodedata
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

# Line breaks and tabs shape a text; the two joiners are part of how scripts and emoji are written.
_KEPT = frozenset("\n\t\u200c\u200d")
_BYTES_PER_TOKEN = 3  # few enough that a text is rather taken for too long
_CENTS = Decimal("0.01")
_BEYOND = Decimal(10**9)  # USD; more of it says no more
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co"})  # what this Python does not know yet may be tomorrow's emoji


def clean(text: str) -> str:
    """`text` without what cannot be seen or encoded, line ends as `\\n`."""
    if text.isascii() and text.replace("\n", " ").replace("\t", " ").isprintable():  # most of a stream, without a walk
        return text
    text = text.replace("\r\n", "\n")
    return "".join(char for char in text if char in _KEPT or not _is_unseen(char))


def _is_unseen(char: str) -> bool:
    """Control, format and the like; and the plane of tags and selectors, which can spell a message."""
    return unicodedata.category(char) in _UNSEEN or "\U000e0000" <= char <= "\U000e0fff"


def encodable(text: str) -> str:
    """`text` with halves of a character, as a client that cuts an emoji sends them, replaced by a mark."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def tokens(*texts: str) -> int:
    """About how many a model reads in these, rather too many than too few."""
    return sum(len(text.encode("utf-8", "replace")) for text in texts) // _BYTES_PER_TOKEN


def one_line(text: object, limit: int = 300) -> str:
    """What somebody else's server said, as one clean line of at most `limit` characters; not text: empty."""
    if not isinstance(text, str):
        return ""
    line = " ".join(clean(text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def number(value: object) -> float | None:
    """A finite number that is not negative, out of somebody else's JSON or header; None for everything else."""
    if isinstance(value, bool):
        return None
    try:
        amount = float(value)  # type: ignore[arg-type]  # whatever it is, TypeError says so
    except (TypeError, ValueError, OverflowError):
        return None
    return amount if math.isfinite(amount) and amount >= 0 else None


def mapping(value: object) -> dict[str, Any]:
    """An object out of somebody else's JSON; anything else is an empty one."""
    return value if isinstance(value, dict) else {}


def duration(seconds: float) -> str:
    """A wait as a person says it: "8 s", "4 min", "5 h 12 min"."""
    whole = max(1, round(seconds))
    if whole < 120:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 72 * 60 else f"{minutes // 1440} days"


def time_of_day(moment: float) -> str:
    """An epoch time on both clocks a reader may have: "00:00 UTC (01:00 local time)"."""
    utc = datetime.fromtimestamp(moment, UTC)
    local = utc.astimezone()
    here = "" if local.utcoffset() == utc.utcoffset() else f" ({local:%H:%M} local time)"
    return f"{utc:%H:%M} UTC{here}"


def usd(amount: Decimal) -> str:
    """Exact, without the noughts that say nothing; cents always: "$0", "$0.50", "$0.000125"."""
    whole, _, cents = f"{abs(amount):f}".partition(".")
    cents = cents.rstrip("0")
    sign = "-" if amount < 0 else ""
    return f"{sign}${whole}.{cents.ljust(2, '0')}" if cents else f"{sign}${whole}"


def about_usd(amount: Decimal) -> str:
    """Two figures that say something, rounded up: an estimate does not pretend to know more."""
    if amount > _BEYOND:
        return f"over {usd(_BEYOND)}"
    if amount <= 0 or amount == amount.quantize(_CENTS):
        return usd(amount)
    place = Decimal(1).scaleb(amount.adjusted() - 1)
    return usd(amount.quantize(min(place, _CENTS), rounding="ROUND_CEILING"))


def without_key(value: object, key: str) -> object:
    """`value` with "[key]" for every `key` in its texts; the names in it are ours and stay."""
    if isinstance(value, str):
        return value.replace(key, "[key]") if key else value
    if isinstance(value, list | tuple):
        return [without_key(item, key) for item in value]
    return {name: without_key(item, key) for name, item in value.items()} if isinstance(value, dict) else value
