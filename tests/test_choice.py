"""Which free model comes first, whatever it is called."""

from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrouter_mcp.chat import ChatRequest, Part
from openrouter_mcp.choice import (
    Aim,
    Health,
    Seen,
    Task,
    can,
    days_left,
    different_families,
    free_for,
    free_ranked,
    ranked,
    why_first,
)
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


# --- tasks, and what was seen of models -------------------------------------------------------------------------------

TODAY = date(2026, 11, 20)
LOOKS = Architecture(input_modalities=("text", "image"), output_modalities=("text",))
TASKS = [Task.ANY, Task.CODE, Task.REASONING, Task.WRITING, Task.LONG, Task.FAST, Task.VISION, Task.TRANSLATION]
ODD_DATES = [
    "",
    "soon",
    "2026-13-45",
    "0000-00-00",
    "99999-01-01",
    "\x1b[31m",
    "2026-11",
    "\u0662\u0660\u0662\u0666-11-20",
]
KINDS = st.lists(st.sampled_from(["text", "image", "file", "audio", "smell"]), max_size=4, unique=True).map(tuple)
DATES = st.one_of(
    st.none(), st.sampled_from(ODD_DATES), st.integers(-5, 40).map(lambda days: (TODAY + timedelta(days)).isoformat())
)
INDEXES = st.one_of(st.sampled_from(NO_INDEX), st.sampled_from([0, 5, 5.0, 20.5, "7", -1, True, 1e308]))
ENTRIES = st.lists(
    st.builds(
        Model,
        id=st.builds("{}/m{}{}".format, st.sampled_from("abc"), st.integers(0, 9), st.sampled_from(["", ":free"])),
        name=st.sampled_from(["", "German", "x"]),
        description=st.sampled_from(["", "Speaks german and Old Norse."]),
        created=st.sampled_from([0, 1, -1, 10**18]),
        context_length=st.sampled_from([None, 0, -5, 1, 8192, 10**6, 10**400]),
        architecture=st.builds(Architecture, input_modalities=KINDS, output_modalities=KINDS),
        pricing=st.sampled_from([{"prompt": "0", "completion": "0"}, {"prompt": "0", "completion": "0.1"}, {}]),
        supported_parameters=st.lists(st.sampled_from(["tools", "reasoning", "response_format"])).map(tuple),
        expiration_date=DATES,
        benchmarks=st.builds(
            lambda general, code: {"artificial_analysis": {"intelligence_index": general, "coding_index": code}},
            INDEXES,
            INDEXES,
        ),
    ),
    max_size=8,
    unique_by=lambda model: model.id,
)
AIMS = st.builds(Aim, st.sampled_from(TASKS), st.sampled_from(["", "German", "Old Norse"]))
IDS = [f"{author}/m{number}{suffix}" for author in "abc" for number in range(10) for suffix in ("", ":free")]
SPEEDS = st.one_of(st.none(), st.floats(0, 500))
SEEN = st.builds(
    Seen,
    st.dictionaries(st.sampled_from(IDS), st.floats(1, 1000), max_size=20),
    st.dictionaries(st.sampled_from(IDS), st.builds(Health, st.integers(0, 9), st.integers(0, 9), SPEEDS), max_size=20),
    st.sampled_from([None, TODAY]),
)


def seen(**what: Any) -> Seen:
    return Seen(**{"today": TODAY, **what})


@settings(max_examples=200, deadline=None)
@given(ENTRIES, AIMS, SEEN, st.randoms(use_true_random=False))
def test_an_order_holds_everything_that_can_converse_once_and_depends_on_nothing_else(
    models: list[Model], aim: Aim, seen: Seen, luck: Any
) -> None:
    order = ranked(models, aim, seen)
    wanted = {"text", "image"} if aim.task is Task.VISION else {"text"}
    able = {
        model.id
        for model in models
        if wanted <= {*model.architecture.input_modalities} and "text" in model.architecture.output_modalities
    }
    assert sorted(model.id for model in order) == sorted(able)
    assert {model.id for model in free_ranked(models, aim=aim, seen=seen)} == {
        model.id for model in order if is_free(model)
    }
    luck.shuffle(models)
    assert ranked(models, aim, seen) == order
    if order:
        assert why_first(order[0], aim, seen).isprintable()


@settings(max_examples=200, deadline=None)
@given(ENTRIES, AIMS, SEEN)
def test_an_order_knows_no_name(models: list[Model], aim: Aim, seen: Seen) -> None:
    """Other ids that sort alike: the same order."""
    renamed = {model.id: f"zz{number:03}/y" for number, model in enumerate(sorted(models, key=lambda m: m.id))}
    others = [model.model_copy(update={"id": renamed[model.id]}) for model in models]
    of_others = Seen(
        {renamed[id_]: seconds for id_, seconds in seen.cooling.items() if id_ in renamed},
        {renamed[id_]: health for id_, health in seen.health.items() if id_ in renamed},
        seen.today,
    )
    assert [model.id for model in ranked(others, aim, of_others)] == [
        renamed[model.id] for model in ranked(models, aim, seen)
    ]


REQUESTS = st.builds(
    lambda text, kinds, tools, most: ChatRequest(
        "openrouter/free",
        text,
        parts=tuple(Part(kind, kind, {}) for kind in kinds),
        max_tokens=most,
        schema={} if tools else None,
    ),
    st.sampled_from(["Hi", "word " * 5000]),
    st.lists(st.sampled_from(["text", "image"]), max_size=2),
    st.booleans(),
    st.sampled_from([1, 4096]),
)


@settings(max_examples=200, deadline=None)
@given(ENTRIES, REQUESTS, SEEN, st.sets(st.sampled_from(IDS)))
def test_a_model_that_cannot_do_what_is_needed_is_never_chosen(
    models: list[Model], request: ChatRequest, seen: Seen, avoid: set[str]
) -> None:
    chosen = free_for(request, models, avoid, seen)
    assert all(is_free(model) and can(model, request) and model.id not in avoid for model in chosen)
    assert all(request.kinds <= {*model.architecture.input_modalities} for model in chosen)
    assert all(request.needs <= {*model.supported_parameters} for model in chosen)
    assert len({model.family for model in chosen}) == len(chosen)


def test_who_cannot_look_or_call_a_tool_is_not_asked_to() -> None:
    blind, seeing = free("a/blind", 90), free("b/seeing", 1, architecture=LOOKS)
    picture = ChatRequest("openrouter/free", "Hi", parts=(Part("image", "cat.png", {}),), max_tokens=1)
    assert ids(free_for(picture, [blind, seeing])) == ["b/seeing"]
    assert free_for(picture, [blind]) == []
    shaped = ChatRequest("openrouter/free", "Hi", schema={"type": "object"}, max_tokens=1)
    assert free_for(shaped, [blind]) == []


GOOD, EQUAL, POOR = free("a/good", 50), free("b/equal", 50), Health(asked=4, failed=2)


def ends(days: int) -> str:
    return (TODAY + timedelta(days)).isoformat()


def test_what_cannot_be_relied_on_stands_behind_weaker_models_the_gone_last_and_the_busy_before_them() -> None:
    weak, failing = free("z/weak", 1), free("a/failing", 90)
    busy, gone, soon = free("a/busy", 90), free("a/gone", 99, expiration_date=ends(-1)), free("a/soon", 80)
    soon = soon.model_copy(update={"expiration_date": ends(2)})
    known = seen(cooling={busy.id: 9.0, gone.id: 9.0}, health={failing.id: POOR})
    order = ids(ranked([gone, busy, soon, failing, weak], seen=known))
    assert order == ["z/weak", "a/failing", "a/soon", "a/busy", "a/gone"]


@pytest.mark.parametrize(
    ("days", "stands_first"),
    [(-1, False), (0, False), (1, False), (2, False), (3, True), (30, True)],
)
def test_a_model_that_goes_within_three_days_stands_behind_its_equals(days: int, *, stands_first: bool) -> None:
    going = GOOD.model_copy(update={"expiration_date": ends(days)})
    assert ids(ranked([EQUAL, going], seen=seen()))[0] == ("a/good" if stands_first else "b/equal")
    assert ids(ranked([EQUAL, going]))[0] == "a/good"  # whoever does not know the day cannot say
    assert days_left(going, seen()) == days


@pytest.mark.parametrize("date_", ODD_DATES)
def test_a_date_that_is_none_counts_as_none(date_: str) -> None:
    model = GOOD.model_copy(update={"expiration_date": date_})
    assert days_left(model, seen()) is None
    assert ids(ranked([EQUAL, model], seen=seen())) == ["a/good", "b/equal"]


def test_a_moment_counts_as_its_day() -> None:
    assert days_left(GOOD.model_copy(update={"expiration_date": f"{ends(5)}T23:59:59Z"}), seen()) == 5


@pytest.mark.parametrize(
    ("asked", "failed", "is_poor"), [(0, 0, False), (1, 1, False), (2, 2, True), (4, 2, True), (5, 2, False)]
)
def test_a_model_that_failed_half_of_our_calls_and_more_than_one_is_poor(
    asked: int, failed: int, *, is_poor: bool
) -> None:
    known = seen(health={GOOD.id: Health(asked, failed)})
    assert ids(ranked([GOOD, EQUAL], seen=known))[0] == ("b/equal" if is_poor else "a/good")


SPEAKS = free("z/z", 1).model_copy(update={"description": "Writes GERMAN well."})
REASONS = free("z/z", 1, supported_parameters=("reasoning",))
CODES = free("z/z", 1).model_copy(
    update={"benchmarks": {"artificial_analysis": {"intelligence_index": 1, "coding_index": 9}}}
)


@pytest.mark.parametrize(
    ("aim", "first", "why"),
    [
        pytest.param(Aim(Task.CODE), CODES, "coding index 9", id="code: the index of coding"),
        pytest.param(Aim(Task.REASONING), REASONS, "it reasons; intelligence index 1", id="reasoning: those that do"),
        pytest.param(Aim(Task.VISION), free("z/z", 1, architecture=LOOKS), "intelligence index 1", id="vision"),
        pytest.param(
            Aim(Task.TRANSLATION, "German"), SPEAKS, "its description names German; intelligence index 1",
            id="translation: of that language",
        ),
        pytest.param(Aim(Task.LONG), free("z/z", 1, context_length=9999), "it reads 9,999 tokens; intelligence index 1",
                     id="long: the context"),
        pytest.param(Aim(Task.FAST), free("z/z", 1), "120 tokens a second here lately; intelligence index 1",
                     id="fast: what was seen"),
    ],
)  # fmt: skip
def test_each_task_goes_by_its_own_merit_first_and_says_so(aim: Aim, first: Model, why: str) -> None:
    """Before a model that is cleverer by far."""
    known = seen(health={first.id: Health(3, 0, 119.6), GOOD.id: Health(3, 0, 50.0)})
    assert ids(ranked([GOOD, first], seen=known)) == ["a/good", "z/z"]
    assert ids(ranked([GOOD, first], aim, known))[0] == "z/z"
    assert why_first(first, aim, known) == why


@pytest.mark.parametrize("task", [Task.ANY, Task.WRITING, Task.TRANSLATION])
def test_what_has_no_merit_of_its_own_goes_by_intelligence(task: Task) -> None:
    assert ids(ranked([EQUAL, free("a/weak", 1)], Aim(task)))[0] == "b/equal"
    assert why_first(EQUAL, Aim(task), seen()) == "intelligence index 50"
    assert why_first(free("a/a"), Aim(task), seen()) == "no published index tells them apart"


def test_where_no_speed_was_seen_the_first_for_speed_says_so() -> None:
    assert why_first(GOOD, Aim(Task.FAST), seen()) == "no speed was seen yet; intelligence index 50"
