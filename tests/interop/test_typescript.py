"""The official SDK for TypeScript, its clients of both lines and eras, against our server on every transport."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
from foreign import LONGEST_S, TRANSPORTS, WORDS, Target, needs_node, ran, seen, serving, started
from processes import Upstream, wait_until

from openrouter_mcp.sandbox import Fault
from openrouter_mcp.tools import TOOLS

pytestmark = needs_node

# @modelcontextprotocol/sdk 1.x, then @modelcontextprotocol/client 2.x as it is and as it finds the server's best era.
CLIENTS = {
    "old line": {"line": "old"},
    "new line, 2025-11-25": {"line": "new", "mode": "legacy"},
    "new line, 2026-07-28": {"line": "new", "mode": "auto"},
}
EVERY_CLIENT = pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
QUESTION = {"prompt": WORDS, "model": "acme/tiny:free"}


@pytest.fixture(scope="module")
def address() -> Generator[str]:
    """One sandboxed HTTP server for the tests that leave it as it was."""
    with serving("--sandbox") as address:
        yield address


@pytest.fixture(params=TRANSPORTS)
def target(request: pytest.FixtureRequest) -> Target:
    """The sandboxed server over each transport."""
    transport = request.param
    if transport == "stdio":
        return Target(transport, arguments=["--sandbox"])
    return Target(transport, request.getfixturevalue("address"))


@contextmanager
def silent() -> Generator[Upstream]:
    """Models that fall silent after two tokens."""
    with Upstream() as upstream:
        upstream.sandbox.fail(Fault(then="stall", after_tokens=2), times=None)
        yield upstream


@pytest.fixture(scope="module")
def silent_address() -> Generator[tuple[Upstream, str]]:
    """One HTTP server over such models."""
    with silent() as upstream, serving(**upstream.settings) as address:
        yield upstream, address


@pytest.fixture(params=TRANSPORTS)
def stalled(request: pytest.FixtureRequest) -> Generator[tuple[Target, Upstream]]:
    """A server over such models, over each transport."""
    transport = request.param
    if transport == "stdio":
        with silent() as upstream:
            yield Target(transport, settings=upstream.settings), upstream
    else:
        upstream, address = request.getfixturevalue("silent_address")
        yield Target(transport, address), upstream


def text_of(result: dict[str, Any]) -> str:
    (block,) = result["content"]
    return str(block["text"])


@EVERY_CLIENT
def test_it_lists_asks_in_any_script_and_is_told_its_mistakes_in_words(client: dict[str, str], target: Target) -> None:
    saw = ran("session", target, question=QUESTION, **client)
    assert saw["server"] == "openrouter-mcp"
    assert saw.get("era") == {"legacy": "2025-11-25", "auto": "2026-07-28"}.get(client.get("mode", ""))
    assert [tool["name"] for tool in saw["tools"]] == [tool.run.__name__ for tool in TOOLS]
    assert [resource["uri"] for resource in saw["resources"]] == [
        "openrouter://models/free",
        "openrouter://usage",
        "openrouter://options",
    ]
    assert f"'{WORDS}'" in text_of(saw["answer"])
    assert saw["answer"]["_meta"]["openrouter"]["status"] == "complete"
    assert saw["tool"]["code"] == -32602
    assert saw["tool"]["message"].endswith("invalid_request: Unknown tool 'ask_modèle'. Did you mean ask_model?")
    assert saw["argument"]["isError"]
    assert text_of(saw["argument"]).startswith(
        "invalid_request: Unknown argument 'max_token'. Did you mean max_tokens?"
    )
    assert saw["price"]["isError"]
    assert text_of(saw["price"]).startswith("not_free: 'acme/tiny' costs ")


def hung_up(script: str, client: dict[str, str], stalled: tuple[Target, Upstream]) -> dict[str, Any]:
    """What a client saw that hung up on a model in the middle of its answer, and that the model was stopped."""
    target, upstream = stalled
    with started(script, target, question=QUESTION, **client) as process:
        wait_until(lambda: upstream.sandbox.open_streams == 1, seconds=LONGEST_S)
        saw = seen(process)
    assert saw["end"] == "cancelled"
    wait_until(lambda: upstream.sandbox.open_streams == 0)
    return saw


@EVERY_CLIENT
def test_it_is_shown_progress_and_its_cancel_stops_the_model(
    client: dict[str, str], stalled: tuple[Target, Upstream]
) -> None:
    saw = hung_up("cancel", client, stalled)
    assert saw["progress"]["message"].startswith("tiny:free: ")
    assert saw["cut"]["message"].endswith("the user has had enough")


@EVERY_CLIENT
def test_its_time_out_stops_the_model(client: dict[str, str], stalled: tuple[Target, Upstream]) -> None:
    assert hung_up("time_out", client, stalled)["cut"]["message"].endswith("Request timed out")
