"""Which answers say the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrouter_mcp.likeness import alike

LONG = "Air scatters the short waves of sunlight more than the long ones so that blue light comes from all over the sky"


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["Yes.", "yes", "No."], [(0, 1, True)]),
        (["42", "43"], []),
        (["The answer is 42.", "The answer is 41."], []),
        (
            [LONG, LONG.replace("all over", "everywhere in"), "Something else entirely, in other words."],
            [(0, 1, False)],
        ),
        ([LONG, " ".join(reversed(LONG.split()))], []),
        (["天空是蓝色的。", "天空是蓝色的", "草是绿色的"], [(0, 1, True)]),
        (["天空看起来是蓝色的因为空气散射阳光", "天空看起来是蓝色的因为空气会散射阳光"], [(0, 1, False)]),
        (["", "", "..."], []),
        ([LONG, "No.", LONG, "no", LONG], [(0, 2, True), (1, 3, True), (0, 4, True)]),
    ],
    ids=str,
)
def test_texts_are_alike_by_their_words(texts: list[str], found: list[tuple[int, int, bool]]) -> None:
    assert list(alike(texts)) == found


@given(st.lists(st.text(max_size=40), max_size=6))
def test_an_earlier_text_is_named_once_for_each(texts: list[str]) -> None:
    pairs = list(alike(texts))
    assert all(first < place for first, place, _ in pairs)
    assert len({place for _, place, _ in pairs}) == len(pairs)


@given(st.text(max_size=40))
def test_a_text_is_like_itself_if_it_says_anything(text: str) -> None:
    assert list(alike([text, f" {text}!"])) == (
        [(0, 1, True)] if any(sign.isalnum() or sign == "_" for sign in text) else []
    )
