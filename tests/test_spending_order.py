"""The money book under any sequence of what processes do: what is held and spent stays within the day's budget."""

import asyncio
import tempfile
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from itertools import count
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from openrouter_mcp.ledger.allowance import Ledger
from openrouter_mcp.ledger.book import MOST_INQUIRIES, Charge, Closure, Spent
from openrouter_mcp.ledger.slots import DAY_S, day_of
from openrouter_mcp.records import KeyInfo
from openrouter_mcp.wire import Usage

# A disk in memory where there is one: that money waits for the disk is tested elsewhere, and costs milliseconds a time.
RAM = next((str(path) for path in (Path("/dev/shm"),) if path.is_dir()), None)  # noqa: S108
MIDNIGHT = 20_000.0 * DAY_S
BUDGET = Decimal("0.1")


@dataclass
class Row:
    """What a model of the book holds of one charge."""

    account: str
    day: int
    model: str
    amount: Decimal
    charge: Charge
    owner: int
    cost: Decimal | None = None
    generation: str = ""
    asked: int = 0

    @property
    def counts(self) -> Decimal:
        return self.amount if self.cost is None else self.cost


WHO = st.integers(0, 2)
AMOUNTS = st.one_of(
    st.decimals(0, Decimal("0.06"), places=18).filter(bool),
    st.sampled_from([Decimal("0.02"), Decimal("0.05"), BUDGET, Decimal("0.1") + Decimal("1e-18")]),
)
MOMENTS = st.sampled_from([MIDNIGHT + offset for offset in (-DAY_S, -3600.0, -1.0, 0.0, 1.0, 30.0, 3600.0, DAY_S)])
ROWS = st.randoms(use_true_random=False)


class Money(RuleBasedStateMachine):
    """Three processes on one book, two of them with one key; each with a clock of its own, which steps both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=RAM)
        self.runner = asyncio.Runner()
        self.now = [MIDNIGHT - 3600.0] * 3
        self.named: set[str] = set()
        self.rows: list[Row] = []
        self.told: dict[str, Decimal] = {}
        self.closures: list[str] = []
        self.seen: list[Closure] = []
        self.numbers = count(1)
        self.ledgers = [self.start(who) for who in range(3)]
        for one in self.ledgers:  # on clocks of their own, and all of them alive
            one.spending._holder = ""

    def start(self, who: int) -> Ledger:
        async def key() -> KeyInfo:
            return KeyInfo(creator_user_id="user")

        async def inquire(generation: str) -> Usage | None:
            (row,) = (row for row in self.rows if row.generation == generation)
            row.asked += 1
            assert row.cost is None
            assert row.asked <= MOST_INQUIRIES
            if generation not in self.told:
                return None
            row.cost = self.told[generation]
            if row.cost > row.amount:
                self.closures.append(generation)
            return Usage(cost=row.cost)

        return Ledger(self.key(who), Path(self.folder.name), key, clock=lambda: self.now[who], inquire=inquire)

    def teardown(self) -> None:
        for ledger in self.ledgers:
            self.run(ledger.aclose())
        self.runner.close()
        self.folder.cleanup()

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    def key(self, who: int) -> str:
        return "one key" if who < 2 else "another key"

    def account(self, who: int) -> str:
        return "user" if self.key(who) in self.named else self.key(who)

    def todays(self, who: int) -> list[Row]:
        """What counts for a process: a day that its clock says is yet to come counts too."""
        return [row for row in self.rows if row.account == self.account(who) and row.day >= day_of(self.now[who])]

    def check_spent(self, who: int, spent: Spent) -> None:
        rows = self.todays(who)
        known = [row for row in rows if row.cost is not None]
        assert spent.by_model == {
            model: sum((row.counts for row in known if row.model == model), Decimal(0))
            for model in {row.model for row in known}
        }
        assert spent.held == sum((row.amount for row in rows if row.cost is None), Decimal(0))

    @rule(who=WHO, moment=MOMENTS)
    def set_clock(self, who: int, moment: float) -> None:
        self.now[who] = moment

    @rule(seconds=st.sampled_from([1.0, 6.0, 90.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.now = [now + seconds for now in self.now]

    @rule(who=WHO, amounts=st.lists(AMOUNTS, min_size=1, max_size=3), budget=st.sampled_from([BUDGET, BUDGET / 2]))
    def hold(self, who: int, amounts: list[Decimal], budget: Decimal) -> None:
        wanted = [(f"acme/{number % 2}", amount) for number, amount in enumerate(amounts)]
        held = self.run(self.ledgers[who].spending.hold(wanted, budget))
        before = sum((row.counts for row in self.todays(who)), Decimal(0))
        if before + sum(amounts) > budget:
            assert isinstance(held, Spent)
            self.check_spent(who, held)
            return
        assert isinstance(held, list)
        assert [(charge.model, charge.amount) for charge in held] == wanted
        today = day_of(self.now[who])
        self.rows += [Row(self.account(who), today, c.model, c.amount, c, who) for c in held]
        of_the_day = [row for row in self.rows if (row.account, row.day) == (self.account(who), today)]
        assert sum(row.counts for row in of_the_day) <= budget

    def one(self, choose: Any) -> Row | None:
        """A charge of a call under way."""
        rows = [row for row in self.rows if row.cost is None and not row.generation and row.owner >= 0]
        return choose.choice(rows) if rows else None

    @rule(choose=ROWS, part=st.sampled_from([Decimal(0), Decimal("0.3"), Decimal(1), Decimal(2)]))
    def settle(self, choose: Any, part: Decimal) -> None:
        if row := self.one(choose):
            row.cost = (row.amount * part).quantize(Decimal("1e-18"), ROUND_CEILING)
            self.run(self.ledgers[row.owner].spending.settle(row.charge, row.cost))

    @rule(choose=ROWS)
    def release(self, choose: Any) -> None:
        if row := self.one(choose):
            self.rows.remove(row)
            self.run(self.ledgers[row.owner].spending.release([row.charge]))

    @rule(choose=ROWS, part=st.sampled_from([None, Decimal(0), Decimal("0.5"), Decimal(3)]))
    def leave_open(self, choose: Any, part: Decimal | None) -> None:
        if row := self.one(choose):
            row.generation = f"gen-{next(self.numbers)}"
            if part is not None:
                self.told[row.generation] = (row.amount * part).quantize(Decimal("1e-18"), ROUND_CEILING)
            self.run(self.ledgers[row.owner].spending.leave_open(row.charge, row.generation))

    @rule(who=WHO)
    def learn(self, who: int) -> None:
        self.run(self.ledgers[who].spending.learn())

    @rule(who=WHO)
    def close(self, who: int) -> None:
        self.closures.append(reason := f"reason {next(self.numbers)}")
        self.run(self.ledgers[who].spending.close(reason))

    @rule(who=WHO)
    def look(self, who: int) -> None:
        self.seen = self.run(self.ledgers[who].spending.closures())

    @rule(who=WHO)
    def acknowledge(self, who: int) -> None:
        self.run(self.ledgers[who].spending.acknowledge(self.seen, []))
        seen = {closure.reason for closure in self.seen}
        self.closures = [reason for reason in self.closures if not any(reason in text for text in seen)]

    @precondition(lambda self: len(self.named) < 2)
    @rule(who=WHO)
    def name(self, who: int) -> None:
        """OpenRouter says whose the key is."""
        self.run(self.ledgers[who].read_key())
        for row in self.rows:
            row.account = "user" if row.account == self.key(who) else row.account
        self.named.add(self.key(who))

    @rule(who=WHO)
    def restart(self, who: int) -> None:
        """What a process held that is gone stays held; nobody is left to settle it."""
        self.run(self.ledgers[who].aclose())
        for row in self.rows:
            row.owner = -1 if row.owner == who else row.owner
        self.ledgers[who] = self.start(who)

    @invariant()
    def nothing_is_lost(self) -> None:
        for who, ledger in enumerate(self.ledgers):
            self.check_spent(who, self.run(ledger.spending.spent()))
        closures = self.run(self.ledgers[0].spending.closures())
        assert len(closures) == len(self.closures)
        assert all(reason in closure.reason for reason, closure in zip(self.closures, closures, strict=True))


TestMoney = Money.TestCase
TestMoney.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
