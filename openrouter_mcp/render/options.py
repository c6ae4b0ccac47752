"""The options, documented for an agent: from the very model that checks them."""

from typing import Any

from openrouter_mcp.options import Options
from openrouter_mcp.render.reply import table

_INTRO = """\
The `options` of ask_model and compare_models: one object, any of these fields; each is checked before anything is sent.
What is left out is left to the model. Example: {"temperature": 0, "provider": {"sort": "throughput"}}."""


def options() -> str:
    """Every field, what it takes, and what it does."""
    schema = Options.model_json_schema()
    rows = [["option", "takes", "what it does"], *_rows("", schema, schema["$defs"])]
    return f"{_INTRO}\n\n{table(rows)}\n"


def _rows(prefix: str, schema: dict[str, Any], kinds: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, field in schema["properties"].items():
        inner = next((kinds[one["$ref"].rpartition("/")[2]] for one in _either(field) if "$ref" in one), None)
        if prefix + name in {"provider", "provider.max_price"} and inner:
            rows += _rows(f"{prefix}{name}.", inner, kinds)
        else:
            rows.append([prefix + name, _takes(field), field.get("description", "")])
    return rows


def _either(field: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in field.get("anyOf", [field]) if one.get("type") != "null"]


def _takes(field: dict[str, Any]) -> str:
    return " or ".join(dict.fromkeys(_kind(one) for one in _either(field)))


def _kind(one: dict[str, Any]) -> str:
    if "enum" in one:
        return ", ".join(map(str, one["enum"]))
    if "$ref" in one:
        return "an object"
    words = {"number": "a number", "integer": "a whole number", "boolean": "true or false", "string": "text"}
    words |= {"array": "a list", "object": "an object"}
    if "items" in one:
        limit = f" of at most {one['maxItems']}" if "maxItems" in one else ""
        return f"a list{limit}: {_kind(one['items'])}"
    least, most = one.get("minimum", one.get("exclusiveMinimum")), one.get("maximum")
    above = "more than " if "exclusiveMinimum" in one else ""
    span = "" if least is None else f", {above or 'at least '}{least:g}"
    if None not in (least, most):
        span = f", {above}{least:g} to {most:g}"
    return words.get(str(one.get("type")), "anything") + span
