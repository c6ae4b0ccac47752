"""`openrouter-mcp config`: the entry each client needs, written without losing anything, and started as written."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client, StdioServerParameters
from processes import SERVER, Upstream, environment
from support import CANARY, ask

from openrouter_mcp import environment as surroundings
from openrouter_mcp import settings
from openrouter_mcp.cli import arguments as command_line
from openrouter_mcp.cli import clients, entry, filing, splice
from openrouter_mcp.cli.clients import CLIENTS
from openrouter_mcp.cli.config import config
from openrouter_mcp.tools import TOOLS

ROOT = Path(__file__).parents[1]
JSON_CLIENTS = [name for name in CLIENTS if name != "codex"]
ON_POSIX = pytest.mark.skipif(sys.platform == "win32", reason="the stand-ins are shell scripts")
pytestmark = ON_POSIX


class Desk:
    """A home, a PATH with a `uvx` and whatever a test puts beside it, and what was shown."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self.bin, self._capsys = home, home / "bin", capsys
        self.bin.mkdir(parents=True)
        self.out = self.err = ""
        self.script("uvx", "exit 1")

    def script(self, name: str, body: str) -> Path:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    def records(self, name: str, then: str = "exit 0") -> Path:
        """A stand-in for a client's own command; the file it writes its arguments to, one to a line."""
        log = self.home / f"{name}.argv"
        self.script(name, f'for each in "$@"; do printf "%s\\n" "$each"; done >> "{log}"\n{then}')
        return log

    def config(self, *arguments: str) -> int:
        options = command_line.parser().parse_args(["config", *arguments])
        status = config(settings.load(), options)
        self.out, self.err = self._capsys.readouterr()
        assert CANARY not in self.out + self.err
        return status

    def place(self, client: str) -> Path:
        return Path(clients.place(client, sys.platform, {"HOME": str(self.home)}))

    def put(self, client: str, text: str | bytes) -> Path:
        path = self.place(client)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def copies(self, client: str) -> list[Path]:
        path = self.place(client)
        return sorted(each for each in path.parent.iterdir() if each.name.startswith(path.name + "."))


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    for name in os.environ:
        if name.startswith("OPENROUTER") or name in surroundings._FOLDERS:
            monkeypatch.delenv(name)
    made = Desk(tmp_path / "home", capsys)
    monkeypatch.setenv("HOME", str(made.home))
    monkeypatch.setenv("PATH", f"{made.bin}")
    return made


def servers_of(client: str, text: str) -> dict[str, Any]:
    """As the client itself would read them."""
    said = tomllib.loads(text) if client == "codex" else json.loads(text.removeprefix("\ufeff"))
    return dict(said[CLIENTS[client].servers])


# --- the entry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_the_entry_names_uvx_by_path_this_checkout_and_no_key(client: str, desk: Desk, monkeypatch: Any) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", CANARY)
    monkeypatch.setenv("OPENROUTER_MCP_DAILY_BUDGET_USD", "2")
    monkeypatch.setenv("OPENROUTER_MCP_HTTP_TOKEN", "secret-1")
    monkeypatch.setenv("OPENROUTER_MCP_REDIS_URL", "redis://me:secret-2@host/0")
    monkeypatch.setenv("OPENROUTER_MCP_APP_URL", f"https://example.com/{CANARY}")
    assert desk.config(client) == 0
    server = servers_of(client, desk.out)["openrouter"]
    assert server["command"] == str(desk.bin / "uvx")
    assert server["args"] == ["--from", str(ROOT), "openrouter-mcp"]
    assert server["env"]["UV_COMPILE_BYTECODE"] == "1"
    assert server["env"]["OPENROUTER_MCP_DAILY_BUDGET_USD"] == "2"
    assert "secret" not in desk.out
    assert str(desk.place(client)) in desk.err
    assert f"{desk.bin / 'uvx'} --from {ROOT} openrouter-mcp --version" in desk.err
    assert not desk.place(client).exists()


@pytest.mark.parametrize(
    ("client", "reference"),
    [
        ("claude-desktop", "sk-or-v1-your-key"),
        ("claude-code", "${OPENROUTER_API_KEY:-}"),
        ("cursor", "${env:OPENROUTER_API_KEY}"),
        ("vscode", "${input:openrouter-key}"),
        ("windsurf", "${env:OPENROUTER_API_KEY}"),
        ("gemini-cli", "$OPENROUTER_API_KEY"),
        ("zed", "sk-or-v1-your-key"),
    ],
)
def test_the_key_is_named_as_the_client_can(client: str, reference: str, desk: Desk) -> None:
    desk.config(client)
    assert servers_of(client, desk.out)["openrouter"]["env"]["OPENROUTER_API_KEY"] == reference


def test_codex_is_told_which_variable_to_pass_on(desk: Desk) -> None:
    desk.config("codex")
    server = servers_of("codex", desk.out)["openrouter"]
    assert server["env_vars"] == ["OPENROUTER_API_KEY"]
    assert "OPENROUTER_API_KEY" not in server["env"]


def test_vs_code_asks_for_the_key_and_hides_it(desk: Desk) -> None:
    desk.config("vscode")
    said = json.loads(desk.out)
    assert [(each["id"], each["password"]) for each in said["inputs"]] == [("openrouter-key", True)]
    assert said["servers"]["openrouter"]["type"] == "stdio"


@pytest.mark.parametrize("client", CLIENTS)
def test_a_file_for_the_key_is_named_by_its_path(client: str, desk: Desk, monkeypatch: Any) -> None:
    (desk.home / "key").write_text(CANARY)
    monkeypatch.setenv("OPENROUTER_API_KEY_FILE", "~/key")
    desk.config(client)
    server = servers_of(client, desk.out)["openrouter"]
    assert server["env"]["OPENROUTER_API_KEY_FILE"] == str(desk.home / "key")
    assert "OPENROUTER_API_KEY" not in server["env"]
    assert "inputs" not in desk.out
    assert "env_vars" not in server


@pytest.mark.parametrize("client", CLIENTS)
def test_the_sandbox_needs_no_key(client: str, desk: Desk) -> None:
    desk.config(client, "--sandbox")
    server = servers_of(client, desk.out)["openrouter"]
    assert server["args"][-1] == "--sandbox"
    assert server["env"] == {"UV_COMPILE_BYTECODE": "1"}
    assert "inputs" not in desk.out
    assert "env_vars" not in server


def test_another_name_is_taken_and_a_strange_one_refused(desk: Desk) -> None:
    assert desk.config("cursor", "--name", "free-models") == 0
    assert list(servers_of("cursor", desk.out)) == ["free-models"]
    assert desk.config("codex", "--name", 'a"]') == 2
    assert desk.out == ""


def test_an_unknown_client_is_told_the_known_ones(desk: Desk) -> None:
    assert desk.config("emacs") == 2
    help_text = command_line.parser()._subparsers._group_actions[0].choices["config"].format_help()  # type: ignore[union-attr, index]
    assert all(name in desk.err and name in help_text for name in CLIENTS)


def test_without_uvx_it_says_what_to_install(desk: Desk) -> None:
    (desk.bin / "uvx").unlink()
    assert desk.config("cursor") == 1
    assert "Install uv" in desk.err


def test_windows_names_uvx_its_own_way(monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    assert entry.entry("x", {}, {}, sandbox=True)["command"] == "/bin/uvx.exe"


def test_a_terminal_of_few_letters_gets_the_same_entry_escaped(desk: Desk, tmp_path: Path) -> None:
    folder = tmp_path / "größe 🚀"
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    for client in ("cursor", "codex"):
        done = subprocess.run(
            [*SERVER, "config", client, "--from", str(folder)],
            env=environment(PYTHONIOENCODING="ascii", PATH=str(desk.bin), HOME=str(desk.home)),
            capture_output=True,
            timeout=60,
            check=True,
        )
        assert servers_of(client, done.stdout.decode("ascii"))["openrouter"]["args"][1] == str(folder)


@given(
    st.dictionaries(st.from_regex(r"[A-Z_]{1,9}", fullmatch=True), st.text(st.characters(exclude_categories=["Cs"])))
)
def test_whatever_an_entry_holds_toml_says_it(env: dict[str, str]) -> None:
    server = {"command": "uvx", "args": list(env.values()), "env": env}
    assert tomllib.loads(clients.text(CLIENTS["codex"], "a-b", server)) == {"mcp_servers": {"a-b": server}}


# --- what is installed ------------------------------------------------------------------------------------------------


def test_books_on_an_engine_take_the_extra_and_their_password_stays_out_of_the_file(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "OPENROUTER_MCP_STATE_URL"
    monkeypatch.setenv(url, "redis://books:6379/0")
    assert desk.config("cursor") == 0
    server = json.loads(desk.out)["mcpServers"]["openrouter"]
    assert server["args"][1] == f"openrouter-mcp[redis] @ {ROOT.as_uri()}"
    assert server["env"][url] == "redis://books:6379/0"
    monkeypatch.setenv(url, "redis://:secret-word@books:6379/0")
    assert desk.config("cursor") == 0
    assert "secret-word" not in desk.out + desk.err
    assert f"{url}, with a password in it, must be set where Cursor is started" in desk.err
    monkeypatch.delenv(url)
    (file := desk.home / "books").write_text("redis://:secret-word@books:6379/0")
    monkeypatch.setenv(f"{url}_FILE", str(file))
    assert desk.config("cursor") == 0
    server = json.loads(desk.out)["mcpServers"]["openrouter"]
    assert server["args"][1] == f"openrouter-mcp[redis] @ {ROOT.as_uri()}"
    assert server["env"][f"{url}_FILE"] == str(file)


@pytest.mark.parametrize(
    "bare",
    ["openrouter-mcp", "OpenRouter_MCP", "openrouter.mcp", "openrouter-mcp==1.0", "openrouter-mcp>=1,<2",
     "openrouter-mcp[redis]", "openrouter-mcp [redis] ~= 1.0", "openrouter-mcp@latest", "openrouter-mcp@1.2",
     "openrouter-mcp (>1)", " openrouter-mcp ", "openrouter--mcp!=2", "openrouter-mcp ; python_version>'3'",
     "openrouter-mcp @ openrouter-mcp", "some-fork", "", "-", "https://u:p@host/x.whl", "git+https://token@host/x",
     "http://host/x.whl", "ftp://host/x", "https://ho st/x", "https://[/x", "./nothing-here", "/dev/null", "a\x00b",
     "openrouter-mcp @ git+http://host/x"],
)  # fmt: skip
def test_a_name_an_index_would_be_asked_for_is_refused(bare: str, desk: Desk, monkeypatch: Any) -> None:
    monkeypatch.chdir(desk.home)
    (desk.home / "openrouter-mcp").mkdir()
    (desk.home / "openrouter-mcp" / "pyproject.toml").touch()
    assert desk.config("cursor", "--write", f"--from={bare}") == 2
    assert desk.err.startswith("openrouter-mcp: ")
    if "openrouter" in bare.lower() and "://" not in bare:
        assert "somebody else's package" in desk.err
    assert not desk.place("cursor").exists()


def test_a_source_given_is_taken_and_a_path_made_absolute(desk: Desk, monkeypatch: Any) -> None:
    monkeypatch.chdir(desk.home)
    (desk.home / "openrouter-mcp").mkdir()
    (desk.home / "openrouter-mcp" / "pyproject.toml").touch()
    (desk.home / "openrouter_mcp-1-py3-none-any.whl").touch()
    for source, taken in {
        "./openrouter-mcp": str(desk.home / "openrouter-mcp"),
        "~/openrouter-mcp": str(desk.home / "openrouter-mcp"),
        "openrouter_mcp-1-py3-none-any.whl": str(desk.home / "openrouter_mcp-1-py3-none-any.whl"),
        "git+https://github.com/a/b@v1": "git+https://github.com/a/b@v1",
        "git+ssh://git@github.com/a/b": "git+ssh://git@github.com/a/b",
        "https://example.com/x.whl": "https://example.com/x.whl",
        "openrouter-mcp[redis] @ git+https://github.com/a/b": "openrouter-mcp[redis] @ git+https://github.com/a/b",
    }.items():
        assert desk.config("cursor", "--from", source) == 0
        assert servers_of("cursor", desk.out)["openrouter"]["args"][:2] == ["--from", taken]


@pytest.mark.parametrize(
    ("record", "source"),
    [
        ({"url": "https://github.com/a/b", "vcs_info": {"vcs": "git", "requested_revision": "1", "commit_id": "c0ffe"}},
         "git+https://github.com/a/b@c0ffe"),
        ({"url": "https://token@github.com/a/b", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"},
          "subdirectory": "py"},
         "git+https://github.com/a/b@c0ffee#subdirectory=py"),
        ({"url": "ssh://git@github.com/a/b", "vcs_info": {"vcs": "git", "requested_revision": "v1"}},
         "git+ssh://git@github.com/a/b@v1"),
        ({"url": "https://example.com/x.whl", "archive_info": {}}, "https://example.com/x.whl"),
        ({"url": ROOT.as_uri(), "dir_info": {"editable": True}}, str(ROOT)),
    ],
)  # fmt: skip
def test_an_installation_is_named_as_it_was_made(
    record: dict[str, Any], source: str, desk: Desk, tmp_path: Path
) -> None:
    done = installed(desk, tmp_path, json.dumps(record))
    assert done.returncode == 0, done.stderr
    assert servers_of("cursor", done.stdout)["openrouter"]["args"] == ["--from", source, "openrouter-mcp"]


def test_one_from_an_index_is_refused_in_words(desk: Desk, tmp_path: Path) -> None:
    done = installed(desk, tmp_path, None)
    assert done.returncode == 1
    assert "somebody else's package" in done.stderr
    assert "--from" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("url", ["file:///nowhere/at/all", "https://u:p@example.com/x.whl"])
def test_one_whose_source_cannot_be_named_is_refused(url: str, desk: Desk, tmp_path: Path) -> None:
    done = installed(desk, tmp_path, json.dumps({"url": url, "archive_info": {}}))
    assert done.returncode == 1
    assert "give --from another" in done.stderr


def installed(desk: Desk, folder: Path, record: str | None) -> subprocess.CompletedProcess[str]:
    """`config cursor` of an installation whose installer left `record`."""
    site = folder / "site"
    shutil.copytree(ROOT / "openrouter_mcp", site / "openrouter_mcp", ignore=shutil.ignore_patterns("__pycache__"))
    (site / "openrouter_mcp-9.dist-info").mkdir()
    (site / "openrouter_mcp-9.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: openrouter-mcp\nVersion: 9\n"
    )
    if record:
        (site / "openrouter_mcp-9.dist-info" / "direct_url.json").write_text(record)
    return subprocess.run(
        [*SERVER, "config", "cursor"],
        env=environment(PYTHONPATH=str(site), PATH=str(desk.bin), HOME=str(desk.home)),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- where ------------------------------------------------------------------------------------------------------------

LINUX, MAC, WINDOWS = {"HOME": "/h"}, {"HOME": "/h"}, {"USERPROFILE": r"C:\u"}
PLACES = {
    "claude-desktop": ("/h/.config/Claude/claude_desktop_config.json",
                       "/h/Library/Application Support/Claude/claude_desktop_config.json",
                       r"C:\u\AppData\Roaming\Claude\claude_desktop_config.json"),
    "claude-code": ("/h/.claude.json", "/h/.claude.json", r"C:\u\.claude.json"),
    "cursor": ("/h/.cursor/mcp.json", "/h/.cursor/mcp.json", r"C:\u\.cursor\mcp.json"),
    "vscode": ("/h/.config/Code/User/mcp.json", "/h/Library/Application Support/Code/User/mcp.json",
               r"C:\u\AppData\Roaming\Code\User\mcp.json"),
    "windsurf": ("/h/.codeium/windsurf/mcp_config.json", "/h/.codeium/windsurf/mcp_config.json",
                 r"C:\u\.codeium\windsurf\mcp_config.json"),
    "codex": ("/h/.codex/config.toml", "/h/.codex/config.toml", r"C:\u\.codex\config.toml"),
    "gemini-cli": ("/h/.gemini/settings.json", "/h/.gemini/settings.json", r"C:\u\.gemini\settings.json"),
    "zed": ("/h/.config/zed/settings.json", "/h/.config/zed/settings.json", r"C:\u\AppData\Roaming\Zed\settings.json"),
}  # fmt: skip


@pytest.mark.parametrize("client", CLIENTS)
def test_each_system_has_its_own_place_for_the_file(client: str) -> None:
    told = [("linux", LINUX), ("darwin", MAC), ("win32", WINDOWS)]
    assert tuple(str(clients.place(client, *each)) for each in told) == PLACES[client]


def test_variables_that_move_the_place_are_followed_when_absolute() -> None:
    moved = {"HOME": "/h", "XDG_CONFIG_HOME": "/x", "CODEX_HOME": "/c", "CLAUDE_CONFIG_DIR": "/d"}
    assert str(clients.place("zed", "linux", moved)) == "/x/zed/settings.json"
    assert str(clients.place("codex", "linux", moved)) == "/c/config.toml"
    assert str(clients.place("claude-code", "linux", moved)) == "/d/.claude.json"
    assert str(clients.place("zed", "linux", {"HOME": "/h", "XDG_CONFIG_HOME": "x"})) == "/h/.config/zed/settings.json"
    roaming = {"USERPROFILE": r"C:\u", "APPDATA": r"D:\r"}
    assert clients.place("vscode", "win32", roaming) == PureWindowsPath(r"D:\r\Code\User\mcp.json")
    with pytest.raises(entry.CannotConfigure, match="HOME"):
        clients.place("cursor", "linux", {})


def test_without_the_usual_variables_the_systems_word_on_the_home_is_taken(desk: Desk, monkeypatch: Any) -> None:
    monkeypatch.delenv("HOME")
    assert desk.config("cursor") == 0
    assert str(Path.home() / ".cursor" / "mcp.json") in desk.err


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", JSON_CLIENTS)
def test_writing_twice_is_writing_once_and_removing_takes_it_out(client: str, desk: Desk) -> None:
    old = '{\n    "theme": "dark",\n    "%s": {\n        "other": {"command": "x", "n": 1.50}\n    }\n}\n'
    path = desk.put(client, old % CLIENTS[client].servers)
    path.chmod(0o640)
    before = path.read_bytes()
    assert desk.config(client, "--write") == 0
    assert str(path) in desk.err
    written = path.read_bytes()
    assert list(servers_of(client, written.decode())) == ["other", "openrouter"]
    assert b'{"command": "x", "n": 1.50}' in written
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    (copy,) = desk.copies(client)
    assert copy.read_bytes() == before
    assert stat.S_IMODE(copy.stat().st_mode) == 0o640

    assert desk.config(client, "--write") == 0
    assert "nothing was changed" in desk.err
    assert (path.read_bytes(), desk.copies(client)) == (written, [copy])

    assert desk.config(client, "--remove") == 0
    left = json.loads(path.read_text())
    assert left.pop("inputs", []) == []
    assert left == json.loads(before)
    assert "inputs" in path.read_text() or path.read_bytes() == before
    assert [each.read_bytes() for each in desk.copies(client)] == [before, written]
    assert desk.config(client, "--remove") == 0
    assert len(desk.copies(client)) == 2


def test_a_new_file_is_its_owners_alone(desk: Desk) -> None:
    assert desk.config("claude-desktop", "--write") == 0
    path = desk.place("claude-desktop")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith('{\n  "mcpServers": {\n    "openrouter": {\n      "command": ')
    assert desk.copies("claude-desktop") == []
    assert "Put your key" in desk.err


@pytest.mark.parametrize("name", ["", "  \n", "{}", "\ufeff{}"])
def test_an_empty_file_is_filled(name: str, desk: Desk) -> None:
    path = desk.put("cursor", name)
    assert desk.config("cursor", "--write") == 0
    assert list(servers_of("cursor", path.read_text())) == ["openrouter"]
    assert path.read_text().startswith("\ufeff") == name.startswith("\ufeff")


def test_tabs_line_ends_and_the_mark_of_the_file_stay(desk: Desk) -> None:
    path = desk.put("cursor", b'\xef\xbb\xbf{\r\n\t"a": 1\r\n}')
    desk.config("cursor", "--write")
    written = path.read_bytes()
    assert written.startswith(
        b'\xef\xbb\xbf{\r\n\t"a": 1,\r\n\t"mcpServers": {\r\n\t\t"openrouter": {\r\n\t\t\t"command"'
    )
    assert written.endswith(b"\r\n\t}\r\n}")
    assert b"\n" not in written.replace(b"\r\n", b"")


def test_a_link_stays_a_link_to_the_file_it_names(desk: Desk) -> None:
    target = desk.home / "dotfiles.json"
    target.write_text("{}")
    path = desk.place("cursor")
    path.parent.mkdir()
    path.symlink_to(target)
    assert desk.config("cursor", "--write") == 0
    assert path.is_symlink()
    assert "openrouter" in json.loads(target.read_text())["mcpServers"]
    path.unlink()
    path.symlink_to(path)
    assert desk.config("cursor", "--write") == 1


def test_what_the_user_has_put_into_the_entry_stays(desk: Desk, monkeypatch: Any) -> None:
    desk.config("claude-desktop", "--write")
    path = desk.place("claude-desktop")
    said = json.loads(path.read_text())
    server = said["mcpServers"]["openrouter"]
    server["env"] |= {"OPENROUTER_API_KEY": CANARY, "HTTPS_PROXY": "http://proxy"}
    server["disabled"] = True
    path.write_text(json.dumps(said, indent=2))
    assert desk.config("claude-desktop", "--write") == 0
    assert "nothing was changed" in desk.err
    monkeypatch.setenv("OPENROUTER_MCP_DAILY_BUDGET_USD", "3")
    assert desk.config("claude-desktop", "--write") == 0
    now = json.loads(path.read_text())["mcpServers"]["openrouter"]
    assert now["disabled"] is True
    assert now["env"] == server["env"] | {"OPENROUTER_MCP_DAILY_BUDGET_USD": "3"}
    (desk.home / "key").write_text(CANARY)
    monkeypatch.setenv("OPENROUTER_API_KEY_FILE", str(desk.home / "key"))
    assert desk.config("claude-desktop", "--write") == 0
    assert CANARY not in path.read_text()


def test_an_entry_that_is_not_this_servers_is_left_alone(desk: Desk) -> None:
    old = '{"mcpServers": {"openrouter": {"command": "npx", "args": ["-y", "openrouter-mcp"]}}}'
    path = desk.put("cursor", old)
    for deed in ("--write", "--remove"):
        assert desk.config("cursor", deed) == 1
        assert "--name OTHER" in desk.err
        assert (path.read_text(), desk.copies("cursor")) == (old, [])
    assert desk.config("cursor", "--write", "--name", "ours") == 0
    assert list(servers_of("cursor", path.read_text())) == ["openrouter", "ours"]


@pytest.mark.parametrize(
    "server",
    [{"command": "uvx", "args": ["openrouter-mcp"]},
     {"command": r"C:\bin\UVX.EXE", "args": ["--from", "x", "openrouter-mcp"]},
     {"command": "/opt/openrouter-mcp"}, {"command": "python3.12", "args": ["-m", "openrouter_mcp"], "env": 1}],
)  # fmt: skip
def test_an_older_entry_of_this_server_is_replaced(server: dict[str, Any], desk: Desk) -> None:
    path = desk.put("cursor", json.dumps({"mcpServers": {"openrouter": server, "z": {}}}))
    assert desk.config("cursor", "--write") == 0
    assert servers_of("cursor", path.read_text())["openrouter"]["args"] == ["--from", str(ROOT), "openrouter-mcp"]
    assert list(servers_of("cursor", path.read_text())) == ["openrouter", "z"]


@pytest.mark.parametrize(
    "broken",
    ["{", "nonsense", '{"a": NaN}', '{"a": 1} {}', "[]", "null", '{"mcpServers": []}', '{"mcpServers": null}',
     '{"mcpServers": {}, "mcpServers": {}}', '{"mcpServers": {"openrouter": 5}}', '{"mcpServers": {"openrouter": {}}}',
     "[" * 100_000, b"\xff\xfe{\x00}\x00", b'{"a": "\xff"}', '{"a": /* one }'],
)  # fmt: skip
def test_a_file_that_cannot_be_understood_is_left_as_it_is(broken: str | bytes, desk: Desk) -> None:
    path = desk.put("cursor", broken)
    before = path.read_bytes()
    assert desk.config("cursor", "--write") == 1
    assert "nothing was changed" in desk.err
    assert (path.read_bytes(), desk.copies("cursor")) == (before, [])


COMMENTED = """// Zed settings
{
  "theme": "One", /* mine */
  "url": "https://example.com", // not a comment: "//"
  "context_servers": {},
}
"""


def test_a_file_with_comments_is_printed_for_instead(desk: Desk) -> None:
    path = desk.put("zed", COMMENTED)
    assert desk.config("zed", "--write") == 0
    assert "was not touched" in desk.err
    assert "openrouter" in servers_of("zed", desk.out)
    assert path.read_text() == COMMENTED
    pasted = COMMENTED.replace("{},", json.dumps(servers_of("zed", desk.out)))
    path.write_text(pasted)
    assert desk.config("zed", "--write") == 0
    assert "nothing was changed" in desk.err
    assert desk.config("zed", "--remove") == 1
    assert "yourself" in desk.err
    assert (path.read_text(), desk.copies("zed")) == (pasted, [])


def test_toml_is_printed_for_too_and_a_filled_in_key_is_not_shown(desk: Desk) -> None:
    server = 'command = "uvx"\nargs = ["openrouter-mcp"]\n'
    old = f'# mine\n[mcp_servers.openrouter]\n{server}env = {{OPENROUTER_API_KEY = "{CANARY}"}}\n'
    path = desk.put("codex", old)
    assert desk.config("codex", "--write") == 0
    assert "Put this into it yourself, in the place of the old entry" in desk.err
    assert "openrouter" in servers_of("codex", desk.out)
    assert path.read_text() == old
    assert desk.config("codex", "--remove") == 1
    path.write_text("[broken")
    assert desk.config("codex", "--write") == 1


def test_a_folder_in_place_of_the_file_and_a_file_in_place_of_the_folder(desk: Desk) -> None:
    desk.place("cursor").mkdir(parents=True)
    assert desk.config("cursor", "--write") == 1
    assert "no regular file" in desk.err
    (desk.home / ".gemini").write_text("")
    assert desk.config("gemini-cli", "--write") == 1
    assert "cannot be read" in desk.err


def test_a_read_only_file_is_left_as_it_is(desk: Desk) -> None:
    path = desk.put("cursor", "{}")
    path.chmod(0o444)
    assert desk.config("cursor", "--write") == 1
    assert "read-only" in desk.err
    assert (path.read_text(), desk.copies("cursor")) == ("{}", [])


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_left_as_it_is(desk: Desk) -> None:
    path = desk.put("cursor", "{}")
    path.parent.chmod(0o555)
    assert desk.config("cursor", "--write") == 1
    path.parent.chmod(0o755)
    assert (path.read_text(), desk.copies("cursor")) == ("{}", [])


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_when_writing_fails_the_old_file_stands_and_nothing_lies_about(
    failing: str, desk: Desk, monkeypatch: Any
) -> None:
    path = desk.put("cursor", "{}")

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if failing == "fsync" else (Path, "replace")), fails)
    assert desk.config("cursor", "--write") == 1
    assert "No space left" in desk.err
    assert [each.name for each in path.parent.iterdir()] == ["mcp.json"]
    assert path.read_text() == "{}"


@pytest.mark.parametrize("meanwhile", ['{"new": 1}', None])
def test_what_the_client_writes_meanwhile_is_not_lost(meanwhile: str | None, desk: Desk, monkeypatch: Any) -> None:
    path = desk.put("cursor", "{}")
    backup = filing.backup

    def and_then_the_client_writes(found: filing.Found) -> Path | None:
        path.write_text(meanwhile) if meanwhile else path.unlink()
        return backup(found)

    monkeypatch.setattr(filing, "backup", and_then_the_client_writes)
    assert desk.config("cursor", "--write") == 1
    assert "while it was being read" in desk.err
    assert [each.read_text() for each in path.parent.iterdir()] == ([meanwhile] if meanwhile else [])


def test_older_copies_are_never_overwritten(desk: Desk) -> None:
    path = desk.put("cursor", "{}")
    path.with_name("mcp.json.bak").write_text("older")
    assert desk.config("cursor", "--write") == 0
    assert {each.name: each.read_text() for each in desk.copies("cursor")} == {
        "mcp.json.bak": "older",
        "mcp.json.bak1": "{}",
    }


def test_an_input_of_the_users_stays(desk: Desk) -> None:
    theirs = '{"inputs": [{"id": "mine", "type": "promptString"}], "servers": {"x": {"command": "x"}}}'
    path = desk.put("vscode", theirs)
    assert desk.config("vscode", "--write") == 0
    assert [each["id"] for each in json.loads(path.read_text())["inputs"]] == ["mine", "openrouter-key"]
    assert desk.config("vscode", "--write", "--name", "second") == 0
    assert len(json.loads(path.read_text())["inputs"]) == 2
    assert desk.config("vscode", "--remove") == 0
    assert len(json.loads(path.read_text())["inputs"]) == 2
    assert desk.config("vscode", "--remove", "--name", "second") == 0
    assert path.read_text() == theirs


def test_an_input_of_the_users_under_our_name_is_used_and_stays(desk: Desk) -> None:
    theirs = '{"inputs": [{"id": "openrouter-key", "type": "command", "command": "x"}], "servers": {}}'
    path = desk.put("vscode", theirs)
    assert desk.config("vscode", "--write") == 0
    assert len(json.loads(path.read_text())["inputs"]) == 1
    assert desk.config("vscode", "--remove") == 0
    assert path.read_text() == theirs


@pytest.mark.parametrize("client", ["gemini-cli", "zed"])
def test_only_vs_codes_inputs_are_anything_to_do_with_this(client: str, desk: Desk) -> None:
    path = desk.put(client, '{"inputs": 5}')
    assert desk.config(client, "--write") == 0
    assert json.loads(path.read_text())["inputs"] == 5


# --- the clients' own commands ----------------------------------------------------------------------------------------


def test_claude_is_told_by_its_own_command(desk: Desk, monkeypatch: Any) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", CANARY)
    log = desk.records("claude")
    assert desk.config("claude-code", "--write") == 0
    *words, said = log.read_text().splitlines()
    assert words == ["mcp", "add-json", "--scope", "user", "openrouter"]
    assert json.loads(said)["args"] == ["--from", str(ROOT), "openrouter-mcp"]
    assert CANARY not in said
    assert "`claude mcp add-json` did it." in desk.err

    desk.put("claude-code", json.dumps({"mcpServers": {"openrouter": json.loads(said)}}))
    log.unlink()
    assert desk.config("claude-code", "--write") == 0
    assert not log.exists()
    assert desk.config("claude-code", "--remove") == 0
    assert log.read_text().splitlines() == ["mcp", "remove", "--scope", "user", "openrouter"]


def test_code_is_told_by_its_own_command_with_the_input(desk: Desk) -> None:
    log = desk.records("code")
    assert desk.config("vscode", "--write") == 0
    flag, said = log.read_text().splitlines()
    assert flag == "--add-mcp"
    assert json.loads(said)["name"] == "openrouter"
    assert json.loads(said)["inputs"][0]["password"] is True


def test_codex_is_told_by_its_own_command_and_the_person_of_the_line_it_cannot_write(
    desk: Desk, monkeypatch: Any
) -> None:
    log = desk.records("codex")
    assert desk.config("codex", "--write") == 0
    added = [
        "mcp",
        "add",
        "openrouter",
        "--env",
        "UV_COMPILE_BYTECODE=1",
        "--",
        str(desk.bin / "uvx"),
        "--from",
        str(ROOT),
    ]
    assert log.read_text().splitlines() == [*added, "openrouter-mcp"]
    assert 'env_vars = ["OPENROUTER_API_KEY"]' in desk.err
    (desk.home / "key").write_text(CANARY)
    monkeypatch.setenv("OPENROUTER_API_KEY_FILE", str(desk.home / "key"))
    assert desk.config("codex", "--write") == 0
    assert f"OPENROUTER_API_KEY_FILE={desk.home / 'key'}" in log.read_text().splitlines()
    assert "env_vars" not in desk.err


def test_gemini_is_told_by_its_own_command_unless_that_would_harm(desk: Desk, monkeypatch: Any) -> None:
    log = desk.records("gemini")
    assert desk.config("gemini-cli", "--write") == 0
    words = log.read_text().splitlines()
    assert words[:6] == ["mcp", "add", "--scope", "user", "-e", "OPENROUTER_API_KEY=$OPENROUTER_API_KEY"]
    assert words[-6:] == ["openrouter", str(desk.bin / "uvx"), "--", "--from", str(ROOT), "openrouter-mcp"]
    log.unlink()
    monkeypatch.setenv("OPENROUTER_MCP_APP_URL", "https://example.com/?a=b")  # it would cut that short
    assert desk.config("gemini-cli", "--write") == 0
    assert servers_of("gemini-cli", desk.place("gemini-cli").read_text())["openrouter"]["env"]["OPENROUTER_MCP_APP_URL"]
    monkeypatch.delenv("OPENROUTER_MCP_APP_URL")
    path = desk.put("gemini-cli", '{"mcpServers": {"x": {"env": {"TOKEN": "$TOKEN"}}}}')  # and write that in clear
    assert desk.config("gemini-cli", "--write") == 0
    assert "openrouter" in servers_of("gemini-cli", path.read_text())
    odd = {"command": "uvx", "args": ["openrouter-mcp"], "env": {"N": 5}}
    path = desk.put("gemini-cli", json.dumps({"mcpServers": {"openrouter": odd}}))
    assert desk.config("gemini-cli", "--write") == 0
    assert servers_of("gemini-cli", path.read_text())["openrouter"]["env"]["N"] == 5
    assert not log.exists()


@pytest.mark.parametrize("client", ["claude-code", "vscode", "gemini-cli"])
def test_an_entry_with_something_of_the_users_is_edited_not_replaced_by_a_command(client: str, desk: Desk) -> None:
    log = desk.records(CLIENTS[client].program)
    mine = {"command": "uvx", "args": ["openrouter-mcp"], "env": {"OPENROUTER_API_KEY": CANARY}}
    path = desk.put(client, json.dumps({CLIENTS[client].servers: {"openrouter": mine}}))
    assert desk.config(client, "--write") == 0
    assert not log.exists()
    server = servers_of(client, path.read_text())["openrouter"]
    assert (server["command"], server["env"]["OPENROUTER_API_KEY"]) == (str(desk.bin / "uvx"), CANARY)


def test_claude_which_adds_no_name_twice_has_an_older_entry_edited(desk: Desk) -> None:
    desk.config("claude-code", "--write", "--from", "https://example.com/x.whl")
    log = desk.records("claude")
    assert desk.config("claude-code", "--write") == 0
    assert not log.exists()
    assert str(ROOT) in desk.place("claude-code").read_text()


def test_a_batch_file_of_windows_is_never_handed_an_entry(desk: Desk, monkeypatch: Any) -> None:
    log = desk.records("claude.CMD")
    found = {"uvx": str(desk.bin / "uvx"), "claude": str(desk.bin / "claude.CMD")}
    monkeypatch.setattr(shutil, "which", found.get)
    assert desk.config("claude-code", "--write") == 0
    assert "openrouter" in servers_of("claude-code", desk.place("claude-code").read_text())
    assert not log.exists()


def test_when_the_command_fails_it_is_said_in_words_without_the_key(desk: Desk, monkeypatch: Any) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", CANARY)
    desk.put("claude-code", "{}")
    desk.records("claude", 'echo "no such thing: $OPENROUTER_API_KEY" >&2; exit 3')
    assert desk.config("claude-code", "--write") == 1
    assert "`claude mcp add-json` failed with status 3: no such thing: [key]" in desk.err
    assert desk.copies("claude-code") == []
    desk.script("claude", "").write_bytes(b"\x00\x01")
    assert desk.config("claude-code", "--write") == 1
    assert "could not be run" in desk.err


def test_before_a_command_changes_the_file_it_is_copied(desk: Desk) -> None:
    path = desk.put("claude-code", '{"a": 1}')
    desk.records("claude", f"echo '{{}}' > {path}")
    assert desk.config("claude-code", "--write") == 0
    (copy,) = desk.copies("claude-code")
    assert copy.read_text() == '{"a": 1}'
    assert str(copy) in desk.err


# --- every other byte -------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)
SERVERS = st.dictionaries(TEXTS.filter(lambda name: name != "openrouter"), VALUES, max_size=3)
STYLES = st.sampled_from([None, 2, 4, "\t"])


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A client's file in some style, and what it says."""
    said = draw(st.dictionaries(TEXTS.filter(lambda name: name != "mcpServers"), VALUES, max_size=4))
    if draw(st.booleans()):
        said["mcpServers"] = draw(SERVERS)
    names = draw(st.permutations(list(said)))
    said = {name: said[name] for name in names}
    text = json.dumps(said, indent=draw(STYLES), ensure_ascii=draw(st.booleans()))
    if draw(st.booleans()):
        text = text.replace("\n", "\r\n")  # in strings a line end is escaped
    return draw(st.sampled_from(["", "\n", " "])) + text + draw(st.sampled_from(["", "\n"])), said


@given(documents(), st.dictionaries(TEXTS, VALUES, max_size=3), st.dictionaries(TEXTS, VALUES, max_size=3))
def test_everything_else_in_the_file_survives(
    document: tuple[str, dict[str, Any]], server: dict[str, Any], newer: dict[str, Any]
) -> None:
    text, said = document
    path = ("mcpServers", "openrouter")
    once = splice.put(text, path, server)
    assert json.loads(once) == {**said, "mcpServers": {**said.get("mcpServers", {}), "openrouter": server}}
    assert [*json.loads(once)] == [*said, *([] if "mcpServers" in said else ["mcpServers"])]
    assert splice.put(once, path, server) == once
    assert splice.put(once, path, newer) == splice.put(text, path, newer)
    gone = splice.take(once, path)
    assert json.loads(gone) == {"mcpServers": {}, **said}
    if said.get("mcpServers"):
        assert gone == text
    assert splice.take(text, path) == text
    if "\r\n" in text:
        assert "\n" not in once.strip().replace("\r\n", "")


@given(documents())
def test_comments_and_last_commas_are_read_past_and_nothing_else(document: tuple[str, dict[str, Any]]) -> None:
    text, said = document
    assert json.loads(splice.without_comments(text)) == said
    at = text.rfind("}")
    commented = f'/* a " */ {text[:at]}{", // b" if said else "// b"}\n{text[at:]} // c'
    assert json.loads(splice.without_comments(commented)) == said


def test_the_example_is_what_the_command_prints(desk: Desk, monkeypatch: Any) -> None:
    example = json.loads((ROOT / "mcp.json.example").read_text())
    monkeypatch.setattr(shutil, "which", lambda name: name)
    desk.config("claude-desktop")
    text = desk.out.replace(str(Path("uvx").absolute()), "uvx").replace(
        json.dumps(str(ROOT)), '"/path/to/openrouter-mcp"'
    )
    assert json.loads(text) == example


# --- started as written -----------------------------------------------------------------------------------------------


@pytest.fixture
def offline(desk: Desk, monkeypatch: Any) -> Desk:
    """A desk whose `uvx` is the real one, kept off the network; skipped where it was not given its packages."""
    real = shutil.which("uvx", path=ORIGINAL_PATH)
    if not real:
        pytest.skip("uvx is not installed")
    desk.script("uvx", f'PATH="{ORIGINAL_PATH}" exec "{real}" --offline "$@"')
    monkeypatch.setenv("HOME", ORIGINAL_HOME)
    prepared = subprocess.run(
        [desk.bin / "uvx", "--from", ROOT, "openrouter-mcp", "--version"],
        env=environment(PYTHONWARNINGS=""), capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    monkeypatch.setenv("HOME", str(desk.home))
    if prepared.returncode:
        pytest.skip("uvx has not been given its packages: run `uvx --from . openrouter-mcp --version` once")
    return desk


ORIGINAL_PATH, ORIGINAL_HOME = os.environ["PATH"], os.environ.get("HOME", "")


def filled(server: dict[str, Any]) -> dict[str, str]:
    """The environment a client makes of an entry: what it refers to looked up, what it passes on added."""
    known = re.compile(
        r"\$\{(?:env:|input:)?(OPENROUTER_API_KEY|openrouter-key)(?::-)?\}|\$OPENROUTER_API_KEY|sk-or-v1-your-key"
    )
    env = {name: known.sub(CANARY, value) for name, value in server["env"].items()}
    return env | dict.fromkeys(server.get("env_vars", ()), CANARY)


@pytest.mark.parametrize("client", CLIENTS)
async def test_what_was_written_starts_the_server(client: str, offline: Desk, monkeypatch: Any) -> None:
    with Upstream() as upstream:
        for name, value in upstream.settings.items():
            monkeypatch.setenv(name, value)
        assert offline.config(client, "--write") == 0
        if client == "codex":  # nothing but a person writes TOML
            offline.put(client, offline.out)
        text = offline.place(client).read_text()
        assert CANARY not in text
        server = servers_of(client, text)["openrouter"]
        clean = environment(PYTHONWARNINGS="", HOME=ORIGINAL_HOME)
        started = StdioServerParameters(command=server["command"], args=server["args"], env=clean | filled(server))
        async with Client(started, mode="legacy") as session:
            assert len((await session.list_tools()).tools) == len(TOOLS)
            _, _, is_error = await ask(session, "check_credits")
            assert not is_error


async def test_a_sandbox_entry_starts_without_a_key(offline: Desk) -> None:
    assert offline.config("cursor", "--write", "--sandbox") == 0
    server = servers_of("cursor", offline.place("cursor").read_text())["openrouter"]
    clean = environment(PYTHONWARNINGS="", HOME=ORIGINAL_HOME)
    started = StdioServerParameters(command=server["command"], args=server["args"], env=clean | server["env"])
    async with Client(started) as session:
        text, _, is_error = await ask(session, prompt="Hello?")
        assert (is_error, "sandbox" in text) == (False, True)
