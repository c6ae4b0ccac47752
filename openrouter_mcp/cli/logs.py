"""The log, on stderr: a line for each record, as text or as JSON. stdout belongs to the protocol."""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic import SecretStr

from openrouter_mcp.text import without_key

TEXT, JSON, NONE = "text", "json", "none"
FORMATS = (TEXT, JSON, NONE)
QUIET = "quiet"
_OURS = "openrouter_mcp"
_CALLS = "openrouter_mcp.observing"  # whose lines are no warnings
# What the SDK says of requests that cannot be read, with tracebacks; the door says it in a line.
_SAID_ELSEWHERE = ("mcp.server.sse", "mcp.server.streamable_http_manager")


def to_stderr(key: SecretStr | None, form: str = TEXT) -> None:
    """Set the root up before the SDK does. NONE leaves the lines about calls out, QUIET all that is ours, where a
    command says it itself; both are text otherwise."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(key, form))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(_OURS).setLevel(logging.CRITICAL if form == QUIET else logging.NOTSET)
    logging.getLogger(_CALLS).setLevel(logging.CRITICAL if form in (NONE, QUIET) else logging.INFO)
    for name in _SAID_ELSEWHERE:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def formatter(key: SecretStr | None, form: str) -> logging.Formatter:
    """Writes each record on a line, without the key."""
    return _AsJson(key) if form == JSON else _AsText(key)


class _AsText(logging.Formatter):
    """The last door of every log line, tracebacks included: the key does not pass, and nobody's words begin a line."""

    def __init__(self, key: SecretStr | None) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")
        self._key = key.get_secret_value() if key else ""

    def format(self, record: logging.LogRecord) -> str:
        """All of it, without the key."""
        return str(without_key(super().format(record), self._key))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """The message on one line."""
        return _visible(super().formatMessage(record))

    def formatException(self, ei) -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001, N802 - logging's own
        """The traceback, set in."""
        lines = super().formatException(ei).splitlines()
        return "\n".join(f"  {_visible(line)}" for line in lines)


class _AsJson(_AsText):
    """One object a line; the facts of a call by their names."""

    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, "facts", None)
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        line |= facts if isinstance(facts, Mapping) else {"message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = super().formatException(record.exc_info)
        return json.dumps(without_key(line, self._key))


def _visible(text: str) -> str:
    """What cannot be seen as its escape: no line breaks, no terminal's commands."""
    return (
        text
        if text.isprintable()
        else "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    )
