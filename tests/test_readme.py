"""Every command of the README does what the README says it does: run as it stands there, off the network, against this
checkout and in a home of its own."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from processes import CLEAN, environment
from support import CANARY

from openrouter_mcp.cli.clients import place
from openrouter_mcp.tools import TOOLS

sys.path.append(str(Path(__file__).parent / "interop"))
from foreign import FOLDER, needs_node

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CI = (ROOT / ".ci/run").read_text()
LONGEST_S = 120


def commands() -> list[str]:
    """Those of the blocks that are for a shell, and those in the prose, each by itself and without its comment."""
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    prose = re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE)
    lines += re.findall(r"`((?:uvx? |python3? |openrouter-mcp |tests/|mutmut )[^`]+)`", prose)
    each = [command.partition(" #")[0].strip() for line in lines for command in line.split(" && ")]
    return sorted({command for command in each if command})


# --- how they are run -------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where nothing is set up."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def words(command: str) -> list[str]:
    """What is typed, with this checkout in place of the one that the README speaks of."""
    return [str(ROOT) if word == "/path/to/openrouter-mcp" else word for word in shlex.split(command)]


def surroundings(home: Path, **settings: str) -> dict[str, str]:
    """An environment without a key, in which uv fetches nothing and uses the packages that these tests are run with."""
    cache = subprocess.run(["uv", "cache", "dir"], env=CLEAN, capture_output=True, check=True)  # noqa: S607
    uv = {"UV_OFFLINE": "1", "UV_CACHE_DIR": cache.stdout.decode().strip(), "UV_COMPILE_BYTECODE": "0"}
    uv |= {"UV_NO_SYNC": "1", "UV_PROJECT_ENVIRONMENT": sys.prefix}
    return environment(**{"HOME": str(home), "USERPROFILE": str(home), "PYTHONWARNINGS": "", **uv, **settings})


def typed(command: str, home: Path, *more: str, **settings: str) -> str:
    """What a command shows, stdout before stderr, that ends well."""
    done = subprocess.run(
        [*words(command), *more], cwd=ROOT, env=surroundings(home, **settings), stdin=subprocess.DEVNULL,
        capture_output=True, timeout=LONGEST_S, check=False,
    )  # fmt: skip
    shown = done.stdout.decode() + done.stderr.decode()
    assert CANARY not in shown
    assert done.returncode == 0, shown
    return shown


def prepared(reason: str, *command: str) -> None:
    """Skip the test for that `reason` where a `command` fails off the network."""
    done = subprocess.run(command, cwd=ROOT, env=CLEAN | {"UV_OFFLINE": "1"}, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(reason)


@contextmanager
def serving(command: str, home: Path, *more: str) -> Generator[str]:
    """The address where it serves; it ends well when it is told to."""
    with subprocess.Popen(
        [*words(command), *more], cwd=ROOT, env=surroundings(home), stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as process:
        assert process.stderr
        try:
            line = process.stderr.readline().decode()
            yield line.split()[-1]
        finally:
            process.terminate()  # uv hands it on
        process.stderr.read()
    assert process.returncode == 0, line


# --- what each of them does -------------------------------------------------------------------------------------------


def shows(*parts: str, more: Sequence[str] = (), **settings: str) -> Callable[[str, Path], None]:
    """It ends well and shows all `parts`; `more` arguments keep it short."""

    def check(command: str, home: Path) -> None:
        shown = typed(command, home, *more, **settings)
        assert all(part in shown for part in parts), shown

    return check


def one_file(command: str, home: Path) -> None:
    """It runs pytest, which is here given one file, or there would be no end to it."""
    shown = typed(command, home, PYTEST_ADDOPTS="-n0 -p no:cacheprovider tests/test_text.py", CI="1")
    assert re.search(r"\d+ passed", shown), shown


def pip(command: str, home: Path) -> None:
    """It finds uv installed by the Python that is on everybody's PATH, if it was by pip."""
    here = str(Path(sys.prefix) / "bin")
    path = os.pathsep.join(each for each in os.environ["PATH"].split(os.pathsep) if each != here)
    python = shutil.which("python3", path=path)
    if not python or subprocess.run([python, "-m", "pip", "show", "uv"], capture_output=True, check=False).returncode:
        pytest.skip("uv was not installed by pip")
    shown = typed(command.replace("python3", python, 1), home, PIP_NO_INDEX="1", PATH=path)
    assert "already satisfied: uv" in shown


def entry(command: str, home: Path) -> None:
    """It prints the entry and touches nothing; with --write it goes where the client looks, with --remove it leaves."""
    shown = typed(command, home)
    file = Path(place("claude-desktop", sys.platform, {"HOME": str(home)}))
    assert '"openrouter"' in shown
    assert str(ROOT) in shown
    assert not file.exists()
    typed(command, home, "--write")
    (server,) = json.loads(file.read_text())["mcpServers"].values()
    assert server["args"] == ["--from", str(ROOT), "openrouter-mcp"]
    typed(command, home, "--remove")
    assert not json.loads(file.read_text()).get("mcpServers")


def serve(command: str, home: Path) -> None:
    """It serves, here on a port that is free."""
    with serving(command, home, "--port", "0") as address, httpx2.Client(trust_env=False) as client:
        assert client.get(f"{address}/health").status_code == 200
        assert client.post(f"{address}/mcp", json={}).status_code != 404


def acknowledge(command: str, home: Path) -> None:
    """It looks whether the guard is closed, from the checkout as uvx has built it."""
    prepared("run `uvx --from . openrouter-mcp --version` once", *words(command)[:4], "--version")
    shown = typed(command, home)
    assert "There is nothing to acknowledge." in shown


def fuzz(command: str, home: Path) -> None:
    """It looks for a second for what breaks a reader."""
    group = ("uv", "run", "--isolated", "--group", "fuzz")
    prepared(f"run `{' '.join(group)} true` once", *group, "true")
    shown = typed(command.replace("--seconds 600", "--seconds 1"), home, UV_NO_SYNC="0")
    assert "+ ids, 1 s" in shown


def mutate(command: str, home: Path) -> None:
    """It needs hours: whether it starts, and what is configured is there."""
    group = ("uv", "run", "--isolated", "--group", "mutate")
    prepared(f"run `{' '.join(group)} true` once", *group, "true")
    assert "MUTANT_NAMES" in typed(command, home, "--help", UV_NO_SYNC="0")


def prepare(command: str, home: Path) -> None:
    """It has nothing to do where everything is there; else it would need the network."""
    if needs_node.args[0]:
        pytest.skip(needs_node.kwargs["reason"])
    assert typed(command, home, OPENROUTER_MCP_TEST_NODE=str(FOLDER)) == ""


def by_ci(command: str, _: Path) -> None:
    """`.ci/run` runs it whole: it needs the package index, or minutes."""
    assert any(line.startswith(command) for line in CI.splitlines())


def never(command: str, _: Path) -> None:
    """The README says so, and nothing of ours does."""
    assert f"Never run a bare `{command}`" in README
    assert command not in CI


COMMANDS: dict[str, Callable[[str, Path], None]] = {
    "python3 -m pip install uv": pip,
    "uv run openrouter-mcp try": shows("embedded sandbox", f"offers {len(TOOLS)} tools", "> check_credits()"),
    "uv run pytest": one_file,
    "uv run openrouter-mcp config claude-desktop": entry,
    'openrouter-mcp ask "..."': shows("sandbox", "; id ", more=["--sandbox"]),
    "uv run openrouter-mcp serve": serve,
    "openrouter-mcp doctor": shows("guard    open", "answered in", more=["--sandbox"]),
    "openrouter-mcp doctor --acknowledge": shows("There is nothing to acknowledge."),
    "uvx --from /path/to/openrouter-mcp openrouter-mcp doctor --acknowledge": acknowledge,
    "uvx openrouter-mcp": never,
    "uv run ruff check": shows("All checks passed"),
    "uv run ruff format --check": shows("already formatted"),
    "uv run mypy": shows("no issues found"),
    'uv run pytest -m "not slow"': one_file,
    "uv run python tests/bench/run.py": shows("| `tools/list`, compact JSON ", more=["--quick", "listing"]),
    "tests/interop/prepare": prepare,
    "uv run --isolated --group fuzz tests/fuzz/fuzz.py ids --seconds 600": fuzz,
    'uv run --isolated --group mutate mutmut run "openrouter_mcp.pricing.*"': mutate,
    "uv run tests/packaging/smoke.py": by_ci,
}


def test_there_is_a_way_to_try_every_command_and_no_other() -> None:
    assert commands() == sorted(COMMANDS)


@pytest.mark.skipif(not shutil.which("uv") or sys.platform == "win32", reason="needs uv, and signals")
@pytest.mark.parametrize("command", COMMANDS)
def test_it_does_what_is_said_of_it(command: str, home: Path) -> None:
    COMMANDS[command](command, home)
