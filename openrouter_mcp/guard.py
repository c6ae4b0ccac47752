"""The only issuer of a Permit: the checked, priced, counted, final request. Four layers, each enough by itself; the
first two, the grammar and the price, are in `vetting`.

3. The wire: a body built field by field, which tells OpenRouter itself to refuse whoever is dearer than was reserved.
4. Afterwards (`audit`): what should have been free and was not, or cost more than was reserved, closes the guard for
   every process until a person has seen it.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from decimal import Decimal

import anyio.lowlevel

from openrouter_mcp import audit
from openrouter_mcp.audit import End
from openrouter_mcp.budget import Budget
from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.catalog import Catalog
from openrouter_mcp.chat import ChatRequest, chat_body
from openrouter_mcp.errors import Outcome
from openrouter_mcp.ledger.allowance import Ledger
from openrouter_mcp.ledger.book import Charge, Spent
from openrouter_mcp.ledger.slots import Slot
from openrouter_mcp.policy import Policy
from openrouter_mcp.purse import Purse, Vetted, in_words
from openrouter_mcp.records import FREE_SUFFIX, Model
from openrouter_mcp.refusals import Declined, GuardClosed, OverBudget
from openrouter_mcp.text import usd
from openrouter_mcp.vetting import vet


@dataclass
class Held:
    """What is reserved for one request: a `slot` of the free allowance if it is free, a `charge` if it can cost."""

    purse: Purse
    slot: Slot | None = None
    charge: Charge | None = None

    @property
    def as_purse(self) -> Purse:
        """What the request may cost that this is held for: what was agreed and reserved, and not a cent more."""
        return replace(self.purse, limit=self.charge.amount, held=Decimal(0)) if self.charge else self.purse

    def serves(self, vetted: Vetted) -> bool:
        """Whether this is what `vetted` needs."""
        return vetted.needs_slot == (self.slot is not None) and bool(vetted.worst) == (self.charge is not None)


@dataclass
class Permit:
    """One request that may be sent, once, when its slot has come. Nothing can be added to its body."""

    models: tuple[str, ...]
    vetted: Vetted
    held: Held
    _body: bytes = field(repr=False)
    spent: bool = False

    @property
    def max_tokens(self) -> int:
        """The output limit sent."""
        return self.vetted.request.max_tokens

    def spend(self) -> bytes:
        """The body, for the one send this permit is good for.

        Raises:
            RuntimeError: on a second use; every attempt needs a permit of its own.
        """
        if self.spent:
            raise RuntimeError("a permit is good for one request")
        self.spent = True
        return self._body


class Guard:
    """Checks by `catalog` and `policy`, reserves in `ledger`, permits, and settles."""

    def __init__(self, catalog: Catalog, ledger: Ledger, policy: Policy) -> None:
        self.policy = policy
        self._catalog = catalog
        self._ledger = ledger

    def purse(self, max_cost: Decimal | None = None, *, agreed: Decimal = Decimal(0), caller: Caller = NOBODY) -> Purse:
        """What one call of the `caller` may cost: the least of the day's budget, theirs, a call's, and its own
        `max_cost` (USD). `agreed` is what the person said yes to, where they want to be asked."""
        policy = self.policy
        limit, name = policy.call_budget, f"this server's budget for a call is {usd(policy.call_budget)}"
        if not policy.daily_budget:
            limit, name = policy.daily_budget, "this server's budget is $0 (free models only)"
        if caller.daily_budget is not None and caller.daily_budget < limit:
            limit, name = (
                caller.daily_budget,
                f"the own budget of {caller.name} for a day is {usd(caller.daily_budget)}",
            )
            name += "" if limit else " (free models only)"
        if max_cost is not None and max_cost < limit:
            limit, name = max_cost, f"this call's max_cost_usd is {usd(max_cost)}"
        unasked = None if policy.confirm_above is None else max(policy.confirm_above, agreed)
        return Purse(limit, name, unasked, caller=caller)

    def nothing(self, caller: Caller = NOBODY) -> Purse:
        """For a call that names no model: money is spent on what was named, and on nothing else."""
        purse = self.purse(Decimal(0), caller=caller)
        return replace(purse, name="a call that names no model is free") if self.policy.daily_budget else purse

    def default_model(self, max_cost: Decimal | None, caller: Caller) -> str:
        """The user's own choice where none is named, if the caller's call for `max_cost` can be for it; else empty:
        ours."""
        model = self.policy.default_model
        return model if self.purse(max_cost, caller=caller).limit or model.endswith(FREE_SUFFIX) else ""

    def admitted(self, models: Iterable[Model]) -> list[Model]:
        """Those of `models` that the user's lists let anybody ask."""
        return [model for model in models if not self.policy.restricts or self.policy.admits(model.id)]

    async def require_prices(self) -> None:
        """Raise CannotVerifyPrice or Network where the catalogue cannot be read."""
        await self._catalog.trusted()

    async def vet(self, request: ChatRequest, purse: Purse) -> Vetted:
        """Check and price `request` without reserving or sending anything, its output limit one that both `purse` and
        what is left of the day bear.

        Raises:
            OpenRouterMCPError: as `vetting.vet` does.
        """
        if purse.limit:
            today = await self.budget(purse.caller)
            if Decimal(0) < today.left < purse.left:
                purse = replace(purse, limit=purse.held + today.left, name=today.name)
        return await vet(request, self._catalog, self.policy, purse, self._ledger.seen)

    async def permit(
        self,
        request: ChatRequest,
        purse: Purse,
        *,
        time_left: Callable[[], float],
        held: Held | None = None,
        spare: int = 0,
    ) -> Permit:
        """Check the final `request`, reserve for it, and permit it. `held` is what was reserved for it before, if
        anything; else a slot is taken that is at most `time_left()` seconds away and leaves `spare` of the minute's
        requests to others.

        Raises:
            OpenRouterMCPError: as `vet` and `reserve` do.
        """
        async with AsyncExitStack() as unless_permitted:
            if held:
                unless_permitted.push_async_callback(self.give_back, held)
            if held and held.charge:
                vetted = await vet(request, self._catalog, self.policy, held.as_purse, self._ledger.seen)
            else:
                vetted = await self.vet(request, purse)
            if held and not held.serves(vetted):  # the catalogue has changed since
                await self.give_back(held)
                held = None
            if held is None:
                (held,) = await self.reserve([vetted], purse, longest_wait=time_left(), spare=spare)
            unless_permitted.pop_all()
        final = vetted.request
        body = chat_body(final, max_price=vetted.prices.max_price(), privacy=self.policy.privacy.floor)
        return Permit((final.model, *final.fallbacks), vetted, held, body)

    # --- reserving ----------------------------------------------------------------------------------------------------

    async def reserve(
        self, vetted: Sequence[Vetted], purse: Purse, *, longest_wait: float, spare: int = 0, batch: str = ""
    ) -> list[Held]:
        """Reserve for all of `vetted` or for none: a slot for each that is free, the worst case for each that is not
        (promised to a `batch`, if it is for one, until that draws it).

        Raises:
            GuardClosed, OverBudget, Declined, CannotReserve: when the money is not there.
            MinuteQuota, DailyQuota: when a slot would come too late.
        """
        await self.require_open()
        charges = await self._hold([each for each in vetted if each.worst], purse, batch)
        held = [Held(purse, charge=charges.pop(0) if each.worst else None) for each in vetted]
        async with AsyncExitStack() as unless_reserved:
            for each in held:
                unless_reserved.push_async_callback(self.give_back, each)
            if any(each.charge for each in held):
                await self.require_open()  # again: holding may have taught what an earlier call cost
            counted = [each for each, one in zip(held, vetted, strict=True) if one.needs_slot]
            if counted:
                slots = await self._ledger.reserve(
                    len(counted), longest_wait=longest_wait, spare=spare, caller=purse.caller
                )
                for each, slot in zip(counted, slots, strict=True):
                    each.slot = slot
            await anyio.lowlevel.checkpoint_if_cancelled()  # while the book was busy
            unless_reserved.pop_all()
        return held

    async def _hold(self, priced: Sequence[Vetted], purse: Purse, batch: str) -> list[Charge]:
        if not priced:
            return []
        worst = sum((each.worst for each in priced), Decimal(0))
        what = in_words(priced)
        if worst > purse.left:
            raise OverBudget(
                f"{what}; {purse.name}, of which {usd(purse.left)} is left. Nothing was sent. Ask for less."
            )
        if purse.agreed is not None and purse.held + worst > purse.agreed:
            raise Declined(f"{what}; the person is to be asked first above {usd(purse.agreed)}. Nothing was sent.")
        purse.held += worst  # before anything is awaited, so that no two requests of a call pass its limit together
        async with AsyncExitStack() as unless_held:
            unless_held.callback(purse.take_back, worst)
            await self._ledger.refresh()
            amounts = [(each.request.model, each.worst) for each in priced]
            charges = await self._ledger.spending.hold(
                amounts, self.policy.daily_budget, batch=batch, caller=purse.caller
            )
            if isinstance(charges, Spent):
                raise (await self.budget(purse.caller)).over(what)
            unless_held.pop_all()
        return charges

    async def require_left(self, priced: Sequence[Vetted], caller: Caller = NOBODY) -> None:
        """Raise OverBudget where the day's budget, or the caller's, does not bear the worst case of `priced`."""
        await self._ledger.refresh()
        await self._ledger.spending.learn()
        today = await self.budget(caller)
        if sum((each.worst for each in priced), Decimal(0)) > today.left:
            raise today.over(in_words(priced))

    async def give_back(self, held: Held) -> None:
        """What was never sent costs and counts nothing."""
        slot, charge, held.slot, held.charge = held.slot, held.charge, None, None
        if charge:
            held.purse.take_back(charge.amount)
            await self._ledger.spending.release([charge])
        if slot:
            await self._ledger.give_back([slot])

    async def budget(self, caller: Caller = NOBODY) -> Budget:
        """How the day's budget stands, or the caller's own where less is left of that."""
        spending, call = self._ledger.spending, self.policy.call_budget
        closures = await spending.closures()
        all_together = Budget(self.policy.daily_budget, call, await spending.spent(), closures, spending.is_known)
        if caller.daily_budget is None:
            return all_together
        spent, daily = await spending.spent(caller.name), min(caller.daily_budget, all_together.daily)
        own = Budget(daily, call, spent, closures, spending.is_known)
        return min(all_together, own, key=lambda budget: budget.left)

    # --- afterwards ---------------------------------------------------------------------------------------------------

    async def require_open(self) -> None:
        """Raise GuardClosed where something cost what it should not have."""
        if closures := await self._ledger.spending.closures(for_sure=True):
            raise GuardClosed(closures[0].reason)

    async def settle(self, permit: Permit, end: End) -> str:
        """Count the request and book what it cost, now that it has ended. Returns the warning that is to stand before
        the answer, if any."""
        ran = None if end.begun else end.outcome  # what ran may cost, however it ended
        if not permit.spent or ran in (Outcome.NEVER_SENT, Outcome.BAD_TLS):
            await self.give_back(permit.held)
            return ""
        vetted, charge, cost, known = permit.vetted, permit.held.charge, end.usage.cost, self._catalog.known()
        ended = audit.counted(vetted, end, known)
        if cost is None and ran not in (None, Outcome.LOST, Outcome.BROKE):
            cost = Decimal(0)  # refused before anything ran
        if charge is None:
            await self._ledger.ended(ended, permit.held.slot)
        elif cost is None:
            await self._ledger.spending.leave_open(charge, end.generation, ended.without_cost)
        else:
            permit.held.purse.take_back(charge.amount - cost)
            await self._ledger.spending.settle(charge, cost, ended.without_cost)
            permit.held.charge = None
        wrong = audit.overcharged(vetted, end.usage) or audit.outsider(vetted, end.served, known)
        if wrong:
            await self._ledger.spending.close(f"{wrong} (generation {end.generation or 'unknown'})")
            return f"{wrong}. The guard is closed: nothing more is sent until the user has seen this. Tell the user."
        return audit.unplaced(vetted, end.served, known)
