"""Results as text a model reads at a glance, each with its record for programs."""

from openrouter_mcp.render.account import SHAPE_OF_CREDITS, credits  # noqa: A004 - OpenRouter's noun
from openrouter_mcp.render.answers import answer, answers, error
from openrouter_mcp.render.batch import batch
from openrouter_mcp.render.comparison import comparison
from openrouter_mcp.render.model import model
from openrouter_mcp.render.models import about_the_list, found_models, free_models
from openrouter_mcp.render.options import options
from openrouter_mcp.render.reply import Reply

__all__ = [
    "SHAPE_OF_CREDITS",
    "Reply",
    "about_the_list",
    "answer",
    "answers",
    "batch",
    "comparison",
    "credits",
    "error",
    "found_models",
    "free_models",
    "model",
    "options",
]
