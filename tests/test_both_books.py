"""The book on a Redis or Valkey server answers as the one in a file does."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
import redis
from engine import engine_url, running_engine
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.engine import PREFIX, Engine
from openrouter_mcp.ledger.book import Book, Charge, Closure, Spent, Wish
from openrouter_mcp.ledger.redis.book import RedisBook
from openrouter_mcp.ledger.slots import Refusal, Slot, day_of
from openrouter_mcp.ledger.sqlite.book import SQLiteBook
from openrouter_mcp.ledger.sums import Ended, Sum

__all__ = ["engine_url", "running_engine"]  # fixtures

LIMIT, WINDOW_S = 4, 61.0
EVENING = 20_028 * 86_400 - 70.75  # of the last day of a month
MOST_BACK_S = 7_000.0  # a clock set back by days meets what one book has forgotten at another time
KEYS, ACCOUNTS = ("key-1", "key-2"), ("account-1", "account-2")
MODELS, HOLDERS, BATCHES = ("acme/tiny", "globex/large:free", "init ech"), ("", "here", "there"), ("b-1", "b-2", "b-3")
CALLERS = (
    NOBODY,
    Caller("alice", daily_budget=Decimal("0.5"), per_day=5, per_minute=2),
    Caller("bob", per_minute=1),
    Caller("carol", per_day=3, daily_budget=Decimal(0)),
    Caller("dave", per_day=0),
)
keys, models, callers = st.sampled_from(KEYS), st.sampled_from(MODELS), st.sampled_from(CALLERS)
holders, batches = st.sampled_from(HOLDERS), st.sampled_from(BATCHES)
several = st.lists(models, min_size=1, max_size=3, unique=True)
places = st.integers(0, 3)  # in a list, from its end: what was done to one thing goes on
usd = st.one_of(
    st.sampled_from(["0", "0.5", "0.000000001", "0.000000000000000001", "0.999999999999999999", "0.9999999990"]),
    st.decimals(0, 1, places=18).map(str),
).map(Decimal)
budgets = st.sampled_from([Decimal(0), Decimal("0.4"), Decimal("1.5"), Decimal("2.000000000000000001"), Decimal(10**7)])
figures = st.integers(0, 5_000)
sums = st.builds(
    Sum, st.just(1), st.integers(0, 1), figures, figures, st.sampled_from([0.0, 0.1, 2.7]), st.one_of(st.none(), usd)
)
endings = st.builds(Ended, several.map(tuple), callers.map(lambda one: one.name), sums)
amounts = st.lists(st.tuples(models, usd), min_size=1, max_size=3)
wishes = st.lists(st.builds(Wish, amounts, budgets, caller=callers), min_size=1, max_size=3)
seconds = st.sampled_from([0.0, 0.000001, 0.5, 3.1, 30.5, 61.0, 700.0])


class Alike(RuleBasedStateMachine):
    """The same is asked of both books at the same moments, and both must say the same."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.client = redis.Redis.from_url(self.url, decode_responses=True)
        self.client.flushall()
        self.engine = Engine(self.url, own_time=False)
        self.books: tuple[Book, Book] = (
            SQLiteBook(":memory:", limit=LIMIT, window=WINDOW_S, ticks=lambda: 0.0),
            RedisBook(self.engine, limit=LIMIT, window=WINDOW_S),
        )
        self.now = self.latest = EVENING
        self.slots: list[tuple[Slot, Slot]] = []
        self.charges: list[tuple[Charge, Charge]] = []
        self.told: set[int] = set()
        self.promised: list[tuple[Charge, Charge]] = []
        self.closures: list[Closure] = []

    def teardown(self) -> None:
        assert all(name.startswith(PREFIX) for name in self.client.scan_iter())
        self.client.close()
        self.engine.close()
        self.books[0].close()

    def both(self, method: str, *arguments: Any, of: tuple[Any, Any] | None = None, **named: Any) -> Any:
        """What both books say; `of` is each one's own first argument."""
        said = [
            getattr(book, method)(*(() if of is None else (of[i],)), *arguments, **named)
            for i, book in enumerate(self.books)
        ]
        assert said[0] == said[1], method
        return said[0]

    def one_of(self, pairs: list[tuple[Charge, Charge]], place: int) -> tuple[int, int]:
        file, engine = pairs[-1 - place % len(pairs)]
        return file.id, engine.id

    @rule(step=st.sampled_from([0.000001, 1.0, 5.5, 20.25, 61.0, 3_600.0, 43_000.0, 90_000.0, 260_000.0]))
    def later(self, step: float) -> None:
        self.now += step
        self.latest = max(self.latest, self.now)

    @rule(step=st.sampled_from([0.5, 2.0, 40.0, MOST_BACK_S]))
    def clock_is_set_back(self, step: float) -> None:
        self.now = max(self.now - step, self.latest - MOST_BACK_S)

    @rule(key=keys, account=st.sampled_from(ACCOUNTS))
    def name(self, key: str, account: str) -> None:
        self.both("name", key, account)

    @invariant()
    def they_know_the_account(self) -> None:
        for key in KEYS:
            self.both("account", key)


class Requests(Alike):
    """Who may send when."""

    @rule(key=keys, count=st.integers(1, 5), wait=st.sampled_from([0.0, 20.0, 70.0, 1e6]), caller=callers)
    def reserve(self, key: str, count: int, wait: float, caller: Caller) -> None:
        spare = count % 3
        file, engine = (book.reserve(key, count, self.now, wait, spare, caller=caller) for book in self.books)
        if isinstance(file, Refusal) or isinstance(engine, Refusal):
            assert file == engine
            return
        assert [(slot.at, slot.wait) for slot in file] == [(slot.at, slot.wait) for slot in engine]
        self.slots += zip(file, engine, strict=True)

    @precondition(lambda self: self.slots)
    @rule(place=places)
    def give_back(self, place: int) -> None:
        file, engine = self.slots[-1 - place % len(self.slots)]
        self.both("give_back", of=([file], [engine]))

    @rule(key=keys, used=st.integers(0, 6), limit=st.integers(1, 8))
    def note_count(self, key: str, used: int, limit: int) -> None:
        self.both("note_count", key, used, limit, self.now)

    @rule(key=keys, wait=st.sampled_from([0.5, 30.0, 100.0, 50_000.0, 200_000.0]), daily=st.booleans())
    def stop(self, key: str, wait: float, daily: bool) -> None:
        self.both("stop", key, self.now + wait, daily=daily)

    @invariant()
    def they_stand_alike(self) -> None:
        for key in KEYS:
            self.both("use", key, self.now)
            self.both("share_left", key, CALLERS[1], self.now)


class Models(Alike):
    """How models do."""

    @rule(models=several, shortest=seconds, hint=seconds, reason=st.text(max_size=9))
    def cool(self, models: list[str], shortest: float, hint: float, reason: str) -> None:
        self.both("cool", models, self.now, shortest=shortest, hint=hint, reason=reason.replace("\0", ""))

    @rule(models=several, lease=seconds)
    def probe(self, models: list[str], lease: float) -> None:
        self.both("probe", models, self.now, self.now + lease)

    @rule(model=models)
    def recover(self, model: str) -> None:
        self.both("recover", model)

    @rule(key=keys, ended=endings, before=st.sampled_from([0, 1, 20, 40]))
    def count(self, key: str, ended: Ended, before: int) -> None:
        self.both("count", key, day_of(self.now) - before, ended)

    @rule(key=keys)
    def what_is_old_is_forgotten(self, key: str) -> None:
        for book in self.books:
            book.reserve(key, 1, self.now, 0.0, 0)

    @invariant()
    def they_look_alike(self) -> None:
        for key in KEYS:
            self.both("look", key, self.now)
            self.both("month", key, self.now, None)
        self.both("month", KEYS[0], self.now, CALLERS[1].name)


class Money(Alike):
    """What is spent and held."""

    @initialize(batch=st.sampled_from(["", "b-1"]), caller=st.sampled_from(CALLERS[:2]))
    def something_is_held(self, batch: str, caller: Caller) -> None:
        wish = Wish([(MODELS[0], Decimal("0.05")), (MODELS[1], Decimal("0.1"))], Decimal(9), caller=caller)
        self.hold(KEYS[0], [wish], batch, "there")
        self.hold(KEYS[0], [wish], "", "")

    @rule(key=keys, wished=wishes, batch=st.one_of(st.just(""), batches), holder=holders)
    def hold(self, key: str, wished: list[Wish], batch: str, holder: str) -> None:
        if batch and not self.both("take", key, batch, holder, self.now):
            return
        wishes = [replace(wish, batch=batch, holder=holder) for wish in wished]
        file, engine = (book.hold(key, wishes, self.now) for book in self.books)
        for mine, theirs in zip(file, engine, strict=True):
            if isinstance(mine, Spent) or isinstance(theirs, Spent):
                assert mine == theirs
                continue
            assert [(one.model, one.amount) for one in mine] == [(one.model, one.amount) for one in theirs]
            self.charges += zip(mine, theirs, strict=True)
            self.promised += zip(mine, theirs, strict=True) if batch else ()

    @precondition(lambda self: self.charges)
    @rule(place=places, cost=usd, ended=st.one_of(st.none(), endings))
    def settle(self, place: int, cost: Decimal, ended: Ended | None) -> None:
        of = self.one_of(self.charges, place)
        self.both("settle", cost, self.once(of[1], ended and ended.without_cost), of=of)

    @precondition(lambda self: self.charges)
    @rule(place=places)
    def release(self, place: int) -> None:
        pair = self.charges.pop(-1 - place % len(self.charges))
        self.promised = [one for one in self.promised if one != pair]
        self.both("release", of=([pair[0].id], [pair[1].id]))

    @precondition(lambda self: self.charges)
    @rule(place=places, generation=st.sampled_from(["", "gen-1", "gen-2"]), ended=st.one_of(st.none(), endings))
    def leave_open(self, place: int, generation: str, ended: Ended | None) -> None:
        of = self.one_of(self.charges, place)
        self.both("leave_open", generation, self.now, self.once(of[1], ended), of=of)

    def once(self, charge: int, ended: Ended | None) -> Ended | None:
        """Nothing when it was told before: only an engine can be told again, by who heard no answer."""
        if charge in self.told:
            return None
        self.told |= {charge} if ended else set()
        return ended

    @precondition(lambda self: self.charges)
    @rule(place=places, generation=st.sampled_from(["gen-3", "gen-4"]))
    def note_generation(self, place: int, generation: str) -> None:
        self.both("note_generation", generation, of=self.one_of(self.charges, place))

    @rule(holder=st.sampled_from(HOLDERS[1:]))
    def alive(self, holder: str) -> None:
        self.both("alive", holder, self.now)

    @rule(key=keys, holder=holders)
    def due(self, key: str, holder: str) -> None:
        file, engine = (book.due(key, self.now, holder) for book in self.books)
        theirs = {mine.id: other.id for mine, other in self.charges}
        assert sorted((theirs[one], *rest) for one, *rest in file) == sorted(map(tuple, engine))

    @invariant()
    def they_account_alike(self) -> None:
        for key in KEYS:
            self.both("spent", key, self.now)
            self.both("month", key, self.now, None)
        for caller in CALLERS[:3]:
            self.both("spent", KEYS[0], self.now, caller.name)


class Batches(Money, Requests):
    """What batches still need, of both."""

    @rule(key=keys, batch=batches, requests=st.integers(1, 6), caller=callers)
    def promise(self, key: str, batch: str, requests: int, caller: Caller) -> None:
        self.both("end", batch)
        self.both("promise", key, batch, requests, now=self.now, spare=requests % 3, caller=caller)

    @rule(key=keys, batch=batches, holder=holders)
    def take(self, key: str, batch: str, holder: str) -> None:
        self.both("take", key, batch, holder, self.now)

    @rule(batch=batches, holder=holders, requests=st.integers(0, 5))
    def renew(self, batch: str, holder: str, requests: int) -> None:
        self.both("renew", batch, holder, requests, self.now)

    @precondition(lambda self: self.promised)
    @rule(place=places)
    def draw(self, place: int) -> None:
        self.both("draw", of=self.one_of(self.promised, place))

    @rule(batch=batches, holder=holders)
    def leave(self, batch: str, holder: str) -> None:
        self.both("leave", batch, holder)

    @rule(batch=batches)
    def end(self, batch: str) -> None:
        self.both("end", batch)

    @invariant()
    def they_lease_alike(self) -> None:
        for batch in BATCHES:
            self.both("is_leased", batch, self.now)


class Words(Alike):
    """Why nothing may be sent, and what a person was asked."""

    @rule(reason=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12))
    def shut(self, reason: str) -> None:
        self.both("shut", reason, self.now)
        self.closures = self.both("closures")

    @precondition(lambda self: self.closures)
    @rule(place=places)
    def acknowledge(self, place: int) -> None:
        self.both("acknowledge", [self.closures[place % len(self.closures)]])

    @rule(seal=st.sampled_from(["seal-1", "seal-2"]))
    def seal(self, seal: str) -> None:
        self.both("seal", seal, self.now)


@pytest.mark.parametrize(
    ("machine", "examples"), [(Requests, 40), (Models, 25), (Money, 70), (Batches, 40), (Words, 10)]
)
def test_both_books_say_the_same_whatever_is_asked_of_them_in_whatever_order(
    machine: type[Alike], examples: int, engine_url: str
) -> None:
    run_state_machine_as_test(
        type(machine.__name__, (machine,), {"url": engine_url}),
        settings=settings(
            max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
