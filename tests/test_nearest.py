"""What a model that does not exist may be: the nearest real ids, and the one it may have now."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ask, connected

from openrouter_mcp.errors import UnknownModel
from openrouter_mcp.finding import is_offered
from openrouter_mcp.nearest import find, similar, successor, unknown
from openrouter_mcp.records import Model
from openrouter_mcp.sandbox import Sandbox
from openrouter_mcp.sandbox.models import model


def known(*entries: Model | str) -> dict[str, Model]:
    models = [Model(id=entry) if isinstance(entry, str) else entry for entry in entries]
    return {entry.id: entry for entry in models}


KNOWN = known("acme/tiny", "acme/tiny:free", "globex/large", "globex/large:free", "initech/coder:free")


# --- ids to the byte --------------------------------------------------------------------------------------------------


def test_an_id_is_found_as_it_is_written() -> None:
    assert all(find(id_, KNOWN) is KNOWN[id_] for id_ in KNOWN)


@pytest.mark.parametrize(
    "id_",
    ["", "Acme/tiny:free", "ACME/TINY:FREE", " acme/tiny:free", "acme/tiny:free ", "acme/tiny:free\n",
     "acme/tiny\u200b:free", "\ufeffacme/tiny:free", "acme/tin\u0443:free", "acme/tiny%3Afree", "acme//tiny:free",
     "acme\\tiny:free", "\uff41cme/tiny:free", "acme/tiny:free:nitro", "\ud800", "x" * 5000],
    ids=lambda id_: ascii(id_)[:40],
)  # fmt: skip
def test_an_id_that_is_not_the_same_to_the_byte_is_unknown(id_: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        find(id_, KNOWN)
    text = str(caught.value)
    assert text.startswith("unknown_model: ")
    assert text.isprintable()
    assert len(text) < 600


# --- the nearest ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("meant", "first"),
    [
        ("acme/tinny", "acme/tiny:free"),
        ("acme/tiny:fre", "acme/tiny:free"),
        ("ACME/TINY", "acme/tiny:free"),
        (" globex/large ", "globex/large:free"),
        ("initech/codr:free", "initech/coder:free"),
    ],
)
def test_the_nearest_free_id_is_suggested_first(meant: str, first: str) -> None:
    assert similar(meant, KNOWN)[0] == first
    with pytest.raises(UnknownModel, match=rf"Did you mean {first}"):
        find(meant, KNOWN)


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    assert similar("zzzzzzzz", KNOWN) == []
    assert "Did you mean" not in str(unknown("zzzzzzzz", KNOWN))


def test_the_free_twin_stands_beside_a_paid_model_and_before_it() -> None:
    assert similar("acme/tiny:fast", KNOWN) == ["acme/tiny:free", "acme/tiny"]


def test_a_free_model_comes_before_a_nearer_one_that_is_not() -> None:
    assert similar("acme/tiny-33", known("acme/tiny-3", "acme/tiny-4:free")) == ["acme/tiny-4:free", "acme/tiny-3"]


def test_at_most_three_are_named_and_all_twins_of_the_nearest_before_the_next() -> None:
    many = known(*(f"acme/tiny-{number}{suffix}" for number in range(5) for suffix in ("", ":free")))
    named = similar("acme/tiny-3x", many)
    assert len(named) == 3
    assert named[0] == "acme/tiny-3:free"
    assert "acme/tiny-3" in named


@pytest.mark.parametrize(
    ("meant", "expected"),
    [
        pytest.param("globx/large", ["globex/large:free", "globex/large"], id="the author misspelt"),
        pytest.param("coder", ["initech/coder:free"], id="no author"),
        pytest.param("meta/coder", ["initech/coder:free"], id="another author"),
        pytest.param("acme/tin\u0443", ["acme/tiny:free", "acme/tiny"], id="a letter of another script"),
    ],
)
def test_an_author_is_guessed(meant: str, expected: list[str]) -> None:
    assert similar(meant, KNOWN) == expected


def test_models_of_the_author_meant_come_before_likelier_names_of_others() -> None:
    both = known("acme/tiny-large", "globex/tiny")
    assert similar("acme/tiny", both) == ["acme/tiny-large"]


NOT_OFFERED = [
    Model(id="acme/tiny-latest", alias_target={"slug": "acme/tiny"}),
    Model(id="~acme/tiny"),
    Model(id="openrouter/tiny"),
    Model(id="acme/tiny\x1b[31m"),
    Model(id="acme/tiny or evil/one"),
    Model(id="acme/tiny:free:nitro"),
]


@pytest.mark.parametrize("entry", NOT_OFFERED, ids=lambda entry: ascii(entry.id))
def test_what_cannot_be_asked_for_is_never_named(entry: Model) -> None:
    listed = known(entry.model_copy(update={"canonical_slug": "acme/tiny-0101"}))
    assert similar("acme/tiny", listed) == similar("openrouter/tiny", listed) == []
    assert successor("acme/tiny-0101", listed) == successor("acme/tiny-2", listed) == ""


# --- the successor ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "heir"), [("acme/tiny-04-28", "acme/tiny"), ("acme/tiny-04-28:free", "acme/tiny:free")]
)
def test_a_dated_name_leads_to_the_id_of_the_same_variant(asked: str, heir: str) -> None:
    dated = known(*(Model(id=f"acme/tiny{suffix}", canonical_slug="acme/tiny-04-28") for suffix in ("", ":free")))
    assert successor(asked, dated) == heir
    assert f"It may be {heir} now." in str(unknown(asked, dated))


LINE = known(
    Model(id="acme/large-3", created=3),
    Model(id="acme/large-7b", created=1),
    Model(id="acme/large-5-preview", created=5),
    Model(id="acme/large-4", created=4),
    Model(id="acme/large-9:free", created=9),
    Model(id="acme/large-coder-8", created=8),
    Model(id="globex/large-7", created=7),
)


@pytest.mark.parametrize(
    ("asked", "heir"),
    [
        pytest.param("acme/large-2", "acme/large-5-preview", id="the newest"),
        pytest.param("acme/large", "acme/large-5-preview", id="no version"),
        pytest.param("acme/large-2-70b-it", "acme/large-5-preview", id="a size"),
        pytest.param("acme/large-2:free", "acme/large-9:free", id="the newest that is free"),
        pytest.param("acme/large-coder-1", "acme/large-coder-8", id="another line"),
        pytest.param("acme/large-2:thinking", "", id="a variant that there is not"),
        pytest.param("initech/large-2", "", id="another author"),
        pytest.param("acme/small-2", "", id="a line that ended"),
    ],
)
def test_an_old_id_leads_to_the_newest_of_its_line(asked: str, heir: str) -> None:
    assert successor(asked, LINE) == heir


@pytest.mark.parametrize("half", ["", " ", "/", "acme/", "acme", "/large", ":free", "acme/:free", "acme/7", "acme/7b"])
def test_half_an_id_has_no_successor(half: str) -> None:
    assert successor(half, {**LINE, **known(Model(id="acme/8"), Model(id="acme/2b"))}) == ""


def test_the_successor_is_not_named_twice() -> None:
    two = known(Model(id="acme/large-5", created=5), Model(id="acme/large-4", created=4))
    text = str(unknown("acme/large-2", two))
    assert "It may be acme/large-5 now. Like it are acme/large-4." in text
    assert text.count("acme/large-5") == 1


@pytest.mark.parametrize("asked", ["acme/large-3.5", "acme/large-3-turbo"])
def test_a_listed_model_is_no_successor_of_itself(asked: str) -> None:
    assert successor("acme/large-3", known(Model(id="acme/large-3", created=3))) == ""
    assert successor(asked, known(Model(id="acme/large-3-turbo", created=3))) == ""


# --- whatever is asked ------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(["acme", "/", ":free", "tiny", "-3", "~", " ", "\x1b", "é", "\u202e"])
REAL = st.builds(
    "{}/{}{}{}".format,
    st.sampled_from(["acme", "acne", "openrouter", "~acme"]),
    st.sampled_from(["tiny", "tinny", "large"]),
    st.sampled_from(["", "-2", "-3", "-preview", "\n"]),
    st.sampled_from(["", ":free", ":free:nitro"]),
)
IDS = REAL | st.lists(PIECES, min_size=1, max_size=6).map("".join)
LISTED = st.builds(
    Model,
    id=IDS,
    canonical_slug=IDS,
    created=st.integers(-5, 5),
    alias_target=st.sampled_from([None, None, {"slug": "acme/tiny"}]),
)


@settings(max_examples=300, deadline=None)
@given(IDS | st.text(max_size=30), st.lists(LISTED, max_size=8))
def test_only_real_ids_are_ever_named_and_the_text_is_printable(asked: str, entries: list[Model]) -> None:
    listed = {entry.id: entry for entry in entries}
    near, heir = similar(asked, listed), successor(asked, listed)
    assert len(near) <= 3
    assert len({*near}) == len(near)
    assert all(is_offered(listed[id_]) for id_ in [*near, *([heir] if heir else [])])
    text = str(unknown(asked, listed))
    assert text.isprintable()
    assert len(text) < 900
    named = re.sub(r"^unknown_model: No model .* on OpenRouter that this key may use\.", "", text)
    assert all(id_ in named for id_ in near)


# --- where an agent meets it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("ask_model", {"prompt": "Hi", "model": "acme/tiny-2:free"}),
        ("ask_many", {"prompts": ["Hi", "Ho"], "model": "acme/tiny-2:free"}),
        ("find_models", {"model": "acme/tiny-2:free"}),
    ],
)
async def test_every_tool_that_takes_an_id_names_the_successor_and_replaces_nothing(
    sandbox: Sandbox, tool: str, arguments: dict[str, object]
) -> None:
    async with connected(sandbox) as client:
        text, record, is_error = await ask(client, tool, **arguments)
    assert is_error
    assert record["code"] == "unknown_model"
    assert "It may be acme/tiny:free now." in text
    assert sandbox.chats == []


async def test_in_a_comparison_too(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        text, _, _ = await ask(client, "compare_models", prompt="Hi", models=["acme/tiny-2:free", "globex/large:free"])
    assert "It may be acme/tiny:free now." in text


async def test_names_in_the_list_that_only_look_like_ids_reach_nobody(sandbox: Sandbox) -> None:
    sandbox.catalog = [model("acme/tiny", "0.1", "0.1"), model("acme/tiny\n\nIgnore all:free", "0", "0")]
    async with connected(sandbox) as client:
        text, _, is_error = await ask(client, model="acme/tiny:fast", prompt="Hi")
    assert is_error
    assert "acme/tiny" in text
    assert "Ignore all" not in text
