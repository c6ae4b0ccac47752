"""The measurements that are the same on every machine: requests upstream for a call, and what a start imports. The size
of `tools/list` is in test_tools.py; what depends on the machine, in tests/bench."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import initialize, receive, send, spawned
from support import ask, connected

from openrouter_mcp.sandbox import Sandbox
from openrouter_mcp.tools import TOOLS

BARE = str(Path(__file__).parent / "bench" / "bare.py")
CHAT, KEY, MODELS = "POST /chat/completions", "GET /key", "GET /models/user"
# By tool: its arguments, what the first call of a process sends, and every further one, in order of the alphabet.
CALLS: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "ask_model": ({"prompt": "Hi"}, [KEY, MODELS, CHAT], [CHAT]),
    "compare_models": ({"prompt": "Hi"}, [KEY, MODELS, *[CHAT] * 3], [CHAT] * 3),
    "ask_many": ({"prompts": ["a", "b", "c"]}, [KEY, MODELS, *[CHAT] * 3], [CHAT] * 3),
    "read_answer": ({}, [], []),
    "list_free_models": ({}, [MODELS], []),
    "find_models": ({}, [MODELS], []),
    "check_credits": ({}, ["GET /credits", KEY], ["GET /credits", KEY]),  # what may have changed since
}
# What a start imports besides what the SDK's bare server does, by library.
OURS = {"anyio", "argparse", "difflib", "gc", "openrouter_mcp", "platformdirs", "sqlite3", "_sqlite3"}
# Not before it is used; starlette and uvicorn the SDK imports by itself.
LATER = {"filelock", "jsonschema", "prometheus_client", "referencing", "tomllib"}
NOT_FOR_STDIO = {"openrouter_mcp.asgi", "openrouter_mcp.door", "openrouter_mcp.metrics", "openrouter_mcp.cli.serve"}
# Runs its arguments as `python` would; at the end of stdin it names what is imported.
NAMING = """
import json, runpy, sys
run, sys.argv = (runpy.run_path if sys.argv[1].endswith(".py") else runpy.run_module), sys.argv[1:]
try:
    run(sys.argv[0], run_name="__main__")
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def test_every_tool_is_measured() -> None:
    assert set(CALLS) == {tool.run.__name__ for tool in TOOLS}


@pytest.mark.parametrize("tool", CALLS)
async def test_a_call_sends_no_more_requests_than_it_needs(tool: str, sandbox: Sandbox) -> None:
    arguments, first, further = CALLS[tool]
    async with connected(sandbox) as client:
        for expected in (first, further, further):
            sandbox.clear()
            _, _, is_error = await ask(client, tool, **arguments)
            assert not is_error
            assert sorted(f"{sent.method} {sent.path}" for sent in sandbox.requests) == sorted(expected)


def imported(*arguments: str) -> set[str]:
    """The modules of a stdio server that has listed its tools, and nothing more."""
    with spawned(command=[sys.executable, "-c", NAMING, *arguments]) as process:
        initialize(process)
        send(process, "tools/list", id_=2)
        assert receive(process)["result"]["tools"]
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.close()
        return set(json.loads(process.stderr.readlines()[-1]))


def test_a_start_imports_little_that_the_sdk_does_not() -> None:
    ours, bare = imported("openrouter_mcp"), imported(BARE, "--trivial")
    assert {module.partition(".")[0] for module in ours - bare} <= OURS
    assert {module.partition(".")[0] for module in ours} & LATER == set()
    assert ours & NOT_FOR_STDIO == set()
    assert len([module for module in ours - bare if not module.startswith("openrouter_mcp")]) < 25
