"""Which models fit what is wanted of them, and in which order."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrouter_mcp.choice import ANYTHING, NOTHING, Aim, Health, Seen, Task
from openrouter_mcp.errors import InvalidRequest
from openrouter_mcp.finding import ABILITIES, Wanted, abilities, in_order, is_offered, matching, read_aim
from openrouter_mcp.records import Architecture, Model
from openrouter_mcp.render import free_models

TEXT = Architecture(input_modalities=("text",), output_modalities=("text",))


def priced(id_: str, prompt: str = "0.000001", completion: str = "0.000002", **more: Any) -> Model:
    pricing = {"prompt": prompt, "completion": completion}
    return Model.model_validate({"id": id_, "pricing": pricing, "architecture": TEXT, **more})


def ids(models: list[Model]) -> list[str]:
    return [one.id for one in models]


# --- what fits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("", ["acme/tiny", "globex/large"]),
        ("tiny", ["acme/tiny"]),
        ("  ACME  small ", ["acme/tiny"]),
        ("small acme", ["acme/tiny"]),
        ("SMALL TINY small", ["acme/tiny"]),
        ("groß", ["globex/large"]),
        ("tiny large", []),
        ("acme tiny .*", []),
    ],
)
def test_every_word_is_in_the_id_or_the_name(words: str, found: list[str]) -> None:
    models = [priced("acme/tiny", name="Small"), priced("globex/large", name="GROSS", description="tiny")]
    assert ids(matching(models, Wanted(words))) == found


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"supported_parameters": ["tools", "tool_choice"]}, ["tools"]),
        ({"supported_parameters": ["reasoning"]}, ["reasoning"]),
        ({"supported_parameters": ["response_format"]}, ["json"]),
        ({"supported_parameters": ["structured_outputs"]}, ["json", "schema"]),
        ({"supported_parameters": ["TOOLS", "temperature"]}, []),
        ({"architecture": {"input_modalities": ["video", "audio", "file", "image", "text"]}},
         ["image", "file", "audio", "video"]),
        ({"architecture": {"output_modalities": ["text", "image", "audio"]}}, ["image_output", "audio_output"]),
        ({"supported_parameters": None, "architecture": None}, []),
    ],
)  # fmt: skip
def test_an_ability_is_what_the_catalogue_says(row: dict[str, object], found: list[str]) -> None:
    one = Model.model_validate({"id": "acme/one", **row})
    assert abilities(one) == found
    assert {*found} <= {*ABILITIES}
    for need in ABILITIES:
        assert ids(matching([one], Wanted(needs=(need,)))) == (["acme/one"] if need in found else [])


def test_all_that_is_needed_must_be_there() -> None:
    both = priced("a/both", supported_parameters=("tools", "reasoning"))
    models = [both, priced("a/tools", supported_parameters=("tools",)), priced("a/none")]
    assert ids(matching(models, Wanted(needs=("tools", "reasoning", "tools")))) == ["a/both"]


@pytest.mark.parametrize(
    ("need", "said"),
    [
        ("tool", "Did you mean tools? Known are tools, "),
        ("Tools", "Did you mean tools?"),
        ("poetry", "'poetry'. Known are tools, "),
        ("", "`needs` cannot hold ''. Known are tools, "),
        ("\x1b[1m" * 100, "Known are tools, "),
    ],
)
def test_a_need_that_none_could_have_is_named(need: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        matching([], Wanted(needs=(need,)))
    assert said in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("ceiling", "found"),
    [("0", ["a/zero"]), ("1.99", ["a/zero"]), ("2", ["a/one", "a/zero"]), ("999", ["a/one", "a/zero"])],
)
def test_the_ceiling_is_for_the_dearer_of_both_prices_and_in_dollars_a_million(ceiling: str, found: list[str]) -> None:
    models = [priced("a/one"), priced("a/zero", "0", "0"), priced("a/router", "-1", "-1"), priced("a/half", "0", "")]
    assert ids(matching(models, Wanted(max_price=Decimal(ceiling)))) == found
    assert len(matching(models, Wanted())) == 4


@pytest.mark.parametrize(("least", "found"), [(0, 3), (1, 1), (8192, 1), (8193, 0)])
def test_a_context_that_is_not_known_is_none(least: int, found: int) -> None:
    models = [priced("a/one", context_length=8192), priced("a/none"), priced("a/zero", context_length=0)]
    assert len(matching(models, Wanted(min_context=least))) == found


@settings(deadline=None)
@given(st.text(max_size=30), st.lists(st.text(max_size=12), max_size=5))
def test_whatever_is_searched_for_only_models_that_say_it_are_found(words: str, names: list[str]) -> None:
    models = [Model.model_construct(id=f"a/{number}", name=name) for number, name in enumerate(names)]
    found = matching(models, Wanted(words))
    for one in models:
        text = f"{one.id} {one.name}".casefold()
        assert (one in found) == all(word in text for word in words.casefold().split())


# --- in which order ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "aim"),
    [
        ("", ANYTHING),
        (" CODE ", Aim(Task.CODE)),
        ("translation", Aim(Task.TRANSLATION)),
        ("translation German", Aim(Task.TRANSLATION, "German")),
        ("Translation to German", Aim(Task.TRANSLATION, "German")),
        ("translation into Old Norse", Aim(Task.TRANSLATION, "Old Norse")),
        ("translation: German", Aim(Task.TRANSLATION, "German")),
        ("translation, German ", Aim(Task.TRANSLATION, "German")),
        ("translation (German)", Aim(Task.TRANSLATION, "German")),
        ("translation (to German)", Aim(Task.TRANSLATION, "German")),
        ("translation Chinese (simplified)", Aim(Task.TRANSLATION, "Chinese")),
        ("translation 中文", Aim(Task.TRANSLATION, "中文")),
    ],
)
def test_a_task_is_read_with_the_language_of_a_translation(text: str, aim: Aim) -> None:
    assert read_aim(text) == aim


@pytest.mark.parametrize(
    "text",
    [
        "cod",
        "translations",
        "translationGerman",
        "translation \x1b[1m",
        "translation !",
        "price",
        "x" * 9999,
        f"translation {'x' * 41}",
    ],
)
def test_what_is_no_task_is_named_with_those_there_are(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is no task") as caught:
        read_aim(text)
    said = str(caught.value)
    assert said.endswith("Known are code, reasoning, writing, translation, vision, long, fast.")
    assert ("Did you mean code?" in said) == (text == "cod")
    assert said.isprintable()
    assert len(said) < 250


@settings(deadline=None)
@given(st.text(max_size=60) | st.builds("translation {}".format, st.text(max_size=60)))
def test_a_task_is_known_or_refused_and_its_language_is_one_short_line(text: str) -> None:
    try:
        language = read_aim(text).language
    except InvalidRequest:
        return
    assert len(language) <= 40
    assert language.isprintable()


ORDERED = [
    priced("c/dear", "0.000009", "0.000001", created=2, context_length=10),
    priced("b/cheap", "0.000001", "0.000001", created=1, context_length=None),
    priced("a/cheap", "0.000001", "0.000001", created=1, context_length=20),
    priced("d/unknown", "-1", "-1", created=3, context_length=30),
]


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("price", ["a/cheap", "b/cheap", "c/dear", "d/unknown"]),
        (" Newest ", ["d/unknown", "c/dear", "a/cheap", "b/cheap"]),
        ("context", ["d/unknown", "a/cheap", "c/dear", "b/cheap"]),
    ],
)
def test_an_order_is_stable_and_what_is_not_known_comes_last(sort: str, order: list[str]) -> None:
    for models in (ORDERED, ORDERED[::-1]):
        found, aim = in_order(models, sort, NOTHING)
        assert (ids(found), aim) == (order, None)


def test_a_task_orders_too_and_is_then_told() -> None:
    assert in_order(ORDERED, "long", NOTHING)[1] == Aim(Task.LONG)
    assert ids(in_order(ORDERED, "long", NOTHING)[0])[0] == "d/unknown"
    assert in_order(ORDERED, "", NOTHING)[1] == ANYTHING


def test_an_order_nobody_knows_is_named() -> None:
    with pytest.raises(
        InvalidRequest, match=r"`sort` cannot be 'prise'\. Did you mean price\? Known are price, newest"
    ):
        in_order([], "prise", NOTHING)


@pytest.mark.parametrize(
    ("one", "offered"),
    [
        (Model(id="acme/tiny"), True),
        (Model(id="acme/tiny:free"), True),
        (Model(id="acme/tiny-latest", alias_target={"slug": "acme/tiny"}), False),
        (Model(id="~acme/tiny-latest"), False),
        (Model(id="openrouter/auto"), False),
        (Model(id="acme/tiny:free:nitro"), False),
        (Model(id="acme/tiny\n"), False),
        (Model(id="acme/t\u0456ny"), False),
    ],
)
def test_what_can_be_asked_for_by_its_id_is_offered(one: Model, *, offered: bool) -> None:
    assert is_offered(one) == offered


# --- what is known of each --------------------------------------------------------------------------------------------


def row_of(one: Model, seen: Seen = NOTHING) -> list[str]:
    lines = free_models([one], 1, free=1, aim=ANYTHING, seen=seen).text.splitlines()
    return lines[-1].split(" | ")


@pytest.mark.parametrize(
    ("seen", "cell"),
    [
        (NOTHING, "-"),
        (Seen(health={"acme/one:free": Health(0, 0)}), "-"),
        (Seen(health={"acme/one:free": Health(5, 2, 41.6)}), "3 of 5 ok, 42 tokens/s"),
        (Seen(health={"acme/one:free": Health(5, 5)}), "0 of 5 ok"),
        (Seen(cooling={"acme/one:free": 200.0}, health={"acme/one:free": Health(5, 5)}), "busy for 3 min"),
    ],
)
def test_how_calls_went_is_told(seen: Seen, cell: str) -> None:
    assert row_of(priced("acme/one:free", "0", "0"), seen)[4] == cell
