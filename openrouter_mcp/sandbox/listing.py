"""The endpoints that only tell: models, providers, key, credits, generations."""

import zlib
from typing import TYPE_CHECKING, Any

from openrouter_mcp.sandbox.faults import Fault, refusal
from openrouter_mcp.sandbox.reply import Reply, data, whole
from openrouter_mcp.sandbox.routing import listed_id

if TYPE_CHECKING:
    from openrouter_mcp.sandbox.server import Sandbox

Json = dict[str, Any]


def models(catalog: list[Json], query: dict[str, str], if_none_match: str = "") -> Reply:
    """GET /models, with the filters `output_modalities`, `supported_parameters`, `q` and paging."""
    rows = [row for row in catalog if _wanted(row, query)]
    total, following = len(rows), None
    if "offset" in query or "limit" in query:
        start, size = int(query.get("offset", 0)), int(query.get("limit", 500))
        following = f"/api/v1/models?offset={start + size}&limit={size}" if start + size < total else None
        rows = rows[start : start + size]
    tag = f'"{zlib.crc32(repr(rows).encode()):08x}"'
    if if_none_match == tag:
        return Reply(304, b"", {"etag": tag})
    reply = data(rows, total_count=total, links={"next": following})
    reply.headers["etag"] = tag
    return reply


def _wanted(row: object, query: dict[str, str]) -> bool:
    """Tests break rows: what cannot be judged is listed."""
    outputs = {"text"}
    match row:
        case {"architecture": {"output_modalities": [*kinds]}}:
            outputs = set(kinds)
    kinds_asked = query.get("output_modalities", "text")
    if kinds_asked != "all" and not outputs & set(kinds_asked.split(",")):
        return False
    if not isinstance(row, dict):
        return True
    needs = {need for need in query.get("supported_parameters", "").split(",") if need}
    text = f"{row.get('id')} {row.get('name')}".lower()
    return needs <= set(row.get("supported_parameters") or []) and query.get("q", "").lower() in text


def is_free(row: object) -> bool:
    match row:
        case {"pricing": {"prompt": "0", "completion": "0"}}:
            return True
    return False


def count(catalog: list[Json], query: dict[str, str]) -> Reply:
    return data({"count": sum(_wanted(row, query) for row in catalog)})


def one(catalog: list[Json], name: str) -> Reply:
    """GET /model/{author}/{slug}: aliases and routing suffixes resolved."""
    row = _find(catalog, name)
    return whole(_absent(name)) if row is None else data(row)


def endpoints(catalog: list[Json], name: str, *, measured: bool) -> Reply:
    """GET /models/{author}/{slug}/endpoints; latency and throughput only for a caller with a key."""
    row = _find(catalog, name) or _find(catalog, name.removesuffix(":free"))
    if row is None:
        return whole(_absent(name))
    shown = {key: row.get(key) for key in ("id", "name", "created", "description", "architecture")}
    offers = [_endpoint(row, measured=measured)] if _find(catalog, name) else []  # `:free` that is not offered: none
    return data(shown | {"endpoints": offers})


def zero_retention(catalog: list[Json]) -> Reply:
    """GET /endpoints/zdr: here, whoever is paid retains nothing."""
    strict = [row for row in catalog if row.get("pricing") and "architecture" in row and not is_free(row)]
    return data([_endpoint(row, measured=False) for row in strict])


def _endpoint(row: Json, *, measured: bool) -> Json:
    vendor = row["id"].lstrip("~").split("/")[0]
    top = row.get("top_provider") or {}
    return {
        "name": f"{vendor.title()} Cloud | {row['id']}",
        "model_id": row["id"],
        "model_name": row.get("name"),
        "provider_name": f"{vendor.title()} Cloud",
        "tag": vendor,
        "context_length": row.get("context_length"),
        "max_completion_tokens": top.get("max_completion_tokens"),
        "max_prompt_tokens": row.get("context_length"),
        "quantization": None,
        "status": 0,
        "pricing": row.get("pricing"),
        "supported_parameters": row.get("supported_parameters"),
        "supports_implicit_caching": False,
        "uptime_last_5m": 100,
        "uptime_last_30m": 99.5,
        "uptime_last_1d": 99.8,
        "latency_last_30m": {"p50": 0.3, "p75": 0.5, "p90": 0.9, "p99": 2.1} if measured else None,
        "throughput_last_30m": {"p50": 80, "p75": 60, "p90": 41, "p99": 12} if measured else None,
    }


def _find(catalog: list[Json], name: str) -> Json | None:
    kept = listed_id(name)
    row = next((row for row in catalog if kept in {row.get("id"), row.get("canonical_slug")}), None)
    alias = (row or {}).get("alias_target")
    return _find(catalog, alias["slug"]) if alias else row


def _absent(name: str) -> Fault:
    return refusal(404, f"Model {name} not found")


def providers(catalog: list[Json]) -> Reply:
    vendors = sorted({row["id"].lstrip("~").split("/")[0] for row in catalog if "id" in row} - {"openrouter"})
    return data(
        [
            {
                "name": f"{vendor.title()} Cloud",
                "slug": vendor,
                "headquarters": "US",
                "datacenters": ["US"],
                "privacy_policy_url": f"https://{vendor}.example/privacy",
                "terms_of_service_url": f"https://{vendor}.example/terms",
                "status_page_url": None,
            }
            for vendor in vendors
        ]
    )


def credits_of(sandbox: "Sandbox") -> Reply:
    """GET /credits as `account.credits` says: refused, the truth, or the 0/0 seen in the field."""
    account = sandbox.account
    if account.credits == "forbidden":
        return whole(refusal(403, "Only management keys can perform this operation"))
    real = account.credits == "real"
    bought, used = (float(account.bought), float(account.bill)) if real else (0, 0)
    return data({"total_credits": bought, "total_usage": used})


def generation(sandbox: "Sandbox", name: str) -> Reply:
    known = sandbox.account.generations.get(name)
    return whole(refusal(404, f"Generation {name} not found")) if known is None else data(known)
