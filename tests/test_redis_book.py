"""The book on a Redis or Valkey server: what only such a server brings. Else it is as the one in a file, see
test_both_books."""

import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis
from engine import engine_url, running_engine, started

from openrouter_mcp.engine import PREFIX, Engine
from openrouter_mcp.errors import EngineAway
from openrouter_mcp.ledger.book import Book, Charge, Spent, Wish
from openrouter_mcp.ledger.redis.book import RedisBook
from openrouter_mcp.ledger.slots import Refusal, Slot, day_of
from openrouter_mcp.ledger.sums import Ended, Sum

__all__ = ["engine_url", "running_engine"]  # fixtures

LIMIT, WINDOW_S = 4, 61.0


class Deaf(Engine):
    """Its scripts run, and while it `is_deaf` nobody hears what they say. While it `is_slow` they do not: the last is
    the one that is `late`."""

    is_deaf = is_slow = False
    late: tuple[str | float, ...] = ()

    def run(self, script: str, *arguments: str | float) -> Any:
        if self.is_slow:
            self.late = (script, *arguments)
            raise self._leave(TimeoutError())
        said = super().run(script, *arguments)
        if self.is_deaf:
            raise self._leave(ConnectionResetError())
        return said


@pytest.fixture
def engine(engine_url: str) -> Generator[Deaf]:
    """The worker's server, by its own clock."""
    engine = Deaf(engine_url)
    yield engine
    engine.close()


@pytest.fixture
def book(engine: Deaf) -> RedisBook:
    """The book on it."""
    return RedisBook(engine, limit=LIMIT, window=WINDOW_S)


@pytest.fixture
def names(engine_url: str) -> Generator[redis.Redis]:
    """What another client of the server sees."""
    with redis.Redis.from_url(engine_url, decode_responses=True) as client:
        yield client


def wish(amount: str, budget: str = "1", **more: Any) -> Wish:
    return Wish([("acme/tiny", Decimal(amount))], Decimal(budget), **more)


def granted(book: Book, *, now: float = 0.0, wait: float = 0.0) -> list[Slot]:
    said = book.reserve("key-1", 1, now, wait, 0)
    return [] if isinstance(said, Refusal) else said


def held(book: Book, *wished: Wish) -> list[Charge]:
    """What was held, one charge a wish."""
    return [said[0] for said in book.hold("key-1", wished, 0.0) if not isinstance(said, Spent)]


def test_the_servers_clock_counts_whatever_the_replicas_clocks_say(book: RedisBook) -> None:
    wrong = [time.time() + ahead for ahead in (-7_200.0, 0.0, 7_200.0, 90_000.0, 0.0, 61.0)]
    slots = [slot for now in wrong for slot in granted(book, now=now)]
    assert len(slots) == LIMIT
    assert all(abs(slot.at - time.time()) < 60 and slot.wait == 0.0 for slot in slots)
    assert len({slot.at for slot in slots}) == LIMIT  # to the microsecond


def test_a_wait_is_as_long_as_the_server_says(book: RedisBook) -> None:
    first = granted(book)[0]
    for _ in range(LIMIT - 1):
        granted(book)
    (later,) = granted(book, wait=100.0)
    assert later.at == first.at + WINDOW_S
    assert WINDOW_S - 30 < later.wait <= WINDOW_S


def test_a_trial_of_a_model_lasts_as_long_by_the_servers_clock(book: RedisBook) -> None:
    wrong = time.time() - 7_200.0
    book.cool(["acme/tiny"], wrong, shortest=0.0, hint=0.0, reason="timeout")
    assert book.probe(["acme/tiny"], wrong, wrong + 30.0) == set()
    assert book.probe(["acme/tiny"], wrong, wrong + 30.0) == {"acme/tiny"}


def test_many_at_once_never_pass_a_limit(engine_url: str) -> None:
    def asks(_: int) -> tuple[int, int]:
        engine = Engine(engine_url)
        book = RedisBook(engine, limit=20, window=WINDOW_S)
        found = sum(len(granted(book)) for _ in range(10)), sum(len(held(book, wish("0.07"))) for _ in range(10))
        engine.close()
        return found

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(asks, range(8)))
    assert sum(slots for slots, _ in found) == 20
    assert sum(charges for _, charges in found) == 14  # $0.98 of $1


def test_what_was_granted_to_nobody_is_free_once_the_server_answers(book: RedisBook, engine: Deaf) -> None:
    book.use("key-1", 0.0)
    engine.is_deaf = True
    with pytest.raises(EngineAway):
        book.reserve("key-1", 2, 0.0, 0.0, 0)
    assert engine.try_again()
    with pytest.raises(EngineAway):
        book.hold("key-1", [wish("0.6"), wish("0.1")], 0.0)
    with pytest.raises(EngineAway):
        book.reserve("key-1", 1, 0.0, 0.0, 0)  # which is not sent: the engine is away
    assert (len(book.lost_slots), len(book.lost_charges)) == (2, 2)

    engine.is_deaf = False
    assert engine.try_again()
    assert len(held(book, wish("1"))) == 1
    assert book.use("key-1", 0.0).minute == 0
    assert book.spent("key-1", 0.0).held == 1
    assert not book.lost_slots
    assert not book.lost_charges


def test_what_comes_to_the_server_after_it_was_given_up_takes_nothing(book: RedisBook, engine: Deaf) -> None:
    book.use("key-1", 0.0)
    asks: list[Callable[[], object]] = [lambda: granted(book), lambda: held(book, wish("0.6"))]
    for ask in asks:
        engine.is_slow = True
        with pytest.raises(EngineAway):
            ask()
        engine.is_slow = False
        assert engine.try_again()
        book.alive("here", 0.0)
        script, *arguments = engine.late
        assert engine.run(str(script), *arguments)[0] == "done"
    assert book.use("key-1", 0.0).minute == 0
    assert len(held(book, wish("1"))) == 1


def test_an_end_that_is_told_twice_counts_once(book: RedisBook, engine: Deaf) -> None:
    one, other = held(book, wish("0.1"), wish("0.2"))
    ended = Ended(("acme/tiny",), "", Sum(asked=1, completion_tokens=5))
    tells: list[Callable[[], object]] = [
        lambda: book.settle(one.id, Decimal("0.05"), ended),
        lambda: book.leave_open(other.id, "gen-1", 0.0, ended),
    ]
    for tell in tells:
        engine.is_deaf = True
        with pytest.raises(EngineAway):
            tell()
        engine.is_deaf = False
        assert engine.try_again()
        tell()
    sums = book.month("key-1", 0.0, None).today
    assert sums == {"acme/tiny": Sum(asked=2, completion_tokens=10, cost=Decimal("0.05"))}


def test_a_lost_book_is_said_once_and_every_process_works_on(
    book: RedisBook, engine_url: str, names: redis.Redis
) -> None:
    other, idle = (RedisBook(Engine(engine_url), limit=LIMIT, window=WINDOW_S) for _ in range(2))
    for each in (book, other, idle):
        granted(each)
    assert book.use("key-1", 0.0).minute == 3
    assert book.doubts() == []

    names.flushall()
    assert len(granted(book)) == 1
    assert other.use("key-1", 0.0).minute == 1
    (doubt,) = book.doubts()
    assert doubt.startswith("the books at redis://127.0.0.1:")
    assert doubt.endswith("UTC: emptied, or restarted without its latest data")

    other.forget_doubts(["another", doubt])
    assert len(granted(idle)) == 1  # who finds it lost after a person has seen that, does not say so again
    assert book.doubts() == []


def test_an_engine_that_was_restarted_empty_is_noticed(tmp_path: Path) -> None:
    with started(tmp_path) as (url, process):
        engine = Engine(url)
        book = RedisBook(engine, limit=LIMIT, window=WINDOW_S)
        assert held(book, wish("1"))
        process.kill()
        process.wait()
        with pytest.raises(EngineAway):
            book.hold("key-1", [wish("1")], 0.0)
        assert len(book.lost_charges) == 1
        with started(tmp_path, port=int(url.rsplit(":", 1)[1].partition("/")[0])):
            assert engine.try_again()
            assert book.spent("key-1", 0.0).held == 0
            assert len(book.doubts()) == 1
        engine.close()


def test_a_book_that_came_back_older_than_it_was_is_doubted_once(book: RedisBook, names: redis.Redis) -> None:
    granted(book)
    turn = names.get(f"{PREFIX}turn")
    held(book, wish("0.1"))
    assert book.doubts() == []
    names.set(f"{PREFIX}turn", str(turn))
    assert len(held(book, wish("0.1"))) == 1
    (doubt,) = book.doubts()
    assert "restarted without its latest data" in doubt
    book.forget_doubts([doubt])
    granted(book)
    assert book.doubts() == []


def test_a_book_that_comes_back_older_again_is_doubted_again(
    book: RedisBook, engine_url: str, names: redis.Redis
) -> None:
    idle = RedisBook(Engine(engine_url), limit=LIMIT, window=WINDOW_S)
    for _ in range(2):
        granted(book)
        turn = names.get(f"{PREFIX}turn")
        granted(book)
        granted(idle)
        names.set(f"{PREFIX}turn", str(turn))
        (doubt,) = book.doubts()
        book.forget_doubts([doubt])
        granted(idle)  # the same loss is not said again
        assert book.doubts() == []


def test_a_book_of_a_newer_version_is_left_alone(book: RedisBook, names: redis.Redis) -> None:
    names.set(f"{PREFIX}book", "2 somebody")
    with pytest.raises(EngineAway, match="newer version"):
        granted(book)
    assert set(names.scan_iter()) == {f"{PREFIX}book", f"{PREFIX}alive"}


def test_an_amount_is_held_to_the_attodollar_and_rounded_up(book: RedisBook) -> None:
    assert held(book, wish("0.0000000000000000011"), wish("0.9999999990")) != []
    assert book.spent("key-1", 0.0).held == Decimal("0.999999999000000002")
    assert held(book, wish("0.0000000009999999980001")) == []
    assert len(held(book, wish("0.000000000999999998"))) == 1
    assert book.spent("key-1", 0.0).held == 1
    assert held(book, wish("0.000000000000000001")) == []


def test_what_cannot_be_read_counts_as_more_than_any_budget(book: RedisBook, names: redis.Redis) -> None:
    (charge,) = held(book, wish("0.1"))
    total = f"{PREFIX}spent:key-1:{day_of(time.time())}"
    names.hset(total, mapping={"all": "1 a lot", "held": "1 -5"})
    (said,) = book.hold("key-1", [wish("0", "9999999")], 0.0)
    assert isinstance(said, Spent)
    assert said.in_all == Decimal("Infinity")
    book.release([charge.id])  # and once nothing is held any more, nothing is unknown
    assert len(held(book, wish("1"))) == 1


def test_a_refusal_tells_of_any_number_of_models(book: RedisBook, names: redis.Redis) -> None:
    held(book, wish("1"))
    day = str(*names.smembers(f"{PREFIX}days:key-1"))
    one = f"1 0.{1:018}"
    names.hset(f"{PREFIX}spent:key-1:{day}", mapping={f"cost:model-{i}": one for i in range(5000)})
    (spent,) = book.hold("key-1", [wish("1")], 0.0)
    assert isinstance(spent, Spent)
    assert len(spent.by_model) == 5000


def test_a_charge_that_somebody_spoiled_stands_in_nobodys_way(book: RedisBook, names: redis.Redis) -> None:
    spoiled, empty, good = held(book, wish("0.1"), wish("0.1"), wish("0.1", holder="gone"))
    names.hset(f"{PREFIX}charge:{spoiled.id}", "amount", "-3")
    names.delete(f"{PREFIX}charge:{empty.id}")
    for charge in (spoiled, empty):
        book.settle(charge.id, Decimal("0.05"))
    book.settle(good.id, Decimal("0.07"))
    assert book.due("key-1", 0.0) == []
    assert book.spent("key-1", 0.0).by_model["acme/tiny"] == Decimal("0.12")
    assert book.spent("key-1", 0.0).in_all > 1000


def test_figures_that_somebody_spoiled_count_as_in_a_file(book: RedisBook, names: redis.Redis) -> None:
    now = time.time()
    names.hset(
        f"{PREFIX}account:key-1", mapping={"day": "x", "day_limit": "nan", "minute_stop": "inf", "day_stop": "-1"}
    )
    names.zadd(f"{PREFIX}cooldowns", {"acme/tiny": now + 60})
    names.hset(f"{PREFIX}failures", "acme/tiny", "many")
    names.zadd(f"{PREFIX}sums:key-1", {str(day_of(now)): day_of(now)})
    names.hset(f"{PREFIX}sums:key-1:{day_of(now)}", " acme/tiny", "2 x")
    look = book.look("key-1", now)
    assert (look.use.left, look.use.stopped_until, look.use.day_stopped_until) == (None, 0.0, 0.0)
    assert look.cooldowns["acme/tiny"].failures == 0
    assert book.month("key-1", now, None).month == {"acme/tiny": Sum(asked=2, cost=None)}
    assert len(granted(book)) == 1


def test_what_is_not_ours_under_our_names_is_no_book(book: RedisBook, engine: Deaf, names: redis.Redis) -> None:
    names.set(f"{PREFIX}slots:key-1", "mine")
    with pytest.raises(EngineAway, match="not openrouter-mcp's"):
        granted(book)
    assert names.hlen(f"{PREFIX}slots") == 0
    assert engine.away
    assert len(book.lost_slots) == 1


def test_what_is_over_leaves_nothing_behind(book: RedisBook, names: redis.Redis) -> None:
    before = set(names.scan_iter()) | {f"{PREFIX}{name}" for name in ("book", "turn", "alive")}
    slots = [*granted(book), *granted(book)]
    assert book.take("key-1", "batch", "here", 0.0)
    charges = held(book, wish("0.1", holder="here", batch="batch"), wish("0.1", holder="here"))
    book.leave_open(charges[1].id, "gen-1", 0.0)
    book.give_back(slots)
    book.end("batch")
    book.release([charge.id for charge in charges])
    assert set(names.scan_iter()) - before == {f"{PREFIX}holders", f"{PREFIX}made:key-1"}
