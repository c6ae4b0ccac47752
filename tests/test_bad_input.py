"""What an agent gets wrong: one clear line that says what to do, nothing sent, and the server goes on."""

from typing import Annotated, Any

import pytest
from mcp import Client
from mcp.server.mcpserver import Resolve, Sample
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CreateMessageResult,
    SamplingMessage,
    TextContent,
)
from support import ERAS, SETTINGS, ask, connected, opened

from openrouter_mcp.sandbox import Sandbox
from openrouter_mcp.server import build
from openrouter_mcp.settings import Settings
from openrouter_mcp.tools import TOOLS

HI = {"prompt": "Hi"}
FREE = ["acme/tiny:free", "globex/large:free"]
# tool, arguments, code, words the agent must read
WRONG: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "empty prompt": ("ask_model", {"prompt": " \n"}, "invalid_request", "The prompt is empty."),
    "no prompt": ("ask_model", {}, "invalid_request", "prompt is missing."),
    "prompt of another type": ("ask_model", {"prompt": 7}, "invalid_request", "prompt must be text."),
    "prompt of 2 MB": ("ask_model", {"prompt": "a" * 2_000_000}, "too_large", "the limit is 1048576"),
    "system of 2 MB": ("ask_model", HI | {"system": "a" * 2_000_000}, "too_large", "the limit is 1048576"),
    "negative max_tokens": ("ask_model", HI | {"max_tokens": -5}, "invalid_request", "max_tokens must be 1 or more."),
    "max_tokens in words": (
        "ask_model",
        HI | {"max_tokens": "many"},
        "invalid_request",
        "max_tokens must be a whole number.",
    ),
    "half a token": ("ask_model", HI | {"max_tokens": 1.5}, "invalid_request", "max_tokens must be a whole number."),
    "misspelt argument": (
        "ask_model",
        HI | {"max_token": 5},
        "invalid_request",
        "Unknown argument 'max_token'. Did you mean max_tokens? ask_model takes prompt, model, system, ",
    ),
    "argument of nobody": ("check_credits", {"verbose": True}, "invalid_request", "check_credits takes no arguments."),
    "1 model": ("compare_models", HI | {"models": FREE[:1]}, "invalid_request", "models must have 2 or more entries"),
    "9 models": (
        "compare_models",
        HI | {"models": [f"a/{n}:free" for n in range(9)]},
        "invalid_request",
        "models must have 8 entries or fewer.",
    ),
    "models as text": (
        "compare_models",
        HI | {"models": "acme/tiny:free"},
        "invalid_request",
        "models must be a list.",
    ),
    "a model twice": ("compare_models", HI | {"models": FREE + FREE}, "invalid_request", "is named twice"),
    "an id of 1 MB": ("ask_model", HI | {"model": "x" * 2**20}, "invalid_request", "has 1 to 200 characters"),
    "a number beyond all": ("ask_model", HI | {"max_tokens": 1e308}, "invalid_request", "max_tokens is far too large."),
    "limit of 0": ("list_free_models", {"limit": 0}, "invalid_request", "limit must be 1 or more."),
    "limit of 1000": ("list_free_models", {"limit": 1000}, "invalid_request", "limit must be 50 or less."),
}


@pytest.mark.parametrize(("tool", "arguments", "code", "words"), WRONG.values(), ids=WRONG)
async def test_a_wrong_argument_is_named_in_one_line(
    sandbox: Sandbox, tool: str, arguments: dict[str, Any], code: str, words: str
) -> None:
    async with connected(sandbox) as client:
        text, record, is_error = await ask(client, tool, **arguments)
        assert is_error
        assert record["code"] == code
        assert record["attempts"] == 0
        assert text.startswith(f"{code}: ")
        assert words in text
        assert len(text) < 400
        assert "\n" not in text
        assert "pydantic" not in text
        assert "https://errors" not in text
        assert sandbox.chats == []
        _, _, is_error = await ask(client, **HI)
    assert not is_error


async def test_numbers_and_lists_may_come_as_text(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        _, _, is_error = await ask(client, prompt="Hi", model=FREE[0], max_tokens="10")
        assert not is_error
        _, record, is_error = await ask(client, "compare_models", prompt="Hi", models=f'["{FREE[0]}", "{FREE[1]}"]')
    assert not is_error
    assert [row["model"] for row in record["rows"]] == FREE


@pytest.mark.parametrize("era", ERAS)
async def test_an_unknown_tool_is_a_protocol_error_that_names_the_nearest(sandbox: Sandbox, era: str) -> None:
    async with connected(sandbox, era=era) as client:
        with pytest.raises(MCPError) as refused:
            await client.call_tool("ask_modell", HI)
        assert refused.value.error.code == INVALID_PARAMS
        assert "Unknown tool 'ask_modell'. Did you mean ask_model?" in refused.value.error.message
        _, _, is_error = await ask(client, **HI)
    assert not is_error


@pytest.mark.parametrize("era", ERAS)
async def test_what_a_client_must_be_able_to_do_is_said_in_the_protocols_own_words(sandbox: Sandbox, era: str) -> None:
    """A client that has no model of its own, and a tool that would ask it."""
    question = SamplingMessage(role="user", content=TextContent(type="text", text="Why?"))

    async def borrow(reply: Annotated[CreateMessageResult, Resolve(lambda: Sample([question], max_tokens=5))]) -> str:
        return str(reply)

    async with opened(sandbox) as app:
        server = build(app)
        server.add_tool(borrow, structured_output=False)
        async with Client(server, mode=era) as client:
            with pytest.raises(MCPError) as refused:
                await client.call_tool("borrow")
    assert refused.value.error.code == MISSING_REQUIRED_CLIENT_CAPABILITY
    assert refused.value.error.data == {"requiredCapabilities": {"sampling": {}}}


NO_KEY = Settings(base_url=SETTINGS.base_url)
BAD_KEY = Settings(key_problem="OPENROUTER_API_KEY holds a space.", base_url=SETTINGS.base_url)


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [(NO_KEY, "no_key", "OPENROUTER_API_KEY is not set"), (BAD_KEY, "bad_key", "OPENROUTER_API_KEY holds a space.")],
    ids=["no key", "malformed key"],
)
async def test_without_a_usable_key_the_models_are_listed_and_the_rest_says_which_variable_to_set(
    sandbox: Sandbox, settings: Settings, code: str, words: str
) -> None:
    async with connected(sandbox, settings=settings) as client:
        assert len((await client.list_tools()).tools) == len(TOOLS)
        text, _, is_error = await ask(client, "list_free_models")
        assert not is_error
        assert "globex/large:free" in text
        for tool, arguments in (("ask_model", HI), ("compare_models", HI), ("check_credits", {})):
            text, record, is_error = await ask(client, tool, **arguments)
            assert is_error
            assert text.startswith(f"{code}: ")
            assert words in text
            assert code in (record["code"], *(row["code"] for row in record.get("rows", [])))
    assert {request.path for request in sandbox.requests} == {"/models"}


async def test_a_fault_of_our_own_is_said_to_be_one_and_keeps_its_details_in_the_log(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: object, **__: object) -> None:
        raise KeyError("a detail")

    monkeypatch.setattr("openrouter_mcp.choice.free_ranked", broken)
    async with connected(sandbox) as client:
        text, record, is_error = await ask(client, "list_free_models")
    assert is_error
    assert text.startswith("internal: list_free_models failed inside this server (KeyError).")
    assert "a detail" not in text
    assert record["code"] == "internal"
    assert "a detail" in caplog.text


async def test_strange_ids_make_strange_rows_and_nothing_else(sandbox: Sandbox) -> None:
    models = ["", "x" * 2**20, "a\n| b | c |\n## d", "acme/tiny:free"]
    async with connected(sandbox) as client:
        text, record, is_error = await ask(client, "compare_models", prompt="Hi", models=models)
    assert not is_error
    codes = [row.get("code", row["status"]) for row in record["rows"]]
    assert codes == ["invalid_request", "invalid_request", "unknown_model", "complete"]
    assert len(text) < 3000
    assert len(text.partition("\n\n")[0].splitlines()) == 5
