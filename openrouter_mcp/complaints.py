"""What is wrong with an argument, in plain words. Pure."""

from typing import Any

from openrouter_mcp.text import one_line


def complaint(where: tuple[int | str, ...], kind: str, error: Any) -> str:  # noqa: ANN401 - pydantic's TypedDict varies
    """One rejected argument in plain words, without the library's."""
    name = ".".join(str(part) for part in where)
    limits = error.get("ctx", {})
    wants = {
        "missing": "is missing",
        "string_type": "must be text",
        "int_type": "must be a whole number",
        "int_parsing": "must be a whole number",
        "int_from_float": "must be a whole number",
        "int_parsing_size": "is far too large",
        "finite_number": "must be a finite number",
        "decimal_type": "must be a number",
        "float_type": "must be a number",
        "float_parsing": "must be a number",
        "bool_type": "must be true or false",
        "bool_parsing": "must be true or false",
        "dict_type": "must be an object",
        "model_type": "must be an object",
        "literal_error": f"must be {limits.get('expected')}",
        "value_error": f"cannot be: {limits.get('error')}",
        "greater_than": f"must be more than {limits.get('gt')}",
        "string_too_short": "must not be empty",
        "string_too_long": f"must have {limits.get('max_length')} characters or fewer",
        "decimal_parsing": "must be a number",
        "string_pattern_mismatch": f"must match {limits.get('pattern')}",
        "decimal_max_digits": "has too many digits",
        "tuple_type": "must be a list",
        "greater_than_equal": f"must be {limits.get('ge')} or more",
        "less_than_equal": f"must be {limits.get('le')} or less",
        "too_short": f"must have {limits.get('min_length')} or more entries",
        "too_long": f"must have {limits.get('max_length')} entries or fewer",
    }
    return f"{name} {wants.get(kind) or one_line(error['msg'], 100)}."
