"""What each client wants: where its file lies, how an entry looks, how it refers to the key, and its own command."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any

from openrouter_mcp.cli.entry import KEY, PLACEHOLDER, CannotConfigure

# VS Code asks for it once and keeps it encrypted: https://code.visualstudio.com/docs/copilot/reference/mcp-configuration
INPUT = {"type": "promptString", "id": "openrouter-key", "description": "OpenRouter API key", "password": True}
_HOMES = {"win32": "USERPROFILE"}


@dataclass(frozen=True)
class Client:
    """`servers` is the object in its file that holds them by name; `key` is how an entry refers to the key; `typed`
    entries say `type: stdio`; `program` is its own command, which may add entries; `docs` says all this."""

    title: str
    servers: str
    key: str
    docs: str
    typed: bool = False
    program: str = ""

    @property
    def is_toml(self) -> bool:
        """Whether its file is TOML, else it is JSON."""
        return self.servers == "mcp_servers"

    @property
    def asks(self) -> bool:
        """Whether it asks for the key itself, once its file holds INPUT."""
        return self.key.startswith("${input:")


CLIENTS = {
    "claude-desktop": Client(
        "Claude Desktop",
        servers="mcpServers",
        key=PLACEHOLDER,
        docs="https://modelcontextprotocol.io/docs/develop/connect-local-servers",
    ),
    "claude-code": Client(
        "Claude Code",
        servers="mcpServers",
        key=f"${{{KEY}:-}}",  # an unset variable without a default would make the whole entry unreadable
        docs="https://code.claude.com/docs/en/mcp",
        typed=True,
        program="claude",
    ),
    "cursor": Client("Cursor", servers="mcpServers", key=f"${{env:{KEY}}}", docs="https://cursor.com/docs/mcp"),
    "vscode": Client(
        "VS Code",
        servers="servers",
        key=f"${{input:{INPUT['id']}}}",
        docs="https://code.visualstudio.com/docs/copilot/reference/mcp-configuration",
        typed=True,
        program="code",
    ),
    "windsurf": Client(
        "Windsurf",
        servers="mcpServers",
        key=f"${{env:{KEY}}}",
        docs="https://docs.windsurf.com/windsurf/cascade/mcp",
    ),
    "codex": Client(
        "Codex",
        servers="mcp_servers",
        key="",  # passed on by name, see `form`
        docs="https://developers.openai.com/codex/mcp",
        program="codex",
    ),
    "gemini-cli": Client(
        "Gemini CLI",
        servers="mcpServers",
        key=f"${KEY}",
        docs="https://github.com/google-gemini/gemini-cli/blob/main/docs/tools/mcp-server.md",
        program="gemini",
    ),
    "zed": Client("Zed", servers="context_servers", key=PLACEHOLDER, docs="https://zed.dev/docs/ai/mcp"),
}


def place(name: str, platform: str, environ: Mapping[str, str]) -> PurePath:
    """Where the client of that name keeps what holds for the user in all projects, as its `docs` say; `platform` is
    `sys.platform`, and `environ` needs a home folder at least.

    Raises:
        CannotConfigure: without a home folder.
    """
    windows = platform == "win32"
    path = PureWindowsPath if windows else PurePosixPath
    home_name = _HOMES.get(platform, "HOME")
    home = path(environ.get(home_name, ""))
    if not home.is_absolute():
        raise CannotConfigure(f"{home_name} names no folder, so where the client's file lies is not known. Set it.")

    def named(variable: str, default: PurePath) -> PurePath:
        folder = path(environ.get(variable, ""))
        return folder if folder.is_absolute() else default

    config = named("XDG_CONFIG_HOME", home / ".config")
    if windows:
        config = named("APPDATA", home / "AppData" / "Roaming")
    elif platform == "darwin":
        config = home / "Library" / "Application Support"
    zed = home / ".config" / "zed" if platform == "darwin" else config / ("Zed" if windows else "zed")
    return {
        "claude-desktop": config / "Claude" / "claude_desktop_config.json",
        "claude-code": named("CLAUDE_CONFIG_DIR", home) / ".claude.json",
        "cursor": home / ".cursor" / "mcp.json",
        "vscode": config / "Code" / "User" / "mcp.json",
        "windsurf": home / ".codeium" / "windsurf" / "mcp_config.json",
        "codex": named("CODEX_HOME", home / ".codex") / "config.toml",
        "gemini-cli": home / ".gemini" / "settings.json",
        "zed": zed / "settings.json",
    }[name]


def form(client: Client, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry in the client's own form. A variable with an empty value is one that Codex passes on by its name."""
    env = {name: value for name, value in entry["env"].items() if value}
    passed = [name for name, value in entry["env"].items() if not value]
    shown = {"command": entry["command"], "args": entry["args"]}
    return {
        **({"type": "stdio"} if client.typed else {}),
        **shown,
        **({"env_vars": passed} if passed else {}),
        "env": env,
    }


def needs_input(client: Client, entry: Mapping[str, Any]) -> bool:
    """Whether the client has to be told of INPUT beside the entry."""
    return client.asks and client.key in entry["env"].values()


def text(client: Client, name: str, entry: Mapping[str, Any]) -> str:
    """What a person pastes: the whole of a file that holds nothing else."""
    if client.is_toml:
        return _toml(f"{client.servers}.{name}", entry)
    inputs = {"inputs": [INPUT]} if needs_input(client, entry) else {}
    return json.dumps({**inputs, client.servers: {name: entry}}, indent=2, ensure_ascii=False) + "\n"


def _toml(table: str, entry: Mapping[str, Any]) -> str:
    """One table and its `env`, as https://toml.io/en/v1.0.0 has it."""
    lines = [f"[{table}]", *(f"{key} = {_toml_value(value)}" for key, value in entry.items() if key != "env")]
    lines += ["", f"[{table}.env]", *(f"{key} = {_toml_value(value)}" for key, value in entry["env"].items())]
    return "\n".join(lines) + "\n"


def _toml_value(value: object) -> str:
    # JSON's strings, lists of them and numbers are TOML's, but for this one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def adding(client: Client, name: str, entry: Mapping[str, Any]) -> list[str] | None:
    """The arguments that make the client's own command add the entry; None where it has none that can.

    https://code.claude.com/docs/en/mcp (add-json), https://developers.openai.com/codex/mcp (mcp add),
    https://code.visualstudio.com/docs/configure/command-line (--add-mcp)
    """
    variables = [f"{key}={value}" for key, value in entry["env"].items()]
    if client.program == "claude":
        return ["mcp", "add-json", "--scope", "user", name, json.dumps(entry)]
    if client.program == "code":
        inputs = {"inputs": [INPUT]} if needs_input(client, entry) else {}
        return ["--add-mcp", json.dumps({"name": name, **entry, **inputs})]
    if client.program == "codex":
        named = [part for variable in variables for part in ("--env", variable)]
        return ["mcp", "add", name, *named, "--", entry["command"], *entry["args"]]
    if client.program == "gemini" and all("=" not in value for value in entry["env"].values()):
        # It cuts a value at its second `=`: packages/cli/src/commands/mcp/add.ts of google-gemini/gemini-cli.
        named = [part for variable in variables for part in ("-e", variable)]
        return ["mcp", "add", "--scope", "user", *named, name, entry["command"], "--", *entry["args"]]
    return None


def removing(client: Client, name: str) -> list[str] | None:
    """The arguments that make the client's own command take the entry out; None where it has none that can."""
    if client.program == "claude":
        return ["mcp", "remove", "--scope", "user", name]
    return ["mcp", "remove", name] if client.program == "codex" else None


def spares_others(client: Client, servers: Mapping[str, Any]) -> bool:
    """Whether the client's own command leaves the other entries as they are. Gemini's writes the values of variables,
    secrets among them, in the place of their names: https://github.com/google-gemini/gemini-cli/issues/6214."""
    return client.program != "gemini" or not re.search(r"[$%]", json.dumps(servers))
