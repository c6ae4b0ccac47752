"""The MCP Inspector's command line, as a person or a CI job looks at a server with it."""

import json
import sys
from collections.abc import Generator, Sequence
from typing import Any

import pytest
from foreign import HERE, PACKAGES, TRANSPORTS, WORDS, needs_node, node, output, serving
from processes import SERVER

from openrouter_mcp.tools import TOOLS

pytestmark = needs_node

INSPECTOR = PACKAGES / "@modelcontextprotocol/inspector/clients/launcher/build/index.js"
Target = Sequence[str]  # its arguments that say which server


@pytest.fixture(scope="module")
def address() -> Generator[str]:
    """One sandboxed HTTP server."""
    with serving("--sandbox") as address:
        yield address


@pytest.fixture(params=TRANSPORTS)
def target(request: pytest.FixtureRequest) -> Target:
    """The sandboxed server over each transport."""
    if request.param == "stdio":
        return [*SERVER, "--sandbox", "--log-format", "none"]
    path = {"http": "/mcp", "sse": "/sse"}[request.param]
    return [request.getfixturevalue("address") + path]


def inspected(target: Target, method: str, *more: str) -> tuple[int, Any, str]:
    """`mcp-inspector --cli` for `method` of a server: its exit status, its result, and what it complains of."""
    with node(INSPECTOR, "--cli", *target, "--method", method, "--format", "json", *more) as process:
        shown, complaints = output(process)
        return process.returncode, json.loads(shown)["result"] if shown else None, complaints


def passed(target: Target, method: str, *more: str) -> dict[str, Any]:
    """Its result, where it complains of nothing."""
    status, result, complaints = inspected(target, method, *more)
    assert complaints == "", complaints
    assert status == 0
    return dict(result)


def calling(tool: str, **arguments: Any) -> tuple[str, ...]:
    """How it is told to call a tool."""
    return ("tools/call", "--tool-name", tool, "--tool-args-json", json.dumps(arguments, ensure_ascii=False))


def test_every_schema_is_one_that_every_client_can_read(target: Target) -> None:
    tools = passed(target, "tools/list", "--strict")["tools"]
    assert [tool["name"] for tool in tools] == [tool.run.__name__ for tool in TOOLS]


def test_it_asks_a_model_in_any_script(target: Target) -> None:
    result = passed(target, *calling("ask_model", prompt=WORDS, model="acme/tiny:free"))
    assert f"'{WORDS}'" in result["content"][0]["text"]


def test_it_reads_a_resource_in_the_newer_era(target: Target) -> None:
    result = passed(target, "resources/read", "--uri", "openrouter://options", "--protocol-era", "modern")
    assert "temperature" in result["contents"][0]["text"]


def test_a_tools_error_is_one_to_a_script_too(target: Target) -> None:
    status, result, _ = inspected(target, *calling("ask_model", prompt="Why?", max_token=5))
    assert status == 5
    assert result["content"][0]["text"].startswith("invalid_request: Unknown argument 'max_token'.")


def test_an_unknown_tool_is_not_found(target: Target) -> None:
    status, _, complaints = inspected(target, *calling("ask_modle", prompt="Why?"))
    assert status == 5
    assert json.loads(complaints)["error"]["code"] == "tool_not_found"


def test_its_load_is_borne_without_an_error(target: Target) -> None:
    load = ("--load", "--load-requests", "100", "--load-concurrency", "20")
    result = passed(target, *calling("list_free_models"), *load)
    assert {name: result[name] for name in ("ok", "toolErrors", "errors")} == {"ok": 100, "toolErrors": 0, "errors": 0}


@pytest.mark.parametrize(
    ("schema", "call", "complaint"),
    [
        (True, ("tools/list", "--strict"), "schema_unportable"),
        ({"$ref": "https://schemas.example/x.json"}, ("tools/list", "--strict"), "points outside this document"),
        ({"type": "string"}, calling("bad", x="Why?"), "returned isError:true"),
    ],
    ids=["a schema that is none", "a schema elsewhere", "a tool that fails"],
)
def test_a_bad_server_does_not_pass(schema: Any, call: tuple[str, ...], complaint: str) -> None:
    bad = [sys.executable, str(HERE / "bad_server.py"), json.dumps(schema)]
    with pytest.raises(AssertionError, match=complaint):
        passed(bad, *call)
