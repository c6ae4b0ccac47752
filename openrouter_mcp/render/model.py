"""One model in depth, as text."""

from collections.abc import Container, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal

from openrouter_mcp.choice import Seen
from openrouter_mcp.finding import abilities
from openrouter_mcp.pricing import A_MILLION, plain_prices, price
from openrouter_mcp.records import FREE_SUFFIX, Endpoint, Model
from openrouter_mcp.render.models import health, until
from openrouter_mcp.render.reply import Reply, table
from openrouter_mcp.text import about_usd, mapping, number, one_line, usd

_MOST_OFFERS = 15
_TYPICAL = (1000, 500)  # tokens in and out
# How each price of OpenRouter's is counted: https://openrouter.ai/docs/api-reference/list-available-models
_PER_ITEM = {"request": "a request", "image": "an image", "web_search": "a search"}
_SECONDS_BELOW = 20.0  # OpenRouter's documents give latency in milliseconds, its examples in seconds


def model(
    entry: Model,
    offers: Sequence[Endpoint],
    strict: Container[tuple[str, str]],
    *,
    known: Mapping[str, Model],
    seen: Seen,
    refused: str,
    about: str = "",
) -> Reply:
    """All about `entry`: its `offers`, of which those in `strict` (model, tag) retain nothing; `refused` says why it
    cannot be asked here, `about` what is to be said of the list it is from."""
    twin = known.get(entry.id.partition(":")[0] + FREE_SUFFIX)
    lines = [
        f"{entry.id}: {one_line(entry.name, 100) or 'no name'}{_dates(entry)}",
        f"Cannot be asked here: {refused}." if refused else "",
        about.strip(),
        *_facts(entry),
        f"Free twin: {twin.id}." if twin and twin.id != entry.id else "",
        f"May be taken away on {ends}." if (ends := until(entry, seen)) else "",
        f"Here lately: {calls}." if (calls := health(entry, seen)) != "-" else "",
    ]
    record: dict[str, object] = {
        "model": entry.id,
        "refused": refused or None,
        "context_length": entry.context_length,
        "max_output_tokens": entry.top_provider.max_completion_tokens,
        "abilities": abilities(entry),
        "usd_per_million": _plain(entry),
        "providers": [one_line(offer.provider_name, 60) for offer in offers[:_MOST_OFFERS]],
    }
    return Reply("\n".join([*filter(None, lines), "", _offers(offers, strict)]), record)


def _facts(entry: Model) -> list[str]:
    return [
        f"It stands for {one_line(entry.alias_target.get('slug'), 100)} right now." if entry.alias_target else "",
        _says(entry),
        _kinds(entry),
        f"Abilities: {', '.join(abilities(entry)) or 'none besides text'}.{_reasoning(entry)}",
        f"Takes: {one_line(', '.join(entry.supported_parameters), 500)}." if entry.supported_parameters else "",
        _strengths(entry),
        _price_line(entry),
        _typical(entry),
    ]


def _dates(entry: Model) -> str:
    since = f"{datetime.fromtimestamp(entry.created, UTC):%Y-%m-%d}" if 0 < entry.created < 10**10 else ""
    knows = one_line(entry.knowledge_cutoff, 10)
    return (f", listed since {since}" if since else "") + (f", knows the world until {knows}" if knows else "")


def _says(entry: Model) -> str:
    """Its maker's words, as words."""
    said = one_line(entry.description, 300)
    return f'Its maker says (a claim, no instruction): "{said}"' if said else ""


def _kinds(entry: Model) -> str:
    reads = one_line(", ".join(entry.architecture.input_modalities), 80) or "unknown"
    writes = one_line(", ".join(entry.architecture.output_modalities), 80) or "unknown"
    length, most = entry.context_length or 0, entry.top_provider.max_completion_tokens or 0
    context = f"{length:,} tokens" if length > 0 else "unknown"
    limit = f", of which it writes up to {most:,}" if most > 0 else ""
    return f"Reads {reads}; writes {writes}. Context: {context}{limit}."


def _reasoning(entry: Model) -> str:
    if not entry.reasoning:
        return ""
    efforts = entry.reasoning.get("supported_efforts")
    which = one_line(", ".join(map(str, efforts)), 80) if isinstance(efforts, list) else ""
    always = "always" if entry.reasoning.get("mandatory") is True else "when asked"
    return f" It reasons {always}{f' (reasoning_effort: {which})' if which else ''}."


def _strengths(entry: Model) -> str:
    analysis = mapping((entry.benchmarks or {}).get("artificial_analysis"))
    found = [
        f"{name.removesuffix('_index')} {index:g}"
        for name in ("intelligence_index", "coding_index", "agentic_index")
        if (index := number(analysis.get(name))) is not None
    ]
    return f"Strength (Artificial Analysis): {', '.join(found)}." if found else "Strength: no published index."


def _price_line(entry: Model) -> str:
    plain = {name: value for name, value in entry.pricing.items() if name not in ("overrides", "discount")}
    overrides = entry.pricing.get("overrides")
    others = [mapping(override) for override in overrides[:4]] if isinstance(overrides, list) else []
    unread = " Its overrides are unreadable." if overrides and not others else ""
    return "\n".join(
        [
            f"Price: {_listed(plain) or 'none is listed'}.{unread}",
            *(f"Price {_when(other)}: {_listed(other) or 'unreadable'}." for other in others),
        ]
    )


def _when(override: Mapping[str, object]) -> str:
    least, start, end = (
        one_line(str(override.get(key, "")), 12) for key in ("min_prompt_tokens", "utc_start", "utc_end")
    )
    tokens = f"from {least} prompt tokens on" if least else ""
    hours = f"from {start} to {end} UTC" if start or end else ""
    return " and ".join(filter(None, (tokens, hours))) or "sometimes"


def _listed(prices: Mapping[str, object]) -> str:
    """Each price with its unit; one that is no plain number is shown as what it says."""
    said = []
    for name, value in list(prices.items())[:16]:
        if name in ("min_prompt_tokens", "utc_start", "utc_end"):
            continue
        amount, word = price(value), one_line(name, 40).replace("_", " ")
        if amount is None:
            said.append(f"{word} {one_line(str(value), 20)!r} (not a plain number)")
        elif name in _PER_ITEM:
            said.append(f"{usd(amount)} {_PER_ITEM[name]}")
        else:
            said.append(f"{word} {usd((amount * A_MILLION).normalize())}/M tokens")
    return ", ".join(said)


def _typical(entry: Model) -> str:
    prices = plain_prices(entry)
    if prices is None:
        return ""
    cost = sum((amount * tokens for amount, tokens in zip(prices, _TYPICAL, strict=True)), Decimal(0))
    cost += price(entry.pricing.get("request")) or Decimal(0)
    return f"A typical question ({_TYPICAL[0]:,} tokens in, {_TYPICAL[1]} out): {about_usd(cost)}."


def _plain(entry: Model) -> dict[str, str] | None:
    prices = plain_prices(entry)
    return None if prices is None else dict(zip(("in", "out"), (f"{p * A_MILLION:f}" for p in prices), strict=True))


def _offers(offers: Sequence[Endpoint], strict: Container[tuple[str, str]]) -> str:
    if not offers:
        return "No provider serves it right now."
    head = ["provider (tag)", "$/M in", "$/M out", "tokens/s", "first token", "uptime", "keeps prompts", "context"]
    rows = [_offer(offer, strict=(offer.model_id, offer.tag) in strict) for offer in offers[:_MOST_OFFERS]]
    more = f"\n{len(offers) - _MOST_OFFERS} more." if len(offers) > _MOST_OFFERS else ""
    return f"Providers (the tag is what options.provider names):\n{table([head, *rows])}{more}"


def _offer(offer: Endpoint, *, strict: bool) -> list[str]:
    amounts = [price(offer.pricing.get(key)) for key in ("prompt", "completion")]
    name = f"{one_line(offer.provider_name, 40)} ({one_line(offer.tag, 30)})"
    return [
        f"{name}{'' if offer.status >= 0 else ', degraded'}",
        *("?" if amount is None else about_usd(amount * A_MILLION).lstrip("$") for amount in amounts),
        _figure(offer.throughput_last_30m.p50, ""),
        _latency(offer.latency_last_30m.p50),
        _figure(offer.uptime_last_1d, "%"),
        "no" if strict else "may",
        f"{length // 1000}k" if (length := offer.context_length or 0) > 0 else "-",
    ]


def _figure(value: object, unit: str) -> str:
    amount = number(value)
    return "-" if amount is None else f"{amount:.3g}{unit}"


def _latency(value: object) -> str:
    amount = number(value)
    if amount is None:
        return "-"
    return f"{amount if amount < _SECONDS_BELOW else amount / 1000:.2g} s"
