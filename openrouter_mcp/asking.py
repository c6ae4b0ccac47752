"""One batch being asked: a few prompts at once, paced by the allowance, until all are answered or it has to stop."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TypeVar

import anyio
import anyio.lowlevel

from openrouter_mcp.errors import (
    BadKey,
    DailyQuota,
    FreeEnded,
    MinuteQuota,
    ModelBusy,
    NoCredit,
    NoKey,
    NoProvider,
    OpenRouterMCPError,
    Privacy,
)
from openrouter_mcp.guard import Guard, Held
from openrouter_mcp.keeping import Keeping
from openrouter_mcp.ledger.allowance import Ledger
from openrouter_mcp.plans import Kept, Plan, State
from openrouter_mcp.purse import Purse, Vetted
from openrouter_mcp.refusals import BooksAway, GuardClosed
from openrouter_mcp.transcript import Answer, failed
from openrouter_mcp.writing import Running, Writing, ended

SPARE = 5  # of a minute's requests and of the day's, left to single questions
_AT_ONCE = 5
AGAIN = (MinuteQuota, ModelBusy)
_TRIES = 3  # for a prompt that meets one of these
_IN_A_ROW = 10  # failures without an answer between them, and there is no point in going on
_SOON_S = 1.0  # a slot further away is not taken: somebody's single question may need it
_LONGEST_PAUSE_S = 30.0
_AWAY_S = 1.0  # between two looks whether the books are back
_MINUTE_S = 60.0
# Every other prompt would meet these too; and those, if it is for the same model.
_FOR_ALL = (BadKey, DailyQuota, GuardClosed, NoCredit, NoKey)
_FOR_THE_MODEL = (FreeEnded, NoProvider, Privacy)


T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """What asking a batch takes. `clock` counts seconds, `wall` gives epoch seconds, `sleep` waits some."""

    writing: Writing
    keeping: Keeping
    ledger: Ledger
    guard: Guard
    clock: Callable[[], float]
    wall: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]


class Asking:
    """`kept`, asked on for what `purse` may spend: the prompts that `vetted` names, by their places. `held` is the
    money for those that cost some."""

    def __init__(
        self, kept: Kept, purse: Purse, vetted: dict[int, Vetted], held: dict[int, Held], parts: Parts
    ) -> None:
        self.plan: Plan = kept.plan
        self.rows = dict(kept.settled)
        self.under_way: dict[int, Running] = {}
        self.stopped = self.left = False
        self._answered_before = len(self.rows)
        self._started = parts.clock()
        self._purse = purse
        self._vetted = vetted
        self._held = held
        self._todo = deque(vetted)
        self._tries = dict.fromkeys(vetted, 0)
        self._failures = 0  # in a row
        self._over: OpenRouterMCPError | None = None
        self._one_turn = anyio.Lock()
        self._scope = anyio.CancelScope()
        self._parts = parts

    async def run(self) -> None:
        """Until every prompt has its answer or its reason, or until it is stopped, or left to another process."""
        finished = False
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._keep_lease)
                with self._scope:
                    async with anyio.create_task_group() as workers:
                        for _ in range(_AT_ONCE):
                            workers.start_soon(self._work)
                    await self._give_up_the_rest()
                    finished = True
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._close(finished=finished)

    def stop(self) -> None:
        """Nothing more is to be asked."""
        self.stopped = True
        self._scope.cancel()

    def leave(self) -> None:
        """Another process is to go on."""
        self.left = True
        self._scope.cancel()

    @property
    def kept(self) -> Kept:
        """As far as it is."""
        return Kept(self.plan, State.OPEN, dict(self.rows))

    async def seconds_to_go(self) -> float:
        """About how long the rest takes: as long as it took so far, and as long as the allowance makes it wait."""
        done, rest = len(self.rows) - self._answered_before, len(self._rest())
        real = rest * (self._parts.clock() - self._started) / done if done else 0.0
        standing = await self._parts.ledger.standing()
        a_minute = max(1, standing.per_minute - SPARE)
        free = sum(self._vetted[place].needs_slot for place in self._todo)
        return max(real, _MINUTE_S * (free - max(0, a_minute - standing.use.minute)) / a_minute)

    def _rest(self) -> list[int]:
        return [place for place in self._vetted if place not in self.rows]

    # --- the work -----------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while self._todo and not self._over:
            place = self._todo.popleft()
            try:
                answer, failure = await self._ask(place, await self._turn(place))
            except OpenRouterMCPError as refused:  # no turn will come
                answer, failure = _not_asked(self.plan, refused), refused
            self._failures = self._failures + 1 if failure else 0
            self._tries[place] += 1
            if isinstance(failure, AGAIN) and self._tries[place] < _TRIES:
                self._todo.append(place)
            else:
                await self._settle(place, answer)
            if failure and self._is_for_all(failure):
                self._over = failure

    def _is_for_all(self, failure: OpenRouterMCPError) -> bool:
        named = bool(self.plan.request.model) and isinstance(failure, _FOR_THE_MODEL)
        floor = bool(self._parts.guard.policy.privacy.floor) and isinstance(failure, Privacy)  # of every model
        return isinstance(failure, _FOR_ALL) or named or floor or self._failures >= _IN_A_ROW

    async def _turn(self, place: int) -> Held | None:
        """Once the prompt may be asked: a free request for it; none for one that costs, whose money is held already."""
        async with self._one_turn:
            while pause := await self._cooldown():
                await self._parts.sleep(min(pause, _LONGEST_PAUSE_S))
            await self._require_lease()
            await self._surely(self._parts.guard.require_open)
            held = None
            while held is None and self._vetted[place].needs_slot and not self._over:
                held = await self._slot(self._vetted[place])
            if self._over:  # meanwhile
                if held:
                    await self._parts.guard.give_back(held)
                raise self._over
            return held

    async def _slot(self, vetted: Vetted) -> Held | None:
        """A free request to be sent now; None, after a while, when there was none."""
        try:
            (held,) = await self._parts.guard.reserve([vetted], self._purse, longest_wait=_SOON_S, spare=SPARE)
        except MinuteQuota as failure:
            await self._parts.sleep(min(failure.hint_s or _LONGEST_PAUSE_S, _LONGEST_PAUSE_S))
            return None
        except BooksAway:
            await self._parts.sleep(_AWAY_S)
            return None
        return held

    async def _cooldown(self) -> float:
        """For how many seconds the model is better left alone."""
        standing = await self._parts.ledger.standing()
        cooldown = standing.cooldowns.get(self.plan.request.model)
        return cooldown.until - standing.now if cooldown else 0.0

    async def _ask(self, place: int, held: Held | None) -> tuple[Answer, OpenRouterMCPError | None]:
        if held is None and (held := self._held.get(place)) and held.charge:
            charge = held.charge
            drawn = await self._surely(lambda: self._parts.ledger.promises.draw(charge))
            if not drawn:
                await self._lose()
            del self._held[place]
        running = self._parts.writing.start(
            self.plan.question(place), self._purse, held=held, spare=SPARE, caller=self.plan.caller, batch=self.plan.id
        )
        self.under_way[place] = running
        most = held.charge.amount if held and held.charge else Decimal(0)
        # So that whoever goes on finds what it comes to, and knows what it may have cost.
        await self._note(place, replace(running.draft.answer, held=most))
        await ended([running])
        del self.under_way[place]
        return _as_row(running), running.failure

    async def _give_up_the_rest(self) -> None:
        """What all would meet is the reason for those that were not asked."""
        if self._over:
            for place in self._rest():
                await self._settle(place, _not_asked(self.plan, self._over))

    # --- the books ----------------------------------------------------------------------------------------------------

    async def _settle(self, place: int, answer: Answer) -> None:
        self.rows[place] = answer
        await self._note(place, answer)

    async def _note(self, place: int, answer: Answer) -> None:
        await self._parts.keeping.tell(lambda archive: archive.note(self.plan.id, {place: answer}))

    async def _require_lease(self) -> None:
        requests = sum(self._vetted[place].needs_slot for place in self._rest())
        process = self._parts.writing.process
        if not await self._surely(lambda: self._parts.ledger.promises.renew(self.plan.id, process, requests)):
            await self._lose()

    async def _surely(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What the books say, once they can be asked."""
        while True:
            with suppress(BooksAway), anyio.CancelScope(shield=True):
                return await ask()
            await self._parts.sleep(_AWAY_S)

    async def _lose(self) -> None:
        """Another process has the batch."""
        self.leave()
        await anyio.lowlevel.checkpoint()

    async def _keep_lease(self) -> None:
        while True:
            await anyio.sleep(self._parts.writing.waits.heartbeat)
            stopped: Sequence[bool] = await self._parts.keeping.each(lambda archive: archive.is_stopped(self.plan.id))
            if any(stopped):
                self.stop()
            await self._require_lease()

    async def _close(self, *, finished: bool) -> None:
        await self._parts.writing.stop(*self.under_way.values(), because="the batch was stopped")
        for held in self._held.values():
            await self._parts.guard.give_back(held)
        promises, process = self._parts.ledger.promises, self._parts.writing.process
        with suppress(BooksAway):  # then another cannot have it either
            if finished and not await promises.renew(self.plan.id, process, 0):  # it says when it is done
                return
        if finished:
            await self._parts.keeping.tell(lambda archive: archive.settle(self.plan.id, State.DONE), self.kept)
        if finished or self.stopped:
            for place, running in self.under_way.items():
                await self._settle(place, _as_row(running))
        if finished or self.stopped or (self.left and not self._parts.keeping.lasts):
            await promises.end(self.plan.id)
        elif self.left:
            await promises.leave(self.plan.id, process)


def _as_row(running: Running) -> Answer:
    """What came of it; nothing is kept by the id of what was never sent."""
    answer = running.draft.answer
    return answer if running.draft.sent.is_set() else replace(answer, id="")


def _not_asked(plan: Plan, failure: OpenRouterMCPError) -> Answer:
    """Why nothing was sent for a prompt."""
    answer = failed(Answer(models=(plan.request.model,) if plan.request.model else ()), failure).answer
    answer.attempts = 0  # those of `failure` were another prompt's
    return answer
