"""A text that grows, in pages: each is final once cut, so that a long answer is never copied to show a part. Pure."""

import re
from collections.abc import Iterator

from openrouter_mcp.text import clean

PAGE = 20_000  # characters
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})", re.MULTILINE)
_BLANK = re.compile(r"\A[\s\u200c\u200d]+")  # of the joiners, nothing is seen but what they join
_BREAKS = ("\n\n", "\n", " ")  # where to cut, best first


class Text:
    """What a model has said so far, as `pages` that will not change and a tail that may."""

    def __init__(self) -> None:
        self.pages: list[str] = []
        self.size = 0
        self.has_words = False
        self._tail: list[str] = []
        self._tail_size = 0
        self._fence = ""  # the mark of the code fence that is open where the tail begins

    @classmethod
    def of(cls, pages: list[str]) -> "Text":
        """A whole text, in the pages that it was cut into when it came."""
        text = cls()
        text.pages, text.size, text.has_words = pages, sum(map(len, pages)), any(pages)
        return text

    def add(self, piece: str) -> None:
        """Take what came next; nothing that cannot be seen or encoded gets in."""
        piece = clean(piece) if self.has_words else _BLANK.sub("", clean(piece))
        if not piece:
            return
        self.has_words = True
        self.size += len(piece)
        self._tail.append(piece)
        self._tail_size += len(piece)
        if self._tail_size > 2 * PAGE:  # as much as decides where a page ends
            self._settle(2 * PAGE)

    def finish(self) -> None:
        """Nothing more will come."""
        self._settle(PAGE)
        if last := "".join(self._tail).rstrip():
            self.pages.append(last)
        self._tail, self._tail_size = [], 0

    def __iter__(self) -> Iterator[str]:
        """The pages as they are now; all but the last stay so, for whoever has read them goes on at the next."""
        self._settle(PAGE)
        yield from self.pages
        if self._tail:
            yield "".join(self._tail)

    def __str__(self) -> str:
        """All of it."""
        return "".join([*self.pages, *self._tail])

    def _settle(self, rest: int) -> None:
        """Cut pages off the tail until it is no longer than `rest`."""
        if self._tail_size <= rest:
            return
        tail, start = "".join(self._tail), 0
        while len(tail) - start > rest:
            end = cut(tail, start, self._fence)
            self._fence = _fence_around(tail, start, end, self._fence)[2]
            self.pages.append(tail[start:end])
            start = end
        self._tail, self._tail_size = [tail[start:]], len(tail) - start


def cut(text: str, start: int, inside: str = "") -> int:
    """Where the page that begins at `start` ends: after a paragraph or else a line, at most `PAGE` characters on, and
    before a code fence that would fit on a page but not on this one. `inside`: the mark of a fence open at `start`."""
    if len(text) - start <= PAGE:
        return len(text)
    fence, end, _ = _fence_around(text, start, start + PAGE, inside)
    if fence is not None and fence > start and end - fence <= PAGE:
        return fence
    for mark in _BREAKS:
        place = text.rfind(mark, start + PAGE // 2, start + PAGE) + len(mark)
        # not within a fence that fits
        if place >= len(mark) and _fence_around(text, start, place, inside)[0] in (None, fence):
            return min(place, start + PAGE)
    return start + PAGE


def _fence_around(text: str, start: int, place: int, inside: str) -> tuple[int | None, int, str]:
    """The code fence that is open at `place`: where it begins, where it ends as far as can be seen, and its mark."""
    limit = min(len(text), start + 2 * PAGE)
    opened, mark = (start, inside) if inside else (None, "")
    for fence in _FENCE.finditer(text, start, limit):
        if opened is None:
            if fence.start() >= place:
                break
            opened, mark = fence.start(), fence[1]
        elif fence[1][0] == mark[0] and len(fence[1]) >= len(mark):
            end = text.find("\n", fence.end(), limit) + 1 or limit
            if end > place:
                return opened, end, mark
            opened, mark = None, ""
    return opened, limit, mark
