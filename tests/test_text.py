"""Other servers' and models' words, made safe to show."""

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrouter_mcp.text import clean, duration, encodable, one_line

ANYTHING = st.text(
    st.characters(exclude_categories=())
    | st.sampled_from("\r\n\t\x1b\x00\x7f\x85\u200b\u200c\u200d\u202e\u2028\u2029\ufeff\ud800\udfff\ue000 ")
)
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"  # one sign of three people


@settings(max_examples=200, deadline=None)
@given(ANYTHING)
def test_clean_text_holds_nothing_unseen_and_can_be_sent(text: str) -> None:
    cleaned = clean(text)
    cleaned.encode()
    tags = {chr(code) for code in range(0xE0000, 0xE1000)}
    assert not tags & set(cleaned)
    unseen = {"Cc", "Cf", "Cs", "Co"}
    assert {char for char in cleaned if unicodedata.category(char) in unseen} <= set("\n\t\u200c\u200d")
    assert clean(cleaned) == cleaned
    kept = iter(cleaned)
    assert all(char in kept for char in text if unicodedata.category(char) not in unseen and char not in tags)


@settings(max_examples=200, deadline=None)
@given(st.lists(ANYTHING, max_size=4))
def test_a_stream_cleaned_in_pieces_is_the_text_cleaned_whole(pieces: list[str]) -> None:
    assert "".join(clean(piece) for piece in pieces) == clean("".join(pieces))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Plain words.",
        "Two\nlines\n\n\tand a tab",
        f"A family {FAMILY}, a flag \U0001f1eb\U0001f1f7, a heart \u2764\ufe0f, a thumb \U0001f44d\U0001f3fd",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian, with its non-joiner
        "\u0915\u094d\u200d\u0937 \u4f60\u597d e\u0301 \u00e9",
        "x \u2264 y, 5 \u20ac \u2014 \u201cquoted\u201d\u00a0\u2026",
    ],
    ids=ascii,
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("one\r\ntwo\r\n", "one\ntwo\n"),
        ("\x1b[31mRED\x1b[0m", "[31mRED[0m"),
        ("a\x00b\x07c\x7fd\x85e", "abcde"),
        ("in\u200bvi\u2060si\ufeffble\u00ad", "invisible"),
        ("\u202eright to left\u202c", "right to left"),
        ("tag\U000e0041\U000e0042s", "tags"),
        ("half \ud83d a pair", "half  a pair"),
        ("private \ue000", "private "),
    ],
    ids=ascii,
)
def test_what_cannot_be_seen_is_taken_out(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@settings(max_examples=200, deadline=None)
@given(ANYTHING, st.integers(1, 50))
def test_one_line_is_one_bounded_line(text: str, limit: int) -> None:
    line = one_line(text, limit)
    line.encode()
    assert len(line) <= limit
    assert line.splitlines() in ([], [line])
    assert line == line.strip()
    assert not any(unicodedata.category(char) == "Cc" for char in line)


@pytest.mark.parametrize("value", [None, 5, 0.5, True, [], ["text"], {}, b"text"], ids=repr)
def test_what_is_not_text_says_nothing(value: object) -> None:
    assert one_line(value) == ""


@pytest.mark.parametrize(
    ("text", "line"),
    [("  one\r\n\ttwo \u2028 three  ", "one two three"), ("x" * 10, "x" * 10), ("x" * 11, "x" * 9 + "\u2026")],
    ids=ascii,
)
def test_one_line_joins_lines_and_marks_what_is_cut(text: str, line: str) -> None:
    assert one_line(text, 10 if "x" in text else 300) == line


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "1 s"),
        (0.2, "1 s"),
        (8, "8 s"),
        (8.4, "8 s"),
        (119, "119 s"),
        (120, "2 min"),
        (250, "4 min"),
        (7_140, "119 min"),
        (7_200, "2 h 0 min"),
        (18_720, "5 h 12 min"),
        (86_400, "24 h 0 min"),
        (3 * 86_400, "3 days"),
        (30 * 86_400, "30 days"),
    ],
)
def test_a_wait_is_said_as_a_person_says_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1e12))
def test_a_wait_said_is_near_the_wait_meant(seconds: float) -> None:
    parts = re.fullmatch(r"(?:(\d+) days)?(?:(\d+) h )?(?:(\d+) min)?(?:(\d+) s)?", duration(seconds))
    assert parts
    days, hours, minutes, rest = (int(part or 0) for part in parts.groups())
    said = 86_400 * days + 3_600 * hours + 60 * minutes + rest
    assert abs(said - seconds) <= max(1.0, seconds * 0.34)


def test_variation_selectors_that_can_spell_a_message_are_dropped_and_those_of_emoji_kept() -> None:
    assert clean("a\U000e0100\U000e01efb \u2764\ufe0f") == "ab \u2764\ufe0f"


def test_an_emoji_newer_than_this_python_is_kept() -> None:
    assert clean("a \U0001fae8 \U0001fadc b") == "a \U0001fae8 \U0001fadc b"


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_can_be_made_encodable_and_whole_text_is_left_alone(text: str) -> None:
    made = encodable(text)
    made.encode()
    assert encodable(made) == made
    assert encodable("\ud83d\ude00 \ud83d") == "\U0001f600 \ufffd"
