"""JSON Schemas that answers are to follow: whether one may be used, and whether an answer follows it. Pure.

A schema comes from whoever asks, and must not be able to hang the process: patterns are neither evaluated nor
compiled, references resolve inside it only, and there is an end to the steps that one check may take. `jsonschema` is
imported where it is needed: it takes a tenth of the start-up.
"""

import json
import math
from collections.abc import Hashable, Iterator
from typing import Any

from openrouter_mcp.errors import InvalidRequest
from openrouter_mcp.text import one_line

Json = dict[str, Any]
_MOST_BYTES = 64 * 1024
_MOST_PARTS = 1_500  # objects and booleans: each is a schema to be checked, and takes a third of a millisecond
_DEEPEST = 40
_DEEPEST_ANSWER = 100  # what is parsed goes out again, through writers with limits of their own
_MOST_STEPS = 100_000  # keywords evaluated while one answer is checked
_STEP = 8  # members of an object or list that are looked at in the time that a keyword takes
UNCHECKABLE = "it could not be checked"
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_PATTERNS = ("pattern", "patternProperties")


class _TooMany(Exception):
    """More steps than anybody needs."""


def require_usable(schema: Json) -> None:
    """Raise InvalidRequest where the schema is none, is too large or too deep, or refers to anything outside itself."""
    from jsonschema import Draft202012Validator, SchemaError

    parts = 0
    for place, value, depth in _walk(schema, _DEEPEST):
        parts += isinstance(value, dict | bool)
        if depth > _DEEPEST:
            raise InvalidRequest(f"schema is nested over {_DEEPEST} levels deep; send a flatter one.")
        if place in _REFERENCES and isinstance(value, str) and not value.startswith("#"):
            raise InvalidRequest(f"schema refers to {one_line(value, 80)!r}; references point inside it: #/$defs/...")
    try:
        size = len(json.dumps(schema, allow_nan=False))
    except ValueError as error:
        raise InvalidRequest("schema holds NaN or Infinity, which are no numbers of JSON.") from error
    if size > _MOST_BYTES or parts > _MOST_PARTS:
        raise InvalidRequest(f"schema has over {_MOST_BYTES} bytes or {_MOST_PARTS} parts; send a smaller one.")
    try:
        Draft202012Validator.check_schema(schema, format_checker=None)  # type: ignore[arg-type]  # it compiles patterns
    except SchemaError as error:
        where = ".".join(map(str, error.absolute_path))
        what = f"{where}: {error.message}" if where else error.message
        raise InvalidRequest(f"schema is no JSON Schema: {one_line(what, 250)}.") from error
    if (lost := _leading_nowhere(schema)) is not None:
        raise InvalidRequest(f"schema refers to {one_line(lost, 80)!r}, and there is no schema in it at that place.")


def bare(text: str) -> str:
    """`text` without the code fence around it, if there is one."""
    text = text.strip()
    first, _, rest = text.partition("\n")
    inside, _, last = rest.rpartition("\n")
    return inside.strip() if first.rstrip() in ("```", "```json") and last.strip() == "```" else text


def follow(schema: Json, text: str) -> tuple[str, str]:
    """The JSON in `text`, and why it does not follow `schema`; empty when it does."""
    said = bare(text)
    try:
        value = json.loads(said, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        return text, f"it is no JSON: {one_line(str(error), 200)}"
    for _, part, depth in _walk(value, _DEEPEST_ANSWER):
        if depth > _DEEPEST_ANSWER:
            return said, f"it is nested over {_DEEPEST_ANSWER} levels deep"
        if isinstance(part, float) and math.isinf(part):
            return said, "a number in it is too large"
    if not schema:
        return said, "" if isinstance(value, dict) else "it is no JSON object"
    try:
        problem = next(iter(_validator(schema).iter_errors(value)), None)
    except (_TooMany, RecursionError):
        return said, f"{UNCHECKABLE}: that takes too many steps"
    except _odd() as error:
        return said, f"{UNCHECKABLE}: {one_line(str(error), 200)}"
    if problem is None:
        return said, ""
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem.absolute_path)
    shown = repr(problem.instance)
    message = problem.message.replace(shown, one_line(shown, 100))  # else a long value leaves no room for the reason
    return said, f"{one_line(f'${where}', 200)}: {one_line(message, 300)}"


def _odd() -> tuple[type[Exception], ...]:
    """What the validator makes of a schema that is odd where nobody looked before."""
    from jsonschema.exceptions import UnknownType
    from referencing.exceptions import CannotDetermineSpecification, Unresolvable

    names_none = (UnknownType, Unresolvable, CannotDetermineSpecification)
    return (*names_none, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def not_checked(schema: Json) -> list[str]:
    """Which keywords of it are not evaluated here."""
    texts = {place for place, value, _ in _walk(schema, _DEEPEST) if place == "pattern" and isinstance(value, str)}
    return sorted(texts | ({"patternProperties"} if _has_pattern_properties(schema) else set()))


def _has_pattern_properties(schema: Json) -> bool:
    return any(place == "patternProperties" and isinstance(value, dict) for place, value, _ in _walk(schema, _DEEPEST))


def _leading_nowhere(schema: Json) -> str | None:
    """A reference in it to what is no schema. Not looked for where parts of it have a base of their own."""
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    found = [*_walk(schema, _DEEPEST)]
    if any(place == "$id" and depth > 1 for place, _, depth in found):
        return None
    resolver = Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
    for ref in {value for place, value, _ in found if place in _REFERENCES and isinstance(value, str)}:
        try:
            target = resolver.lookup(ref).contents
        except _odd():
            return ref
        if not isinstance(target, dict | bool):
            return ref
    return None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def response_format(schema: Json) -> Json:
    """As OpenRouter is sent it: https://openrouter.ai/docs/guides/features/structured-outputs."""
    if not schema:
        return {"type": "json_object"}
    named = {"name": "answer", "strict": _is_strict(schema), "schema": schema}
    return {"type": "json_schema", "json_schema": named}


def _is_strict(schema: object) -> bool:
    """Whether every object lists all its properties as required and allows no others: providers that enforce a schema
    refuse it otherwise."""
    if isinstance(schema, list):
        return all(map(_is_strict, schema))
    if not isinstance(schema, dict):
        return True
    if "properties" in schema or schema.get("type") == "object":
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if schema.get("additionalProperties") is not False or not isinstance(properties, dict):
            return False
        if not isinstance(required, list) or sorted(properties) != sorted(map(str, required)):
            return False
    return all(map(_is_strict, schema.values()))


def _walk(value: object, most: int) -> Iterator[tuple[str, object, int]]:
    """Every value in it, with its key and how deep it lies, as far as one level below `most`."""
    waiting: list[tuple[str, object, int]] = [("", value, 0)]
    while waiting:
        place, value, depth = waiting.pop()
        yield place, value, depth
        if depth > most:
            continue
        if isinstance(value, dict):
            waiting += [(str(key), inner, depth + 1) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [("", inner, depth + 1) for inner in value]


class _Steps:
    """How many were taken while one answer is checked."""

    def __init__(self) -> None:
        self._taken = 0

    def take(self, *sized: object, steps: int = 1) -> None:
        """Raise _TooMany where that is more than anybody needs, what is `sized` being looked at member by member."""
        self._taken += steps + sum(len(each) for each in sized if isinstance(each, dict | list)) // _STEP
        if self._taken > _MOST_STEPS:
            raise _TooMany

    def counted(self, check: Any) -> Any:  # noqa: ANN401 - jsonschema's checks have no common type
        """`check`, as a step."""

        def counting(validator: Any, wanted: Any, instance: Any, around: Any) -> Iterator[Any]:  # noqa: ANN401 - as above
            self.take(() if isinstance(check, _OneOf) else wanted, instance)
            yield from check(validator, wanted, instance, around) or ()

        return counting


class _OneOf:
    """`enum`, by what is in each: looked up, not compared with one after the other."""

    def __init__(self) -> None:
        self._listed: dict[int, frozenset[Hashable]] = {}

    def __call__(self, _: object, enum: list[object], instance: object, __: object) -> Iterator[Any]:
        from jsonschema import ValidationError

        if id(enum) not in self._listed:
            self._listed[id(enum)] = frozenset(map(_key, enum))
        if _key(instance) not in self._listed[id(enum)]:
            yield ValidationError(f"{instance!r} is not one of {enum!r}")


def _unique(_: object, wanted: object, instance: object, __: object) -> Iterator[Any]:
    """`uniqueItems`, in a time that grows with the list and not with its square."""
    from jsonschema import ValidationError

    if wanted is True and isinstance(instance, list) and len({*map(_key, instance)}) < len(instance):
        yield ValidationError(f"{instance!r} has non-unique elements")


def _left_over(validator: Any, wanted: Any, instance: Any, around: Json) -> Iterator[Any]:  # noqa: ANN401 - as above
    """`additionalProperties`, where no pattern says which they are."""
    from jsonschema import Draft202012Validator

    if "patternProperties" not in around:
        yield from Draft202012Validator.VALIDATORS["additionalProperties"](validator, wanted, instance, around) or ()


def _anything(*_: object) -> Iterator[Any]:
    return iter(())


def _validator(schema: Json) -> Any:  # noqa: ANN401 - jsonschema's validators have no common type
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend
    from referencing import Registry

    steps = _Steps()
    checks: dict[str, Any] = {**Draft202012Validator.VALIDATORS, **dict.fromkeys(_PATTERNS, _anything)}
    checks |= {"uniqueItems": _unique, "enum": _OneOf(), "additionalProperties": _left_over}
    if _has_pattern_properties(schema):  # which it reads too, also those of other parts
        checks["unevaluatedProperties"] = _anything
    kind: Any = extend(Draft202012Validator, {name: steps.counted(check) for name, check in checks.items()})  # type: ignore[no-untyped-call]  # so the stubs have it

    def evolve(self: Any, **changes: Any) -> Any:  # noqa: ANN401 - as above
        # Its own takes a "$schema" for leave to go on with a validator that evaluates patterns.
        steps.take(steps=3)
        return kind(changes.get("schema", self.schema), _resolver=changes.get("_resolver", self._resolver))

    kind.evolve = evolve
    return kind(schema, registry=Registry())  # one that fetches nothing


def _key(value: object) -> Hashable:
    """The same for values that are equal in JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, dict):
        return ("object", frozenset((name, _key(inner)) for name, inner in value.items()))
    if isinstance(value, list):
        return ("list", tuple(map(_key, value)))
    return ("boolean", value) if isinstance(value, bool) else value
