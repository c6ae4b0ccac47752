"""What every book can do, whichever keeps it: a file on this machine, or a server for many. Blocking.

Each method is one transaction, whole or not at all. `key` is the hash of an API key; the book knows whose account that
is. `now` is epoch seconds by whoever asks; a book for many goes by a clock of its own instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.choice import Health
from openrouter_mcp.ledger.slots import Refusal, Slot
from openrouter_mcp.ledger.sums import Ended, Month

MOST_INQUIRIES = 4  # of OpenRouter, about what one request cost
FIRST_INQUIRY_S = 5.0  # OpenRouter needs a moment to write a generation down
KEPT_DAYS = 2  # slots, charges and batches; sums are kept longer
LEASE_S = 30.0  # of a batch
DEAD_S = 30.0  # without a sign of life: the process has ended
LONGEST_COOLDOWN_S = 600.0
LONGEST_MINUTE_STOP_S = 90.0
MOST_REQUESTS = 10**9  # a day; more is a mistake
SEAL_KEPT_S = 3600.0  # the SDK lets a seal expire after ten minutes; the rest is for clocks that are set


@dataclass(frozen=True)
class Use:
    """What is used: `minute` in the window that ends now, `today` of `day_limit` (None: OpenRouter did not say),
    `elsewhere` of these not through this book. `stopped_until` is when the minute's limit ends that OpenRouter met us
    with, `day_stopped_until` the day's (0: none is in force). `left` are the free requests left today, None when nobody
    knows."""

    minute: int
    today: int
    elsewhere: int
    day_limit: int | None
    stopped_until: float
    day_stopped_until: float
    left: int | None


@dataclass(frozen=True)
class Cooldown:
    """A model better left alone until a moment, why, and after how many failures in a row."""

    until: float
    reason: str
    failures: int


@dataclass(frozen=True)
class Look:
    """How an account stands: its use, every model that failed when it was last asked, and how those did that were
    asked today or yesterday."""

    use: Use
    cooldowns: dict[str, Cooldown]
    health: dict[str, Health]


@dataclass(frozen=True)
class Wish:
    """Each model's amount in USD to be held together by the process `holder`, within a `budget` of the day, for a
    `batch` if that is not empty."""

    amounts: Sequence[tuple[str, Decimal]]
    budget: Decimal
    batch: str = ""
    caller: Caller = NOBODY
    holder: str = ""


@dataclass(frozen=True)
class Charge:
    """USD held for one request to `model`, in `book`, until it is settled."""

    id: int
    model: str
    amount: Decimal
    book: object = field(repr=False)


@dataclass(frozen=True)
class Spent:
    """A UTC day's money, in USD: what calls cost, by model, and what is held for those whose cost is not known; of one
    caller alone if it says `whose`."""

    by_model: dict[str, Decimal]
    held: Decimal
    whose: str | None = None

    @property
    def cost(self) -> Decimal:
        """What is known to be spent."""
        return sum(self.by_model.values(), Decimal(0))

    @property
    def in_all(self) -> Decimal:
        """What no other call may spend."""
        return self.cost + self.held


@dataclass(frozen=True)
class Closure:
    """Why the guard is closed, and since when (epoch seconds)."""

    at: float
    reason: str


class Book(Protocol):
    """A book of requests, money, models and batches."""

    def close(self) -> None:
        """Close it; what it keeps stays."""

    # --- requests

    def reserve(
        self, key: str, count: int, now: float, longest_wait: float, spare: int, *, caller: Caller = NOBODY
    ) -> list[Slot] | Refusal:
        """`count` slots at once or none, each at most `longest_wait` seconds away; `spare` of the window's requests
        are left to others. They are the `caller`'s, and no more than their share."""

    def give_back(self, slots: Sequence[Slot]) -> None:
        """What was never sent does not count."""

    def use(self, key: str, now: float) -> Use:
        """What is used now."""

    def look(self, key: str, now: float) -> Look:
        """The same, and what is known of the models."""

    def share_left(self, key: str, caller: Caller, now: float) -> int | None:
        """How many requests of today are left of the caller's share; None when the day has none."""

    def note_count(self, key: str, used: int, limit: int, now: float) -> None:
        """OpenRouter's own count of today: what it exceeds ours by was used elsewhere; its lag never takes away."""

    def stop(self, key: str, until: float, *, daily: bool) -> None:
        """OpenRouter met us with the minute's or the day's limit: nobody sends before `until`."""

    # --- the account

    def account(self, key: str) -> str:
        """The account that the hash of a key is known to belong to; that hash itself until it is."""

    def name(self, key: str, account: str) -> None:
        """From now on `key` belongs to `account`, and what was kept under the key's own hash goes with it."""

    # --- models

    def cool(self, models: Sequence[str], now: float, *, shortest: float, hint: float, reason: str) -> None:
        """One more failure of each of `models`: left alone for `shortest` seconds, doubled for each earlier failure in
        a row, or for the `hint` if that is longer; ten minutes at most."""

    def probe(self, models: Sequence[str], now: float, until: float) -> set[str]:
        """Of `models`, those to leave alone. A cooldown that is over is renewed to `until` by whoever comes first, who
        alone may try the model; its success ends the cooldown, its failure another."""

    def recover(self, model: str) -> None:
        """`model` answered."""

    # --- daily sums

    def count(self, key: str, day: int, ended: Ended) -> None:
        """Count a request that has ended, on a UTC day."""

    def month(self, key: str, now: float, caller: str | None) -> Month:
        """What each model came to in the current UTC month and today, for `caller` or for all."""

    # --- money

    def hold(self, key: str, wishes: Sequence[Wish], now: float) -> list[list[Charge] | Spent]:
        """Hold what each wishes for, all of it or nothing, one wish after the other; when the day's budget does not
        bear it, or the caller's own, what is spent of that already. It survives a power cut once this returns."""

    def spent(self, key: str, now: float, caller: str | None = None) -> Spent:
        """What is spent and held today, by one caller or all; what was booked for a day that a clock now says is yet to
        come, counts too."""

    def settle(self, charge: int, cost: Decimal, ended: Ended | None = None) -> None:
        """The request cost so much; it `ended` so, if that is not noted yet."""

    def release(self, charges: Sequence[int]) -> None:
        """Nothing was sent for these."""

    def leave_open(self, charge: int, generation: str, now: float, ended: Ended | None = None) -> None:
        """The request ended and its cost is not known: it stays held, and may be asked about by `generation`."""

    def alive(self, holder: str, now: float) -> None:
        """The process `holder` lives: how its requests end is for it to say."""

    def note_generation(self, charge: int, generation: str) -> None:
        """The request runs under this id, by which OpenRouter tells its cost, should its process end first."""

    def due(self, key: str, now: float, holder: str = "") -> list[tuple[int, str, Decimal]]:
        """Held charges that OpenRouter is to be asked about now, with their generations and amounts; each comes up a
        few times, ever later, for one asker alone. Those of another process than `holder` that has shown no life for
        `DEAD_S` have ended: those that ran under no id, and may have been sent, are settled in full."""

    def shut(self, reason: str, now: float) -> None:
        """No process sends anything until a person has acknowledged this."""

    def closures(self) -> list[Closure]:
        """Why the guard is closed; empty when it is open."""

    def acknowledge(self, seen: Sequence[Closure]) -> None:
        """A person has `seen` these."""

    def doubts(self) -> list[str]:
        """Why what was spent is not known (a book was lost); empty when it is."""

    def forget_doubts(self, seen: Sequence[str]) -> None:
        """A person has `seen` these."""

    # --- batches

    def promise(self, key: str, batch: str, requests: int, *, now: float, spare: int, caller: Caller) -> Refusal | None:
        """Set `requests` of the day aside for a new `batch` of the `caller`. None if that leaves `spare` of it and is
        within their share, else why not."""

    def take(self, key: str, batch: str, holder: str, now: float) -> bool:
        """Lease `batch` to `holder`, if no other has it. What was held for an earlier one and never drawn is free."""

    def renew(self, batch: str, holder: str, requests: int, now: float) -> bool:
        """`holder` works on it, with so many requests to come; False when another does."""

    def draw(self, charge: int) -> bool:
        """From now on `charge` is for a request that may have been sent; False when another holder made it free."""

    def leave(self, batch: str, holder: str) -> None:
        """`holder` works on it no more, and another may."""

    def end(self, batch: str) -> None:
        """Nothing more is asked of it."""

    def is_leased(self, batch: str, now: float) -> bool:
        """Whether some process works on it."""

    # --- what a person was asked

    def seal(self, seal: str, now: float) -> bool:
        """Note that what goes by `seal` is used now; False when it was before."""
