"""The account's standing."""

from openrouter_mcp import render
from openrouter_mcp.render import Reply
from openrouter_mcp.tools.arguments import CurrentApp


async def check_credits(app: CurrentApp) -> Reply:
    """Show what is left: free requests today, the key's limit, the balance.

    Use it before a large job or after a quota error. Costs nothing, uses no free request.
    """
    key = await app.ledger.read_key()
    return render.credits(key, await app.client.credits(), await app.ledger.standing())
