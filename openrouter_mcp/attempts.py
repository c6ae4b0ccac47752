"""One question: the attempts at an answer, until one has text or there is no point in another."""

import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Container, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal

import anyio

from openrouter_mcp import choice, retry
from openrouter_mcp.audit import End
from openrouter_mcp.catalog import Catalog
from openrouter_mcp.chat import ChatRequest
from openrouter_mcp.client import OpenRouter
from openrouter_mcp.errors import (
    CannotVerifyPrice,
    EmptyAnswer,
    FreeEnded,
    ModelBusy,
    NoProvider,
    OpenRouterMCPError,
    Outcome,
    Privacy,
    Timeout,
    Upstream,
)
from openrouter_mcp.guard import Guard, Held, Permit
from openrouter_mcp.ledger.allowance import Ledger
from openrouter_mcp.ledger.standing import Standing
from openrouter_mcp.purse import Purse
from openrouter_mcp.records import FREE_ROUTER, Model
from openrouter_mcp.refusals import MayHaveBeenBilled
from openrouter_mcp.text import usd
from openrouter_mcp.transcript import Draft, ended_early, gather, without_text

LONGEST_WAIT_S = 55.0  # for the allowance, a backoff or another try, all together; then the client may hang up
_CHOSEN = 3  # models sent in one request when the choice is ours: OpenRouter takes no more
_FOR_A_SLOT = "for the free allowance"
# Failures of one model: another may do.
_ABOUT_THE_MODEL = (ModelBusy, Upstream, EmptyAnswer, NoProvider, Privacy, FreeEnded, Timeout)


class Attempts:
    """Asks, and tries again where `retry.decide` says so. `jitter` gives [0, 1), `sleep` waits seconds."""

    def __init__(
        self,
        client: OpenRouter,
        catalog: Catalog,
        ledger: Ledger,
        guard: Guard,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._catalog = catalog
        self._ledger = ledger
        self._guard = guard
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._budget = retry.RetryBudget()

    async def ask(
        self, request: ChatRequest, purse: Purse, draft: Draft, *, held: Held | None = None, spare: int = 0
    ) -> None:
        """Ask `request.model` for what `purse` may spend, with what is `held` if it was reserved before, and fill in
        `draft` as it comes. When the model is left open, or is the free router, free models of our choice; a model
        that was named is never replaced. Further tries leave `spare` of the minute to others.

        Raises:
            OpenRouterMCPError: when no text came; `attempts` says how many requests were tried.
        """
        ours = request.model in ("", FREE_ROUTER)
        if ours:
            purse = self._guard.nothing(purse.caller)
        gives_up_at = self._clock() + LONGEST_WAIT_S
        call = _Call(request, purse, draft, held, spare, ours=ours, choose=ours, gives_up_at=gives_up_at)
        try:
            while (wait_s := await self._try(call)) is not None:
                await self._pause(call, wait_s, "before another try")
        finally:
            if call.held:  # a cancel came before it was used
                await self._guard.give_back(call.held)

    async def _try(self, call: "_Call") -> float | None:
        """One attempt; the seconds to wait before the next, None when it was the last."""
        try:
            if call.choose:
                await self._choose(call)
            await self._attempt(call)
        except OpenRouterMCPError as failure:
            return await self._before_next_try(call, failure)
        await self._told(call)
        return None

    # --- one attempt ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _turn(self, call: "_Call") -> AsyncGenerator[Permit]:
        """A permit whose moment has come. Afterwards it is settled, or given back if it was not sent."""
        held, call.held = call.held, None
        permit = await self._guard.permit(
            call.request, call.purse, held=held, time_left=lambda: call.gives_up_at - self._clock(), spare=call.spare
        )
        charge, answer = permit.held.charge, call.draft.answer
        call.outcome, call.draft.written_since, call.draft.charge = None, None, charge
        call.tries = replace(call.tries, free=charge is None)
        answer.begin(permit.models, charge.amount if charge else Decimal(0))
        try:
            await self._wait(permit.held, call)
            call.draft.sent.set()
            call.sent_at = self._clock()
            yield permit
        except OpenRouterMCPError as failure:
            call.outcome = outcome = failure.outcome
            failure.sent = permit.spent and outcome not in (Outcome.NEVER_SENT, Outcome.BAD_TLS)
            if failure.sent and outcome is Outcome.BROKE and charge:
                failure.text += f" It may have been billed: {usd(charge.amount)} stays reserved until OpenRouter tells."
            if failure.sent and outcome is Outcome.LOST and charge:
                raise MayHaveBeenBilled(failure, charge.amount, answer.generation_id) from failure
            raise
        finally:
            with anyio.CancelScope(shield=True):
                answer.warning = await self._guard.settle(permit, self._end(call))
                answer.held = permit.held.charge.amount if permit.held.charge else Decimal(0)

    def _end(self, call: "_Call") -> End:
        answer, usage, since = call.draft.answer, call.draft.answer.usage, call.draft.written_since
        if answer.thoughts + answer.words < 2 or (usage.reasoning_tokens and not answer.thoughts):
            since = None  # it came at once, or what it thought was not shown: when it began to write is not known
        return End(
            usage, answer.served, answer.generation_id, call.outcome, answer.begun,
            seconds=self._clock() - (call.sent_at if since is None else since), caller=call.draft.caller,
        )  # fmt: skip

    async def _wait(self, held: Held, call: "_Call") -> None:
        """Until the slot's moment has come; one that was missed is replaced."""
        if held.slot is None:
            return
        await self._pause(call, self._ledger.wait_for(held.slot), _FOR_A_SLOT)
        while await self._ledger.missed(held.slot):
            slot, held.slot = held.slot, None
            await self._ledger.give_back([slot])
            time_left = call.gives_up_at - self._clock()
            (held.slot,) = await self._ledger.reserve(
                longest_wait=time_left, spare=call.spare, caller=call.purse.caller
            )
            await self._pause(call, self._ledger.wait_for(held.slot), _FOR_A_SLOT)
        if held.slot.wait > 0:
            await self._guard.require_open()  # another process may have closed it meanwhile

    async def _pause(self, call: "_Call", seconds: float, why: str) -> None:
        if seconds > 0:
            call.draft.waits_for, call.draft.waits_until = why, self._clock() + seconds
        await self._sleep(seconds)
        call.draft.waits_for = ""

    async def _attempt(self, call: "_Call") -> None:
        """One request. Text that arrived is an answer, also when the stream broke after it."""
        answer, text = call.draft.answer, call.draft.text
        async with self._turn(call) as permit:
            try:
                async with aclosing(self._client.chat(permit)) as events:
                    await gather(
                        events, call.draft, clock=self._clock, show_reasoning=call.request.options.show_reasoning
                    )
            except OpenRouterMCPError as failure:
                if not text.has_words:
                    raise
                if not answer.finish_reason or answer.finish_reason == "error":
                    answer.problem, call.outcome = f"it broke off here: {failure.text}", Outcome.BROKE
            limit = f"{permit.max_tokens}"
            if permit.vetted.shortened:
                limit += ", all that its budget bears"
            elif permit.max_tokens < call.request.max_tokens:
                limit += ", all that this model writes"
            answer.settle_calls()
            if not (text.has_words or answer.calls or call.draft.images):
                raise without_text(answer, limit)
            answer.problem = answer.problem or ended_early(answer.finish_reason, limit)

    async def _before_next_try(self, call: "_Call", failure: OpenRouterMCPError) -> float:
        """Note what a failed attempt taught; the seconds to wait before the next.

        Raises:
            OpenRouterMCPError: the failure itself, explained, when there is none.
        """
        time_left = call.gives_up_at - self._clock()
        if call.held is not None:  # choosing failed before it was used
            await self._guard.give_back(call.held)
            call.held = None
        if failure.sent or failure.outcome is Outcome.NEVER_SENT:
            self._budget.failed()
            call.tries = call.tries.after(failure, time_left)
        if failure.sent:
            await self._ledger.failed([model for model in call.asked if model != FREE_ROUTER], failure)
        standing = await self._ledger.standing()
        others = self._free(
            call.request, self._guard.admitted(self._catalog.known()), {*call.asked, *call.tried, *standing.cooldowns}
        )
        call.tries = replace(
            call.tries, time_left=time_left, day_left=standing.share_left, may_switch=call.ours and bool(others)
        )
        decision = retry.decide(failure, call.tries, self._jitter()) if self._budget.allows else retry.STOP
        if not decision.again:
            # A second try that was never made explains nothing: what went wrong is the first one's failure.
            told = call.first_failure if call.first_failure and not failure.sent else failure
            told.model, told.attempts = call.request.model, call.tries.in_all + call.tries.unsent
            told.allowance = await self._left(call, standing)
            if isinstance(told, Privacy):
                told.alternatives = await self._complying(call)
            elif isinstance(told, _ABOUT_THE_MODEL):
                told.alternatives = others
            self._explain_privacy(told, call)
            raise told from None
        call.first_failure = call.first_failure or (failure if failure.sent else None)
        if decision.another:
            call.choose, call.tries = True, replace(call.tries, on_model=0)
        return decision.wait_s

    def _explain_privacy(self, told: OpenRouterMCPError, call: "_Call") -> None:
        """Say who demands it, where that is not the account."""
        floor, demands = self._guard.policy.privacy.floor, call.request.options.privacy.provider
        if not isinstance(told, Privacy) or not (floor or demands):
            return
        whose = "this server's user demands" if floor else "options.provider of this call demands"
        what = "to retain nothing" if floor.get("zdr") or (demands and demands.zdr) else "not to train on prompts"
        told.text = f"No provider of {' or '.join(call.asked)} promises what {whose}: {what}."

    async def _told(self, call: "_Call") -> None:
        self._budget.succeeded()
        answer = call.draft.answer
        answer.allowance = await self._left(call, await self._ledger.answered(answer.models, answer.model))
        answer.attempts = call.tries.in_all + call.tries.unsent + 1

    async def _left(self, call: "_Call", standing: Standing) -> str:
        """What is left today of that which the call uses up."""
        return str(standing if call.tries.free else await self._guard.budget(call.purse.caller))

    # --- our choice of models ---------------------------------------------------------------------------------------

    async def _choose(self, call: "_Call") -> None:
        """Ask the best free models not yet tried, of different families, none of them on cooldown."""
        try:
            known = self._guard.admitted((await self._catalog.trusted()).values())
        except CannotVerifyPrice:
            known = []  # the free router needs no entry
        cooling = (await self._ledger.standing()).cooldowns
        chosen = await self._ledger.claim(self._free(call.request, known, call.tried | set(cooling)))
        free = choice.free_ranked(known)
        if free and not any(choice.can(model, call.request) for model in free):
            raise NoProvider("No free model does what this needs (its files, options or schema), so nothing was sent.")
        first, *fallbacks = chosen or [FREE_ROUTER]
        call.request = replace(call.request, model=first, fallbacks=tuple(fallbacks))
        call.tried.update(call.asked)
        call.choose = False

    async def _complying(self, call: "_Call") -> list[str]:
        """Models that keep to any data policy: who retains nothing trains on nothing. Free ones, or priced ones where
        the call has money for them."""
        keeping = {endpoint.model_id for endpoint in await self._client.zero_retention()}
        known = [model for model in self._guard.admitted(self._catalog.known()) if model.id in keeping]
        free = self._free(call.request, known, call.tried)
        return free or (
            [model.id for model in choice.ranked(known, seen=self._ledger.seen)[:2]] if call.purse.limit else []
        )

    def _free(self, request: ChatRequest, known: Iterable[Model], avoid: Container[str]) -> list[str]:
        return [model.id for model in choice.free_for(request, known, avoid, self._ledger.seen)[:_CHOSEN]]


@dataclass
class _Call:
    """One call to `ask`, as far as it is. `ours`: the choice of models is; `choose`: and is to be made (again).
    `gives_up_at` is the moment, on the clock of `Attempts`, after which no further request is started; the last was at
    `sent_at`, and `outcome` is the failure it ended in."""

    request: ChatRequest
    purse: Purse
    draft: Draft
    held: Held | None
    spare: int
    ours: bool
    choose: bool
    gives_up_at: float
    sent_at: float = 0.0
    outcome: Outcome | None = None
    tries: retry.Tries = field(default_factory=retry.Tries)
    tried: set[str] = field(default_factory=set)
    first_failure: OpenRouterMCPError | None = None

    @property
    def asked(self) -> tuple[str, ...]:
        """Whom the next request is for, or the last was."""
        return (self.request.model, *self.request.fallbacks)
