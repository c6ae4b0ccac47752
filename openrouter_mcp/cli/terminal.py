"""The person at the terminal: a line of progress that is rewritten in place, and a question."""

import io
import os
import sys

import anyio.to_thread

from openrouter_mcp.text import one_line

_NARROW = 80


def printable() -> None:
    """Let stdout take whatever there is to print: an answer may hold what this terminal cannot show."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def has_person() -> bool:
    """Whether somebody can read a question here and type a reply."""
    return sys.stdin.isatty() and sys.stderr.isatty()


class Line:
    """The last line of stderr, rewritten in place; nothing at all where stderr is no terminal."""

    def __init__(self) -> None:
        self._width = 0

    def show(self, text: str) -> None:
        """Put `text` in place of what was there."""
        if sys.stderr.isatty():
            text = one_line(text, max(1, _columns() - 1))
            print(f"\r{text:<{self._width}}", end="", file=sys.stderr, flush=True)
            self._width = len(text)

    def clear(self) -> None:
        """Leave an empty line."""
        if self._width:
            print(f"\r{'':<{self._width}}\r", end="", file=sys.stderr, flush=True)
            self._width = 0


async def agrees(question: str) -> bool | None:
    """Whether the person at the terminal says yes; None when they close it. A cancel leaves the thread that reads."""
    print(f"{question}\nGo on? [y/N] ", end="", file=sys.stderr, flush=True)
    typed = await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
    return typed.strip().lower() in ("y", "yes") if typed else None


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _NARROW
    except (OSError, ValueError):
        return _NARROW
