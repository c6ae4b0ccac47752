"""Which model serves a request, at which price, or the reason why none does."""

import random
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from openrouter_mcp.sandbox import faults
from openrouter_mcp.sandbox.account import Account
from openrouter_mcp.sandbox.faults import Fault
from openrouter_mcp.sandbox.models import ROUTERS

Json = dict[str, Any]
ROUTING_SUFFIXES = {"nitro", "floor", "exacto", "online"}
PROVIDER_KEYS = {
    "order", "only", "ignore", "allow_fallbacks", "require_parameters", "data_collection", "zdr",
    "enforce_distillable_text", "quantizations", "sort", "preferred_min_throughput", "preferred_max_latency",
    "max_price", "options",
}  # fmt: skip
KINDS: dict[str, type] = {"messages": list, "models": list, "plugins": list, "tools": list, "provider": dict,
                          "reasoning": dict, "response_format": dict}  # fmt: skip
PAID_PLUGINS = {"web", "fusion"}
EXTRA = Decimal("0.02")  # USD for each paid plugin or server tool of a request, also on free models
OCR = Decimal("0.002")  # USD for each document read by mistral-ocr
DUBIOUS = Decimal("0.000001")  # USD: what a price that is no plain decimal string costs here, so that trust in it shows
CONDITIONS = {"min_prompt_tokens", "utc_start", "utc_end"}


class Refused(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__("refused")
        self.fault = fault


@dataclass(frozen=True)
class Route:
    """The model that serves, and its prices in USD: per prompt, output and reasoning token, and flat per request."""

    asked: str
    row: Json
    prompt_tokens: int
    prompt: Decimal
    completion: Decimal
    reasoning: Decimal
    flat: Decimal

    @property
    def id(self) -> str:
        return str(self.row["id"])

    @property
    def free_tokens(self) -> bool:
        """Free as OpenRouter's limits and data policy see it; fees on top do not matter."""
        return not (self.prompt or self.completion)

    def cost(self, reasoning: int, written: int) -> Decimal:
        """USD for a call that wrote so many tokens."""
        return self.prompt * self.prompt_tokens + self.reasoning * reasoning + self.completion * written + self.flat


def routes(body: Json, catalog: list[Json], account: Account) -> list[Route]:
    """Who may serve the request, best first; Refused when nobody may."""
    _check(body)
    fallbacks = body.get("models") or []
    if len(fallbacks) > 3:
        raise Refused(faults.refusal(400, "'models' array must have 3 items or fewer"))
    asked = [name for name in (body.get("model"), *fallbacks) if name] or [account.default_model]
    found, refusals = [], []
    for name in dict.fromkeys(asked):
        try:
            found.append(_route(name, body, catalog, account))
        except Refused as refused:
            refusals.append(refused)
    if not found:
        raise refusals[0]
    return found


def _check(body: Json) -> None:
    for name, kind in KINDS.items():
        if not isinstance(body.get(name) or kind(), kind):
            raise Refused(faults.refusal(400, f"'{name}' has the wrong type"))
    messages = body.get("messages") or []
    if not messages or not all(isinstance(message, dict) for message in messages):
        raise Refused(faults.refusal(400, "Input required: 'messages' must be a non-empty array"))
    for name in ("max_tokens", "max_completion_tokens"):
        limit = body.get(name)
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise Refused(faults.refusal(400, f"'{name}' must be an integer of at least 1"))
    unknown = set(body.get("provider") or {}) - PROVIDER_KEYS
    if unknown:
        raise Refused(faults.refusal(400, f"Unrecognized key(s) in object 'provider': {sorted(unknown)}"))


def _route(asked: str, body: Json, catalog: list[Json], account: Account) -> Route:
    row = _find(asked, body, catalog, account)
    tokens = prompt_tokens(body)
    if (row.get("context_length") or tokens) < tokens:
        text = f"This endpoint's maximum context length is {row['context_length']} tokens; you sent about {tokens}"
        raise Refused(faults.refusal(400, text, metadata={"error_type": "context_length_exceeded"}))
    route = _priced(asked, row, body, tokens, account)
    _filter(route, body, account)
    return route


def _find(asked: str, body: Json, catalog: list[Json], account: Account) -> Json:
    name = listed_id(
        account.default_model if "@preset/" in asked else asked
    )  # a preset's model is the account's choice
    by_id = {row["id"]: row for row in catalog if "id" in row}
    if name in ROUTERS or name == "openrouter/free":
        return _pick(name, body, catalog)
    if name == "acme/gone:free":
        raise Refused(faults.free_ended(name, "acme/gone"))
    row = by_id.get(name)
    if row is None:
        text = f"{asked} is not a valid model ID"
        raise Refused(faults.unavailable(400, "model_not_found", text, asked))
    alias = (row.get("alias_target") or {}).get("slug")
    return by_id[alias] if alias else row


def listed_id(name: str) -> str:
    """A model id without the suffixes that only route."""
    base, *suffixes = name.split(":")
    return ":".join([base, *(suffix for suffix in suffixes if suffix not in ROUTING_SUFFIXES)])


def _pick(router: str, body: Json, catalog: list[Json]) -> Json:
    """A router's choice: any model that can serve the request, the same for the same prompt."""
    free = router == "openrouter/free"
    able = [row for row in catalog if _pickable(row, free=free) and not lacking(row, body)]
    if not able:
        raise Refused(faults.unavailable(404, "no_endpoints", f"No endpoints found for {router}", router))
    return random.Random(router + prompt_text(body)).choice(able)


def _pickable(row: Json, *, free: bool) -> bool:
    match row:
        case {"id": str(name), "pricing": {"prompt": str(prompt), "completion": str(completion)},
              "architecture": {"output_modalities": ["text"]}}:  # fmt: skip
            zero, listed = prompt == completion == "0", not name.startswith(("openrouter/", "~", "trap/"))
            return listed and (zero and name.endswith(":free") if free else not zero and ":" not in name)
    return False


def lacking(row: Json, body: Json) -> list[str]:
    """What the request needs and the model does not have: parameters and kinds of input."""
    able = set(row.get("supported_parameters") or [])
    needs = [need for need in ("tools", "response_format") if body.get(need) and need not in able]
    inputs = (row.get("architecture") or {}).get("input_modalities") or ["text"]
    kinds = {"image_url": "image", "input_audio": "audio", "video_url": "video"}  # a file is read by OCR if need be
    used = {kinds[part["type"]] for part in parts(body) if part.get("type") in kinds}
    return needs + sorted(used - set(inputs))


def _filter(route: Route, body: Json, account: Account) -> None:
    provider = body.get("provider") or {}
    strict = provider.get("data_collection") == "deny" or provider.get("zdr") or not account.allows_free
    if strict and route.free_tokens:
        raise Refused(faults.privacy(route.asked))
    wish, rules = body.get("reasoning") or {}, route.row.get("reasoning") or {}
    if rules.get("mandatory") and (wish.get("effort") == "none" or wish.get("enabled") is False):
        raise Refused(faults.refusal(400, "Reasoning is mandatory for this endpoint and cannot be disabled."))
    missing = lacking(route.row, body)
    kinds = [need for need in missing if need in {"image", "audio", "video"}]
    if kinds:
        text = f"No endpoints found that support {kinds[0]} input"
        raise Refused(faults.unavailable(404, "no_endpoints", text, route.asked))
    for name, limit in (provider.get("max_price") or {}).items():
        if _dear(route, name, limit):
            _constrain(route, "max_price", f"provider.max_price.{name}")
    if provider.get("require_parameters") and missing:
        _constrain(route, "require_parameters", "provider.require_parameters")
    vendor = route.id.split("/")[0]
    if vendor in (provider.get("ignore") or []) or vendor not in (provider.get("only") or [vendor]):
        _constrain(route, "allowed_providers", "provider.only")


def _constrain(route: Route, by: str, field: str) -> None:
    text = f"No endpoints found for {route.asked} that meet the constraint {by}"
    constraint = {"field": field, "detail": text}
    raise Refused(
        faults.unavailable(404, "constraint_filtered", text, route.asked, excluded_by=[by], constraint=constraint)
    )


def _dear(route: Route, name: str, limit: object) -> bool:
    """Whether a price is above its limit: `prompt` and `completion` in USD per million, the others per unit."""
    try:
        most = Decimal(str(limit))
    except InvalidOperation:
        raise Refused(faults.refusal(400, f"provider.max_price.{name} is not a number")) from None
    if name in {"prompt", "completion"}:
        return Decimal(getattr(route, name)) * 1_000_000 > most
    return price((route.row.get("pricing") or {}).get(name, "0")) > most


def price(value: object) -> Decimal:
    """A catalogue price in USD. What is no plain decimal string costs DUBIOUS, whatever it looks like."""
    return Decimal(value) if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?", value) else DUBIOUS


def _priced(asked: str, row: Json, body: Json, tokens: int, account: Account) -> Route:
    prices = dict(row.get("pricing") or {})
    for override in prices.pop("overrides", None) or []:
        if tokens >= override.get("min_prompt_tokens", 0):
            prices |= {name: value for name, value in override.items() if name not in CONDITIONS}
    searches = _extras(asked, body, account)
    flat = EXTRA * searches + OCR * _documents(row, body) + price(prices.get("request", "0"))
    if searches:
        flat += price(prices.get("web_search", "0"))
    known = {"prompt", "completion", "request", "web_search", "internal_reasoning", "discount", "image", "image_output",
             "audio", "input_cache_read", "input_cache_write"}  # fmt: skip
    flat += sum((price(value) for name, value in prices.items() if name not in known), Decimal(0))
    completion = price(prices.get("completion"))
    reasoning = price(prices["internal_reasoning"]) if "internal_reasoning" in prices else completion
    return Route(asked, row, tokens, price(prices.get("prompt")), completion, reasoning, flat)


def _extras(asked: str, body: Json, account: Account) -> int:
    """How many paid helpers the request switches on, or fails to switch off."""
    plugins = {plugin.get("id"): plugin.get("enabled", True) for plugin in body.get("plugins") or []}
    on = {name for name in PAID_PLUGINS if plugins.get(name, name in account.default_plugins)}
    if "online" in asked.split(":"):
        on.add("web")
    servers = [tool for tool in body.get("tools") or [] if str(tool.get("type")).startswith("openrouter:")]
    return len(on) + len(servers)


def _documents(row: Json, body: Json) -> int:
    """How many files are read by the paid engine: OpenRouter's default where the model does not read them itself."""
    parser: Json = next((plugin for plugin in body.get("plugins") or [] if plugin.get("id") == "file-parser"), {})
    native = "file" in row["architecture"]["input_modalities"]
    engine = (parser.get("pdf") or {}).get("engine", "native" if native else "mistral-ocr")
    files = [part for part in parts(body) if part.get("type") == "file"]
    return len(files) if engine == "mistral-ocr" else 0


def parts(body: Json) -> list[Json]:
    """The content parts of all messages; plain strings as text parts."""
    found: list[Json] = []
    for message in body["messages"]:
        content = message.get("content")
        if isinstance(content, str):
            found.append({"type": "text", "text": content})
        elif isinstance(content, list):
            found += [part for part in content if isinstance(part, dict)]
    return found


def prompt_text(body: Json) -> str:
    return "\n".join(str(part.get("text", "")) for part in parts(body))


def prompt_tokens(body: Json) -> int:
    """About a token for four characters, three for each message, 85 for each part that is not text."""
    others = len([part for part in parts(body) if part.get("type") != "text"])
    return len(prompt_text(body)) // 4 + 3 * len(body["messages"]) + 85 * others
