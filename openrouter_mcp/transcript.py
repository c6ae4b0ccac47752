"""What a model has said so far, and whether that is an answer."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from decimal import Decimal

from openrouter_mcp.errors import Blocked, EmptyAnswer, OpenRouterMCPError, Outcome
from openrouter_mcp.text import clean
from openrouter_mcp.wire import MAX_REPLY_BYTES, Event, Usage


@dataclass
class Answer:
    """What one model said. `models` were asked, `served` answered; `problem` says why the text is not whole,
    `warning` what else is wrong, and `allowance` what is left of the day. `begun`: OpenRouter took the request. `held`
    USD stay reserved while its cost is not known."""

    models: tuple[str, ...]
    served: str = ""
    provider: str = ""
    generation_id: str = ""
    finish_reason: str = ""
    usage: Usage = field(default_factory=Usage)
    problem: str = ""
    warning: str = ""
    begun: bool = False
    held: Decimal = Decimal(0)
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


class Pieces:
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


async def gather(events: AsyncIterator[Event], answer: Answer, pieces: Pieces) -> None:
    """Note what comes until it ends, fails, or is too much."""
    async for event in events:
        answer.begun = True
        _note(answer, event)
        pieces.add(event)
        if event.failure:
            raise event.failure
        if pieces.size > MAX_REPLY_BYTES:
            answer.problem = f"cut off here: the answer is over {MAX_REPLY_BYTES} bytes"
            return


def _note(answer: Answer, event: Event) -> None:
    answer.served = event.model or answer.served
    answer.provider = event.provider or answer.provider
    answer.generation_id = event.generation_id or answer.generation_id
    answer.finish_reason = event.finish_reason or answer.finish_reason
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
            return f"cut off at max_tokens ({max_tokens}); ask again with more, or ask for less"
        case "content_filter":
            return "the provider's content filter stopped it here"
        case _:
            return ""


def without_text(answer: Answer, max_tokens: str, *, reasoned: bool) -> OpenRouterMCPError:
    if answer.finish_reason == "length" and (reasoned or answer.usage.reasoning_tokens):
        return EmptyAnswer(
            f"{answer.model} spent all its tokens (max_tokens {max_tokens}) on reasoning and wrote no answer. Raise "
            "max_tokens, or ask a model that does not reason.",
            outcome=Outcome.REFUSED,
        )
    if answer.finish_reason == "content_filter":
        return Blocked("The provider's content filter stopped the answer before its first word.")
    return EmptyAnswer(
        f"{answer.model} sent no text. OpenRouter does not bill the tokens of empty answers. Ask "
        "again later, or ask another model."
    )
