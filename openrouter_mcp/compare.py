"""Several models, one question."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import anyio

from openrouter_mcp import choice
from openrouter_mcp.answers import Answers
from openrouter_mcp.attempts import LONGEST_WAIT_S
from openrouter_mcp.catalog import Catalog
from openrouter_mcp.chat import ChatRequest
from openrouter_mcp.errors import InvalidRequest, NoProvider, OpenRouterMCPError
from openrouter_mcp.guard import Guard
from openrouter_mcp.judge import LABELS, question
from openrouter_mcp.ledger.allowance import Ledger
from openrouter_mcp.purse import Purse, Vetted
from openrouter_mcp.text import one_line
from openrouter_mcp.transcript import Answer, Draft, failed
from openrouter_mcp.writing import Prepare, Running, Watch, Writing, ended

THREE = 3  # are compared when none is named
_FEWEST_TO_JUDGE = 2
SPARE = 2  # of a minute's requests, left for a person's next question


async def three_free(catalog: Catalog, ledger: Ledger, guard: Guard, request: ChatRequest) -> list[str]:
    """The best free model for `request` of each of the three best families, none of them on cooldown.

    Raises:
        NoProvider: when there are fewer than two.
    """
    seen = (await ledger.standing()).seen
    cooling = seen.cooling
    suited = choice.free_for(request, guard.admitted(await catalog.models()), cooling, seen)
    chosen = await ledger.claim([model.id for model in suited[:THREE]])
    if len(chosen) < 2:
        why = f"; {len(cooling)} are left alone for a while, check_credits says which" if cooling else ""
        raise NoProvider(f"Free models that can be asked right now: {len(chosen)}, too few to compare{why}.")
    return chosen


def require_distinct(models: Sequence[str]) -> None:
    """Raise InvalidRequest when a model is named twice."""
    twice = next((model for model in models if list(models).count(model) > 1), None)
    if twice is not None:
        raise InvalidRequest(f"{twice[:200]!r} is named twice; each model is asked once.")


@dataclass(frozen=True)
class Judged:
    """What the judge says, and the answers by the labels that it knows them by (empty until it is asked)."""

    draft: Draft
    labels: dict[str, Draft]


async def compare(
    answers: Answers,
    guard: Guard,
    request: ChatRequest,
    models: Sequence[str],
    purse: Purse,
    *,
    watch: Watch,
    judge: str = "",
    judges_purse: Purse | None = None,
    caller: str = "",
) -> tuple[list[Draft], Judged | None]:
    """Ask all `models` at once, for what `purse` may spend in all, and wait as long as the client does; one row each,
    in their order, done or not. A failure is a row too. The model `judge`, if one is named, judges what came of it,
    for what `judges_purse` may spend where that is another.

    Raises:
        InvalidRequest: when a model is named twice.
        CannotVerifyPrice, Network: when the catalogue cannot be read.
        OverBudget, Declined, MinuteQuota, DailyQuota: when the worst case of them all does not fit; nothing is sent.
    """
    require_distinct(models)
    requests = [replace(request, model=model) for model in models]
    kept = [await answers.repeated(one, caller) for one in requests]
    asked = [one for one, row in zip(requests, kept, strict=True) if row is None]
    drafts, running = await _begin(answers.writing, guard, asked, purse, caller)
    begun = iter(drafts)
    rows = [row or next(begun) for row in kept]
    if not judge or all(row.answer.code for row in rows):
        await answers.writing.wait(running, watch)
        return rows, None
    labels: dict[str, Draft] = {}
    judging = answers.writing.start(
        ChatRequest(model=judge, prompt=""), judges_purse or purse, spare=SPARE, caller=caller,
        prepare=_when_all_are_written(request, judge, rows, running, labels),
    )  # fmt: skip
    await answers.writing.wait([*running, judging], watch)
    return rows, Judged(judging.draft, labels)


async def _begin(
    writing: Writing, guard: Guard, requests: Sequence[ChatRequest], purse: Purse, caller: str
) -> tuple[list[Draft], list[Running]]:
    """A draft for each of `requests`, and what is written of them now."""
    started = anyio.current_time()
    vetted = await vet_all(guard, requests, purse)
    passed = [(request, one) for request, one in zip(requests, vetted, strict=True) if isinstance(one, Vetted)]
    running: list[Running] = []
    if passed:
        time_left = max(0.0, LONGEST_WAIT_S - (anyio.current_time() - started))
        held = await guard.reserve([one for _, one in passed], purse, longest_wait=time_left, spare=SPARE)
        running = [
            writing.start(request, purse, held=each, spare=SPARE, caller=caller)
            for (request, _), each in zip(passed, held, strict=True)
        ]
    begun = iter(running)
    drafts = [
        next(begun).draft if isinstance(one, Vetted) else failed(Answer(models=(request.model,)), one)
        for request, one in zip(requests, vetted, strict=True)
    ]
    return drafts, running


def _when_all_are_written(
    request: ChatRequest, judge: str, rows: Sequence[Draft], running: Sequence[Running], labels: dict[str, Draft]
) -> Prepare:
    """The question for the judge: it reads the answers in an order that says nothing."""

    async def prepare(answer: Answer) -> ChatRequest:
        await ended(running)
        written = [row for row in rows if row.text.has_words]
        if len(written) < _FEWEST_TO_JUDGE:
            raise InvalidRequest("Fewer than two models answered, so there was nothing to judge.")
        secrets.SystemRandom().shuffle(written)
        labels.update(zip(LABELS, written, strict=False))
        answer.note = ", ".join(
            f"answer {label} is by {one_line(row.answer.model, 100)}" for label, row in labels.items()
        )
        texts = {label: str(row.text) for label, row in labels.items()}
        return question(judge, request, texts, secrets.token_hex(8))

    return prepare


async def vet_all(guard: Guard, requests: Sequence[ChatRequest], purse: Purse) -> list[Vetted | OpenRouterMCPError]:
    """Each of `requests` as it may be sent, or why it may not. Where `purse` does not bear them all, each may cost an
    equal share of it."""
    vetted = await _vet_each(guard, requests, purse)
    priced = [one for one in vetted if isinstance(one, Vetted) and one.worst]
    if sum(one.worst for one in priced) > purse.left:
        share = replace(purse, limit=purse.left / len(priced), held=Decimal(0))
        shorter = await _vet_each(guard, requests, share)
        refused = [isinstance(one, OpenRouterMCPError) for one in vetted]
        if [isinstance(one, OpenRouterMCPError) for one in shorter] == refused:
            return shorter  # else `reserve` says what they would cost together
    return vetted


async def _vet_each(guard: Guard, requests: Sequence[ChatRequest], purse: Purse) -> list[Vetted | OpenRouterMCPError]:
    if requests:
        await guard.require_prices()  # one failure for all, not one after the other
    vetted: list[Vetted | OpenRouterMCPError] = []
    for request in requests:
        try:
            vetted.append(await guard.vet(request, purse))
        except OpenRouterMCPError as failure:
            vetted.append(failure)
    return vetted
