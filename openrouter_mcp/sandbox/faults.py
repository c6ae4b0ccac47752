"""What can go wrong upstream, as plain data: `sandbox.fail(faults.day_limit())`, or a `Fault` of your own."""

import json as jsonlib
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Json = dict[str, Any]


class Reset(Exception):
    """Raised through the ASGI app to cut the connection.

    `StreamingTransport` makes it a ReadError. uvicorn drops the connection if the reply has begun; before that it can
    only answer 500, so on a real socket use `Fault(then="reset")`, which sends the headers first.
    """


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One misbehaviour. The defaults misbehave in nothing; parts combine. Times in seconds, costs in USD.

    With `status`, `json` or `body` it is a whole reply in place of the sandbox's own; otherwise the sandbox's answer,
    spoiled. `then` says what follows the first `after_tokens` tokens of it:
    stall (silence for ever), reset (connection cut), end (closed without `[DONE]`), error (event with `error` on top),
    choice_error (event with `choices[0].error`), comments / tokens (for ever, one every `every_s`), dribble (single
    bytes without a newline, for ever, one every `every_s`).
    """

    status: int | None = None
    json: Any = None
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    reset: bool = False  # cut before any reply
    delay_headers_s: float = 0.0
    delay_first_s: float | None = None  # None: as the sandbox is set; a comment every 5 s meanwhile
    delay_token_s: float | None = None
    comments: int = 1  # lines `: OPENROUTER PROCESSING` before the first event
    after_tokens: int = 0
    then: Literal["", "stall", "reset", "end", "error", "choice_error", "comments", "tokens", "dribble"] = ""
    every_s: float = 1.0
    error: Mapping[str, Any] = field(
        default_factory=lambda: {
            "code": 502,
            "message": "Provider disconnected mid-stream",
            "metadata": {"error_type": "provider_unavailable"},
        }
    )
    answer: Literal["whole", "none", "reasoning"] = "whole"  # none: a cold start; reasoning: it ate the output limit
    plain: bool = False  # a streamed request is answered by one JSON body
    cost: float | None = None  # what usage.cost says, and the bill
    is_byok: bool = False
    upstream_cost: float | None = None  # usage.cost_details.upstream_inference_cost
    model: str | None = None  # the model that the reply claims

    @property
    def is_reply(self) -> bool:
        return self.status is not None or self.json is not None or self.body is not None

    def content(self) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of the whole reply."""
        if self.body is not None:
            return self.status or 200, self.body, dict(self.headers)
        body = b"" if self.json is None else jsonlib.dumps(self.json).encode()
        return self.status or 200, body, {"content-type": "application/json", **self.headers}


def refusal(
    status: int,
    message: str,
    *,
    metadata: Json | None = None,
    availability: Json | None = None,
    headers: Mapping[str, str] | None = None,
) -> Fault:
    """A real status and OpenRouter's error envelope."""
    error: Json = {"message": message, "code": status}
    if metadata is not None:
        error["metadata"] = metadata
    if availability is not None:
        error["availability"] = {"docs_url": "https://openrouter.ai/docs", **availability}
    return Fault(status=status, json={"error": error, "user_id": "user_sandbox"}, headers=headers or {})


def unavailable(status: int, code: str, message: str, model: str, **more: object) -> Fault:
    """An error that carries `availability`, never retryable unless `more` says so."""
    availability = {"code": code, "retryable": False, "requested_models": [model], **more}
    return refusal(status, message, metadata={"error_type": "not_found"}, availability=availability)


def rate_limit(text: str, limit: int, reset_at: float) -> Fault:
    """OpenRouter's own 429; `reset_at` in epoch seconds. No Retry-After, as in the real one."""
    marks = {
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(round(reset_at * 1000)),
    }
    return refusal(429, f"Rate limit exceeded: {text}", metadata={"headers": marks}, headers=marks)


def minute_limit(reset_in_s: float = 8.0, *, now: float | None = None) -> Fault:
    """The free models' 20 a minute; `now` in epoch seconds, for a sandbox whose clock is not the computer's."""
    return rate_limit("free-models-per-min.", 20, (time.time() if now is None else now) + reset_in_s)


def day_limit(*, now: float | None = None, high_balance: bool = False) -> Fault:
    """The free models' day; resets at the next UTC midnight after `now` (epoch seconds)."""
    now = time.time() if now is None else now
    if high_balance:
        return rate_limit("free-models-per-day-high-balance", 1000, next_midnight(now))
    text = "free-models-per-day. Add 10 credits to unlock 1000 free model requests per day"
    return rate_limit(text, 50, next_midnight(now))


def next_midnight(now: float) -> float:
    """The next UTC midnight, in epoch seconds."""
    return (now // 86_400 + 1) * 86_400


def pool_busy(provider: str = "Acme Cloud", retry_after: float | None = None) -> Fault:
    """The pool that all users of one free model share; it says nothing about the account."""
    metadata = {
        "raw": "The model is temporarily rate-limited upstream. Please retry shortly, or add your own key.",
        "provider_name": provider,
        "limit_source": "upstream_provider_shared_pool",
        "remedy_hint": "Retry shortly, add your own provider key, or route to another provider",
    }
    return refusal(429, "Provider returned error", metadata=metadata, headers=_retry_after(retry_after))


def capacity(retry_after: float = 3.0) -> Fault:
    """429: every provider is full."""
    availability = {"code": "capacity_exhausted", "retryable": True, "retry_after": retry_after, "requested_models": []}
    return refusal(429, "All providers are at capacity", availability=availability, headers=_retry_after(retry_after))


def no_credit(requested: int = 32_000, affordable: int = 27_342) -> Fault:
    text = (
        f"This request requires more credits, or fewer max_tokens. You requested up to {requested} tokens, but can "
        f"only afford {affordable}. To increase, visit https://openrouter.ai/settings/credits"
    )
    return refusal(402, text, metadata={"provider_name": None, "limit_source": "openrouter_credits"})


def negative_balance() -> Fault:
    text = "Insufficient credits. Your account balance is negative: free models are paused until you add credits"
    return refusal(402, text, metadata={"limit_source": "openrouter_credits"})


def key_limit() -> Fault:
    text = "Key limit exceeded. Manage it using https://openrouter.ai/settings/keys"
    return refusal(402, text, metadata={"limit_source": "openrouter_key_limit"})


def in_flight_budget(retry_after: float = 4.0) -> Fault:
    """402, but passing: parallel paid calls fill the in-flight budget."""
    metadata = {"limit_source": "openrouter_in_flight_budget", "reason": "in_flight_budget_exhausted"}
    return refusal(402, "In-flight budget exhausted", metadata=metadata, headers=_retry_after(retry_after))


def budget_spent(scope: str = "key_limit", resets_at: str = "2026-12-01T00:00:00Z") -> Fault:
    """403: a key's, workspace's or guardrail's budget is used up."""
    source = {"guardrail": "openrouter_guardrail_budget", "workspace": "openrouter_workspace_budget"}
    metadata = {"limit_source": source.get(scope, "openrouter_key_limit"), "scope": scope, "limit_usd": 5.0,
                "spend_usd": 5.0, "resets_at": resets_at}  # fmt: skip
    return refusal(403, "Budget exceeded", metadata=metadata)


def moderation(provider: str = "Acme Cloud", model: str = "acme/tiny") -> Fault:
    metadata = {"reasons": ["violence"], "flagged_input": "how do I ...", "provider_name": provider,
                "model_slug": model, "error_type": "content_policy_violation"}  # fmt: skip
    return refusal(403, "Your chosen model requires moderation and your input was flagged", metadata=metadata)


def region(model: str = "acme/tiny") -> Fault:
    return unavailable(403, "region_restricted", "This model is not available in your region", model)


def privacy(model: str = "acme/tiny:free") -> Fault:
    """404: the account's or the request's data policy leaves no endpoint."""
    text = (
        "No endpoints found matching your data policy (Free model training). "
        "Configure: https://openrouter.ai/settings/privacy"
    )
    return unavailable(404, "privacy_restricted", text, model, excluded_by=["data_policy:training"])


def free_ended(model: str = "acme/gone:free", paid: str = "acme/gone") -> Fault:
    """404: the free promotion is over; `fallback_models` names the paid twin, as the real one does."""
    text = f"The free variant of {paid} is no longer available"
    return unavailable(404, "free_variant_ended", text, model, fallback_models=[paid])


def bad_key() -> Fault:
    return Fault(status=401, json={"error": {"message": "User not found.", "code": 401}})


def server_error(status: int = 503, message: str = "Provider overloaded", retry_after: float | None = None) -> Fault:
    """408, 500, 502, 503, 504, 524 or 529 with OpenRouter's envelope."""
    metadata = {"error_type": "server" if status == 500 else "provider_unavailable"}
    return refusal(status, message, metadata=metadata, headers=_retry_after(retry_after))


def html_error(status: int = 502) -> Fault:
    page = b"<html><head><title>Bad gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
    return Fault(status=status, body=page, headers={"content-type": "text/html"})


def ok_with_error(code: int = 502, message: str = "Provider returned an empty reply") -> Fault:
    """HTTP 200 whose body is only `{"error": ...}`."""
    return Fault(json={"error": {"code": code, "message": message, "metadata": {"error_type": "provider_unavailable"}}})


def redirect(location: str, status: int = 307) -> Fault:
    return Fault(status=status, body=b"", headers={"location": location})


def gzip_bomb(unpacked_bytes: int = 300 * 2**20, content_type: str = "text/event-stream") -> Fault:
    """A small gzip body that unpacks to one endless line of `unpacked_bytes` bytes."""
    packer = zlib.compressobj(9, wbits=31)
    piece = b"a" * 2**20
    packed = packer.compress(b"data: ") + b"".join(packer.compress(piece) for _ in range(unpacked_bytes // 2**20))
    headers = {"content-type": content_type, "content-encoding": "gzip"}
    return Fault(status=200, body=packed + packer.flush(), headers=headers)


def _retry_after(seconds: float | None) -> dict[str, str]:
    return {} if seconds is None else {"Retry-After": f"{seconds:g}"}
