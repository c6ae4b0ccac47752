"""`openrouter-mcp config CLIENT`: prints the client's entry for this server, writes it, or takes it out."""

import argparse
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrouter_mcp import environment
from openrouter_mcp.cli import clients, splice
from openrouter_mcp.cli.clients import CLIENTS, INPUT, Client
from openrouter_mcp.cli.entry import (
    KEY,
    KEY_FILE,
    PLACEHOLDER,
    CannotConfigure,
    WrongArgument,
    entry,
    runs_this,
    source,
    updated,
)  # fmt: skip
from openrouter_mcp.cli.filing import Found, backup, read, reason, refuse_read_only, replace
from openrouter_mcp.settings import Settings
from openrouter_mcp.text import one_line

_BOM = b"\xef\xbb\xbf"
_PATIENCE_S = 60


@dataclass(frozen=True)
class _Standing:
    """A client's file as it stands: its text without the mark some editors put first, what that says, and whether it
    may be edited (else it is TOML, or holds comments)."""

    found: Found
    text: str
    said: dict[str, Any]
    servers: dict[str, Any]
    is_plain: bool


def config(settings: Settings, options: argparse.Namespace) -> int:
    """Do what the options say. Returns 0 when it is printed or done, 1 when it cannot be, 2 for a wrong argument. The
    entry goes to stdout, everything else to stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path may hold what this terminal cannot show
    path = Path()
    try:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", options.name):
            raise WrongArgument("--name takes up to 64 letters, digits, _ and -.")
        if options.client not in CLIENTS:
            raise WrongArgument(f"The clients known here are {', '.join(CLIENTS)}.")
        client, path = CLIENTS[options.client], _place(options.client)
        if options.remove:
            return _remove(client, path, options.name, settings)
        new = _entry(client, settings, options)
        if options.write:
            return _write(client, path, options.name, new, settings)
        _say(f"For {client.title}, {path} ({client.docs}):")
        _print(client, options.name, new)
    except CannotConfigure as problem:
        _say(f"openrouter-mcp: {problem}")
        return problem.status
    except splice.Ambiguous as problem:
        _say(f"openrouter-mcp: In {path}, {problem}: nothing was changed.")
        return 1
    return 0


def _place(name: str) -> Path:
    folders = environment.folders()
    try:
        home = str(Path.home())  # also where no variable names it
    except RuntimeError:
        home = ""
    return Path(clients.place(name, sys.platform, {"HOME": home, "USERPROFILE": home, **folders}))


def _entry(client: Client, settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    key = {KEY_FILE: str(settings.key_file.absolute())} if settings.key_file else {KEY: client.key}
    made_of = source(options.source)
    return clients.form(client, entry(made_of, key, environment.shared(), sandbox=options.sandbox))


def _print(client: Client, name: str, server: Mapping[str, Any]) -> None:
    """The entry, escaped where this terminal has no such letters, and what is left to do."""
    shown = clients.text(client, name, server)
    try:
        shown.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        shown = re.sub(r"[^\x00-\x7f]", lambda letter: _escaped(letter[0], toml=client.is_toml), shown)
    print(shown, end="", flush=True)
    _say_what_is_left(client, server)


def _escaped(letter: str, *, toml: bool) -> str:
    return f"\\U{ord(letter):08x}" if toml and ord(letter) > 0xFFFF else json.dumps(letter)[1:-1]


def _say_what_is_left(client: Client, server: Mapping[str, Any]) -> None:
    value = server["env"].get(KEY, "")
    if value == PLACEHOLDER:
        _say(f"Put your key in the place of {PLACEHOLDER}.")
    elif value.startswith("${input:"):
        _say(f"{client.title} will ask for the key and keep it.")
    elif "$" in value or KEY in server.get("env_vars", ()):
        _say(f"{KEY} must be set where {client.title} is started. Or set {KEY_FILE} and do this again.")
    if withheld := environment.withheld():
        names = " and ".join(withheld)
        _say(f"{names}, with a password in it, must be set where {client.title} is started, or name a file: NAME_FILE.")
    command = [server["command"], *server["args"], "--version"]
    shown = subprocess.list2cmdline(command) if sys.platform == "win32" else shlex.join(command)
    _say(f"Its first start installs it, which may take longer than clients wait. To have that done: {shown}")


def _write(client: Client, path: Path, name: str, new: dict[str, Any], settings: Settings) -> int:
    standing = _standing(client, path)
    old = _ours(standing, name)
    server = updated(old, new) if old is not None else new
    lacks_input = clients.needs_input(client, server) and not _has_input(standing)
    if server == old and not lacks_input:
        _say(f"{path} holds it already: nothing was changed.")
        return 0
    program = _program(client) if server == new and clients.spares_others(client, standing.servers) else None
    arguments = clients.adding(client, name, server) if program else None
    if program and arguments and not (old is not None and client.program == "claude"):  # which adds nothing twice
        _tell(client, program, arguments, standing.found, settings)
        if "env_vars" in server:
            left = f"under [{client.servers}.{name}] in {path}: env_vars = {json.dumps(server['env_vars'])}"
            _say(f"One line is left to you, which `codex mcp add` cannot write, {left}")
    elif standing.is_plain:
        text = splice.put(standing.text, (client.servers, name), server)
        if lacks_input:
            text = splice.put(text, ("inputs", len(standing.said.get("inputs", ()))), INPUT)
        _put(standing, text)
    else:
        place = "" if old is None else ", in the place of the old entry, and keep what you have added to that"
        _say(f"{path} is TOML or holds comments, so it was not touched. Put this into it yourself{place}:")
        _print(client, name, new)
        return 0
    _say_what_is_left(client, server)
    _say(f"Restart {client.title} to have it.")
    return 0


def _remove(client: Client, path: Path, name: str, settings: Settings) -> int:
    standing = _standing(client, path)
    if _ours(standing, name) is None:
        _say(f"{path} holds no entry named {name}: nothing was changed.")
        return 0
    program, arguments = _program(client), clients.removing(client, name)
    if program and arguments:
        _tell(client, program, arguments, standing.found, settings)
        return 0
    if not standing.is_plain:
        held = f"{path} is TOML or holds comments, so it was not touched"
        raise CannotConfigure(f"{held}. Delete {name} from {client.servers} in it yourself.")
    text = splice.take(standing.text, (client.servers, name))
    if client.asks and client.key not in text and INPUT in standing.said.get("inputs", ()):
        text = splice.take(text, ("inputs", standing.said["inputs"].index(INPUT)))
    _put(standing, text)
    return 0


def _standing(client: Client, path: Path) -> _Standing:
    """Raises:
    CannotConfigure: when it cannot be read, or says something that no entry can be put into."""
    found = read(path)
    try:
        text = (found.content or b"").removeprefix(_BOM).decode()
        said, is_plain = _said(client, text)
    except ValueError as problem:
        raise CannotConfigure(f"{path} cannot be understood ({one_line(str(problem))}): nothing was changed.") from None
    for kind, key in ((dict, client.servers), *(((list, "inputs"),) if client.asks else ())):
        if not isinstance(said, dict) or not isinstance(said.get(key, kind()), kind):
            raise CannotConfigure(f"{path} has an unknown form ({key}): nothing was changed.")
    return _Standing(found, text, said, said.get(client.servers, {}), is_plain)


def _said(client: Client, text: str) -> tuple[Any, bool]:
    if client.is_toml:
        return tomllib.loads(text), False
    try:
        return splice.parsed(text), True
    except ValueError as problem:
        try:
            return splice.parsed(splice.without_comments(text)), False
        except ValueError:
            raise problem from None


def _ours(standing: _Standing, name: str) -> dict[str, Any] | None:
    """The entry of that name; None where there is none.

    Raises:
        CannotConfigure: when it is somebody else's.
    """
    if name not in standing.servers:
        return None
    server = standing.servers[name]
    if not runs_this(server):
        raise CannotConfigure(
            f"{standing.found.path} has an entry named {name} that is not this server's: nothing was changed. "
            "Choose another name: --name OTHER."
        )
    return dict(server)


def _has_input(standing: _Standing) -> bool:
    return any(isinstance(each, dict) and each.get("id") == INPUT["id"] for each in standing.said.get("inputs", ()))


def _put(standing: _Standing, text: str) -> None:
    found = standing.found
    mark = _BOM if (found.content or b"").startswith(_BOM) else b""
    copy = replace(found, mark + text.encode())
    _say(f"Written to {found.path}." + (f" What it said before is in {copy}." if copy else ""))


def _program(client: Client) -> str | None:
    """The client's own command; none where Windows would have a shell run it, which reads quotes its own way."""
    found = shutil.which(client.program) if client.program else None
    return None if found and found.lower().endswith((".cmd", ".bat")) else found


def _tell(client: Client, program: str, arguments: list[str], found: Found, settings: Settings) -> None:
    """Let the client's own command do it, with a copy of its file kept.

    Raises:
        CannotConfigure: when it does not.
    """
    words = arguments[: 2 if arguments[0] == "mcp" else 1]
    asked = f"`{' '.join([client.program, *words])}`"
    refuse_read_only(found)
    try:
        copy = backup(found)
        done = subprocess.run(  # noqa: S603 - a list of arguments, and no shell
            [program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE_S, check=False
        )
    except OSError as error:
        raise CannotConfigure(f"{asked} could not be run ({reason(error)}).") from None
    except subprocess.TimeoutExpired:
        raise CannotConfigure(f"{asked} did not end within {_PATIENCE_S} s.") from None
    if copy and read(found.path).stamp == found.stamp:  # it changed nothing, or something elsewhere
        copy.unlink(missing_ok=True)
        copy = None
    kept = f" What {found.path} said before is in {copy}." if copy else ""
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).decode(errors="replace")
        if settings.key:
            said = said.replace(settings.key.get_secret_value(), "[key]")
        raise CannotConfigure(f"{asked} failed with status {done.returncode}: {one_line(said)}{kept}")
    _say(f"{asked} did it.{kept}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
