"""Who calls over HTTP: the names, what each may use, and the file that says so, as TOML:

[[caller]]
name = "alice"
token_sha256 = "9f86d081..."  # of the token, in hex: printf %s "$TOKEN" | sha256sum
daily_budget_usd = 0.50
requests_per_day = 200
requests_per_minute = 10
files_dir = "/srv/alice"
"""

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from openrouter_mcp.errors import BadSetting
from openrouter_mcp.settings import AMOUNT, folders

_VARIABLE = "OPENROUTER_MCP_CALLERS"
_MOST_BYTES = 1024 * 1024
_MOST_REQUESTS = 1_000_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII)
_KEYS = ("name", "token_sha256", "daily_budget_usd", "requests_per_day", "requests_per_minute", "files_dir")


@dataclass(frozen=True)
class Caller:
    """Whoever calls a tool. Answers, conversations, batches and usage belong to the `name`, so a token may change;
    over stdio it is empty. `token` is the SHA-256 of theirs, empty where none is asked for. They may spend
    `daily_budget` USD and use `per_day` of the free requests, `per_minute` at once (None: as much as all together), and
    send files from the folders `files`."""

    name: str = ""
    token: bytes = field(default=b"", repr=False)
    daily_budget: Decimal | None = None
    per_day: int | None = None
    per_minute: int | None = None
    files: tuple[Path, ...] = ()

    @property
    def has_share(self) -> bool:
        """Whether they may use only some of the free requests."""
        return self.per_day is not None or self.per_minute is not None

    @property
    def may_ask_nothing(self) -> bool:
        """Whether that is none of them."""
        return 0 in (self.per_day, self.per_minute)


NOBODY = Caller()


def read_callers(path: Path) -> tuple[Caller, ...]:
    """The callers that the file names, at least one.

    Raises:
        BadSetting: for the first mistake in it; no token and no hash is repeated.
    """
    import tomllib  # stdio servers have no such file

    content = _content(path)
    try:
        table = tomllib.loads(content.decode("utf-8-sig"), parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        place = re.search(r"\(at [^()]*\)", str(error))
        raise _bad(f"is no TOML {place[0] if place else ''}".rstrip()) from error
    rows = table.pop("caller", None)
    if table:
        raise _bad(f"holds {next(iter(table))[:100]!a}, which means nothing; each caller is a table [[caller]]")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise _bad("names no caller; each is a table [[caller]] with at least name and token_sha256")
    callers = tuple(_caller(row) for row in rows)
    require_apart(callers)
    return callers


def require_apart(callers: Sequence[Caller]) -> None:
    """Raise BadSetting where two share a name or a token: nobody could tell whose an answer is."""
    seen: dict[object, str] = {}
    for caller in callers:
        if caller.name in seen:
            raise _bad(f"names {caller.name} twice, or beside OPENROUTER_MCP_HTTP_TOKEN, whose caller is http")
        if caller.token in seen:
            raise _bad(f"gives {caller.name} the token of {seen[caller.token]}; each caller needs one of their own")
        seen |= {caller.name: caller.name, caller.token: caller.name}


def _content(path: Path) -> bytes:
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise _bad("names no regular file")
            if os.name == "posix" and found.st_mode & stat.S_IWOTH:
                raise _bad("names a file that anybody on this machine may write to; chmod o-w it")
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise _bad(f"cannot be read: {type(error).__name__}") from error
    if len(content) > _MOST_BYTES:
        raise _bad("names a file of over 1 MiB")
    return content


def _caller(row: dict[str, Any]) -> Caller:
    name = row.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _bad("has a caller without a name of 1 to 64 letters, digits, dots, dashes and underscores")
    if unknown := [key for key in row if key not in _KEYS]:
        raise _bad(f"gives {name} {unknown[0][:100]!a}, which means nothing; there are {', '.join(_KEYS)}")
    token = row.get("token_sha256")
    if not isinstance(token, str) or not _SHA256.fullmatch(token):
        raise _bad(f"gives {name} no token_sha256 of 64 hex digits: the SHA-256 of the token, not the token")
    return Caller(
        name,
        bytes.fromhex(token),
        _amount(row, name),
        _count(row, name, "requests_per_day"),
        _count(row, name, "requests_per_minute"),
        _folders(row, name),
    )


def _amount(row: dict[str, Any], name: str) -> Decimal | None:
    value = row.get("daily_budget_usd")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str) or not AMOUNT.fullmatch(str(value)):
        raise _bad(f"gives {name} a daily_budget_usd that is no plain amount of US dollars, like 5 or 0.50")
    return Decimal(value)


def _count(row: dict[str, Any], name: str, key: str) -> int | None:
    value = row.get(key)
    if value is None or (type(value) is int and 0 <= value <= _MOST_REQUESTS):
        return value
    raise _bad(f"gives {name} a {key} that is no whole number from 0 to {_MOST_REQUESTS}")


def _folders(row: dict[str, Any], name: str) -> tuple[Path, ...]:
    value = row.get("files_dir", [])
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise _bad(f"gives {name} a files_dir that is no folder, nor a list of them")
    return folders(f"{_VARIABLE}, files_dir of {name},", texts)


def _bad(what: str) -> BadSetting:
    return BadSetting(f"{_VARIABLE} {what}.")
