"""What is built from this tree, before anybody installs it: tests/packaging/smoke.py does that."""

import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from openrouter_mcp import __version__

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "openrouter_mcp"
INFO = f"openrouter_mcp-{__version__}.dist-info"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the wheel and the sdist, built without a look at the network."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True, timeout=60)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> dict[str, bytes]:
    """The wheel's files by name."""
    with zipfile.ZipFile(built / f"openrouter_mcp-{__version__}-py3-none-any.whl") as opened:
        return {name: opened.read(name) for name in opened.namelist()}


@pytest.fixture(scope="module")
def metadata(wheel: dict[str, bytes]) -> Message:
    return message_from_bytes(wheel[f"{INFO}/METADATA"])


def test_the_wheel_holds_the_package_and_nothing_else(wheel: dict[str, bytes]) -> None:
    """The embedded sandbox is of the package: `--sandbox` and `try` run on it."""
    package = {path.relative_to(ROOT).as_posix() for kind in ("py", "lua") for path in PACKAGE.rglob(f"*.{kind}")}
    assert "openrouter_mcp/sandbox/server.py" in package
    described = {f"{INFO}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    assert set(wheel) == package | {"openrouter_mcp/py.typed"} | described


def test_the_wheel_installs_one_command(wheel: dict[str, bytes]) -> None:
    entry = wheel[f"{INFO}/entry_points.txt"].decode()
    assert entry.split() == ["[console_scripts]", "openrouter-mcp", "=", "openrouter_mcp.cli:main"]


def test_the_metadata_is_the_projects(metadata: Message) -> None:
    assert metadata["Name"] == "openrouter-mcp"
    assert metadata["Version"] == __version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload(decode=True) == (ROOT / "README.md").read_bytes()
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert not metadata.get_all("Project-URL")  # it has no public address yet, and an invented one may be a stranger's


def test_every_dependency_is_bounded_on_both_sides(metadata: Message) -> None:
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert len(required) > 5
    assert [line for line in required if not re.search(r"<[\d.]+,>=[\d.]+$", line)] == []


def test_it_can_neither_be_uploaded_by_mistake_nor_suggests_the_strangers_package(metadata: Message) -> None:
    """`openrouter-mcp` on the public index is somebody else's."""
    assert "Private :: Do Not Upload" in metadata.get_all("Classifier", [])
    told = (ROOT / "README.md").read_text()
    bare = re.findall(
        r"^.*(?:uvx|pipx? (?:install|run)|uv tool (?:install|run)|uv add) openrouter-mcp.*$", told, re.MULTILINE
    )
    assert bare
    assert all("never" in line.lower() for line in bare)


def test_the_sdist_holds_what_the_tests_need_and_no_machinery(built: Path) -> None:
    with tarfile.open(built / f"openrouter_mcp-{__version__}.tar.gz") as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    files = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "mcp.json.example", "tests/test_package.py"}
    assert files <= names
    assert {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py")} <= names
    outside = {name.partition("/")[0] for name in names} - {name.partition("/")[0] for name in files}
    assert outside <= {"openrouter_mcp", "PKG-INFO", ".gitignore"}
    assert not [name for name in names if re.search(r"__pycache__|\.pyc$|node_modules|\.hypothesis|_cache", name)]
