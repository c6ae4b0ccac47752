"""Answers while they are written: started with an id, waited for, reported on, stopped. A client that hangs up loses
nothing: what it asked for goes on without it."""

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from weakref import WeakSet

import anyio

from openrouter_mcp import forms
from openrouter_mcp.archive.entry import Entry
from openrouter_mcp.attempts import Attempts
from openrouter_mcp.chat import ChatRequest, fingerprint
from openrouter_mcp.errors import OpenRouterMCPError, Timeout
from openrouter_mcp.guard import Held
from openrouter_mcp.keeping import Keeping
from openrouter_mcp.ledger.allowance import Ledger
from openrouter_mcp.purse import Purse
from openrouter_mcp.refusals import MayHaveBeenBilled
from openrouter_mcp.text import duration
from openrouter_mcp.transcript import Answer, Draft, failed, new_id, progress

logger = logging.getLogger(__name__)
_QUICK_S = 1.0
CANCELLED = "read_answer was called with cancel"


@dataclass(frozen=True)
class Waits:
    """How long things may take, in seconds: a tool for an answer, and with progress shown; a call, before a cancel
    means the client's time-out; an answer in all; between two words of progress; and between two signs of life."""

    plain: float = 55.0
    with_progress: float = 180.0
    cancel: float = 50.0
    answer: float = 600.0
    progress: float = 5.0
    heartbeat: float = 5.0
    poll: float = 1.0


@dataclass(frozen=True)
class Watch:
    """Whoever called a tool, and since when (on the clock of `Writing`): whether they want to be told of progress, and
    how: by a rising number and a line of words."""

    wanted: bool
    report: Callable[[float, str], Awaitable[None]]
    since: float


Prepare = Callable[[Answer], Awaitable[ChatRequest]]  # notes on the answer what else to know


@dataclass(eq=False)
class Running:
    """An answer that is written in this process, and what it is an answer to."""

    entry: Entry
    draft: Draft
    started: float
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    stopped_because: str = ""
    too_long: bool = False
    failure: OpenRouterMCPError | None = None
    saved: bool = False
    shown: bool = False  # its id, to whoever asked
    task: "asyncio.Task[None] | None" = None


class Writing:
    """Starts answers by `attempts` and keeps them as they come. `clock` counts seconds, `wall` gives epoch seconds."""

    def __init__(
        self,
        attempts: Attempts,
        keeping: Keeping,
        ledger: Ledger,
        waits: Waits,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.waits = waits
        self.process = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._attempts = attempts
        self._keeping = keeping
        self._ledger = ledger
        self._clock = clock
        self._wall = wall
        self._running: dict[str, Running] = {}
        self._waiting = WeakSet[anyio.CancelScope]()
        self._is_leaving = False

    async def aclose(self) -> None:
        """Stop whatever is still written, and keep what it came to."""
        await self.stop(*self._running.values(), because="the server was stopped")
        await self._keeping.aclose()

    def leave(self) -> None:
        """The server ends: whoever waits gets what there is."""
        self._is_leaving = True
        for patience in self._waiting:
            patience.cancel()

    def watch(self, report: Callable[[float, str], Awaitable[None]], *, wanted: bool) -> Watch:
        """For a tool that is called now."""
        return Watch(wanted, report, self._clock())

    def doing(self, draft: Draft) -> str:
        """What it is doing, in words."""
        return draft.doing(self._clock())

    def running(self, caller: str) -> dict[str, Running]:
        """What is being written for `caller`, by id."""
        return {id_: each for id_, each in self._running.items() if each.entry.caller == caller}

    async def stop(self, *running: Running, because: str = CANCELLED) -> None:
        """End these here, and keep what they came to."""
        for each in running:
            _stop(each, because)
        await ended(running)

    def start(
        self,
        request: ChatRequest,
        purse: Purse,
        *,
        held: Held | None = None,
        spare: int = 0,
        parent: str = "",
        caller: str = "",
        note: str = "",
        batch: str = "",
        prepare: Prepare | None = None,
    ) -> Running:
        """Begin to answer `request`, as `Attempts.ask` does, whoever waits for it or not. It continues `parent` if that
        is not empty, is a part of `batch` if that is not, and is for `caller` alone. `prepare` makes the final request,
        in its own time."""
        now = self._wall()
        answer = Answer(id=new_id(), models=(request.model,) if request.model else (), note=note)
        answer.results = request.options.tool_results or ()
        entry = Entry(
            answer, "", caller, parent, at=now, seen=now, process=self.process, system=request.system,
            prompt=request.said, batch=batch, question="" if prepare else fingerprint(request),
        )  # fmt: skip
        running = Running(entry, Draft(answer, caller=caller), self._clock())

        async def ask() -> None:
            final = request
            if prepare:
                final = await prepare(answer)
                running.started = self._clock()
                running.entry = replace(entry, system=final.system, prompt=final.said)
            with anyio.move_on_after(self.waits.answer) as longest:
                await forms.ask(self._attempts, final, purse, running.draft, held=held, spare=spare)
            running.too_long = longest.cancelled_caught

        self._running[answer.id] = running
        running.task = asyncio.create_task(self._run(running, ask))
        running.task.add_done_callback(log_fault)
        return running

    async def _run(self, running: Running, ask: Callable[[], Awaitable[None]]) -> None:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._keep_alive, running)
                group.start_soon(self._show_life, running.draft)
                with running.scope:
                    try:
                        await ask()
                    except OpenRouterMCPError as failure:
                        running.failure = failure
                self._end(running)
                group.cancel_scope.cancel()
        finally:
            if running.draft.answer.running:  # by a fault of ours
                running.failure = OpenRouterMCPError("It ended by a fault of this server; its log (stderr) says more.")
                self._end(running)
            try:
                if running.draft.sent.is_set() or running.shown:
                    with anyio.CancelScope(shield=True):
                        await self._save(running)
            finally:
                del self._running[running.draft.answer.id]

    def _end(self, running: Running) -> None:
        answer, text = running.draft.answer, running.draft.text
        text.finish()
        if running.too_long:
            answer.problem = f"it was stopped here after {duration(self.waits.answer)}"
            if not text.has_words:
                gone = Timeout(f"The model wrote nothing in {duration(self.waits.answer)} and was stopped.")
                lost = MayHaveBeenBilled(gone, answer.held, answer.generation_id) if answer.held else gone
                running.failure = lost
        elif running.scope.cancelled_caught:
            answer.cancelled, answer.problem = True, f"it was stopped here: {running.stopped_because}"
        if failure := running.failure:
            failure.text += f" Warning: {answer.warning}" if answer.warning else ""
            failed(answer, failure)
        answer.seconds, answer.running = self._clock() - running.started, False

    async def _keep_alive(self, running: Running) -> None:
        """Write down that the answer is coming as soon as it is asked for, and now and then how far it is."""
        await running.draft.sent.wait()
        await anyio.sleep(min(_QUICK_S, self.waits.heartbeat))  # what is done by then is written down once
        while True:
            if await self._save(running):
                _stop(running, CANCELLED)
            await anyio.sleep(self.waits.heartbeat)

    async def _show_life(self, draft: Draft) -> None:
        """Others settle what a process holds that shows none."""
        while True:
            await anyio.sleep(self.waits.heartbeat)
            await self._ledger.spending.show_life(draft.charge, draft.answer.generation_id)

    async def _save(self, running: Running) -> bool:
        """Write what is new; whether somebody in another process wants it stopped."""
        text, owner = running.draft.text, (await self._ledger.owners())[0]
        entry = replace(running.entry, owner=owner, answer=running.draft.answer, seen=self._wall())
        stop = await self._keeping.save(entry, text)
        if not running.saved:
            await self._keeping.tidy()
        running.saved = True
        return stop

    async def wait(self, running: Sequence[Running], watch: Watch) -> None:
        """Until all are written, or as long as the client's patience may last. A cancel stops them, unless it comes so
        late that it can be the client's time-out: then they go on."""
        try:
            await self.until(running, watch, self.patience(watch))
        except asyncio.CancelledError:
            if self.is_meant(watch):
                with anyio.CancelScope(shield=True):
                    await self.stop(*running, because="the call was cancelled")
            raise
        for each in running:
            each.shown = True
            if each.task and each.task.done():
                each.task.result()  # raises a fault of ours

    def is_meant(self, watch: Watch) -> bool:
        """Whether a cancel that comes now means what it says: later it can be the client's time-out."""
        return self._clock() - watch.since < self.waits.cancel

    def patience(self, watch: Watch) -> float:
        """How many seconds a tool may still wait for whoever called it."""
        longest = self.waits.with_progress if watch.wanted else self.waits.plain
        return max(0.0, watch.since + longest - self._clock())

    async def until(self, running: Sequence[Running], watch: Watch, limit: float) -> None:
        """Wait until all are written, at most `limit` seconds, and report how far they are."""
        async with anyio.create_task_group() as group:
            if watch.wanted:
                group.start_soon(self._tell, running, watch)
            with self.patient(limit):
                await ended(running)
            group.cancel_scope.cancel()
        for each in (each for each in running if each.draft.answer.running):
            each.draft.answer.seconds = self._clock() - each.started

    @contextmanager
    def patient(self, limit: float) -> Generator[None]:
        """At most `limit` seconds, and no longer than the server stays."""
        with anyio.move_on_after(0 if self._is_leaving else limit) as patience:
            self._waiting.add(patience)
            yield

    async def _tell(self, running: Sequence[Running], watch: Watch) -> None:
        """Say how far they are, at once and then every few seconds, by a number that only rises."""
        said = 0.0
        while True:
            seconds = self._clock() - min(each.started for each in running)
            said = max(said + 0.001, seconds)
            await watch.report(said, progress([each.draft for each in running], self._clock(), seconds))
            await anyio.sleep(self.waits.progress)


def log_fault(task: "asyncio.Task[None]") -> None:
    """Nobody may be waiting for it any more."""
    if not task.cancelled() and (fault := task.exception()):
        logger.error("An answer failed unexpectedly", exc_info=fault)


def _stop(running: Running, because: str) -> None:
    running.stopped_because = running.stopped_because or because
    running.scope.cancel()


async def ended(running: Sequence[Running]) -> None:
    """Return when nothing of it is written any more."""
    if tasks := [each.task for each in running if each.task and not each.task.done()]:
        await asyncio.wait(tasks)
