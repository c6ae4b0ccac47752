"""What a tool answers with."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from openrouter_mcp.wire import Image


@dataclass(frozen=True)
class Reply:
    """The text for the model, the record for programs."""

    text: str
    record: dict[str, object] = field(default_factory=dict)
    is_error: bool = False
    images: Sequence[Image] = ()


def table(rows: Iterable[Sequence[str]]) -> str:
    """Cells joined by bars, unpadded: padding costs tokens and helps no model. A bar in a cell would make two of it."""
    return "\n".join(" | ".join(cell.replace("|", "/") for cell in row) for row in rows)
