"""The command line as a person uses it, and what the README and mcp.json.example promise."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters
from processes import SERVER, Upstream, called, environment, run
from support import CANARY

from openrouter_mcp import __version__
from openrouter_mcp.sandbox import faults
from openrouter_mcp.tools import TOOLS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLE = json.loads((ROOT / "mcp.json.example").read_text())


def test_try_without_a_key_says_first_that_it_uses_the_sandbox_and_shows_a_whole_session() -> None:
    done = run("try")
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert "sandbox" in first
    assert [line for line in rest if line.startswith("> ")] == [
        "> list_free_models(limit=8)",
        "> ask_model(prompt='In one sentence: why is the sky blue?', max_cost_usd=0)",
        "> compare_models(prompt='In one sentence: why is the sky blue?')",
        "> check_credits()",
    ]
    assert f"The server offers {len(TOOLS)} tools:" in done.stdout
    assert "46 of 50 free requests left today" in done.stdout
    assert done.stderr == ""


def test_try_with_a_key_uses_openrouter_free_models_only() -> None:
    with Upstream() as upstream:
        done = run("try", **upstream.settings)
        assert done.returncode == 0, done.stderr
        url = upstream.settings["OPENROUTER_BASE_URL"]
        assert done.stdout.startswith(f"Trying {url} with your key, free models only.")
        models = {chat.body["model"] for chat in upstream.sandbox.chats}
        assert len(upstream.sandbox.chats) == 4
        assert all(model == "openrouter/free" or model.endswith(":free") for model in models)
        assert upstream.sandbox.bill == 0


def test_try_fails_with_status_1_and_shows_why() -> None:
    with Upstream() as upstream:
        upstream.sandbox.fail(faults.day_limit(), times=None)
        done = run("try", **upstream.settings)
    assert done.returncode == 1
    assert "daily_quota: " in done.stdout
    assert called("try", OPENROUTER_API_KEY="two words").returncode == 1


def test_version_and_wrong_arguments() -> None:
    assert run("--version").stdout == f"openrouter-mcp {__version__}\n"
    for wrong in (["serve", "--port", "70000"], ["serve", "--transport", "carrier-pigeon"], ["sing"]):
        done = called(*wrong)
        assert done.returncode == 2
        assert "error: " in done.stderr


# --- what the papers say --------------------------------------------------------------------------------------------


def test_the_readme_and_the_example_never_tell_anyone_to_run_the_bare_name() -> None:
    """The name on the public index is somebody else's package."""
    assert len(re.findall(r"uvx (?!--from)", README)) == 1
    assert "**Never run a bare `uvx openrouter-mcp`.**" in README
    entry = EXAMPLE["mcpServers"]["openrouter"]
    assert (entry["command"], entry["args"][0], entry["args"][2]) == ("uvx", "--from", "openrouter-mcp")


def test_every_entry_in_the_readme_is_valid_and_starts_the_same_server() -> None:
    entries = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", README, flags=re.DOTALL)]
    assert entries[0] == EXAMPLE
    servers = [next(iter((entry.get("mcpServers") or entry["servers"]).values())) for entry in entries]
    assert len(servers) == 1
    assert all(server["args"] == EXAMPLE["mcpServers"]["openrouter"]["args"] for server in servers)


@pytest.fixture
def example() -> StdioServerParameters:
    """What mcp.json.example says, with this checkout as the source; skipped where uvx was not given its packages."""
    entry = EXAMPLE["mcpServers"]["openrouter"]
    arguments = [str(ROOT) if argument == "/path/to/openrouter-mcp" else argument for argument in entry["args"]]
    offline = ["--offline", *arguments]
    try:
        prepared = subprocess.run(
            [entry["command"], *offline, "--version"], capture_output=True, timeout=60, check=False
        )
    except FileNotFoundError:
        pytest.skip("uvx is not installed")
    if prepared.returncode:
        pytest.skip("uvx has not been given its packages: run `uvx --from . openrouter-mcp --version` once")
    settings = environment(**entry["env"], PYTHONWARNINGS="")
    return StdioServerParameters(command=entry["command"], args=offline, env=settings)


async def test_the_example_starts_the_server_it_names(example: StdioServerParameters) -> None:
    async with Client(example) as client:
        assert len((await client.list_tools()).tools) == len(TOOLS)


def test_the_readme_names_every_setting_and_no_other() -> None:
    source = "".join((ROOT / "openrouter_mcp" / room).read_text() for room in ("settings.py", "access.py", "state.py"))
    named = set(re.findall(r'"(OPENROUTER_\w+)"', source)) | {"OPENROUTER_MCP_STATE_URL_FILE"}
    assert set(re.findall(r"`(OPENROUTER_\w+)`", README)) == named


def test_the_key_passes_no_logger_not_even_in_a_traceback() -> None:
    script = """
import logging, sys
from openrouter_mcp import settings
from openrouter_mcp.cli import logs
from openrouter_mcp.tools import TOOLS
read = settings.load()
logs.to_stderr(read.key)
key = read.key.get_secret_value()
logging.getLogger("uvicorn.error").error("sent %s", key)
try:
    raise ValueError(key)
except ValueError:
    logging.getLogger("anything").exception("failed")
"""
    done = subprocess.run(
        [SERVER[0], "-c", script],
        env=environment(OPENROUTER_API_KEY=CANARY),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert CANARY not in done.stderr
    assert done.stderr.count("[key]") == 2
    assert "Traceback" in done.stderr
