"""Asking the person before a call that can cost more than they want to spend unasked.

Resolvers of the SDK, which asks in the client's own way, in either era: https://modelcontextprotocol.io/specification.
A call may be entered anew for each question: nothing is sent or reserved here, and a price that has changed since is a
question that was not answered.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Annotated, Any

from mcp.server.mcpserver import AcceptedElicitation, CancelledElicitation, Context, Elicit, ElicitationResult, Resolve
from pydantic import BaseModel, Field

from openrouter_mcp.app import App
from openrouter_mcp.callers import Caller
from openrouter_mcp.chat import ChatRequest
from openrouter_mcp.compare import THREE, require_distinct, vet_all
from openrouter_mcp.judge import longest_question
from openrouter_mcp.purse import Vetted, in_words
from openrouter_mcp.records import FREE_ROUTER
from openrouter_mcp.refusals import Declined
from openrouter_mcp.schemas import Json
from openrouter_mcp.text import one_line, usd
from openrouter_mcp.tools.arguments import CurrentApp, CurrentCaller
from openrouter_mcp.tools.requests import base_request, for_default, question

_PURPOSE = 200  # characters of the prompt


class Consent(BaseModel):
    """The form the person fills in."""

    spend: bool = Field(description="Let this call cost up to that much.")


async def cost_of_asking(
    app: CurrentApp,
    caller: CurrentCaller,
    *,
    prompt: str,
    model: str,
    system: str,
    schema: Json | None,
    attach: tuple[str, ...],
    continue_from: str,
    max_tokens: int,
    max_cost_usd: Decimal | None,
    options: Json | None,
) -> list[Vetted]:
    """What is to be asked about for `ask_model`; nothing when nobody needs to be."""
    purse = app.guard.purse(max_cost_usd, caller=caller)
    if purse.agreed is None or purse.limit <= purse.agreed:
        return []
    request = await base_request(
        app, caller, model=model, prompt=prompt, system=system, schema=schema, attach=attach, max_tokens=max_tokens,
        options=options,
    )  # fmt: skip
    asked = await question(app, caller, request, continue_from=continue_from, max_cost=max_cost_usd)
    return await _above_limit(
        app, caller, [asked.request] if asked.request.model not in ("", FREE_ROUTER) else [], max_cost_usd
    )


async def cost_of_comparing(
    app: CurrentApp,
    caller: CurrentCaller,
    *,
    prompt: str,
    models: tuple[str, ...],
    judge: str,
    system: str,
    schema: Json | None,
    attach: tuple[str, ...],
    max_tokens: int,
    max_cost_usd: Decimal | None,
    options: Json | None,
) -> list[Vetted]:
    """The same for `compare_models`."""
    require_distinct(models)
    request = await base_request(
        app, caller, prompt=prompt, system=system, schema=schema, max_tokens=max_tokens, options=options, attach=attach
    )
    requests = [replace(request, model=model) for model in models]
    if judge:
        requests.append(longest_question(judge, request, len(models) or THREE))
    vetted = await _above_limit(app, caller, requests, max_cost_usd)
    return [replace(one, request=replace(one.request, prompt=prompt)) for one in vetted]  # what a person is shown


async def cost_of_asking_many(
    app: CurrentApp,
    caller: CurrentCaller,
    *,
    prompts: tuple[str, ...],
    model: str,
    system: str,
    schema: Json | None,
    max_tokens: int,
    max_cost_usd: Decimal | None,
) -> list[Vetted]:
    """The same for `ask_many`."""
    request = await base_request(app, caller, model=model, system=system, schema=schema, max_tokens=max_tokens)
    request = for_default(app, caller, request, max_cost_usd)
    asked = request.model not in ("", FREE_ROUTER)
    requests = [replace(request, prompt=prompt) for prompt in dict.fromkeys(prompts)] if asked else []
    return await _above_limit(app, caller, requests, max_cost_usd)


async def _above_limit(
    app: App, caller: Caller, requests: Sequence[ChatRequest], max_cost: Decimal | None
) -> list[Vetted]:
    purse = app.guard.purse(max_cost, caller=caller)
    if purse.agreed is None or purse.limit <= purse.agreed or not requests:
        return []
    app.client.require_key()
    await app.guard.require_open()
    new = [one for one in requests if not await app.answers.repeated(one, caller.name)]
    vetted = [one for one in await vet_all(app.guard, new, purse) if isinstance(one, Vetted)]
    if _worst(vetted) <= purse.agreed:
        return []
    await app.guard.require_left(vetted, caller)  # nobody is asked about what is refused anyway
    return vetted


def _worst(vetted: Sequence[Vetted]) -> Decimal:
    return sum((one.worst for one in vetted), Decimal(0))


def _asked(cost: Callable[..., Awaitable[list[Vetted]]]) -> Callable[..., Awaitable[Decimal]]:
    """A resolver for the USD that the person has agreed to, 0 when they need not be asked."""

    async def question(
        context: Context[App, Any], app: CurrentApp, vetted: Annotated[list[Vetted], Resolve(cost)]
    ) -> Elicit[Consent] | Consent:
        if not vetted:
            return Consent(spend=True)
        what = in_words(vetted)
        capabilities = context.client_capabilities
        form = capabilities.elicitation if capabilities else None
        if form is None or (form.form is None and form.url is not None):
            above = usd(app.guard.policy.confirm_above or Decimal(0))
            raise Declined(
                f"{what}. Above {above} the user wants to be asked first, and this client cannot ask them, so nothing "
                "was sent. Only the user can change that limit: tell them, or ask for less."
            )
        return Elicit(f"{what}. The task: {one_line(vetted[0].request.prompt, _PURPOSE)}", Consent)

    async def agreed(
        vetted: Annotated[list[Vetted], Resolve(cost)],
        answer: Annotated[ElicitationResult[Consent], Resolve(question)],
    ) -> Decimal:
        if isinstance(answer, AcceptedElicitation) and answer.data.spend:
            return _worst(vetted)
        if isinstance(answer, CancelledElicitation):
            raise Declined(
                f"{in_words(vetted)}. The user was asked and closed the question without an answer, so nothing was "
                "sent. Go on without this call, or ask them what they want."
            )
        raise Declined(
            f"{in_words(vetted)}. The user was asked and said no, so nothing was sent. Respect that: do not ask again "
            "for the same; use a free model, or go on without."
        )

    return agreed


AgreedToAsk = Annotated[Decimal, Resolve(_asked(cost_of_asking))]
AgreedToAskMany = Annotated[Decimal, Resolve(_asked(cost_of_asking_many))]
AgreedToCompare = Annotated[Decimal, Resolve(_asked(cost_of_comparing))]
