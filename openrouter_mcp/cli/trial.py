"""`openrouter-mcp try`: a short session with this very server, shown as an agent would see it."""

import sys

from mcp import Client, StdioServerParameters
from mcp_types import TextContent

from openrouter_mcp import settings as environment
from openrouter_mcp.cli.terminal import printable
from openrouter_mcp.settings import Settings

_QUESTION = "In one sentence: why is the sky blue?"


async def trial(settings: Settings, *, sandbox: bool) -> int:
    """Start the server as a subprocess, connect over stdio and use each tool once. Returns 0, or 1 when one failed."""
    if settings.key_problem and not sandbox:
        return 1  # the complaint is out already
    sandbox = sandbox or settings.key is None
    printable()
    host = "OpenRouter itself" if settings.base_url == environment.BASE_URL else settings.base_url
    print(
        "Trying the embedded sandbox: no key is set, so nothing leaves this machine and the answers are made up."
        if sandbox
        else f"Trying {host} with your key, free models only."
    )
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "openrouter_mcp", "--log-format", "none", *(["--sandbox"] if sandbox else [])],
        env=environment.child_environment(),
    )
    async with Client(server) as client:
        tools = (await client.list_tools()).tools
        print(f"\nThe server offers {len(tools)} tools:")
        for tool in tools:
            print(f"  {tool.name}: {(tool.description or '').splitlines()[0]}")
        succeeded = [
            await _show(client, "list_free_models", {"limit": 8}),
            await _show(client, "ask_model", {"prompt": _QUESTION, "max_cost_usd": 0}),
            await _show(client, "compare_models", {"prompt": _QUESTION}),
            await _show(client, "check_credits", {}),
        ]
    return 0 if all(succeeded) else 1


async def _show(client: Client, tool: str, arguments: dict[str, object]) -> bool:
    """Call one tool and print the call and every word of its result."""
    written = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    print(f"\n> {tool}({written})", flush=True)
    result = await client.call_tool(tool, arguments)
    for block in result.content:
        if isinstance(block, TextContent):
            print(block.text, flush=True)
    return not result.is_error
