"""Both archives, a file and an engine, say the same after whatever was done to them; and what they hold comes back."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
import redis
from engine import in_engine
from hypothesis import example, given, settings
from hypothesis import strategies as st

from openrouter_mcp.archive.entry import KEPT_S, Archive, Entry
from openrouter_mcp.archive.redis import RedisArchive
from openrouter_mcp.archive.sqlite import SQLiteArchive
from openrouter_mcp.chat import ChatRequest
from openrouter_mcp.engine import PREFIX, Engine
from openrouter_mcp.keeping import Keeping
from openrouter_mcp.plans import Plan, State
from openrouter_mcp.text import encodable
from openrouter_mcp.transcript import Answer
from openrouter_mcp.wire import Usage

NOW = 2e9
ODD = "NUL \0, a half \ud83d, whole \U0001f600, {openrouter-mcp}:*, '\"\\\r\n"
WORDS = st.text("ab\0\n\U0001f600", max_size=4)
IDS = st.sampled_from(["one", "one", "two", "three:1", ""])
BATCHES = st.sampled_from(["batch-a", "batch-b"])
OWNERS = st.sampled_from(["account", "key"])
CALLERS = st.sampled_from(["", "ann", "bob"])
LISTS = st.lists(OWNERS, max_size=2)
STATES = st.sampled_from(State)
PAGES = st.integers(0, 5)
FACTS = st.builds(
    Answer,
    id=st.just("one"),
    models=st.just(("acme/tiny:free",)),
    running=st.booleans(),
    problem=WORDS,
    held=st.decimals(0, 9, places=6),
    usage=st.builds(Usage, cost=st.none() | st.decimals(0, 9, places=6)),
    seconds=st.floats(0, 1e6),
)
Step = tuple[Any, ...]
STEPS = st.one_of(
    st.tuples(st.just("save"), IDS, OWNERS, CALLERS, st.sampled_from(["", "batch-a"]), WORDS, FACTS, PAGES),
    st.tuples(st.just("save_plan"), BATCHES, OWNERS, CALLERS, st.lists(WORDS, min_size=1, max_size=3)),
    st.tuples(st.just("note"), BATCHES, st.dictionaries(st.integers(0, 3), FACTS, max_size=2)),
    st.tuples(st.just("settle"), BATCHES, STATES),
    st.tuples(st.just("stop"), IDS),
    st.tuples(st.just("forget"), IDS),
    st.tuples(st.just("tidy"), st.integers(0, 4), st.integers(1, 4), st.integers(0, 60)),
)


@pytest.fixture(params=["file", "engine"])
def archive(request: pytest.FixtureRequest) -> Generator[Archive]:
    """Either of them, empty."""
    if request.param == "file":
        with closing(SQLiteArchive(":memory:")) as archive:
            yield archive
    else:
        with in_engine(request.getfixturevalue("engine_url")) as archive:
            yield archive


def entry(id_: str = "one", *, owner: str = "account", caller: str = "", at: float = NOW, **more: Any) -> Entry:
    """An answer, as `Writing` saves it."""
    answer = more.pop("answer", Answer(id=id_, models=("acme/tiny:free",)))
    told: dict[str, Any] = {"parent": "", "seen": at, "process": "1-a", "system": "", "prompt": "Why?"} | more
    return Entry(answer, owner, caller, at=at, **told)


def plan(id_: str = "batch-a", *prompts: str, owner: str = "account", caller: str = "", at: float = NOW) -> Plan:
    """A batch, as `Batches` begins it."""
    request = ChatRequest("acme/tiny:free", "", system=encodable(ODD))
    return Plan(id_, owner, caller, at, request, prompts or ("Why?",), Decimal("0.10"), Decimal(0))


# --- the same from both -----------------------------------------------------------------------------------------------


def do(archive: Archive, step: Step, moment: int) -> object:
    """Take one step, at a moment of its own; what it says."""
    match step:
        case "save", id_, owner, caller, batch, words, facts, count:
            pages = [f"page {place} {words}" for place in range(count)]
            kept = entry(
                id_, owner=owner, caller=caller, at=NOW + moment, batch=batch, question=words, prompt=words,
                system=words, answer=replace(facts, id=id_),
            )  # fmt: skip
            return archive.save(kept, pages, sum(map(len, pages)))
        case "save_plan", id_, owner, caller, prompts:
            archive.save_plan(plan(id_, *prompts, owner=owner, caller=caller, at=NOW + moment))
        case "tidy", seconds, *_:
            archive.tidy(NOW + KEPT_S + seconds)
        case name, *arguments:
            getattr(archive, name)(*arguments)
    return None


def seen(archive: Archive, owners: Sequence[str], caller: str, count: int, since: float) -> list[object]:
    """All that one caller is told, and what is known by an id alone."""
    return [
        archive.count(),
        archive.newest(owners, caller, count),
        archive.newest_plans(owners, caller, since),
        sorted(archive.left_open(owners, caller, since)),
        *(archive.same(words, owners, caller, since) for words in ("", "a", "b")),
        *(archive.find(id_, owners, caller) for id_ in ("one", "two", "three:1", "")),
        *(archive.find_plan(id_, owners, caller) for id_ in ("batch-a", "batch-b", "one")),
        *(archive.is_stopped(id_) for id_ in ("batch-a", "batch-b", "one")),
        *((archive.pages(id_), archive.text(id_)) for id_ in ("one", "two", "three:1", "", "batch-a")),
        *(archive.page("one", place) for place in (-1, 0, 1, 2, 5, 6)),
    ]


def saved(id_: str, pages: int = 0) -> Step:
    """A question of two characters, and as many pages."""
    return "save", id_, "account", "", "", "a", Answer(models=("acme/tiny:free",)), pages


BEGUN: list[Step] = [saved("one"), ("save_plan", "batch-a", "account", "", ["One?", "Two?"])]
ME = (["account"], "", 9, NOW - 1)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(STEPS, max_size=14),
    st.tuples(LISTS, CALLERS, st.integers(0, 4), st.integers(-1, 14).map(lambda seconds: NOW + seconds)),
)
@example([("stop", "one"), ("note", "batch-a", {}), ("settle", "batch-a", State.DONE)], ([], "", 0, NOW))
@example([saved("one", 3), saved("one", 1), saved("one", 0), saved("one", 2)], ME)
@example([saved(id_) for id_ in ("one", "two", "three:1", "")] + [("tidy", 0, 3, 99), ("tidy", 2, 3, 99)], ME)
@example([saved(id_) for id_ in ("one", "two", "three:1")] + [("tidy", 0, 9, most) for most in (6, 5, 0)], ME)
@example([*BEGUN, ("tidy", 1, 9, 99), ("tidy", 2, 9, 99)], ME)
@example([("note", "batch-a", {0: Answer()}), *BEGUN, ("note", "batch-a", {0: Answer(), 1: Answer()})], ME)
def test_whatever_is_done_a_file_and_an_engine_say_the_same(
    running_engine: str, steps: list[Step], who: tuple[list[str], str, int, float]
) -> None:
    with closing(SQLiteArchive(":memory:")) as file, in_engine(running_engine) as engine:
        for moment, step in enumerate(steps):
            with pytest.MonkeyPatch.context() as patched:
                for room in ("sqlite", "redis"):
                    if step[0] == "tidy":
                        patched.setattr(f"openrouter_mcp.archive.{room}.MOST_ANSWERS", step[2])
                        patched.setattr(f"openrouter_mcp.archive.{room}.MOST_BYTES", step[3])
                assert do(file, step, moment) == do(engine, step, moment)
            assert seen(file, *who) == seen(engine, *who)
        for caller in ("", "ann", "bob"):
            assert seen(file, who[0], caller, *who[2:]) == seen(engine, who[0], caller, *who[2:])


@settings(max_examples=40, deadline=None)
@given(st.lists(STEPS, max_size=14), st.lists(STEPS, max_size=3))
@example([*BEGUN, ("stop", "one"), ("note", "batch-a", {0: Answer(), 1: Answer()})], [])
@example([*BEGUN, ("settle", "batch-a", State.DONE)], [])
@example([*BEGUN, ("settle", "batch-a", State.DONE)], [*BEGUN, ("note", "batch-a", {1: Answer()})])
def test_what_is_handed_over_is_what_was_kept(running_engine: str, steps: list[Step], others: list[Step]) -> None:
    """Also where some of it is kept already."""
    with (
        closing(SQLiteArchive(":memory:")) as memory,
        closing(SQLiteArchive(":memory:")) as file,
        in_engine(running_engine) as engine,
    ):
        for moment, step in enumerate(steps):
            do(memory, step, moment)
        before = [seen(memory, ["account", "key"], caller, 9, NOW - 1) for caller in ("", "ann", "bob")]
        for archive in (file, engine):
            for other, step in enumerate(others):
                do(archive, step, len(steps) + other)
            with closing(SQLiteArchive(":memory:")) as copy:
                memory.db.backup(copy.db)
                while copy.hand_over(archive):
                    pass
                assert (copy.count(), copy.db.execute("SELECT count(*) FROM plans").fetchone()) == (0, (0,))
        for place, caller in enumerate(("", "ann", "bob")):
            after = seen(file, ["account", "key"], caller, 9, NOW - 1)
            assert after == seen(engine, ["account", "key"], caller, 9, NOW - 1)
            assert others or after == before[place]
        for id_ in ("one", "two", "three:1", ""):
            stopped = file.save(entry(id_), [], 0)
            assert stopped == engine.save(entry(id_), [], 0)
            assert others or stopped == memory.save(entry(id_), [], 0)


# --- whatever it holds ------------------------------------------------------------------------------------------------


@given(
    st.text(st.characters(codec=None, exclude_categories=()), max_size=30),
    st.lists(st.text(st.characters(codec="utf-8"), max_size=30), max_size=4),
    st.floats(0, 4e9),
)
@example(ODD, ["NUL \0", "\U0001f600", "", "last"], 1764000000.123456789)
@settings(max_examples=60, deadline=None)
def test_any_text_and_any_moment_come_back_as_they_are(
    running_engine: str, odd: str, pages: list[str], at: float
) -> None:
    kept = entry(prompt=odd, system=odd, caller=encodable(odd), question="q", parent="p", at=at, batch="b")
    back = replace(kept, prompt=encodable(odd), system=encodable(odd))
    with closing(SQLiteArchive(":memory:")) as file, in_engine(running_engine) as engine:
        for archive in (file, engine):
            assert not archive.save(kept, pages, 9)
            assert archive.find("one", ["key", "account"], kept.caller) == back
            assert archive.same("q", ["account"], kept.caller, at) == [back]
            assert [archive.page("one", place + 1) for place in range(archive.pages("one"))] == pages


def test_two_megabytes_come_back_as_they_are(archive: Archive) -> None:
    pages = [f"{place:03} " + "\U0001f600\0words " * 1500 for place in range(200)]
    long = entry(prompt="Why? " * 200_000)
    archive.save(long, pages, sum(map(len, pages)))
    assert archive.text("one") == "".join(pages)
    assert archive.page("one", 200) == pages[-1]
    assert archive.find("one", ["account"], "") == long


def test_nobody_else_is_shown_anything(archive: Archive) -> None:
    archive.save(entry(question="q", caller="ann"), ["Words."], 6)
    archive.save_plan(plan(caller="ann"))
    for owners, caller in (
        (["account"], ""),
        (["account"], "Ann"),
        (["key"], "ann"),
        ([], "ann"),
        (["", "acc"], "ann"),
    ):
        assert archive.find("one", owners, caller) is None
        assert archive.find_plan("batch-a", owners, caller) is None
        assert archive.same("q", owners, caller, 0) == archive.newest(owners, caller, 9) == []
        assert not archive.newest_plans(owners, caller, 0)
        assert not archive.left_open(owners, caller, 0)
    assert archive.newest(["key", "account"], "ann", 9)
    assert archive.newest_plans(["key", "account"], "ann", 0)


# --- an engine --------------------------------------------------------------------------------------------------------


def test_all_that_an_engine_is_given_has_our_prefix_and_is_gone_after_a_day(engine_url: str) -> None:
    with in_engine(engine_url) as archive, redis.Redis.from_url(engine_url, decode_responses=True) as client:
        archive.save(entry(), ["One.", "Two."], 8)
        archive.save_plan(plan())
        archive.note("batch-a", {0: Answer()})
        archive.settle("batch-a", State.DONE)
        archive.stop("one")
        names = client.keys(f"{PREFIX}archive:*")
        assert len(names) == 7
        assert {*client.keys()} == {*names, f"{PREFIX}alive"}
        for name in names:
            assert KEPT_S - 60 < client.ttl(name) <= KEPT_S
            client.expire(name, 60)
        archive.save(entry(), ["One.", "Two."], 8)
        archive.save_plan(plan("batch-b"))
        archive.note("batch-a", {0: Answer()})
        renewed = {*names} - {f"{PREFIX}archive:plan:batch-a"}
        assert all(client.ttl(name) > KEPT_S - 60 for name in renewed)
        archive.tidy(NOW + KEPT_S + 1)
        assert client.keys() == [f"{PREFIX}alive"]


@pytest.mark.parametrize("lost", ["*", "*:pages:*", "*:answer:*"])
def test_of_a_growing_answer_only_what_is_new_is_sent_and_all_when_some_was_lost(engine_url: str, lost: str) -> None:
    pages = [str(place) * 20_000 for place in range(10)]
    with in_engine(engine_url) as archive, redis.Redis.from_url(engine_url) as client:

        def sent(count: int) -> int:
            before = int(client.info("stats")["total_net_input_bytes"])
            archive.save(entry(prompt="Why? " * 20_000), pages[:count], 0)
            return int(client.info("stats")["total_net_input_bytes"]) - before

        assert sent(8) > 260_000
        assert 20_000 < sent(8) < 23_000  # the last one may have grown
        assert 60_000 < sent(10) < 63_000
        client.delete(*client.keys(lost))
        assert sent(10) > 300_000
        assert archive.text("one") == "".join(pages)
        assert archive.find("one", ["account"], "") == entry(prompt="Why? " * 20_000)
        archive.save(entry(answer=Answer(id="one", running=False)), pages, 0)
        assert not archive._written


def test_what_a_replica_began_another_goes_on_with(engine_url: str) -> None:
    with in_engine(engine_url) as one:
        another = RedisArchive(one._engine)
        one.save(entry(), ["First.", "Sec"], 9)
        another.save(entry(), ["First.", "Second.", "Thi"], 16)
        one.stop("one")
        assert one.save(entry(), ["First.", "Second.", "Third."], 19)
        assert another.text("one") == "First.Second.Third."


async def test_what_was_said_of_a_batch_stays_so_when_what_was_said_before_comes_late(engine_url: str) -> None:
    engine = Engine(engine_url)
    keeping = Keeping(engine, clock=lambda: NOW)
    await keeping.put(lambda archive: archive.save_plan(plan()))
    engine.refuse("it is switched off")
    await keeping.tell(lambda archive: archive.note("batch-a", {0: Answer(id="one", running=True)}))
    engine.away = ""
    await keeping.tell(lambda archive: archive.note("batch-a", {0: Answer(id="one", running=False)}))
    await keeping.mend()
    (kept,) = await keeping.each(lambda archive: archive.find_plan("batch-a", ["account"], ""))
    assert kept
    assert not kept.rows[0].running
    await keeping.aclose()
    engine.close()
