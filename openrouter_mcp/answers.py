"""One question, one answer: the attempts, and what became of the text that arrived."""

import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Container, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace

import anyio

from openrouter_mcp import choice, guard, retry
from openrouter_mcp.catalog import Catalog
from openrouter_mcp.client import OpenRouter
from openrouter_mcp.errors import (
    Blocked,
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
from openrouter_mcp.ledger.allowance import Ledger
from openrouter_mcp.ledger.slots import Slot
from openrouter_mcp.pricing import FREE_ROUTER
from openrouter_mcp.text import clean
from openrouter_mcp.wire import MAX_REPLY_BYTES, ChatRequest, Event, Model, Usage

LONGEST_WAIT_S = 55.0  # for the allowance, a backoff or another try, all together; then the client may hang up
_CHOSEN = 3  # models sent in one request when the choice is ours: OpenRouter takes no more
_BYTES_PER_TOKEN = 3  # few enough that a prompt is rather taken for too long
# Failures of one model: another may do.
_ABOUT_THE_MODEL = (ModelBusy, Upstream, EmptyAnswer, NoProvider, Privacy, FreeEnded, Timeout)


@dataclass
class Answer:
    """What one model said. `models` were asked, `served` answered; `problem` says why the text is not whole, and
    `allowance` what is left of the day's free requests."""

    models: tuple[str, ...]
    served: str = ""
    provider: str = ""
    generation_id: str = ""
    finish_reason: str = ""
    usage: Usage = field(default_factory=Usage)
    problem: str = ""
    seconds: float = 0.0
    attempts: int = 0
    text: str = ""
    allowance: str = ""

    @property
    def model(self) -> str:
        """Who answered; until that is known, who was asked first."""
        return self.served or self.models[0]

    @property
    def status(self) -> str:
        """`complete` or `partial`."""
        return "partial" if self.problem else "complete"


class Answers:
    """Asks, and tries again where `retry.decide` says so. `jitter` gives [0, 1), `sleep` waits seconds."""

    def __init__(
        self,
        client: OpenRouter,
        catalog: Catalog,
        ledger: Ledger,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._catalog = catalog
        self._ledger = ledger
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._budget = retry.RetryBudget()

    async def ask(self, request: ChatRequest, slot: Slot | None = None) -> Answer:
        """Ask `request.model`, in `slot` if one was reserved; free models of our choice when it is empty or the free
        router. A model that was named is never replaced.

        Raises:
            OpenRouterMCPError: when no text came; `attempts` says how many requests were tried.
        """
        self._client.require_key()
        started = self._clock()
        ours = request.model in ("", FREE_ROUTER)
        tries, tried, choose = retry.Tries(may_switch=ours), set[str](), ours
        while True:
            try:
                if choose:
                    request = await self._choose(request, tried)
                    tried.update((request.model, *request.fallbacks))
                    choose = False
                answer = await self._attempt(request, slot, LONGEST_WAIT_S - (self._clock() - started))
            except OpenRouterMCPError as failure:
                if choose and slot is not None:
                    await self._ledger.give_back([slot])
                tries = await self._after(failure, tries, request, LONGEST_WAIT_S - (self._clock() - started))
                decision = retry.decide(failure, tries, self._jitter()) if self._budget.allows else retry.STOP
                if not decision.again:
                    await self._explain(failure, request, tried, tries)
                    raise
            else:
                return await self._told(answer, started, tries)
            await self._sleep(decision.wait_s)
            slot, choose = None, choose or decision.another
            if decision.another:
                tries = replace(tries, on_model=0)

    async def check(self, request: ChatRequest) -> None:
        """Raise what would keep `request` from being sent at all, without sending or counting it."""
        self._client.require_key()
        await guard.check(request, self._catalog)

    # --- one attempt ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _turn(self, request: ChatRequest, slot: Slot | None, longest_wait: float) -> AsyncGenerator[guard.Permit]:
        """A permit whose moment has come. What is then not sent is given back."""
        permit, never_sent = None, False
        try:
            permit = await guard.permit(request, self._catalog, self._ledger, longest_wait=longest_wait, slot=slot)
            slot = permit.slot
            await self._sleep(self._ledger.wait_for(slot))
            yield permit
        except OpenRouterMCPError as failure:
            never_sent = failure.outcome is Outcome.NEVER_SENT
            failure.sent = permit is not None and permit.spent and not never_sent
            raise
        finally:
            if slot is not None and (never_sent or permit is None or not permit.spent):
                await self._ledger.give_back([slot])

    async def _attempt(self, request: ChatRequest, slot: Slot | None, longest_wait: float) -> Answer:
        """One request. Text that arrived is an answer, also when the stream broke after it."""
        async with self._turn(request, slot, longest_wait) as permit:
            answer, pieces = Answer(models=permit.models), _Pieces()
            try:
                async with aclosing(self._client.chat(permit)) as events:
                    await _gather(events, answer, pieces)
            except OpenRouterMCPError as failure:
                if not pieces.has_text:
                    raise
                if not answer.finish_reason or answer.finish_reason == "error":
                    answer.problem = f"it broke off here: {failure.text}"
            answer.text = pieces.text
            if not pieces.has_text:
                raise _without_text(answer, permit.max_tokens, reasoned=pieces.reasoned)
            answer.problem = answer.problem or _ended_early(answer.finish_reason, permit.max_tokens)
            return answer

    async def _after(
        self, failure: OpenRouterMCPError, tries: retry.Tries, request: ChatRequest, time_left: float
    ) -> retry.Tries:
        """Count a failed attempt, and let everybody know what it taught."""
        if failure.sent or failure.outcome is Outcome.NEVER_SENT:
            self._budget.failed()
            tries = tries.after(failure, time_left)
        if failure.sent:
            for model in (request.model, *request.fallbacks):
                await self._ledger.failed(model, failure)
        standing = await self._ledger.standing()
        return replace(tries, time_left=time_left, day_left=standing.share_left)

    async def _told(self, answer: Answer, started: float, tries: retry.Tries) -> Answer:
        self._budget.succeeded()
        allowance = str(await self._ledger.answered(answer.model))
        attempts = tries.in_all + tries.unsent + 1
        return replace(answer, seconds=self._clock() - started, attempts=attempts, allowance=allowance)

    async def _explain(
        self, failure: OpenRouterMCPError, request: ChatRequest, tried: set[str], tries: retry.Tries
    ) -> None:
        """Add what the agent can do next."""
        failure.model, failure.attempts = request.model, tries.in_all + tries.unsent
        failure.allowance = str(await self._ledger.standing())
        if isinstance(failure, _ABOUT_THE_MODEL):
            failure.alternatives = self._free(request, self._catalog.known(), tried)

    # --- our choice of models ---------------------------------------------------------------------------------------

    async def _choose(self, request: ChatRequest, tried: set[str]) -> ChatRequest:
        """`request` to the best free models not yet tried, of different families, none of them on cooldown."""
        try:
            known = list((await self._catalog.trusted()).values())
        except CannotVerifyPrice:
            known = []  # the free router needs no entry
        cooling = (await self._ledger.standing()).cooldowns
        chosen = await self._ledger.claim(self._free(request, known, tried | set(cooling)))
        first, *fallbacks = chosen or [FREE_ROUTER]
        return replace(request, model=first, fallbacks=tuple(fallbacks))

    @staticmethod
    def _free(request: ChatRequest, known: Iterable[Model], avoid: Container[str]) -> list[str]:
        tokens = len((request.system + request.prompt).encode("utf-8", "replace")) // _BYTES_PER_TOKEN
        ranked = choice.able(
            choice.free_ranked(known, avoid), prompt_tokens=tokens + request.max_tokens, max_tokens=request.max_tokens
        )
        return [model.id for model in choice.different_families(ranked, _CHOSEN)]


async def _gather(events: AsyncIterator[Event], answer: Answer, pieces: "_Pieces") -> None:
    """Note what comes until it ends, fails, or is too much."""
    async for event in events:
        _note(answer, event)
        pieces.add(event)
        if event.failure:
            raise event.failure
        if pieces.size > MAX_REPLY_BYTES:
            answer.problem = f"cut off here: the answer is over {MAX_REPLY_BYTES} bytes"
            return


class _Pieces:
    """The text so far. Joined once at the end: a long answer is not copied for every token."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self.size = 0
        self.has_text = False
        self.reasoned = False

    def add(self, event: Event) -> None:
        self.reasoned = self.reasoned or bool(event.reasoning)
        if event.text:
            self._pieces.append(event.text)
            self.size += len(event.text)
            self.has_text = self.has_text or not event.text.isspace()

    @property
    def text(self) -> str:
        return clean("".join(self._pieces)).strip()


def _note(answer: Answer, event: Event) -> None:
    answer.served = event.model or answer.served
    answer.provider = event.provider or answer.provider
    answer.generation_id = event.generation_id or answer.generation_id
    answer.finish_reason = event.finish_reason or answer.finish_reason
    answer.usage = event.usage or answer.usage


def _ended_early(finish_reason: str, max_tokens: int) -> str:
    match finish_reason:
        case "":
            return "it ended here without saying that it was done"
        case "length":
            return f"cut off at max_tokens ({max_tokens}); ask again with more, or ask for less"
        case "content_filter":
            return "the provider's content filter stopped it here"
        case _:
            return ""


def _without_text(answer: Answer, max_tokens: int, *, reasoned: bool) -> OpenRouterMCPError:
    if answer.finish_reason == "length" and (reasoned or answer.usage.reasoning_tokens):
        return EmptyAnswer(
            f"{answer.model} spent all {max_tokens} tokens on reasoning and wrote no answer. Raise "
            "max_tokens, or ask a model that does not reason.",
            outcome=Outcome.REFUSED,
        )
    if answer.finish_reason == "content_filter":
        return Blocked("The provider's content filter stopped the answer before its first word.")
    return EmptyAnswer(
        f"{answer.model} sent no text. OpenRouter does not bill the tokens of empty answers. Ask "
        "again later, or ask another model."
    )
