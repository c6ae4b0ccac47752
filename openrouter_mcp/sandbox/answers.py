"""What the sandbox's models say: deterministic, from model and messages alone, and openly a stand-in."""

import functools
import json
import random
import re
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

OPINIONS = [
    "Start with the simplest thing that could work, then measure.",
    "The short answer is yes, with one condition worth checking first.",
    "Two readings are possible; the plainer one is usually meant.",
    "Most of the effort will go into the edge cases, so list them early.",
    "A small example would settle it faster than an argument.",
    "Keep what is tested, rewrite what is not, and write down why.",
    "There is a trade-off here between speed and clarity; clarity ages better.",
    "Nothing in the question rules out doing less.",
]


@dataclass(frozen=True)
class Answer:
    """An answer in tokens, about one a word."""

    reasoning: list[str]
    content: list[str]
    calls: list[Json]
    finish: str | None

    @property
    def tokens(self) -> int:
        return len(self.reasoning) + len(self.content) + sum(len(words(str(call))) for call in self.calls)


def words(text: str) -> list[str]:
    """Tokens that join to `text` again: words with the space after them, long ones in pieces."""
    return re.findall(r"\S{1,12}\s*|\s+", text)


def compose(row: Json, body: Json) -> Answer:
    """The answer of the model `row` to the request, cut at its output limit."""
    able = set(row.get("supported_parameters") or [])
    reasoning = words(_thoughts(row, body)) if _thinks(row, body) else []
    calls = _calls(body) if "tools" in able else []
    content: list[str] = []
    if not calls:
        text = _json(body) if "response_format" in able else None
        content = words(text or _ranking(body) or _prose(str(row["id"]), body))
    limit = output_limit(row, body)
    room = max(0, limit - len(reasoning))
    finish = "tool_calls" if calls else "stop"
    if len(reasoning) + len(content) > limit:
        finish = "length"
    return Answer(reasoning[:limit], content[:room], calls, finish)


def output_limit(row: Json, body: Json) -> int:
    own = (row.get("top_provider") or {}).get("max_completion_tokens") or 8_192
    asked = body.get("max_completion_tokens") or body.get("max_tokens") or own
    return min(int(asked), int(own))


def _thinks(row: Json, body: Json) -> bool:
    rules = row.get("reasoning")
    if not rules:
        return False
    wish = body.get("reasoning") or {}
    asked = bool(wish.get("enabled") or wish.get("max_tokens") or wish.get("effort"))
    return rules["mandatory"] or (asked and wish.get("effort") != "none" and wish.get("enabled", True))


def text_of(message: Json) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return " ".join(str(part.get("text", f"[{part.get('type')}]")) for part in content if isinstance(part, dict))
    return str(content or "")


def question(body: Json) -> str:
    """The last message of the user."""
    return next((text_of(message) for message in reversed(body["messages"]) if message.get("role") == "user"), "")


def _shown(text: str, most: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def _thoughts(row: Json, body: Json) -> str:
    choice = random.Random(f"{row['id']} thinks {body['messages']}").choice(OPINIONS)
    return f"The question is '{_shown(question(body), 40)}'. What is really asked, and what would help? {choice} "


def _prose(name: str, body: Json) -> str:
    asked = question(body)
    system = next((text_of(message) for message in body["messages"] if message.get("role") == "system"), "")
    turns = sum(message.get("role") == "user" for message in body["messages"])
    chance = random.Random(f"{name}\n{body['messages']}")
    lines = [f"[sandbox] {name} was asked: '{_shown(asked, 60)}' ({len(asked.split())} words)."]
    if turns > 1:
        lines.append(f"This is turn {turns} of the conversation.")
    if system:
        lines.append(f"It was told: '{_shown(system, 60)}'.")
    lines += chance.sample(OPINIONS, 2)
    lines.append("No real model has read this.")
    wanted = re.search(r"(\d{1,6}) words", asked)
    length = len(" ".join(lines).split())
    while wanted and length < int(wanted[1]):  # somebody tries how long answers are handled
        paragraph = " ".join(chance.sample(OPINIONS, 4))
        lines.append(f"\n\n{paragraph}")
        length += len(paragraph.split())
    return " ".join(lines)


def _calls(body: Json) -> list[Json]:
    """One call of the first function, or of the one that `tool_choice` names."""
    functions = [tool["function"] for tool in body.get("tools") or [] if tool.get("type") == "function"]
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        functions = [one for one in functions if one["name"] == choice.get("function", {}).get("name")]
    elif choice == "none" or (choice != "required" and "call the tool" not in question(body).lower()):
        return []
    return [
        {
            "id": "call_sandbox_1",
            "type": "function",
            "function": {"name": one["name"], "arguments": json.dumps(instance(one.get("parameters") or {}))},
        }
        for one in functions[:1]
    ]


def _ranking(body: Json) -> str | None:
    """A verdict, for whoever asks for one as openrouter-mcp's `judge` does: in the order of the labels."""
    system = next((text_of(message) for message in body["messages"] if message.get("role") == "system"), "")
    wanted = re.search(r'"ranking" names each of ([A-Z](?:, [A-Z])*) exactly once', system)
    if not wanted:
        return None
    chance = random.Random(f"judges {body['messages']}")
    ranking = [{"answer": label, "reason": chance.choice(OPINIONS)} for label in wanted[1].split(", ")]
    return json.dumps({"ranking": ranking, "agree": "[sandbox] on nothing", "differ": "[sandbox] in their words"})


def _json(body: Json) -> str | None:
    wish = body.get("response_format") or {}
    if wish.get("type") == "json_schema":
        return json.dumps(instance(wish["json_schema"].get("schema") or {}))
    return (
        json.dumps({"answer": f"[sandbox] {_shown(question(body), 60)}"}) if wish.get("type") == "json_object" else None
    )


def instance(schema: Json, root: Json | None = None, depth: int = 0) -> object:
    """A small value that is valid for a JSON schema of the ordinary kind (no patterns)."""
    root = schema if root is None else root
    if depth > 50:  # it refers to itself for ever
        return None
    if "$ref" in schema:
        target = functools.reduce(lambda part, step: part[step], schema["$ref"].split("/")[1:], root)
        return instance(target, root, depth + 1)
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return instance(schema[union][-1 if depth > 5 else 0], root, depth + 1)
    for part in schema.get("allOf", []):
        schema = {**schema, **part, "properties": schema.get("properties", {}) | part.get("properties", {})}
    kind = schema.get("type", "object" if "properties" in schema else "string")
    return _of_kind(kind[0] if isinstance(kind, list) else kind, schema, root, depth)


def _of_kind(kind: str, schema: Json, root: Json, depth: int) -> object:
    if kind == "object":
        required = schema.get("required", [])
        kept = {name: part for name, part in schema.get("properties", {}).items() if name in required or depth < 5}
        return {name: instance(part, root, depth + 1) for name, part in kept.items()}
    if kind == "array":
        count = max(schema.get("minItems", 0), int(depth < 5 and schema.get("maxItems", 1) > 0))
        return [instance(schema.get("items", {}), root, depth + 1) for _ in range(count)]
    if kind == "string":
        return "[sandbox]".ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength")]
    if kind in {"integer", "number"}:
        least = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        return min(least, schema["maximum"]) if "maximum" in schema else least
    return {"boolean": True}.get(kind)
