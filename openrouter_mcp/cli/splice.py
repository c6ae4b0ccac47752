"""Puts a value into a JSON text, or takes one out, and leaves every other byte as it is."""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

_BLANKS = re.compile(r"[ \t]*")
_SPACE = re.compile(r"[ \t\r\n]*")
# A string is matched first, so that what looks like a comment inside one is passed over.
_COMMENT = re.compile(r'("(?:[^"\\]|\\.)*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
_LAST_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])', re.DOTALL)
_DECODER = json.JSONDecoder()

Step = str | int


class Ambiguous(ValueError):
    """A name on the way stands there twice, and clients differ in which they take."""


class _Item(NamedTuple):
    step: Step
    start: int  # of the name, or of the value in an array
    value: int
    end: int


def parsed(text: str) -> object:
    """What the text says; a blank one says `{}`, as clients take it.

    Raises:
        ValueError: when it is not JSON, or too deep to be read.
    """
    try:
        said: object = json.loads(text, parse_constant=_no_constant) if text.strip() else {}
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return said


def without_comments(text: str) -> str:
    """The text as strict JSON, where it has the comments and last commas that some editors allow."""
    return _LAST_COMMA.sub(_string_only, _COMMENT.sub(_string_only, text))


def put(text: str, path: Sequence[Step], value: object) -> str:
    """The text with `value` at `path`: names of members, and in an array the place of an element, at most one past
    its last. What is missing on the way is made.

    The text is valid JSON, and each container on the way of the right kind.

    Raises:
        Ambiguous: when a name on the way stands there twice.
    """
    if not text.strip():
        text = "{}\n"
    at = _skip(text, 0)
    for depth, step in enumerate(path):
        found = _named(_items(text, at)[0], step)
        if found is None:
            for outer in reversed(path[depth + 1 :]):
                value = [value] if isinstance(outer, int) else {outer: value}
            return _insert(text, at, "" if isinstance(step, int) else _quoted(step) + ": ", value)
        at, end = found.value, found.end
    return text[:at] + _written(text, value, _indent(text, at)) + text[end:]


def take(text: str, path: Sequence[Step]) -> str:
    """The text without what is at `path`; the same text where there is nothing. A container that becomes empty stays.

    Raises:
        Ambiguous: when a name on the way stands there twice.
    """
    if not text.strip():
        return text
    at = _skip(text, 0)
    for step in path[:-1]:
        outer = _named(_items(text, at)[0], step)
        if outer is None:
            return text
        at = outer.value
    items, close = _items(text, at)
    found = _named(items, path[-1])
    if found is None:
        return text
    place = items.index(found)
    if len(items) == 1:
        return text[: at + 1] + text[close:]
    if place == len(items) - 1:
        return text[: items[place - 1].end] + text[found.end :]
    return text[: found.start] + text[items[place + 1].start :]


def _insert(text: str, at: int, name: str, value: object) -> str:
    """Behind the last of the container that opens at `at`, in the way its items stand."""
    items, close = _items(text, at)
    if items:
        before = text[at + 1 : items[0].start]
        line = before.rfind("\n")
        lead = _newline(text) + before[line + 1 :] if line >= 0 else before or " "
        inner = before[line + 1 :] if line >= 0 else _indent(text, at)
        last = items[-1].end
        return text[:last] + "," + lead + name + _written(text, value, inner) + text[last:]
    newline = _newline(text)
    outer = _indent(text, at) if newline else ""
    inner = outer + _unit(text) if newline else ""
    return text[: at + 1] + newline + inner + name + _written(text, value, inner) + newline + outer + text[close:]


def _written(text: str, value: object, indent: str) -> str:
    """`value` in the way of the text, its further lines indented behind `indent`."""
    newline = _newline(text)
    if not newline:
        return _quoted(value)
    return json.dumps(value, ensure_ascii=False, indent=_unit(text)).replace("\n", newline + indent)


def _quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _newline(text: str) -> str:
    """How the lines of the text end; nothing where all stands on one line."""
    if "\n" in text.strip() or text.strip() in ("{}", "[]"):
        return "\r\n" if "\r\n" in text else "\n"
    return ""


def _unit(text: str) -> str:
    """One step of indentation: that of the first line which has any, else two spaces."""
    found = re.search(r"\n([ \t]+)\S", text)
    return (found[1].removeprefix(_indent(text, _skip(text, 0))) if found else "") or "  "


def _indent(text: str, at: int) -> str:
    """The indentation of the line on which `at` lies."""
    found = _BLANKS.match(text, text.rfind("\n", 0, at) + 1)
    return found[0] if found else ""


def _items(text: str, at: int) -> tuple[list[_Item], int]:
    """The items of the object or array that opens at `at`, and where it closes."""
    items: list[_Item] = []
    here = _skip(text, at + 1)
    while text[here] not in "}]":
        start, step = here, len(items)
        named: Step = step
        if text[at] == "{":
            named, here = _DECODER.raw_decode(text, here)
            here = _skip(text, _skip(text, here) + 1)
        _, end = _DECODER.raw_decode(text, here)
        items.append(_Item(named, start, here, end))
        here = _skip(text, end)
        if text[here] == ",":
            here = _skip(text, here + 1)
    return items, here


def _named(items: list[_Item], step: Step) -> _Item | None:
    found = [item for item in items if item.step == step]
    if len(found) > 1:
        raise Ambiguous(f"{step!a} stands there twice")
    return found[0] if found else None


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _string_only(match: re.Match[str]) -> str:
    return match[1] or " "


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
