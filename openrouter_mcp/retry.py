"""Whether to try again, after how long, and with which model: a pure function of what is known to have happened.

OpenRouter counts requests, not answers: a failed attempt costs as much of the free allowance as a good one.
"""

from dataclasses import dataclass, replace

from openrouter_mcp.errors import OpenRouterMCPError, Outcome

MAX_PER_MODEL = 2
MAX_PER_CALL = 3
MAX_UNSENT = 3
LONGEST_HINT_S = 20.0
_SHORT_HINT_S = 5.0
_SPARE_DAY = 0.1  # the share of the day's allowance that must be left to spend one more request on a lost reply


@dataclass(frozen=True)
class Tries:
    """One call so far. `on_model` and `in_all` count requests that left the machine, `unsent` those that did not;
    `time_left` is seconds to the call's deadline, `day_left` the share of the day's free allowance still there."""

    on_model: int = 0
    in_all: int = 0
    unsent: int = 0
    free: bool = True
    may_switch: bool = False
    time_left: float = 60.0
    day_left: float = 1.0

    def after(self, failure: OpenRouterMCPError, time_left: float) -> "Tries":
        """The count with one more try, which ended in `failure`."""
        sent = failure.outcome is not Outcome.NEVER_SENT
        return replace(
            self,
            on_model=self.on_model + sent,
            in_all=self.in_all + sent,
            unsent=self.unsent + (not sent),
            time_left=time_left,
        )


@dataclass(frozen=True)
class Decision:
    """Try `again` after `wait_s` seconds, with `another` model or the same."""

    again: bool
    wait_s: float = 0.0
    another: bool = False


STOP = Decision(again=False)


def decide(failure: OpenRouterMCPError, tries: Tries, jitter: float) -> Decision:
    """What to do after `failure`. `jitter` in [0, 1) spreads the waits of many callers; a server's hint is a floor."""
    if failure.retryable is False:
        return STOP
    hint = failure.hint_s
    another = tries.may_switch and failure.outcome in _ANOTHER_FIRST
    if another and failure.outcome is Outcome.POOL_LIMIT:
        return _again(tries, _backoff(tries, jitter), another=True)  # the hint is about the busy model
    if hint is not None and hint > LONGEST_HINT_S:
        return STOP  # an answer for the agent, not a sleep
    if not _once_more(failure.outcome, hint, tries):
        return STOP
    if another and tries.in_all >= MAX_PER_MODEL:
        return STOP  # once is once, whichever model it is
    return _again(tries, max(hint or 0.0, _backoff(tries, jitter)), another=another)


# After these, a second try on the same model is the poorer one.
_ANOTHER_FIRST = frozenset({Outcome.POOL_LIMIT, Outcome.FAILED, Outcome.EMPTY})


def _once_more(outcome: Outcome, hint: float | None, tries: Tries) -> bool:
    """The table's word on the same model again, whatever the counts say."""
    match outcome:
        case Outcome.NEVER_SENT | Outcome.FAILED | Outcome.EMPTY:
            return True
        case Outcome.MINUTE_LIMIT:
            return hint is not None
        case Outcome.POOL_LIMIT:
            return not tries.free or (hint is not None and hint <= _SHORT_HINT_S)
        case Outcome.IN_FLIGHT:
            return not tries.free
        case Outcome.LOST:
            return tries.free and tries.day_left > _SPARE_DAY
        case _:
            return False


def _again(tries: Tries, wait_s: float, *, another: bool = False) -> Decision:
    """Yes, if the counts and the deadline allow."""
    if tries.unsent >= MAX_UNSENT or tries.in_all >= MAX_PER_CALL or wait_s >= tries.time_left:
        return STOP
    if not another and tries.on_model >= MAX_PER_MODEL:
        return STOP
    return Decision(again=True, wait_s=wait_s, another=another)


def _backoff(tries: Tries, jitter: float) -> float:
    """Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/."""
    failed = tries.in_all + tries.unsent - 1
    return jitter * min(8.0, 0.5 * 2.0 ** max(0, failed))


class RetryBudget:
    """Stops a storm: when the calls of a process keep failing, none is tried again until some succeed.

    The idea is gRPC's: https://grpc.io/docs/guides/retry/#throttling-retry-attempts-and-hedged-rpcs
    """

    def __init__(self, tokens: float = 10.0) -> None:
        self._most = self._tokens = tokens

    def failed(self) -> None:
        """A request failed."""
        self._tokens = max(0.0, self._tokens - 1.0)

    def succeeded(self) -> None:
        """A request was answered."""
        self._tokens = min(self._most, self._tokens + 0.1)

    @property
    def allows(self) -> bool:
        """Whether anything may be tried again."""
        return self._tokens > self._most / 2
