"""The account's standing."""

from openrouter_mcp import render
from openrouter_mcp.render import Reply
from openrouter_mcp.tools.arguments import CurrentApp, CurrentCaller


async def check_credits(app: CurrentApp, who: CurrentCaller) -> Reply:
    """Show what is left: the day's budget and free requests, key limit, balance.

    And what each model cost. Use it before a large job or after a quota error. Costs nothing, uses no free request.
    """
    key, unread = await app.ledger.try_read_key()
    balance, unshown = (None, "") if unread else await app.client.credits()
    await app.ledger.spending.learn()
    standing, budget = await app.ledger.standing(), await app.guard.budget(who)
    sums = await app.ledger.month(who.name or None)  # over stdio all of them are the user's own
    share = await app.ledger.left_of_share(who)
    return render.credits(key, balance, standing, budget, sums, who=who, share=share, unread=unread, unshown=unshown)
