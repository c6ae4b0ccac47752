"""Which free model comes first, whatever it is called."""

from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrouter_mcp.choice import different_families, free_ranked
from openrouter_mcp.pricing import is_free
from openrouter_mcp.records import Architecture, Model, read_models
from openrouter_mcp.sandbox.models import catalogue

MODELS = read_models({"data": catalogue(date(2026, 11, 20))})
NO_INDEX: list[object] = [float("nan"), float("inf"), 10**400, None, "x", [], {}, float("-inf")]
RANKED = [model.id for model in free_ranked(MODELS)]


def free(id_: str, index: object = None, **fields: Any) -> Model:
    fields.setdefault("architecture", {"input_modalities": ["text"], "output_modalities": ["text"]})
    benchmarks = {"artificial_analysis": {"intelligence_index": index}}
    return Model(id=f"{id_}:free", pricing={"prompt": "0", "completion": "0"}, benchmarks=benchmarks, **fields)


def ids(models: list[Model]) -> list[str]:
    return [model.id.removesuffix(":free") for model in models]


def test_only_free_models_are_chosen_and_the_best_stands_first() -> None:
    assert RANKED[:4] == ["globex/large:free", "hooli/thinker:free", "initech/coder:free", "weyland/reader:free"]
    assert set(RANKED) == {model.id for model in MODELS if is_free(model)}


@settings(max_examples=50, deadline=None)
@given(st.permutations(MODELS))
def test_the_order_does_not_depend_on_the_catalogues(models: list[Model]) -> None:
    assert [model.id for model in free_ranked(models)] == RANKED


def test_no_name_is_favoured() -> None:
    renamed = [model.model_copy(update={"id": f"x{number}/y:free"}) for number, model in enumerate(MODELS)]
    origin = dict(zip((model.id for model in renamed), (model.id for model in MODELS), strict=True))
    indexed = [model for model in free_ranked(renamed) if origin[model.id] in RANKED]
    assert [origin[model.id] for model in indexed] == RANKED


@pytest.mark.parametrize(
    ("reads", "writes", "chosen"),
    [
        (["text"], ["text"], True),
        (["image", "text"], ["text"], True),
        (["text"], ["embeddings"], False),
        (["text"], ["image"], False),
        (["audio"], ["text"], False),
        ([], [], False),
    ],
    ids=str,
)
def test_only_models_that_read_and_write_text_are_chosen(reads: list[str], writes: list[str], *, chosen: bool) -> None:
    architecture = Architecture(input_modalities=tuple(reads), output_modalities=tuple(writes))
    assert bool(free_ranked([free("acme/tiny", architecture=architecture)])) is chosen


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        pytest.param(free("z/z", 20.5), free("a/a", 20, context_length=10**6, created=9), id="intelligence first"),
        pytest.param(free("z/z", 0.1), free("a/a", None, context_length=10**6), id="a measured one before others"),
        pytest.param(free("z/z", 5, context_length=2), free("a/a", 5, context_length=1, created=9), id="then context"),
        pytest.param(free("z/z", 5, context_length=1), free("a/a", 5, context_length=None), id="known context"),
        pytest.param(free("z/z", 5, created=9), free("a/a", 5, created=8), id="then the newest"),
        pytest.param(free("a/a", 5), free("z/z", 5), id="then the name"),
        *(pytest.param(free("z/z", 1), free("a/a", odd), id=f"index {odd!r}") for odd in NO_INDEX),
    ],
)
def test_the_better_of_two_stands_first(better: Model, worse: Model) -> None:
    assert ids(free_ranked([better, worse])) == ids(free_ranked([worse, better])) == ids([better, worse])


@pytest.mark.parametrize("benchmarks", [None, {}, {"artificial_analysis": None}, {"artificial_analysis": []}], ids=str)
def test_a_model_without_benchmarks_is_still_chosen(benchmarks: Any) -> None:
    model = free("acme/tiny").model_copy(update={"benchmarks": benchmarks})
    assert free_ranked([model]) == [model]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xyz"))))
def test_each_family_sends_its_first(names: list[tuple[str, str]]) -> None:
    models = [Model(id=f"{author}/{name}") for author, name in names]
    chosen = different_families(models)
    families = list(dict.fromkeys(model.family for model in models))
    assert [model.family for model in chosen] == families
    assert all(model == next(m for m in models if m.family == model.family) for model in chosen)
