"""What a book answers, case by case, whichever keeps it; `tests/test_both_books.py` asks what chance comes to."""

from collections.abc import Generator
from dataclasses import replace
from decimal import Decimal

import pytest
from engine import OVER_BOTH, either

from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.choice import Health
from openrouter_mcp.ledger.book import Book, Cooldown, Spent, Use, Wish
from openrouter_mcp.ledger.slots import DAY_S, Refusal, Slot, day_of
from openrouter_mcp.ledger.sums import Ended, Sum, first_of_month

pytestmark = OVER_BOTH
EVENING = 20_028 * 86_400 - 70.75  # of the last day of a month
KEYS, MODELS, BATCHES = ("key-1", "key-2"), ("acme/tiny", "globex/large:free"), ("b-1", "b-2")
BOB = Caller("bob", per_minute=1)


@pytest.fixture
def book(either_book: None) -> Generator[Book]:  # noqa: ARG001 - which of both it is
    """Either, at whatever moments it is told."""
    with either(limit=4) as one:
        yield one


def held(book: Book, model: str = MODELS[0], *, batch: str = "", holder: str = "there") -> int:
    """$0.10 for a request to `model`."""
    (charges,) = book.hold(KEYS[0], [Wish([(model, Decimal("0.1"))], Decimal(1), batch, holder=holder)], EVENING)
    assert isinstance(charges, list)
    return charges[0].id


def test_what_a_process_held_that_is_gone_is_asked_about_or_counts_in_full(book: Book) -> None:
    assert book.take(KEYS[0], BATCHES[0], "there", EVENING)
    unknown, known, promised = held(book), held(book), held(book, batch=BATCHES[0])
    book.note_generation(known, "gen-1")
    assert book.due(KEYS[0], EVENING + 29, "here") == []
    book.alive("there", EVENING + 29)
    assert book.due(KEYS[0], EVENING + 58, "here") == []
    assert book.due(KEYS[0], EVENING + 60, "there") == []
    assert book.spent(KEYS[0], EVENING).by_model == {}

    assert book.due(KEYS[0], EVENING + 60, "here") == []  # OpenRouter needs a moment
    assert book.spent(KEYS[0], EVENING) == Spent({MODELS[0]: Decimal("0.1")}, Decimal("0.2"))
    book.alive("there", EVENING + 61)
    assert book.due(KEYS[0], EVENING + 66, "here") == [(known, "gen-1", Decimal("0.1"))]
    book.settle(unknown, Decimal("0.03"))  # it was not gone after all
    assert book.draw(promised)
    book.release([promised])
    assert book.spent(KEYS[0], EVENING) == Spent({MODELS[0]: Decimal("0.03")}, Decimal("0.1"))
    assert book.month(KEYS[0], EVENING, None).month == {MODELS[0]: Sum(cost=Decimal("0.03"))}


def test_what_is_drawn_from_a_batch_by_a_process_that_is_gone_counts_too(book: Book) -> None:
    assert book.take(KEYS[0], BATCHES[0], "there", EVENING)
    promised = held(book, batch=BATCHES[0])
    for later in (31, 40):
        assert book.due(KEYS[0], EVENING + later, "here") == []
    assert book.spent(KEYS[0], EVENING).held == Decimal("0.1")
    assert book.draw(promised)
    assert book.due(KEYS[0], EVENING + 41, "here") == []
    assert book.spent(KEYS[0], EVENING) == Spent({MODELS[0]: Decimal("0.1")}, Decimal(0))


def test_whoever_leaves_a_batch_frees_what_was_never_drawn(book: Book) -> None:
    assert book.take(KEYS[0], BATCHES[0], "there", EVENING)
    drawn, _ = held(book, batch=BATCHES[0]), held(book, batch=BATCHES[0])
    assert book.draw(drawn)
    book.leave(BATCHES[0], "here")
    assert book.spent(KEYS[0], EVENING).held == Decimal("0.2")
    book.leave(BATCHES[0], "there")
    assert book.spent(KEYS[0], EVENING).held == Decimal("0.1")
    assert book.take(KEYS[0], BATCHES[0], "here", EVENING)


def test_a_batch_is_forgotten_after_two_days(book: Book) -> None:
    assert book.take(KEYS[0], BATCHES[0], "there", EVENING)
    promised = held(book, batch=BATCHES[0])
    later = EVENING + 3 * 86_400
    assert book.promise(KEYS[0], BATCHES[1], 1, now=later, spare=0, caller=NOBODY) is None
    assert not book.draw(promised)
    assert not book.renew(BATCHES[0], "there", 1, later)
    assert book.renew(BATCHES[1], "", 1, later)


def test_a_batch_of_who_has_used_their_share_is_refused_whatever_is_left_of_the_day(book: Book) -> None:
    alice = Caller("alice", per_day=1)
    granted(book, EVENING, 2)
    granted(book, EVENING, caller=alice)
    for day_left, left in ((None, None), (50, 47)):
        if day_left:
            book.note_count(KEYS[0], 0, day_left, EVENING)
        refusal = book.promise(KEYS[0], BATCHES[0], 1, now=EVENING, spare=0, caller=alice)
        assert refusal == Refusal(70.75, daily=True, left=left, fits=0, whose=alice)


def test_a_cost_is_asked_for_four_times_and_not_without_an_id(book: Book) -> None:
    known, unknown = held(book), held(book)
    for charge in (known, unknown):
        book.note_generation(charge, f"gen-{charge}")
    book.leave_open(known, "gen-1", EVENING)
    book.leave_open(unknown, "", EVENING)
    moments = [1, 5, 6, 19, 20, 79, 80, 319, 320, 5_000]
    due = [len(book.due(KEYS[0], EVENING + later, "there")) for later in moments]
    assert due == [0, 1, 0, 0, 1, 0, 1, 0, 1, 0]


def test_a_cost_that_is_corrected_downwards_is_known(book: Book) -> None:
    charge = held(book)
    for cost in ("0.2", "0.05", "0.07"):
        book.settle(charge, Decimal(cost))
    assert book.month(KEYS[0], EVENING, None).today == {MODELS[0]: Sum(cost=Decimal("0.07"))}
    assert book.spent(KEYS[0], EVENING) == Spent({MODELS[0]: Decimal("0.07")}, Decimal(0))


def test_whose_limit_came_first_is_what_a_refusal_speaks_of(book: Book) -> None:
    book.note_count(KEYS[0], 0, 2, EVENING)
    said = book.reserve(KEYS[0], 4, EVENING, 0.0, 0, caller=BOB)
    assert isinstance(said, Refusal)
    assert (said.whose, said.daily, said.fits, said.left) == (BOB, False, 1, 2)


def test_what_is_held_says_for_which_model_and_a_refusal_says_whose_money_is_short(book: Book) -> None:
    alice = Caller("alice", daily_budget=Decimal("0.2"))
    wish = Wish([(MODELS[0], Decimal("0.1")), (MODELS[1], Decimal("0.05"))], Decimal(1), caller=alice)
    charges, theirs, anyones = book.hold(KEYS[0], [wish, wish, replace(wish, budget=Decimal("0.2"))], EVENING)
    assert isinstance(charges, list)
    assert [(one.model, one.amount) for one in charges] == [*wish.amounts]
    assert theirs == Spent({}, Decimal("0.15"), "alice")
    assert anyones == Spent({}, Decimal("0.15"))
    assert book.spent(KEYS[0], EVENING, "alice") == Spent({}, Decimal("0.15"), "alice")


def test_one_process_that_lives_says_nothing_of_another(book: Book) -> None:
    held(book, holder="gone")
    hold = Wish([(MODELS[1], Decimal("0.1"))], Decimal(1), holder="there")
    book.hold(KEYS[0], [hold], EVENING + 20)
    assert book.due(KEYS[0], EVENING + 31, "here") == []
    assert book.spent(KEYS[0], EVENING) == Spent({MODELS[0]: Decimal("0.1")}, Decimal("0.1"))


@pytest.mark.parametrize("is_told", [True, False])
def test_a_request_that_ended_counts_for_the_model_that_served_and_whoever_asked(book: Book, is_told: bool) -> None:
    charge, took = held(book), Sum(1, 1, 20, 30, 2.5)
    ended = Ended((MODELS[1],), "alice", took)
    if is_told:
        book.settle(charge, Decimal("0.04"), ended)
    else:
        book.leave_open(charge, "gen-1", EVENING, ended)
        assert book.month(KEYS[0], EVENING, None).today == {MODELS[1]: took}
        book.settle(charge, Decimal("0.04"))
    cost = Decimal("0.04")
    assert book.month(KEYS[0], EVENING, "alice").today == {MODELS[1]: replace(took, cost=cost)}
    assert book.spent(KEYS[0], EVENING, "alice") == Spent({MODELS[1]: cost}, Decimal(0), "alice")


# --- requests ---------------------------------------------------------------------------------------------------------


def granted(book: Book, now: float, count: int = 1, *, key: str = KEYS[0], caller: Caller = NOBODY) -> list[Slot]:
    slots = book.reserve(key, count, now, 0.0, 0, caller=caller)
    assert isinstance(slots, list)
    return slots


@pytest.mark.parametrize("nobody", [Caller("carol", per_day=0), Caller("carol", per_minute=0)], ids=["day", "minute"])
def test_who_may_ask_nothing_is_told_so_with_what_is_left_and_when_the_day_ends(book: Book, nobody: Caller) -> None:
    now = EVENING - 3_600
    book.note_count(KEYS[0], 3, 50, now)
    refusal = Refusal(3_670.75, daily=True, left=47, fits=0, whose=nobody)
    assert book.reserve(KEYS[0], 1, now, 1e6, 0, caller=nobody) == refusal
    assert book.share_left(KEYS[0], nobody, now) == 0


def test_of_a_share_of_the_day_only_that_callers_own_requests_of_that_day_are_used(book: Book) -> None:
    alice, now = Caller("alice", per_day=3), EVENING
    for caller, key, days in [(alice, 0, -1), (BOB, 0, 0), (alice, 1, 0), (alice, 0, 0), (alice, 0, 1)]:
        granted(book, now + days * DAY_S, key=KEYS[key], caller=caller)
    assert book.use(KEYS[0], now).today == 2
    assert book.share_left(KEYS[0], alice, now) == 2
    assert book.share_left(KEYS[0], replace(alice, per_day=1), now) == 0
    assert book.share_left(KEYS[0], replace(alice, per_day=0), now) == 0
    assert book.share_left(KEYS[0], replace(alice, per_day=None), now) is None
    assert book.share_left(KEYS[0], replace(alice, per_day=None, per_minute=1), now) is None


@pytest.mark.parametrize(
    ("moment", "minute", "today"), [(-0.25, 0, 1), (0, 1, 1), (61, 1, 1), (61.25, 0, 1), (71, 0, 0)]
)
def test_a_request_is_of_the_minute_from_its_moment_until_the_window_is_over(
    book: Book, moment: float, minute: int, today: int
) -> None:
    granted(book, EVENING)
    granted(book, EVENING, key=KEYS[1])
    use = book.use(KEYS[0], EVENING + moment)
    assert use == Use(minute, today, elsewhere=0, day_limit=None, stopped_until=0, day_stopped_until=0, left=None)


@pytest.mark.parametrize(("back", "minute"), [(1.0, 1), (1.25, 2)])
def test_after_a_clock_is_set_back_what_lay_ahead_is_of_now(book: Book, back: float, minute: int) -> None:
    granted(book, EVENING)
    granted(book, EVENING, key=KEYS[1])
    granted(book, EVENING - back)
    assert book.use(KEYS[0], EVENING - back).minute == minute
    assert book.use(KEYS[1], EVENING - back).minute == 0


@pytest.mark.parametrize(("later", "kept"), [(2 * DAY_S, 1), (2 * DAY_S + 1, 0)])
def test_requests_are_forgotten_after_two_days(book: Book, later: float, kept: int) -> None:
    granted(book, EVENING)
    granted(book, EVENING + later)
    assert book.use(KEYS[0], EVENING).today == kept


MINUTE_AND_DAY = [(EVENING + 90, EVENING + 71.75), (EVENING + 90.25, EVENING + 72)]  # the latest, and what is later


@pytest.mark.parametrize(("minute", "day"), MINUTE_AND_DAY)
def test_a_stop_further_ahead_than_any_can_be_is_forgotten(book: Book, minute: float, day: float) -> None:
    for key in KEYS:
        book.stop(key, minute, daily=False)
        book.stop(key, day, daily=True)
    book.reserve(KEYS[0], 1, EVENING, 0.0, 0)
    kept = (minute, day) == MINUTE_AND_DAY[0]
    use, other = (book.use(key, EVENING) for key in KEYS)
    assert (use.stopped_until, use.day_stopped_until) == ((minute, day) if kept else (0.0, 0.0))
    assert use.left == (0 if kept else None)
    assert (other.stopped_until, other.day_stopped_until, other.left) == (minute, day, 0)


def test_a_stop_of_the_day_is_over_at_its_moment(book: Book) -> None:
    book.note_count(KEYS[0], 3, 50, EVENING)
    book.stop(KEYS[0], EVENING + 20, daily=True)
    use, after = (book.use(KEYS[0], EVENING + later) for later in (19.75, 20))
    assert (use.day_stopped_until, use.left) == (EVENING + 20, 0)
    assert (after.day_stopped_until, after.left) == (0, 47)
    book.stop(KEYS[0], EVENING + 10, daily=True)  # what is known to last longer does
    assert book.use(KEYS[0], EVENING + 19.75).left == 0


def test_where_today_and_tomorrow_are_used_up_it_is_the_day_after_that_is_waited_for(book: Book) -> None:
    book.note_count(KEYS[0], 2, 2, EVENING)
    slots = book.reserve(KEYS[0], 2, EVENING, 100.0, 0)
    assert isinstance(slots, list)
    assert [slot.wait for slot in slots] == [71.75, 71.75]
    assert book.reserve(KEYS[0], 1, EVENING, 100.0, 0) == Refusal(DAY_S + 71.75, daily=True, left=0)


def test_a_count_beyond_belief_is_as_much_as_a_book_can_hold(book: Book) -> None:
    book.note_count(KEYS[0], 10**30, 10**31, EVENING)
    use = book.use(KEYS[0], EVENING)
    assert (use.elsewhere, use.day_limit, use.left) == (10**9, 10**9, 0)


def test_what_openrouter_counts_is_of_the_day_it_said_so(book: Book) -> None:
    granted(book, EVENING - DAY_S)
    granted(book, EVENING)
    book.note_count(KEYS[0], 5, 50, EVENING)
    book.note_count(KEYS[0], 3, 40, EVENING)  # late; the limit is new
    use, next_day = book.use(KEYS[0], EVENING), book.use(KEYS[0], EVENING + 100)
    assert (use.today, use.elsewhere, use.day_limit, use.left) == (5, 4, 40, 35)
    assert (next_day.today, next_day.elsewhere, next_day.day_limit, next_day.left) == (0, 0, 40, 40)
    book.note_count(KEYS[0], 2, 40, EVENING + 100)
    assert book.use(KEYS[0], EVENING + 100).left == 38


@pytest.mark.parametrize("is_known", [True, False])
def test_a_key_that_is_named_brings_all_that_was_kept_under_its_hash(book: Book, is_known: bool) -> None:
    took, cent = Sum(1, 0, 5, 6, 0.5, Decimal("0.01")), Decimal("0.01")
    if is_known:
        book.name(KEYS[1], "account")
        book.note_count(KEYS[1], 1, 60, EVENING)
        book.stop(KEYS[1], EVENING + 30, daily=False)
        book.stop(KEYS[1], EVENING + 5, daily=True)
        book.count(KEYS[1], day_of(EVENING), Ended((MODELS[0],), "alice", took))
    book.note_count(KEYS[0], 2, 50, EVENING)
    book.stop(KEYS[0], EVENING + 20, daily=False)
    book.stop(KEYS[0], EVENING + 40, daily=True)
    book.count(KEYS[0], day_of(EVENING), Ended((MODELS[0],), "alice", took))
    book.hold(KEYS[0], [Wish([(MODELS[0], cent)], Decimal(1))], EVENING)
    assert book.promise(KEYS[0], BATCHES[0], 1, now=EVENING + 45, spare=0, caller=NOBODY) is None
    granted(book, EVENING + 45)
    assert book.account(KEYS[0]) == KEYS[0]

    book.name(KEYS[0], "account")
    assert book.account(KEYS[0]) == "account"
    use = book.use(KEYS[0], EVENING + 10)
    limit, elsewhere = (60, 1) if is_known else (50, 2)
    assert (use.today, use.elsewhere, use.day_limit) == (elsewhere + 1, elsewhere, limit)
    assert (use.stopped_until, use.day_stopped_until) == (EVENING + (30 if is_known else 20), EVENING + 40)
    assert book.spent(KEYS[0], EVENING).held == cent
    assert book.month(KEYS[0], EVENING, "alice").today == {MODELS[0]: took + took if is_known else took}
    left = limit - elsewhere - 1 - 1
    refusal = book.promise(KEYS[0], BATCHES[1], left + 1, now=EVENING + 45, spare=0, caller=NOBODY)
    assert isinstance(refusal, Refusal)
    assert refusal.fits == left
    book.name(KEYS[0], "another")
    assert book.account(KEYS[0]) == "another"


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("later", "known"), [(DAY_S + 10, True), (DAY_S + 10.25, False), (-590, True), (-590.25, False)]
)
def test_how_a_model_failed_is_known_for_a_day_and_from_no_other_clock(book: Book, later: float, known: bool) -> None:
    book.cool([MODELS[0]], EVENING, shortest=10, hint=0, reason="busy")
    granted(book, EVENING + later)
    cooldowns = {MODELS[0]: Cooldown(EVENING + 10, "busy", 1)} if known else {}
    assert book.look(KEYS[0], EVENING).cooldowns == cooldowns


def test_of_models_that_failed_together_each_counts_its_own_row(book: Book) -> None:
    book.cool([MODELS[0]], EVENING, shortest=10, hint=15, reason="busy")
    book.cool([*MODELS], EVENING + 1, shortest=10, hint=15, reason="silent")
    assert book.look(KEYS[0], EVENING).cooldowns == {
        MODELS[0]: Cooldown(EVENING + 21, "silent", 2),
        MODELS[1]: Cooldown(EVENING + 16, "silent", 1),
    }
    assert book.probe([MODELS[0], "a/b"], EVENING + 20.75, EVENING + 50) == {MODELS[0]}
    assert book.probe([*MODELS, "a/b"], EVENING + 21, EVENING + 50) == set()
    untils = {model: cooldown.until for model, cooldown in book.look(KEYS[0], EVENING).cooldowns.items()}
    assert untils == dict.fromkeys(MODELS, EVENING + 50)
    book.recover("a/b")
    book.recover(MODELS[0])
    assert [*book.look(KEYS[0], EVENING).cooldowns] == [MODELS[1]]


def test_a_model_is_looked_at_by_what_it_did_today_and_yesterday_for_all(book: Book) -> None:
    today = day_of(EVENING)
    for days, caller in [(0, "alice"), (1, "bob"), (2, "bob")]:
        book.count(KEYS[0], today - days, Ended((MODELS[0],), caller, Sum(2, 1, 5, 30, 2.0, Decimal(0))))
    book.count(KEYS[0], today, Ended((MODELS[1],), "bob", Sum(1, 0, 5, 0, 0.0, Decimal(0))))
    book.settle(held(book), Decimal("0.01"))  # of which it is not known how it ended
    book.settle(held(book, "a/b"), Decimal("0.01"))
    assert book.look(KEYS[0], EVENING).health == {MODELS[0]: Health(4, 2, 15.0), MODELS[1]: Health(1, 0, None)}
    assert book.look(KEYS[1], EVENING).health == {}


# --- sums -------------------------------------------------------------------------------------------------------------


def test_no_figure_grows_beyond_what_a_book_can_hold_and_what_is_unknown_stays_so(book: Book) -> None:
    most = 10**15
    for cost in (Decimal(1), None, Decimal(1)):
        ended = Ended((MODELS[0],), "", Sum(most, most, most, most, float(most), cost))
        book.count(KEYS[0], day_of(EVENING), ended)
    sums = book.month(KEYS[0], EVENING, None)
    assert sums.today == sums.month == {MODELS[0]: Sum(most, most, most, most, float(most), None)}


def test_a_month_has_its_days_today_its_own_and_a_caller_theirs(book: Book) -> None:
    today, one = day_of(EVENING), Sum(1, 0, 1, 1, 0.5, Decimal("0.5"))
    first = first_of_month(EVENING)
    for day, caller in [(first - 1, "bob"), (first, "bob"), (today - 1, "alice"), (today, "bob"), (today, "alice")]:
        book.count(KEYS[0], day, Ended((MODELS[0],), caller, one))
    book.count(KEYS[1], today, Ended((MODELS[0],), "bob", one))
    everyone, bob = (book.month(KEYS[0], EVENING, caller) for caller in (None, "bob"))
    assert (everyone.month, everyone.today) == ({MODELS[0]: one + one + one + one}, {MODELS[0]: one + one})
    assert (bob.month, bob.today) == ({MODELS[0]: one + one}, {MODELS[0]: one})
