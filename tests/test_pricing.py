"""What is free: only what says so in its name and in every one of its prices."""

import re
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import in_ascii

from openrouter_mcp.pricing import Prices, costs_nothing, is_free, per_million, price, typical_cost
from openrouter_mcp.records import Model, read_models
from openrouter_mcp.sandbox.models import TRAPS, catalogue

MODELS = read_models({"data": catalogue(date(2026, 11, 20))})
FREE = {"prompt": "0", "completion": "0"}
PLAIN_ZERO = re.compile(r"0{1,20}(\.0{1,30})?")
# Read by some parser as zero, or as less.
NEARLY_ZERO = ["", " ", "-0", "+0", " 0", "0 ", "0\n", "0.", ".0", "0e0", "0E-9", "0x0", "0_0", "0,0", "0.0.0", "00:00",
               "-1", "-0.0001", "NaN", "sNaN", "Infinity", "-Infinity", "free", "null", "false", "\u0660", "\uff10",
               "0\u200b", "0.0000000000000000000000000000000001", "1e-99", "0" * 21]  # fmt: skip
NOT_TEXT: list[Any] = [None, 0, 0.0, False, True, -1, [], ["0"], {}, {"usd": "0"}, b"0"]


def model(id_: str = "acme/tiny:free", **pricing: Any) -> Model:
    return Model(id=id_, pricing=pricing or FREE)


@pytest.mark.parametrize("entry", [entry for entry in MODELS if entry.id.startswith("trap/")], ids=lambda m: m.id)
def test_a_free_name_over_a_price_that_is_not_zero_is_not_free(entry: Model) -> None:
    assert not is_free(entry)


def test_the_catalogue_has_every_trap() -> None:
    assert {entry.id for entry in MODELS if entry.id.startswith("trap/")} == {f"trap/{name}:free" for name in TRAPS}


def test_exactly_the_honest_free_models_are_free() -> None:
    honest = [entry.id for entry in MODELS if entry.id.endswith(":free") and not entry.id.startswith("trap/")]
    assert [entry.id for entry in MODELS if is_free(entry)] == honest
    assert len(honest) > 10


@pytest.mark.parametrize(
    "id_",
    ["acme/tiny", "acme/tiny:FREE", "acme/tiny:Free", "acme/tiny:free ", "acme/tiny:free\n", "acme/tiny:free\u200b",
     "acme/tiny:fre\u0435", "acme/tiny\uff1afree", "acme/tiny-free", "acme/tinyfree", "acme/free", "free",
     "acme/tiny:free:online", "acme/tiny:free:nitro", "acme/tiny:free:floor", "acme/tiny:free-ish", "openrouter/auto",
     "acme/tiny%3Afree"],
    ids=in_ascii,
)  # fmt: skip
def test_a_zero_price_under_another_name_is_not_free(id_: str) -> None:
    assert is_free(model())
    assert not is_free(model(id_))


@pytest.mark.parametrize("id_", ["acme/tiny:online:free", "acme/tiny:nitro:free", "acme/tiny:free:free"])
def test_a_second_suffix_before_free_is_not_free(id_: str) -> None:
    assert not is_free(model(id_))


@pytest.mark.parametrize("zero", ["0", "00", "0.0", "0.00000000"])
@pytest.mark.parametrize("key", ["prompt", "completion", "request", "moonlight"])
def test_plain_zeros_are_free(key: str, zero: str) -> None:
    assert is_free(model(**{**FREE, key: zero}))


def spoiled(value: object) -> list[dict[str, object]]:
    """Prices of nothing, but for one, wherever a price may be."""
    return [
        *(
            {**FREE, key: value}
            for key in ("prompt", "completion", "request", "image", "internal_reasoning", "moonlight")
        ),
        {**FREE, "overrides": [{"min_prompt_tokens": 1, "prompt": value}]},
        {**FREE, "overrides": [{"prompt": "0"}, {"moonlight": value}]},
    ]


@pytest.mark.parametrize("value", [*NEARLY_ZERO, *NOT_TEXT, "0.000001", "1"], ids=in_ascii)
def test_a_price_that_is_not_plainly_zero_is_not_free(value: object) -> None:
    assert [pricing for pricing in spoiled(value) if costs_nothing(pricing)] == []
    assert price(value) != 0


@settings(max_examples=200, deadline=None)
@given(st.text().filter(lambda text: not PLAIN_ZERO.fullmatch(text)) | st.text("0123456789.-+eE _", max_size=6))
def test_only_plain_zeros_are_free(text: str) -> None:
    free = bool(PLAIN_ZERO.fullmatch(text))
    assert [costs_nothing(pricing) for pricing in spoiled(text)] == [free] * len(spoiled(text))


@pytest.mark.parametrize("missing", ["prompt", "completion"])
def test_a_missing_price_is_not_free(missing: str) -> None:
    assert not costs_nothing({key: value for key, value in FREE.items() if key != missing})
    assert not costs_nothing({})


@pytest.mark.parametrize(
    ("overrides", "free"),
    [
        pytest.param([], True, id="none"),
        pytest.param([{"min_prompt_tokens": 200_000, "prompt": "0", "completion": "0"}], True, id="zeros"),
        pytest.param([{"utc_start": "0800", "utc_end": "1600"}], True, id="conditions alone"),
        pytest.param([{"prompt": "0"}, {"completion": "0.01"}], False, id="the second costs"),
        pytest.param(None, False, id="null"),
        pytest.param({"prompt": "0"}, False, id="no list"),
        pytest.param("0", False, id="text"),
        pytest.param([None], False, id="a null entry"),
        pytest.param(["0"], False, id="a text entry"),
        pytest.param([[{"prompt": "0"}]], False, id="a list entry"),
        pytest.param([{"prompt": "0", "overrides": [{"prompt": "1"}]}], False, id="nested"),
    ],
)
def test_every_override_must_be_free_too(overrides: object, *, free: bool) -> None:
    assert costs_nothing({**FREE, "overrides": overrides}) is free


def test_a_discount_is_no_price() -> None:
    assert costs_nothing({**FREE, "discount": 0.5})


@pytest.mark.parametrize(
    ("prompt", "completion", "text"),
    [
        ("0.00000015", "0.0000006", "$0.15 in, $0.60 out per million tokens"),
        ("0.000000117", "0.000000455", "$0.117 in, $0.455 out per million tokens"),
        ("0.00001", "0.001", "$10 in, $1000 out per million tokens"),
        ("0", "0.000", "$0 in, $0 out per million tokens"),
        ("-1", "-1", ""),
        ("0.000001", "", ""),
        ("1e-6", "0", ""),
        (None, "0", ""),
    ],
)
def test_a_price_is_shown_per_million_tokens(prompt: object, completion: object, text: str) -> None:
    assert per_million(model(prompt=prompt, completion=completion)) == text


def test_no_price_is_shown_where_none_is_listed() -> None:
    assert per_million(model(prompt="0.000001")) == ""


@pytest.mark.parametrize(
    ("prices", "prompt_tokens", "limit", "tokens"),
    [
        pytest.param(Prices(Decimal(2), Decimal(3)), 5, "22.9", 4, id="whole tokens that fit"),
        pytest.param(Prices(Decimal(2), Decimal(3)), 5, "10", 0, id="the prompt takes all"),
        pytest.param(Prices(Decimal(2), Decimal(3)), 5, "9.9", 0, id="the prompt does not fit"),
        pytest.param(Prices(Decimal(2), Decimal(3), request=Decimal(6)), 5, "22.9", 2, id="after the request itself"),
        pytest.param(Prices(Decimal(2)), 5, "10", None, id="an answer for nothing"),
        pytest.param(Prices(Decimal(2)), 5, "9.9", 0, id="an answer for nothing to a prompt that does not fit"),
    ],
)
def test_a_limit_buys_so_many_tokens(prices: Prices, prompt_tokens: int, limit: str, tokens: int | None) -> None:
    assert prices.affordable(prompt_tokens, Decimal(limit)) == tokens


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "usd"), [("2", 1000, 1700), ("2", 10, 230), ("-1", 1000, 1500), ("2", 1, 203)]
)
def test_an_answer_of_usual_length_costs_what_is_said(prompt: str, max_tokens: int, usd: int) -> None:
    """400 bytes are about 100 tokens, and an answer has 500 where it may."""
    assert typical_cost(model(prompt=prompt, completion="3"), 400, max_tokens) == usd
