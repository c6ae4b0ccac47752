"""What the MCP conformance suite wants every server to have: its tools, resources and prompts.

Their names and replies are the suite's (`conformance list`, and the descriptions of its scenarios:
https://github.com/modelcontextprotocol/conformance). Nothing here waits: the suite counts messages, not milliseconds.
"""

import base64
import json
from typing import Annotated, Any

from mcp.server.mcpserver import Context, Resolve, Sample
from mcp.server.mcpserver.prompts.base import Message, UserMessage
from mcp_types import (
    AudioContent,
    Completion,
    ContentBlock,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from pydantic import Field

from openrouter_mcp.app import App
from openrouter_mcp.errors import OpenRouterMCPError
from openrouter_mcp.protocol import OpenRouterServer

Ctx = Context[App, Any]
Asked = str | InputRequiredResult

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
WAV = b"RIFF\x26\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data\x02\0\0\0\0\0"


def add_fixtures(server: OpenRouterServer) -> None:
    """Register the fixtures beside the server's own tools, resources and prompts."""
    for tool in (*_CONTENTS, *_CONVERSATIONS, *_ROUNDS):
        server.add_tool(tool, structured_output=False)
    server.add_tool(test_simple_text, name=_SCHEMA_TOOL, structured_output=False)
    listed = server._tool_manager.get_tool(_SCHEMA_TOOL)
    assert listed
    listed.parameters = _SCHEMA
    for name, change in (("tool", Context.notify_tools_changed), ("prompt", Context.notify_prompts_changed)):
        server.add_tool(_changing(change), name=f"test_trigger_{name}_change", structured_output=False)
    server.resource("test://static-text", mime_type="text/plain")(_static_text)
    server.resource("test://static-binary", mime_type="image/png")(_static_binary)
    server.resource("test://watched-resource")(_static_text)
    server.resource("test://template/{id}/data", mime_type="application/json")(_template)
    for prompt in _PROMPTS:
        server.prompt()(prompt)
    server.completion()(_completion)  # type: ignore[no-untyped-call]  # the SDK annotates no result
    # What the SDK's upper floor has no door for.
    low = server._lowlevel_server
    low.add_request_handler("logging/setLevel", SetLevelRequestParams, _accepted)
    low.add_request_handler("resources/subscribe", SubscribeRequestParams, _accepted)
    low.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, _accepted)


async def _accepted(_: object, __: object) -> EmptyResult:
    return EmptyResult()


async def _completion(_: object, __: object, ___: object) -> Completion:
    return Completion(values=["paris", "park", "party"], total=3, has_more=False)


# --- tools that return each kind of content ---------------------------------------------------------------------------


def _image() -> ImageContent:
    return ImageContent(type="image", data=base64.b64encode(PNG).decode(), mime_type="image/png")


def _resource(uri: str, text: str, mime_type: str = "text/plain") -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=mime_type, text=text))


def test_simple_text() -> str:
    """Returns a text."""
    return "This is a simple text response for testing."


def test_image_content() -> list[ContentBlock]:
    """Returns a picture."""
    return [_image()]


def test_audio_content() -> list[ContentBlock]:
    """Returns a sound."""
    return [AudioContent(type="audio", data=base64.b64encode(WAV).decode(), mime_type="audio/wav")]


def test_embedded_resource() -> list[ContentBlock]:
    """Returns a resource."""
    return [_resource("test://embedded-resource", "This is an embedded resource content.")]


def test_multiple_content_types() -> list[ContentBlock]:
    """Returns a text, a picture and a resource."""
    return [
        TextContent(type="text", text="Multiple content types test:"),
        _image(),
        _resource("test://mixed-content-resource", '{"test":"data","value":123}', "application/json"),
    ]


def test_custom_header(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Takes an argument that rides in a header too."""
    return region


def test_error_handling() -> str:
    """Fails as a tool of ours does."""
    raise OpenRouterMCPError("This tool intentionally returns an error for testing")


_CONTENTS = (
    test_simple_text,
    test_image_content,
    test_audio_content,
    test_embedded_resource,
    test_multiple_content_types,
    test_custom_header,
    test_error_handling,
)


_SCHEMA_TOOL = "json_schema_2020_12_tool"
_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {"address": {"$anchor": "addressDef", "type": "object", "properties": {"city": {"type": "string"}}}},
    "properties": {
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        **{name: {"type": "string"} for name in ("name", "phone", "email")},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


# --- tools that say or ask something while they run -------------------------------------------------------------------


async def test_tool_with_logging(context: Ctx) -> str:
    """Logs three messages."""
    for message in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await context.info(message)
    return "Logged."


async def test_tool_with_progress(context: Ctx) -> str:
    """Tells how far it is."""
    for progress in (0, 50, 100):
        await context.report_progress(progress, 100)
    return "Done."


async def test_sampling(prompt: str, context: Ctx) -> str:
    """Asks the client's model, in the older era's way."""
    asked = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
    reply = await context.session.create_message([asked], max_tokens=100, related_request_id=context.request_id)
    return f"LLM response: {reply.content.text if isinstance(reply.content, TextContent) else ''}"


async def _filled_in(context: Ctx, message: str, **fields: Any) -> str:
    """What the user did with a form, asked in the older era's way."""
    reply = await context.session.elicit_form(message, _schema(fields), related_request_id=context.request_id)
    return f"action={reply.action}, content={json.dumps(reply.content)}"


async def test_elicitation(message: str, context: Ctx) -> str:
    """Asks the user."""
    text = {"type": "string", "description": "User's response"}
    return f"User response: {await _filled_in(context, message, username=text, email=text)}"


async def test_elicitation_sep1034_defaults(context: Ctx) -> str:
    """Asks the user with a default for each type."""
    answer = await _filled_in(
        context,
        "Who are you?",
        name={"type": "string", "default": "John Doe"},
        age={"type": "integer", "default": 30},
        score={"type": "number", "default": 95.5},
        status={"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        verified={"type": "boolean", "default": True},
    )
    return f"Elicitation completed: {answer}"


async def test_elicitation_sep1330_enums(context: Ctx) -> str:
    """Asks the user to choose, in each way there is."""
    options = ["option1", "option2", "option3"]
    titled = [{"const": f"value{number}", "title": f"Choice {number}"} for number in (1, 2, 3)]
    answer = await _filled_in(
        context,
        "Which?",
        untitledSingle={"type": "string", "enum": options},
        titledSingle={"type": "string", "oneOf": titled},
        legacyEnum={"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": ["One", "Two", "Three"]},
        untitledMulti={"type": "array", "items": {"type": "string", "enum": options}},
        titledMulti={"type": "array", "items": {"anyOf": titled}},
    )
    return f"Elicitation completed: {answer}"


def _question() -> Sample:
    return Sample([SamplingMessage(role="user", content=TextContent(type="text", text="Why?"))], max_tokens=10)


async def test_missing_capability(reply: Annotated[CreateMessageResult, Resolve(_question)]) -> str:
    """Cannot do without the client's own model."""
    return str(reply)


async def test_streaming_elicitation(context: Ctx) -> Asked:
    """Tells how far it is, then asks the user."""
    await context.report_progress(1)
    return await test_input_required_result_elicitation(context)


async def test_logging_tool(context: Ctx) -> str:
    """Logs one message, for whoever wants it."""
    await context.info("Logged")
    return "Done."


def _changing(notify: Any) -> Any:
    async def change(context: Ctx) -> str:
        """Says that the list has changed."""
        await notify(context)
        return "Changed."

    return change


_CONVERSATIONS = (
    test_tool_with_logging,
    test_tool_with_progress,
    test_sampling,
    test_elicitation,
    test_elicitation_sep1034_defaults,
    test_elicitation_sep1330_enums,
    test_missing_capability,
    test_streaming_elicitation,
    test_logging_tool,
)


# --- calls of several rounds, as 2026-07-28 has them ------------------------------------------------------------------


def _schema(fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields)}


def _form(message: str, **types: str) -> ElicitRequest:
    schema = _schema({name: {"type": type_} for name, type_ in types.items()})
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _sampling(text: str, max_tokens: int) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=TextContent(type="text", text=text))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=max_tokens))


def _ask(state: str | None = None, /, **requests: InputRequest) -> InputRequiredResult:
    return InputRequiredResult(input_requests=requests, request_state=state)


def _answer(context: Ctx, key: str, kind: type) -> Any:
    answer = (context.input_responses or {}).get(key)
    return answer if isinstance(answer, kind) else None


async def test_input_required_result_elicitation(context: Ctx) -> Asked:
    """Asks the user's name."""
    answer = _answer(context, "user_name", ElicitResult)
    if not answer or not answer.content:
        return _ask(user_name=_form("What is your name?", name="string"))
    return f"Hello, {answer.content['name']}!"


async def test_input_required_result_sampling(context: Ctx) -> Asked:
    """Asks the client's model."""
    answer = _answer(context, "capital_question", CreateMessageResult)
    return answer.content.text if answer else _ask(capital_question=_sampling("What is the capital of France?", 100))


async def test_input_required_result_list_roots(context: Ctx) -> Asked:
    """Asks for the client's roots."""
    answer = _answer(context, "client_roots", ListRootsResult)
    return f"Roots: {answer.roots}" if answer else _ask(client_roots=ListRootsRequest())


async def test_input_required_result_request_state(context: Ctx) -> Asked:
    """Asks for a yes, and wants its state back."""
    if context.request_state != "asked":
        return _ask("asked", confirm=_form("Please confirm", ok="boolean"))
    return "state-ok"


async def test_input_required_result_multiple_inputs(context: Ctx) -> Asked:
    """Asks for everything at once."""
    wanted = {"user_name": ElicitResult, "greeting": CreateMessageResult, "client_roots": ListRootsResult}
    if all(_answer(context, key, kind) for key, kind in wanted.items()):
        return "Complete."
    return _ask(
        "asked",
        user_name=_form("What is your name?", name="string"),
        greeting=_sampling("Generate a greeting", 50),
        client_roots=ListRootsRequest(),
    )


async def test_input_required_result_multi_round(context: Ctx) -> Asked:
    """Asks twice."""
    if context.request_state == "step 2":
        return "Complete."
    if context.request_state == "step 1":
        return _ask("step 2", step2=_form("Step 2: What is your favorite color?", color="string"))
    return _ask("step 1", step1=_form("Step 1: What is your name?", name="string"))


async def test_input_required_result_tampered_state(context: Ctx) -> Asked:
    """Asks for a yes, and wants no other state than its own."""
    return await test_input_required_result_request_state(context)


async def test_input_required_result_capabilities(context: Ctx) -> Asked:
    """Asks what this client can answer."""
    can = context.client_capabilities
    if can and can.elicitation:
        return _ask(user_name=_form("What is your name?", name="string"))
    return _ask(capital_question=_sampling("What is the capital of France?", 100))


_ROUNDS = (
    test_input_required_result_elicitation,
    test_input_required_result_sampling,
    test_input_required_result_list_roots,
    test_input_required_result_request_state,
    test_input_required_result_multiple_inputs,
    test_input_required_result_multi_round,
    test_input_required_result_tampered_state,
    test_input_required_result_capabilities,
)


# --- resources and prompts --------------------------------------------------------------------------------------------


def _static_text() -> str:
    """A text."""
    return "This is the content of the static text resource."


def _static_binary() -> bytes:
    """A picture."""
    return PNG


def _template(id: str) -> str:  # noqa: A002 - the suite's name for it
    """Says which one it is."""
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


def test_simple_prompt() -> str:
    """A prompt."""
    return "This is a simple prompt for testing."


def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    """A prompt of two parts."""
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


def test_prompt_with_embedded_resource(resourceUri: str) -> list[Message]:  # noqa: N803 - the suite's name for it
    """A prompt about a resource."""
    resource = _resource(resourceUri, "Embedded resource content for testing.")
    return [UserMessage(resource), UserMessage("Please process the embedded resource above.")]


def test_prompt_with_image() -> list[Message]:
    """A prompt about a picture."""
    return [UserMessage(_image()), UserMessage("Please analyze the image above.")]


async def test_input_required_result_prompt(context: Ctx) -> Asked:
    """A prompt that asks the user first."""
    answer = _answer(context, "user_context", ElicitResult)
    if not answer or not answer.content:
        return _ask(user_context=_form("What context should the prompt use?", context="string"))
    return f"In this context: {answer.content['context']}"


_PROMPTS = (
    test_simple_prompt,
    test_prompt_with_arguments,
    test_prompt_with_embedded_resource,
    test_prompt_with_image,
    test_input_required_result_prompt,
)
