"""The retry table of the design, row by row, and what no sequence of failures may break."""

from dataclasses import replace
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrouter_mcp.errors import OpenRouterMCPError, Outcome
from openrouter_mcp.retry import (
    MAX_PER_CALL,
    MAX_PER_MODEL,
    MAX_UNSENT,
    STOP,
    Decision,
    RetryBudget,
    Tries,
    decide,
)

FREE, PAID = (True,), (False,)
BOTH = (True, False)


def failed(outcome: Outcome, hint: float | None = None, *, retryable: bool | None = None) -> OpenRouterMCPError:
    return OpenRouterMCPError("It failed.", outcome=outcome, hint_s=hint, retryable=retryable)


def same(wait_s: float = 0.25) -> Decision:
    """The same model again; 0.25 s is the first backoff at a jitter of one half."""
    return Decision(again=True, wait_s=wait_s)


def other(wait_s: float = 0.25) -> Decision:
    return Decision(again=True, wait_s=wait_s, another=True)


# Outcome, server's hint (s), columns (free, paid), columns (must keep the model, may choose another), what to do.
TABLE = [
    (Outcome.NEVER_SENT, None, BOTH, BOTH, same()),
    (Outcome.BAD_TLS, None, BOTH, BOTH, STOP),
    (Outcome.BAD_TLS, 1.0, BOTH, BOTH, STOP),
    (Outcome.MINUTE_LIMIT, 8.0, BOTH, BOTH, same(8.0)),
    (Outcome.MINUTE_LIMIT, 0.0, BOTH, BOTH, same()),
    (Outcome.MINUTE_LIMIT, 20.0, BOTH, BOTH, same(20.0)),
    (Outcome.MINUTE_LIMIT, 20.1, BOTH, BOTH, STOP),
    (Outcome.MINUTE_LIMIT, 50.0, BOTH, BOTH, STOP),
    (Outcome.MINUTE_LIMIT, None, BOTH, BOTH, STOP),
    (Outcome.DAY_LIMIT, None, BOTH, BOTH, STOP),
    (Outcome.DAY_LIMIT, 0.0, BOTH, BOTH, STOP),
    (Outcome.DAY_LIMIT, 1.0, BOTH, BOTH, STOP),
    (Outcome.DAY_LIMIT, 43_200.0, BOTH, BOTH, STOP),
    (Outcome.POOL_LIMIT, None, FREE, (False,), STOP),
    (Outcome.POOL_LIMIT, 5.0, FREE, (False,), same(5.0)),
    (Outcome.POOL_LIMIT, 5.1, FREE, (False,), STOP),
    (Outcome.POOL_LIMIT, 60.0, BOTH, (False,), STOP),
    (Outcome.POOL_LIMIT, None, PAID, (False,), same()),
    (Outcome.POOL_LIMIT, 15.0, PAID, (False,), same(15.0)),
    (Outcome.POOL_LIMIT, None, BOTH, (True,), other()),
    (Outcome.POOL_LIMIT, 5.0, BOTH, (True,), other()),
    (Outcome.POOL_LIMIT, 60.0, BOTH, (True,), other()),
    (Outcome.IN_FLIGHT, 4.0, PAID, BOTH, same(4.0)),
    (Outcome.IN_FLIGHT, 25.0, PAID, BOTH, STOP),
    (Outcome.IN_FLIGHT, 4.0, FREE, BOTH, STOP),
    (Outcome.REFUSED, None, BOTH, BOTH, STOP),
    (Outcome.REFUSED, 1.0, BOTH, BOTH, STOP),
    (Outcome.FAILED, None, BOTH, (False,), same()),
    (Outcome.FAILED, 3.0, BOTH, (False,), same(3.0)),
    (Outcome.FAILED, 0.1, BOTH, (False,), same()),
    (Outcome.FAILED, 20.1, BOTH, BOTH, STOP),
    (Outcome.FAILED, 86_400.0, BOTH, BOTH, STOP),
    (Outcome.FAILED, None, BOTH, (True,), other()),
    (Outcome.FAILED, 3.0, BOTH, (True,), other(3.0)),
    (Outcome.LOST, None, FREE, BOTH, same()),
    (Outcome.LOST, None, PAID, BOTH, STOP),
    (Outcome.LOST, 1.0, PAID, BOTH, STOP),
    (Outcome.BROKE, None, BOTH, BOTH, STOP),
    (Outcome.BROKE, 1.0, BOTH, BOTH, STOP),
    (Outcome.EMPTY, None, BOTH, (False,), same()),
    (Outcome.EMPTY, None, BOTH, (True,), other()),
]
CASES = [
    pytest.param(
        failed(outcome, hint),
        Tries(free=free, may_switch=may_switch),
        expected,
        id=f"{outcome.name.lower()}-hint_{hint}-{'free' if free else 'paid'}{'-any_model' if may_switch else ''}",
    )
    for outcome, hint, columns, switches, expected in TABLE
    for free in columns
    for may_switch in switches
]


def test_the_table_has_a_row_for_every_outcome_free_and_paid() -> None:
    columns = {(outcome, free) for outcome, _, columns, _, _ in TABLE for free in columns}
    assert columns == {(outcome, free) for outcome in Outcome for free in BOTH}


@pytest.mark.parametrize(("failure", "tries", "expected"), CASES)
def test_a_first_failure_is_met_as_the_table_says(failure: Any, tries: Tries, expected: Decision) -> None:
    assert decide(failure, tries.after(failure, time_left=60.0), 0.5) == expected


@pytest.mark.parametrize(("failure", "tries", "expected"), CASES)
def test_one_model_is_asked_twice_at_most(failure: Any, tries: Tries, expected: Decision) -> None:
    sent = failure.outcome is not Outcome.NEVER_SENT
    decision = decide(failure, replace(tries, on_model=1, in_all=1).after(failure, time_left=60.0), 0.5)
    moves_on = expected.another and failure.outcome is Outcome.POOL_LIMIT  # only a busy pool is about the model alone
    assert decision.again is (expected.again and (moves_on or not sent))


@pytest.mark.parametrize("free", BOTH, ids=["free", "paid"])
@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.NEVER_SENT])
def test_a_call_sends_three_requests_at_most_whatever_model_is_next(outcome: Outcome, *, free: bool) -> None:
    failure = failed(outcome, 1.0)
    tries = Tries(on_model=0, in_all=2, free=free, may_switch=True).after(failure, time_left=60.0)
    assert decide(failure, tries, 0.5) == STOP


@pytest.mark.parametrize(("failure", "tries", "expected"), CASES)
def test_openrouters_word_that_it_is_no_use_is_final(failure: Any, tries: Tries, expected: Decision) -> None:
    final = failed(failure.outcome, failure.hint_s, retryable=False)
    assert decide(final, tries.after(final, time_left=60.0), 0.5) == STOP
    willing = failed(failure.outcome, failure.hint_s, retryable=True)
    assert decide(willing, tries.after(willing, time_left=60.0), 0.5) == expected


def test_what_never_left_is_tried_three_times_and_counts_as_no_request() -> None:
    tries, decisions = Tries(on_model=1, in_all=1), []
    for _ in range(MAX_UNSENT):
        tries = tries.after(failed(Outcome.NEVER_SENT), time_left=60.0)
        decisions.append(decide(failed(Outcome.NEVER_SENT), tries, 0.0).again)
    assert decisions == [True, True, False]
    assert (tries.on_model, tries.in_all, tries.unsent) == (1, 1, 3)


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.NEVER_SENT])
def test_every_request_that_left_is_counted(outcome: Outcome) -> None:
    tries = Tries().after(failed(outcome), time_left=12.5)
    assert tries == Tries(on_model=1, in_all=1, unsent=0, time_left=12.5)


@pytest.mark.parametrize(
    ("failure", "fits", "too_short"),
    [
        pytest.param(failed(Outcome.MINUTE_LIMIT, 8.0), 8.1, 8.0, id="hint"),
        pytest.param(failed(Outcome.FAILED), 0.26, 0.25, id="backoff"),
        pytest.param(failed(Outcome.NEVER_SENT), 0.26, 0.25, id="unsent"),
        pytest.param(failed(Outcome.FAILED), 0.26, -3.0, id="deadline over"),
    ],
)
def test_a_wait_that_does_not_fit_the_deadline_is_not_begun(failure: Any, fits: float, too_short: float) -> None:
    assert decide(failure, Tries().after(failure, fits), 0.5).again
    assert decide(failure, Tries().after(failure, too_short), 0.5) == STOP


@pytest.mark.parametrize(
    ("day_left", "again"), [(1.0, True), (0.11, True), (0.1, False), (0.02, False), (0.0, False)], ids=str
)
def test_a_lost_reply_is_asked_for_again_only_while_the_day_can_spare_it(day_left: float, *, again: bool) -> None:
    lost = failed(Outcome.LOST)
    assert decide(lost, Tries(day_left=day_left).after(lost, 60.0), 0.5).again is again


@pytest.mark.parametrize(
    ("in_all", "unsent", "ceiling"), [(1, 0, 0.5), (0, 1, 0.5), (2, 0, 1.0), (0, 2, 1.0), (1, 2, 2.0), (2, 2, 4.0)]
)
@pytest.mark.parametrize("jitter", [0.0, 0.3, 0.999])
def test_the_backoff_is_anything_from_nothing_to_a_ceiling_that_doubles(
    in_all: int, unsent: int, ceiling: float, jitter: float
) -> None:
    tries = Tries(on_model=min(in_all, 1), in_all=in_all, unsent=unsent)
    decision = decide(failed(Outcome.FAILED), tries, jitter)
    assert decision.again
    assert decision.wait_s == pytest.approx(jitter * ceiling)


FAILURES = st.builds(
    failed,
    st.sampled_from(list(Outcome)),
    st.none() | st.floats(0, 100),
    retryable=st.sampled_from([None, None, True, False]),
)


@settings(max_examples=200, deadline=None)
@given(
    failures=st.lists(FAILURES, min_size=1, max_size=6),
    tries=st.builds(
        Tries, free=st.booleans(), may_switch=st.booleans(), time_left=st.floats(0, 600), day_left=st.floats(0, 1)
    ),
    jitter=st.floats(0, 1, exclude_max=True),
)
def test_no_run_of_failures_sends_more_or_waits_longer_than_allowed(
    failures: list[OpenRouterMCPError], tries: Tries, jitter: float
) -> None:
    time_left = tries.time_left
    for attempt, failure in enumerate(cycle(failures)):
        assert attempt < MAX_PER_CALL + MAX_UNSENT
        tries = tries.after(failure, time_left)
        assert tries.in_all <= MAX_PER_CALL
        assert tries.on_model <= MAX_PER_MODEL
        assert tries.unsent <= MAX_UNSENT
        decision = decide(failure, tries, jitter)
        if not decision.again:
            assert decision == STOP
            return
        assert 0 <= decision.wait_s <= 20
        assert decision.wait_s < time_left
        assert tries.may_switch or not decision.another
        assert tries.free or failure.outcome is not Outcome.LOST
        time_left -= decision.wait_s
        if decision.another:
            tries = replace(tries, on_model=0)


# --- a storm --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("succeeded", "failed_", "then", "allows"),
    [
        (0, 0, 0, True),
        (0, 4, 0, True),
        pytest.param(0, 5, 0, False, id="half of it is used up"),
        pytest.param(0, 5, 1, True, id="one success makes up for a little"),
        pytest.param(0, 7, 19, False, id="not for two failures"),
        pytest.param(0, 7, 21, True, id="twenty-one do"),
        pytest.param(1000, 5, 0, False, id="a good day saves nothing up"),
        pytest.param(0, 1000, 45, False, id="nor is a bad one ever made good by less than half"),
        pytest.param(0, 1000, 51, True, id="or held against it"),
    ],
)
def test_a_process_whose_calls_keep_failing_tries_none_again(
    succeeded: int, failed_: int, then: int, *, allows: bool
) -> None:
    budget = RetryBudget()
    for _ in range(succeeded):
        budget.succeeded()
    for _ in range(failed_):
        budget.failed()
    for _ in range(then):
        budget.succeeded()
    assert budget.allows is allows
