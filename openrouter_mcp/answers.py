"""One question, one answer: the attempts, and what became of the text that arrived."""

import random
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import anyio

from openrouter_mcp import choice, guard, retry
from openrouter_mcp.catalog import Catalog
from openrouter_mcp.client import OpenRouter
from openrouter_mcp.errors import (
    Blocked,
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
from openrouter_mcp.pricing import FREE_ROUTER
from openrouter_mcp.text import clean
from openrouter_mcp.wire import MAX_REPLY_BYTES, ChatRequest, Event, Usage

LONGEST_CALL_S = 600.0
# Failures of one model: another may do.
_ABOUT_THE_MODEL = (ModelBusy, Upstream, EmptyAnswer, NoProvider, Privacy, FreeEnded, Timeout)


@dataclass
class Answer:
    """What one model said. `model` was asked for, `served` answered; `problem` says why the text is not whole."""

    model: str
    served: str = ""
    provider: str = ""
    generation_id: str = ""
    finish_reason: str = ""
    usage: Usage = field(default_factory=Usage)
    problem: str = ""
    seconds: float = 0.0
    attempts: int = 0
    text: str = ""

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
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._catalog = catalog
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter

    async def ask(self, request: ChatRequest) -> Answer:
        """Ask `request.model`; the free router when it is empty. A model that was named is never replaced.

        Raises:
            OpenRouterMCPError: when no text came; `attempts` says how many requests left.
        """
        started = self._clock()
        model, attempts = request.model or FREE_ROUTER, 0
        tries = retry.Tries(may_switch=model == FREE_ROUTER)
        tried = {model}
        while True:
            try:
                permit = await guard.permit(replace(request, model=model), self._catalog)
                attempts += 1
                answer = await self._attempt(permit, request.max_tokens)
                return replace(answer, seconds=self._clock() - started, attempts=attempts)
            except OpenRouterMCPError as failure:
                tries = tries.after(failure, LONGEST_CALL_S - (self._clock() - started))
                others = self._others(tried, 3)
                tries = replace(tries, may_switch=tries.may_switch and bool(others))
                decision = retry.decide(failure, tries, self._jitter())
                if not decision.again:
                    failure.model, failure.attempts = model, attempts
                    if isinstance(failure, _ABOUT_THE_MODEL):
                        failure.alternatives = others
                    raise
            await self._sleep(decision.wait_s)
            if decision.another:
                model = others[0]
                tried.add(model)
                tries = replace(tries, on_model=0)

    async def _attempt(self, permit: guard.Permit, max_tokens: int) -> Answer:
        """One request. Text that arrived is an answer, also when the stream broke after it."""
        answer, pieces = Answer(model=permit.model), _Pieces()
        try:
            async with aclosing(self._client.chat(permit)) as events:
                async for event in events:
                    _note(answer, event)
                    pieces.add(event)
                    if event.failure:
                        raise event.failure
                    if pieces.size > MAX_REPLY_BYTES:
                        answer.problem = f"cut off here: the answer is over {MAX_REPLY_BYTES} bytes"
                        break
        except OpenRouterMCPError as failure:
            if not pieces.has_text:
                raise
            if not answer.finish_reason or answer.finish_reason == "error":
                answer.problem = f"it broke off here: {failure.text}"
        answer.text = pieces.text
        if not pieces.has_text:
            raise _without_text(answer, max_tokens, reasoned=pieces.reasoned)
        answer.problem = answer.problem or _ended_early(answer.finish_reason, max_tokens)
        return answer

    def _others(self, tried: set[str], count: int) -> list[str]:
        """The best free models not yet tried, of the catalogue as last read."""
        free = (model for model in choice.free_ranked(self._catalog.known()) if model.id not in tried)
        return [model.id for model in choice.different_families(free, count)]


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
            f"{answer.served or answer.model} spent all {max_tokens} tokens on reasoning and wrote no answer. Raise "
            "max_tokens, or ask a model that does not reason.",
            outcome=Outcome.REFUSED,
        )
    if answer.finish_reason == "content_filter":
        return Blocked("The provider's content filter stopped the answer before its first word.")
    return EmptyAnswer(
        f"{answer.served or answer.model} sent no text. OpenRouter does not bill the tokens of empty answers. Ask "
        "again later, or ask another model."
    )
