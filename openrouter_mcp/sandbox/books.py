"""One completion while it is written, and what is booked of it: usage, bill, generation."""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from openrouter_mcp.sandbox.account import Account
from openrouter_mcp.sandbox.answers import Answer
from openrouter_mcp.sandbox.faults import Fault
from openrouter_mcp.sandbox.routing import Route

Json = dict[str, Any]


@dataclass
class Call:
    """One completion as it is written; `reasoned` and `written` count tokens."""

    id: str
    created: int
    route: Route
    body: Json
    fault: Fault
    answer: Answer
    first_s: float
    token_s: float
    reasoned: int = 0
    written: int = 0
    cost: Decimal = Decimal(0)
    failed: bool = False  # ended in an error: OpenRouter bills no tokens of it
    finished: bool = False

    @property
    def model(self) -> str:
        return self.fault.model or self.route.id

    @property
    def provider(self) -> str:
        return f"{self.route.id.lstrip('~').split('/')[0].title()} Cloud"


def envelope(call: Call, kind: str, choices: list[Json]) -> Json:
    return {
        "id": call.id,
        "object": kind,
        "created": call.created,
        "model": call.model,
        "provider": call.provider,
        "system_fingerprint": None,
        "choices": choices,
    }


def usage(call: Call) -> Json:
    written = call.reasoned + call.written
    usage: Json = {
        "prompt_tokens": call.route.prompt_tokens,
        "completion_tokens": written,
        "total_tokens": call.route.prompt_tokens + written,
        "cost": float(call.cost),
        "is_byok": call.fault.is_byok,
        "cost_details": {
            "upstream_inference_cost": call.fault.upstream_cost,
            "upstream_inference_prompt_cost": float(call.route.prompt * call.route.prompt_tokens),
            "upstream_inference_completions_cost": float(call.route.completion * call.written),
        },
        "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, "audio_tokens": 0, "video_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": call.reasoned, "audio_tokens": 0, "image_tokens": 0},
    }
    return usage


def book(call: Call, account: Account) -> None:
    """Put the call on the bill and into the store of generations, once; an early end bills what was written."""
    if call.id in account.generations:
        return
    if call.fault.cost is not None:
        call.cost = Decimal(str(call.fault.cost))
    elif call.failed or not call.reasoned + call.written:
        call.cost = call.route.flat  # tokens of a failed or empty answer are free, helpers that ran are not
    else:
        call.cost = call.route.cost(call.reasoned, call.written)
    account.bill += call.cost
    account.generations[call.id] = _generation(call)


def _generation(call: Call) -> Json:
    written = call.reasoned + call.written
    return {
        "id": call.id,
        "model": call.model,
        "provider_name": call.provider,
        "router": call.route.asked if call.route.asked != call.route.id else None,
        "created_at": datetime.fromtimestamp(call.created, UTC).isoformat(),
        "streamed": bool(call.body.get("stream")),
        "cancelled": not call.finished,
        "finish_reason": call.answer.finish if call.finished else None,
        "native_finish_reason": call.answer.finish if call.finished else None,
        "latency": round(call.first_s * 1000),
        "generation_time": round((call.first_s + call.token_s * written) * 1000),
        "tokens_prompt": call.route.prompt_tokens,
        "tokens_completion": written,
        "native_tokens_prompt": call.route.prompt_tokens,
        "native_tokens_completion": written,
        "native_tokens_reasoning": call.reasoned,
        "native_tokens_cached": 0,
        "total_cost": float(call.cost),
        "usage": float(call.cost),
        "upstream_inference_cost": call.fault.upstream_cost,
        "cache_discount": None,
        "is_byok": call.fault.is_byok,
        "request_id": f"req-{call.id}",
        "api_type": "completions",
        "data_region": "global",
        "provider_responses": None,
    }
