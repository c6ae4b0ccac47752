"""What a model has said so far, and whether that is an answer."""

import base64
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import anyio

from openrouter_mcp.errors import Blocked, EmptyAnswer, OpenRouterMCPError, Outcome
from openrouter_mcp.ledger.book import Charge
from openrouter_mcp.options import ToolResult
from openrouter_mcp.pages import PAGE, Text
from openrouter_mcp.text import clean, duration, one_line, usd
from openrouter_mcp.wire import MAX_REPLY_BYTES, Call, Event, Image, Usage

_MOST_LOGPROBS = 4096  # tokens
_MOST_CITATIONS = 100
_LONGEST_NAME, _LONGEST_ID = 64, 200  # of a call


@dataclass
class Answer:
    """What is known of one answer, but for its text. `models` were asked, `served` answered; `problem` says why there
    is no text (an error of that `code`) or why it is not whole, `warning` what else is wrong, `note` what else to know,
    `allowance` what is left of the day. `held` USD stay reserved while its cost is not known, `before` were spent on
    earlier attempts; `thoughts` and `words` count the pieces of each. `begun`: OpenRouter took the request. `age_s`:
    how long ago it was written, where it answers the same question once more. `refused`:
    the text says why the model would not. `checked` against a schema, it is `invalid` for some reason, or follows it.
    `calls` of tools it wants, after the `results` it was asked with; `citations` are pages and their titles."""

    id: str = ""
    models: tuple[str, ...] = ()
    served: str = ""
    provider: str = ""
    generation_id: str = ""
    finish_reason: str = ""
    usage: Usage = field(default_factory=Usage)
    code: str = ""
    problem: str = ""
    retry_after_s: float | None = None
    warning: str = ""
    note: str = ""
    held: Decimal = Decimal(0)
    before: Decimal = Decimal(0)
    seconds: float = 0.0
    attempts: int = 0
    allowance: str = ""
    thoughts: int = 0
    words: int = 0
    begun: bool = False
    running: bool = True
    cancelled: bool = False
    age_s: float | None = None
    refused: bool = False
    checked: bool = False
    invalid: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    results: tuple[ToolResult, ...] = ()
    citations: list[tuple[str, str]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    def begin(self, models: tuple[str, ...], held: Decimal) -> None:
        """Another attempt, for which `held` USD are reserved; the last one, if any, had no text."""
        self.before += self.usage.cost or Decimal(0)
        self.models, self.held = models, held
        self.served = self.provider = self.generation_id = self.finish_reason = ""
        self.usage, self.thoughts, self.words, self.begun = Usage(), 0, 0, False
        self.refused, self.reasoning, self.calls, self.citations, self.logprobs = False, "", [], [], []

    def settle_calls(self) -> None:
        """Calls without a name are none; each gets a name and an id that fit a line and can be sent again."""
        named = [call for call in self.calls if one_line(call.name)]
        self.calls = [
            replace(call, id=one_line(call.id, _LONGEST_ID) or f"call_{place}", name=one_line(call.name, _LONGEST_NAME))
            for place, call in enumerate(named, 1)
        ]

    @property
    def model(self) -> str:
        """Who answered; until that is known, who was asked first."""
        return self.served or self.asked

    @property
    def cost(self) -> Decimal | None:
        """USD for all attempts together; None when that of the last is not known."""
        return None if self.usage.cost is None else self.before + self.usage.cost

    @property
    def asked(self) -> str:
        """Of those asked, the one that answers as far as that is known, by the name it was asked by."""
        return self.served if self.served in self.models else next(iter(self.models), "")

    @property
    def status(self) -> str:
        """`running`, `cancelled`, `error`, `partial` or `complete`."""
        if self.running:
            return "running"
        if self.cancelled:
            return "cancelled"
        if self.code:
            return "error"
        return "partial" if self.problem else "complete"


@dataclass
class Draft:
    """An answer as it is written: the facts, the text so far, the `images` (which are not kept), whether the question
    was `sent`, what it waits for, if it does, until when, and since when it is written (on the clock of its writer);
    for which `caller`, and what is held for it."""

    answer: Answer = field(default_factory=Answer)
    text: Text = field(default_factory=Text)
    images: list[Image] = field(default_factory=list)
    sent: anyio.Event = field(default_factory=anyio.Event)
    waits_for: str = ""
    waits_until: float = 0.0
    written_since: float | None = None
    caller: str = ""
    charge: Charge | None = None

    def doing(self, now: float) -> str:
        """What it is doing, in words: "thinking, 1.2k tokens"."""
        if not self.answer.running:
            return self.answer.status
        if self.waits_for:
            return f"waiting {duration(self.waits_until - now)} {self.waits_for}"
        tokens = self.answer.thoughts + self.answer.words
        if not tokens:
            return "asked" if self.sent.is_set() else "starting"
        count = f"{tokens} token{'s' * (tokens > 1)}" if tokens < 1000 else f"{tokens / 1000:.1f}k tokens"
        return f"{'writing' if self.answer.words else 'thinking'}, {count}"


def new_id() -> str:
    """128 random bits in 26 letters and digits that nobody mistakes for each other."""
    return base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()


def progress(drafts: Sequence[Draft], now: float, seconds: float) -> str:
    """How far answers are that were asked for together `seconds` ago, for a person."""
    each = [f"{draft.answer.asked.partition('/')[2] or 'a free model'}: {draft.doing(now)}" for draft in drafts]
    if len(drafts) == 1:
        return f"{each[0]}, {seconds:.0f} s (id {drafts[0].answer.id})"
    done = sum(not draft.answer.running for draft in drafts)
    return f"{done} of {len(drafts)} done, {seconds:.0f} s; {'; '.join(each)}"


def failed(answer: Answer, failure: OpenRouterMCPError) -> Draft:
    """`answer` as one without a text, and why."""
    said = failure.twin()
    said.allowance = ""  # said once for all rows of a comparison
    answer.code, answer.problem, answer.retry_after_s = failure.code, str(said), failure.hint_s
    answer.attempts, answer.allowance, answer.running = failure.attempts, failure.allowance, False
    return Draft(answer)


async def gather(
    events: AsyncIterator[Event], draft: Draft, *, clock: Callable[[], float], show_reasoning: bool = False
) -> None:
    """Note what comes until it ends, fails, or is too much; `clock` counts seconds."""
    async for event in events:
        draft.answer.begun = True
        _note(draft.answer, event)
        if draft.written_since is None and (event.text or event.reasoning):
            draft.written_since = clock()
        if show_reasoning and len(draft.answer.reasoning) < PAGE:
            draft.answer.reasoning += clean(event.reasoning)
        draft.text.add(event.refusal or event.text)
        draft.images += event.images
        if event.failure:
            raise event.failure
        if draft.text.size > MAX_REPLY_BYTES:
            draft.answer.problem = f"cut off here: the answer is over {MAX_REPLY_BYTES} bytes"
            return


def _note(answer: Answer, event: Event) -> None:
    answer.served = event.model or answer.served
    answer.provider = event.provider or answer.provider
    answer.generation_id = event.generation_id or answer.generation_id
    answer.finish_reason = event.finish_reason or answer.finish_reason
    answer.thoughts += bool(event.reasoning)
    answer.words += bool(event.text)
    answer.refused = answer.refused or bool(event.refusal)
    new = [cited for cited in dict.fromkeys(event.citations) if cited not in answer.citations]
    answer.citations += new[: _MOST_CITATIONS - len(answer.citations)]
    answer.logprobs += event.logprobs[: _MOST_LOGPROBS - len(answer.logprobs)]
    for place, piece in event.calls:
        answer.calls += [Call()] * (place + 1 - len(answer.calls))
        so_far = answer.calls[place]
        answer.calls[place] = Call(so_far.id or piece.id, so_far.name or piece.name, so_far.arguments + piece.arguments)
    if event.usage and _weight(event.usage) >= _weight(answer.usage):  # said twice: the worse one counts
        answer.usage = event.usage


def _weight(usage: Usage) -> tuple[bool, Decimal]:
    return usage.untold, usage.cost or Decimal(0)


def ended_early(finish_reason: str, max_tokens: str) -> str:
    """Why a text may not be whole, in words; empty when it is. `max_tokens` names the limit."""
    match finish_reason:
        case "":
            return "it ended here without saying that it was done"
        case "length":
            return f"cut off at max_tokens ({max_tokens}); ask_model with continue_from its id has it go on"
        case "content_filter":
            return "the provider's content filter stopped it here"
        case _:
            return ""


def without_text(answer: Answer, max_tokens: str) -> OpenRouterMCPError:
    if answer.finish_reason == "length" and (answer.thoughts or answer.usage.reasoning_tokens):
        return EmptyAnswer(
            f"{one_line(answer.model, 100)} spent all its tokens (max_tokens {max_tokens}) on reasoning and wrote no "
            "answer. Raise max_tokens, or ask a model that does not reason.",
            outcome=Outcome.REFUSED,
        )
    if answer.finish_reason == "content_filter":
        return Blocked("The provider's content filter stopped the answer before its first word.")
    billed = "OpenRouter does not bill the tokens of empty answers."
    if answer.usage.cost:
        billed = f"OpenRouter reports a cost of {usd(answer.usage.cost)} for it."
    return EmptyAnswer(f"{one_line(answer.model, 100)} sent no text. {billed} Ask again later, or ask another model.")
