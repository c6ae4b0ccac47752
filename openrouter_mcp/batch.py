"""Batches: one model, many prompts. Begun, found by their ids, gone on with by whichever server is next at work."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from decimal import Decimal

import anyio

from openrouter_mcp.answers import Answers
from openrouter_mcp.archive.entry import KEPT_S
from openrouter_mcp.asking import AGAIN, SPARE, Asking, Parts
from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.chat import ChatRequest
from openrouter_mcp.compare import vet_all
from openrouter_mcp.errors import DailyQuota, OpenRouterMCPError, TooLarge
from openrouter_mcp.guard import Held
from openrouter_mcp.plans import Kept, Plan, State
from openrouter_mcp.pricing import Prices
from openrouter_mcp.purse import Purse, Vetted
from openrouter_mcp.refusals import (
    BooksAway,
    CannotReserve,
    Declined,
    GuardClosed,
    NoBound,
    NotAllowed,
    NotFree,
    OverBudget,
)
from openrouter_mcp.text import encodable
from openrouter_mcp.transcript import Answer, failed, new_id
from openrouter_mcp.vetting import MAX_PROMPT_BYTES, check_prompt
from openrouter_mcp.writing import log_fault

PREFIX = "batch-"
_MAX_BYTES = 4 * MAX_PROMPT_BYTES  # of all prompts together
logger = logging.getLogger(__name__)


# What this server's settings, not the batch, stand in the way of: another server may do.
_NOT_HERE = (NotFree, NotAllowed, NoBound, OverBudget, Declined, CannotReserve, GuardClosed)
_AGAIN = {failure.code for failure in AGAIN}


class Batches:
    """Begins batches by `parts`, and goes on with those that others left. What was asked already is in `answers`."""

    def __init__(self, answers: Answers, parts: Parts) -> None:
        self._answers = answers
        self._parts = parts
        self.asked: dict[str, Asking] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._one_look = anyio.Lock()
        self._looks: dict[str, tuple[anyio.CancelScope, asyncio.Task[None]]] = {}  # by caller
        self.leaving = False

    def leave(self) -> None:
        """The server ends: leave what is under way to the next one. A cancel that comes now is not the client's."""
        self.leaving = True
        for asking in self.asked.values():
            asking.leave()

    async def aclose(self) -> None:
        """Leave what is under way, and let it end."""
        looks = [*self._looks.values()]
        for scope, _ in looks:
            scope.cancel()
        if looks:
            await asyncio.wait([task for _, task in looks])
        self.leave()
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    async def wait(self, id_: str) -> None:
        """Until nothing more of it is asked here."""
        if task := self._tasks.get(id_):
            await asyncio.wait([task])

    async def stop(self, id_: str) -> None:
        """Nothing more is asked of the batch, here or elsewhere."""
        parts, asking = self._parts, self.asked.get(id_)
        await parts.keeping.tell(lambda archive: archive.settle(id_, State.STOPPED), asking.kept if asking else None)
        if asking:
            asking.stop()
            await self.wait(id_)
        elif await parts.ledger.promises.take(id_, parts.writing.process):
            await parts.ledger.promises.end(id_)

    # --- beginning ----------------------------------------------------------------------------------------------------

    async def begin(
        self,
        request: ChatRequest,
        prompts: Sequence[str],
        purse: Purse,
        *,
        max_cost: Decimal | None,
        agreed: Decimal,
        caller: Caller,
    ) -> str:
        """Begin to ask `prompts` as `request` is, each once, all for what `purse` may spend. The id of the batch.

        Raises:
            TooLarge: when the prompts are too much together.
            DailyQuota: when the day has no room for them; says how many fit.
            OpenRouterMCPError: when none of them may be sent; as `Guard.vet` and `Guard.reserve` do.
        """
        texts = tuple(map(encodable, prompts))
        if (size := sum(len(text.encode()) for text in texts)) > _MAX_BYTES:
            raise TooLarge(f"The prompts have {size} bytes together; the limit is {_MAX_BYTES}. Send fewer at a time.")
        parts = self._parts
        plan = Plan(f"{PREFIX}{new_id()}", "", caller.name, parts.wall(), request, texts, max_cost, agreed)
        repeated = [(place, await self._answers.repeated(plan.question(place), caller.name)) for place in plan.places()]
        kept = Kept(plan, State.OPEN, {place: draft.answer for place, draft in repeated if draft})
        vetted, refused = await self._vet(kept, purse)
        if refused and not vetted and not kept.rows:
            raise next(iter(refused.values()))
        await self._promise(plan, sum(one.needs_slot for one in vetted.values()), caller)
        async with AsyncExitStack() as unless_begun:
            unless_begun.push_async_callback(self._forget, plan)
            await parts.ledger.promises.take(plan.id, parts.writing.process)  # first: it frees what was held before
            held = await self._hold(plan, vetted, purse)
            owner = (await parts.ledger.owners())[0]  # by now OpenRouter has said whose the key is
            kept = replace(kept, plan=replace(plan, owner=owner))
            async with self._one_look:  # or whoever looks finds it before it is known to be asked here
                await parts.keeping.put(lambda archive: archive.save_plan(kept.plan))
                await self._note(kept, refused)
                self._go(kept, purse, vetted, held)
            unless_begun.pop_all()
        return plan.id

    async def _vet(self, kept: Kept, purse: Purse) -> tuple[dict[int, Vetted], dict[int, OpenRouterMCPError]]:
        """What is still to be asked, as far as it may be, and why the others may not."""
        places = [place for place in kept.plan.places() if place not in kept.settled]
        questions = [kept.plan.question(place) for place in places]
        if kept.plan.request.model:
            said = await vet_all(self._parts.guard, questions, purse)
        else:
            said = [_left_open(question) for question in questions]
        each = dict(zip(places, said, strict=True))
        vetted = {place: one for place, one in each.items() if isinstance(one, Vetted)}
        return vetted, {place: one for place, one in each.items() if isinstance(one, OpenRouterMCPError)}

    async def _promise(self, plan: Plan, requests: int, caller: Caller) -> None:
        ledger = self._parts.ledger
        await ledger.refresh()
        if refusal := await ledger.promises.promise(plan.id, requests, spare=SPARE, caller=caller):
            fits, who = refusal.fits, refusal.whose
            why = (
                f"{fits} fit in what {who.name}'s own share of the day has left"
                if who.has_share
                else f"{fits} fit today, since {SPARE} are left to single questions"
            )
            refused = DailyQuota(
                f"This needs {requests} free requests, one a prompt; {why} and some may be promised to other batches. "
                "Nothing was sent. "
                + (f"Send {fits} or fewer of the prompts now. " if fits else "")
                + "The count restarts at 00:00 UTC."
            )
            refused.allowance = str(await ledger.standing())
            raise refused

    async def _forget(self, plan: Plan) -> None:
        """Nothing of it was asked."""
        with anyio.CancelScope(shield=True):
            await self._parts.keeping.tell(lambda archive: archive.settle(plan.id, State.STOPPED))
            await self._parts.ledger.promises.end(plan.id)

    async def _hold(self, plan: Plan, vetted: dict[int, Vetted], purse: Purse) -> dict[int, Held]:
        """The worst case of all that cost money, before the first of them is sent."""
        priced = {place: one for place, one in vetted.items() if one.worst}
        held = await self._parts.guard.reserve([*priced.values()], purse, longest_wait=0.0, batch=plan.id)
        return dict(zip(priced, held, strict=True))

    async def _note(self, kept: Kept, refused: dict[int, OpenRouterMCPError]) -> None:
        """Write down what need not be asked, and what may not."""
        models = (kept.plan.request.model,) if kept.plan.request.model else ()
        kept.rows.update({place: failed(Answer(models=models), one).answer for place, one in refused.items()})
        id_, rows = kept.plan.id, dict(kept.rows)
        await self._parts.keeping.tell(lambda archive: archive.note(id_, rows))

    def _go(self, kept: Kept, purse: Purse, vetted: dict[int, Vetted], held: dict[int, Held]) -> None:
        id_ = kept.plan.id
        asking = Asking(kept, purse, vetted, held, self._parts)

        async def run() -> None:
            try:
                await asking.run()
            finally:
                del self.asked[id_], self._tasks[id_]

        self.asked[id_] = asking
        self._tasks[id_] = asyncio.create_task(run())
        self._tasks[id_].add_done_callback(log_fault)

    # --- going on -----------------------------------------------------------------------------------------------------

    def wake(self, caller: Caller = NOBODY) -> None:
        """A tool was called: see in the background whether a batch of `caller`'s was left."""

        if caller.name in self._looks:
            return
        scope = anyio.CancelScope()

        async def look() -> None:
            try:
                with scope, suppress(BooksAway):  # it is looked again at the next call
                    await self.go_on(caller)
            finally:
                del self._looks[caller.name]

        task = asyncio.create_task(look())
        self._looks[caller.name] = (scope, task)
        task.add_done_callback(log_fault)

    async def go_on(self, caller: Caller = NOBODY) -> None:
        """Go on with the batches of `caller` that no process works on."""
        parts = self._parts
        async with self._one_look:
            if (await parts.ledger.standing()).warning:  # nobody knows from this book who works on what
                return
            owners, since = await parts.ledger.owners(), parts.wall() - KEPT_S
            left = await parts.keeping.each(lambda archive: archive.left_open(owners, caller.name, since))
            for id_ in {id_ for ids in left for id_ in ids} - self.asked.keys():
                if await parts.ledger.promises.take(id_, parts.writing.process):
                    await self._adopt(id_, owners, caller)

    async def _adopt(self, id_: str, owners: Sequence[str], caller: Caller) -> None:
        promises, process = self._parts.ledger.promises, self._parts.writing.process
        found = await self._parts.keeping.each(lambda archive: archive.find_plan(id_, owners, caller.name))
        plan = next(filter(None, found), None)
        if plan is None:  # forgotten meanwhile, or nothing that this version can read
            await promises.leave(id_, process)
            return
        kept = await self._as_it_ended(plan, owners)
        purse = self._parts.guard.purse(kept.plan.max_cost, agreed=kept.plan.agreed, caller=caller)
        rows = [*(plan.rows | kept.rows).values()]  # those that nobody knows the end of may have cost what was held
        purse.held = sum((row.before + row.held if row.cost is None else row.cost for row in rows), Decimal(0))
        try:
            vetted, refused = await self._vet(kept, purse)
            if here := next((one for one in refused.values() if isinstance(one, _NOT_HERE)), None):
                raise here
            vetted, beyond = _within(vetted, purse)
            held = await self._hold(kept.plan, vetted, purse)
        except OpenRouterMCPError as failure:
            logger.info("Batch %s is left to another server: %s", id_, failure.code)
            await promises.leave(id_, process)
            return
        await self._note(kept, refused | beyond)
        self._go(kept, purse, vetted, held)

    async def _as_it_ended(self, kept: Kept, owners: Sequence[str]) -> Kept:
        """With what came of the answers under way when its process ended: those that were written count."""
        rows = dict(kept.settled)
        for place in kept.rows.keys() - rows.keys():
            entry = await self._parts.keeping.find(kept.rows[place].id, owners, kept.plan.caller)
            if entry and not entry.answer.running and not entry.answer.cancelled and entry.answer.code not in _AGAIN:
                rows[place] = entry.answer
        return replace(kept, rows=rows)


def _within(vetted: dict[int, Vetted], purse: Purse) -> tuple[dict[int, Vetted], dict[int, OpenRouterMCPError]]:
    """As many as `purse` bears together, and why not the others: an end of the server may have cost some of it."""
    borne, left = {}, purse.left
    for place, one in vetted.items():
        if one.worst <= left:
            borne[place], left = one, left - one.worst
    why = OverBudget(f"What is left of this batch's money does not bear it any more; {purse.name}. Nothing was sent.")
    return borne, dict.fromkeys(vetted.keys() - borne.keys(), why)


def _left_open(question: ChatRequest) -> Vetted | OpenRouterMCPError:
    """A question for whichever free model will be best."""
    try:
        check_prompt(question)
    except OpenRouterMCPError as failure:
        return failure
    return Vetted(question, (), Prices(), Decimal(0), Decimal(0))
