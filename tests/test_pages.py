"""Pages: whatever comes in whatever pieces, they are the whole text, cut where a reader would, and stay so."""

import re
from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openrouter_mcp import pages
from openrouter_mcp.pages import PAGE, Text
from openrouter_mcp.text import clean

SMALL = 200  # characters on a page of the properties below: the same cuts, a hundred times sooner
HIDDEN = "\x1b\x00\r\u200b\u202e\ue000\ud83d\udc00\U000e0041"
PROSE = st.builds(
    str.__mul__, st.sampled_from(["word ", "line of words\n", "x", "A paragraph.\n\n"]), st.integers(1, 60)
)
MARKS = st.sampled_from(["```", "````", "~~~", "  ```"])


def a_fence(mark: str, line: str, lines: int, closed: str) -> str:
    return f"{mark}py\n{line * lines}{mark}{closed}" if closed else f"{mark}\n{line * lines}"


FENCES = st.builds(
    a_fence,
    MARKS,
    st.sampled_from(["a = 1\n", "\n\n", "~~~ `` \n", "y" * 150 + "\n"]),
    st.integers(0, 70),
    st.sampled_from(["\n", "\n\n", "\nword ", ""]),
)
TEXTS = st.lists(st.one_of(PROSE, FENCES, st.text(st.sampled_from("a \n`~\t" + HIDDEN), max_size=30)), max_size=8).map(
    "\n".join
)
PLACES = st.lists(st.integers(0, 3000), max_size=12)


def pieces(text: str, places: Iterable[int]) -> list[str]:
    """`text`, split at `places`."""
    return [text[start:end] for start, end in pairwise([0, *sorted({min(place, len(text)) for place in places}), None])]


def written(parts: Iterable[str]) -> list[str]:
    """The pages of an answer that came in these `parts`."""
    text = Text()
    for part in parts:
        text.add(part)
    text.finish()
    return text.pages


def fences(text: str) -> Iterator[tuple[int, int]]:
    """Where each code fence begins and ends, read line by line."""
    place = opened = 0
    mark = ""
    for line in text.splitlines(keepends=True):
        found = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if found and not mark:
            opened, mark = place, found[1]
        elif found and found[1].startswith(mark):
            yield opened, place + len(line)
            mark = ""
        place += len(line)
    if mark:
        yield opened, place


def assert_well_cut(found: list[str], source: str) -> None:
    text = clean(source).lstrip()
    assert "".join(found).rstrip() == text.rstrip()
    assert all(0 < len(page) <= SMALL for page in found)
    cuts = list(accumulate(map(len, found[:-1])))
    split = [(a, b) for a, b in fences(text) if b - a <= SMALL and any(a < cut < b for cut in cuts)]
    assert split == []


@given(text=TEXTS, places=PLACES)
@example(text="word " * 20 + "\n```\n" + "a = 1\n" * 70 + "```\n" + "word\n" * 25 + "```\n" + "b = 2\n" * 30, places=[])
@example(text="x" * 150 + "\n```\n" + "a = 1\n" * 45, places=[351])
@example(text="word " * 78 + "\n```\n" + "a = 1\n" * 60, places=[405])
def test_any_split_of_a_text_gives_the_same_pages_and_no_fence_that_fits_is_split(text: str, places: list[int]) -> None:
    with patch.object(pages, "PAGE", SMALL):
        whole = written([text])
        assert written(pieces(text, places)) == whole
    assert_well_cut(whole, text)


@given(text=TEXTS, places=PLACES)
@example(text="word " * 30 + "\n```\n" + "a = 1\n" * 60, places=[240])
@example(text="word " * 39 + "\n``" + "`\n" + "a = 1\n" * 20, places=[198, 201])
def test_a_page_that_was_read_before_the_end_stays_as_it_was(text: str, places: list[int]) -> None:
    """Whoever has read page 1 goes on at page 2, and must miss nothing."""
    answer, seen = Text(), list[str]()
    with patch.object(pages, "PAGE", SMALL):
        for part in pieces(text, places):
            answer.add(part)
            now = list(answer)
            assert now[: len(seen)] == seen
            assert "".join(now) == str(answer)
            seen = now[:-1]
        answer.finish()
    assert answer.pages[: len(seen)] == seen
    assert_well_cut(answer.pages, text)


@pytest.mark.parametrize("end", ["\n\n", "\n", " "], ids=["paragraphs", "lines", "words"])
def test_a_page_ends_at_a_paragraph_or_else_a_line_or_else_a_word(end: str) -> None:
    better_not = {"\n\n": "Some words.\nA line. ", "\n": "Some words. ", " ": "word"}[end]
    *full, _ = written([(better_not * 7 + end) * 700])
    assert len(full) >= 1
    assert all(page.endswith(end) and PAGE // 2 < len(page) <= PAGE for page in full)


def test_a_fence_goes_to_the_next_page_whole_and_the_next_one_too_after_one_that_is_too_long() -> None:
    short, long = "```py\n" + "a = 1\n" * 2000 + "```\n", "~~~\n" + "b = 2\n" * 5000 + "~~~\n"
    assert written(["word " * 3000 + "\n", short])[1:] == [short.rstrip()]
    found = written([long, "word " * 2000 + "\n", short])
    assert [len(page) for page in found[:1]] == [PAGE - PAGE % 6 - 2]  # after its last whole line
    assert found[-1] == short.rstrip()


@given(before=st.text(st.sampled_from(" \n\t" + HIDDEN), max_size=9), after=st.text(st.sampled_from(" \n\t" + HIDDEN)))
def test_what_cannot_be_seen_around_an_answer_is_not_part_of_it(before: str, after: str) -> None:
    assert written([*before, "An ", "answer\x1b[0m.", *after]) == ["An answer[0m."]
    assert written([*before, *after]) == []


def test_two_megabytes_in_small_tokens_are_looked_at_a_few_times_and_copied_for_no_reader() -> None:
    looked_at: list[int] = []
    cut = pages.cut

    def counted(text: str, *rest: Any, **more: Any) -> Any:
        looked_at.append(len(text))
        return cut(text, *rest, **more)

    answer = Text()
    with patch.object(pages, "cut", counted):
        for _ in range(200_000):
            answer.add("ten chars\n")
        first = list(answer)
        again = list(answer)
    assert len(looked_at) < 500
    assert sum(looked_at) < 8 * answer.size
    assert len(first) >= 100
    assert all(page is same for page, same in zip(first[:-1], again[:-1], strict=True))
