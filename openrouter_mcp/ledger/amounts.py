"""Amounts of USD as a book keeps them: decimal text, exact to an attodollar, rounded up."""

from decimal import ROUND_CEILING, Context, Decimal

EXACT = Context(prec=100)  # Decimal's own 28 digits would round a large sum
_FINEST = Decimal("1e-18")


def written(amount: Decimal) -> str:
    """As it is kept."""
    return f"{amount.quantize(_FINEST, ROUND_CEILING, context=EXACT):f}"
