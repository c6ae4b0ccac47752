"""The SDK's server as ours: turns a Reply or an error into the protocol's result, here and nowhere else."""

import difflib
import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import wraps
from typing import Any

from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError, ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolResult,
    GetPromptResult,
    ImageContent,
    InputRequiredResult,
    TextContent,
)
from mcp_types import Tool as ListedTool
from pydantic import AnyUrl, SecretStr, ValidationError

from openrouter_mcp import render
from openrouter_mcp.app import App
from openrouter_mcp.callers import Caller
from openrouter_mcp.complaints import complaint
from openrouter_mcp.errors import InvalidRequest, OpenRouterMCPError
from openrouter_mcp.observing import Observer
from openrouter_mcp.refusals import Declined
from openrouter_mcp.render import Reply
from openrouter_mcp.text import without_key
from openrouter_mcp.tools import TOOLS
from openrouter_mcp.tools.arguments import caller_of
from openrouter_mcp.tools.resources import READER, RESOURCES

_SHORTEST_SECRET = 16  # OpenRouter's keys have over 70 characters; a word that stands in for one is no secret
# Prose and tables have none: some clients give their model the structure and drop the text.
_STRUCTURE = {tool.run.__name__: tool.structure for tool in TOOLS}

logger = logging.getLogger(__name__)


class OpenRouterServer(MCPServer[App]):
    """The SDK's server with tidier schemas, our errors, no argument silently dropped, and no `key` in any result."""

    observer: Observer
    key: SecretStr | None = None
    woken: Callable[[Caller], None] | None = None  # by each call of a tool
    ending: Callable[[], None] | None = None  # told before the process ends and calls under way are cancelled

    async def list_tools(self) -> list[ListedTool]:
        """The tools with schemas that every client can read."""
        return [
            tool.model_copy(
                update={"input_schema": _tidy(tool.input_schema), "output_schema": _STRUCTURE.get(tool.name)}
            )
            for tool in await super().list_tools()
        ]

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[App, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Run a tool. Whatever goes wrong in it becomes a result here, and nowhere else.

        Raises:
            MCPError: when there is no such tool, or the client cannot do what the tool asks of it.
        """
        known = {tool.name: list(tool.input_schema["properties"]) for tool in await super().list_tools()}
        if name not in known:
            message = f"invalid_request: Unknown tool {name[:100]!r}.{_nearest(name, known)}"
            raise MCPError(code=INVALID_PARAMS, message=message)
        unknown = [argument for argument in arguments if argument not in known[name]]
        if unknown:
            return _error(_unknown_argument(name, unknown[0], known[name]))
        if self.woken and context:
            self.woken(caller_of(context.request_context))
        try:
            result = await super().call_tool(name, arguments, context)
        except ToolError as failure:
            result = _error(_as_our_error(name, failure.__cause__))
        except MCPError as failure:  # how the client of the older era fails to ask its user
            if failure.code == MISSING_REQUIRED_CLIENT_CAPABILITY:
                raise
            logger.warning("The user could not be asked: %r", str(failure))
            result = _error(Declined("The user could not be asked: the client failed to, so nothing was sent."))
        return self._without_key(result)

    async def read_resource(
        self, uri: AnyUrl | str, context: Context[App, Any] | None = None
    ) -> Iterable[ReadResourceContents] | InputRequiredResult:
        """Read one, or say why it cannot be, in our words."""
        if context:
            READER.set(caller_of(context.request_context))
        try:
            read = await super().read_resource(uri, context)
        except ResourceError as failure:
            ours = _ours(failure)
            if isinstance(failure, ResourceNotFoundError) and not ours:
                known = ", ".join(resource.uri for resource in RESOURCES)
                ours = InvalidRequest(f"Unknown resource {str(uri)[:100]!r}. There are {known}.")
            if ours:
                said, asked = (str(without_key(str(text), self._secret)) for text in (ours, uri))
                raise MCPError(code=INVALID_PARAMS, message=said, data={"uri": asked}) from failure
            raise
        if isinstance(read, InputRequiredResult):
            return read
        return [
            replace(one, content=str(without_key(one.content, self._secret))) if isinstance(one.content, str) else one
            for one in read
        ]

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Context[App, Any] | None = None
    ) -> GetPromptResult | InputRequiredResult:
        """One prompt, or say which there are and what they take."""
        known = {prompt.name: prompt.arguments or [] for prompt in await self.list_prompts()}
        if name not in known:
            message = f"Unknown prompt {name[:100]!r}.{_nearest(name, known)} There are {', '.join(known)}."
            raise MCPError(code=INVALID_PARAMS, message=f"invalid_request: {message}")
        given, takes = arguments or {}, [argument.name for argument in known[name]]
        missing = [argument.name for argument in known[name] if argument.required and argument.name not in given]
        wrong = [f"Unknown argument {argument[:100]!r}." for argument in given if argument not in takes]
        wrong += [f"`{argument}` is missing." for argument in missing]
        if wrong:
            message = f"invalid_request: {wrong[0]} {name} takes {', '.join(takes)}."
            raise MCPError(code=INVALID_PARAMS, message=message)
        return await super().get_prompt(name, arguments, context)

    def _without_key(self, result: CallToolResult | InputRequiredResult) -> CallToolResult | InputRequiredResult:
        """The last door: a host that is sent the key might say it back."""
        if not self._secret or json.dumps(self._secret)[1:-1] not in result.model_dump_json():
            return result
        return type(result).model_validate(without_key(result.model_dump(mode="json", by_alias=True), self._secret))

    def without_secret(self, texts: list[str]) -> list[str]:
        """`texts` as they may be shown."""
        return [str(without_key(text, self._secret)) for text in texts]

    @property
    def _secret(self) -> str:
        """What may be in no result; empty when the key is too short to tell from a word."""
        key = self.key.get_secret_value() if self.key else ""
        return key if len(key) >= _SHORTEST_SECRET else ""

    async def serve(self, incoming: Any, outgoing: Any) -> None:  # noqa: ANN401 - the SDK's own stream protocols are private
        """Serve one connection over a pair of the SDK's message streams until `incoming` ends."""
        await self._lowlevel_server.run(incoming, outgoing, self._lowlevel_server.create_initialization_options())


def as_result(
    run: Callable[..., Awaitable[Reply]], *, with_structure: bool
) -> Callable[..., Awaitable[CallToolResult]]:
    @wraps(run)
    async def result(**arguments: Any) -> CallToolResult:  # noqa: ANN401 - validated by the SDK against `run`'s signature
        reply = await run(**arguments)
        plain = _result(reply)
        return plain.model_copy(update={"structured_content": reply.record}) if with_structure else plain

    return result


def _result(reply: Reply) -> CallToolResult:
    return CallToolResult(
        content=[
            TextContent(type="text", text=reply.text),
            *(ImageContent(type="image", data=image.data, mime_type=image.mime_type) for image in reply.images),
        ],
        is_error=reply.is_error,
        _meta={"openrouter": reply.record},
    )


def _error(error: OpenRouterMCPError) -> CallToolResult:
    return _result(render.error(error))


def _as_our_error(tool: str, cause: BaseException | None) -> OpenRouterMCPError:
    """The SDK hands on whatever a tool raised as the cause of its own ToolError."""
    if isinstance(cause, OpenRouterMCPError):
        return cause
    if isinstance(cause, ToolError):  # the SDK's own, about what came back from the person
        return Declined("The user was asked, and the client's reply could not be read, so nothing was sent.")
    if isinstance(cause, ValidationError):
        return InvalidRequest(" ".join(complaint(error["loc"], error["type"], error) for error in cause.errors()))
    logger.error("%s failed unexpectedly", tool, exc_info=cause)
    return OpenRouterMCPError(
        f"{tool} failed inside this server ({type(cause).__name__}). It is a fault of the server, not of your call; "
        "its log (stderr) says more."
    )


def _ours(failure: BaseException) -> OpenRouterMCPError | None:
    """Our own error that the SDK's came from, however often it was wrapped."""
    cause: BaseException | None = failure
    while cause is not None and not isinstance(cause, OpenRouterMCPError):
        cause = cause.__cause__
    return cause


def _unknown_argument(tool: str, argument: str, known: list[str]) -> InvalidRequest:
    takes = f"{tool} takes {', '.join(known)}." if known else f"{tool} takes no arguments."
    return InvalidRequest(f"Unknown argument {argument[:100]!r}.{_nearest(argument, known)} {takes}")


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name[:100], list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]}?" if near else ""


def _tidy(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without what costs tokens and says nothing: titles, and defaults that mean "left out"."""
    properties = {
        name: {key: value for key, value in field.items() if key != "title" and not (key == "default" and not value)}
        for name, field in schema["properties"].items()
    }
    rest = {key: value for key, value in schema.items() if key not in ("title", "properties")}
    return {**rest, "properties": properties, "additionalProperties": False}
