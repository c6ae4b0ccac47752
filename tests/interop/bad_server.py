"""A server over stdio as no server should be: its one argument is the schema, in JSON, of what its one tool takes, and
that tool always fails."""

import json
import sys

import anyio
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
)

_TOOL = Tool(name="bad", input_schema={"type": "object", "properties": {"x": json.loads(sys.argv[1])}})


async def _list(_: ServerRequestContext, __: PaginatedRequestParams | None) -> ListToolsResult:
    return ListToolsResult(tools=[_TOOL])


async def _call(_: ServerRequestContext, __: CallToolRequestParams) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text="It failed.")], is_error=True)


async def _serve() -> None:
    server = Server("bad", on_list_tools=_list, on_call_tool=_call)
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


if __name__ == "__main__":
    anyio.run(_serve)
