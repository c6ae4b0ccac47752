"""Who may come in, as the environment and the callers' file say: read strictly, with one clear complaint."""

import hashlib
import os
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from team import callers_file, digest_of

from openrouter_mcp import access
from openrouter_mcp.access import Access, require_guarded
from openrouter_mcp.callers import Caller, read_callers
from openrouter_mcp.errors import BadSetting

TOKEN = "0123456789abcdef" * 2
HASH = digest_of("x").hex()
ALICE = f'[[caller]]\nname = "alice"\ntoken_sha256 = "{HASH}"\n'


def complaint(**settings: str) -> str:
    """What is wrong with them, on one line and without anything secret."""
    with pytest.raises(BadSetting) as caught:
        access.load({f"OPENROUTER_MCP_{name}": value for name, value in settings.items()})
    text = caught.value.text
    assert "\n" not in text
    assert "canary" not in text
    return text


def of_file(path: Path, content: str) -> str:
    """What is wrong with a file of this content."""
    file = path / "callers.toml"
    file.write_text(content)
    file.chmod(0o600)
    return complaint(CALLERS=str(file))


def test_nothing_set_lets_in_whoever_reaches_the_address() -> None:
    assert access.load({}) == Access()


@pytest.mark.parametrize("name", ["HTTP_TOKEN", "HTTP_TOKEN_FILE"])
def test_the_one_token_is_the_caller_http(tmp_path: Path, name: str) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    value = TOKEN if name == "HTTP_TOKEN" else str(file)
    (caller,) = access.load({f"OPENROUTER_MCP_{name}": value}).callers
    assert caller == Caller("http", hashlib.sha256(TOKEN.encode()).digest())
    assert TOKEN not in repr(caller)


@pytest.mark.parametrize("token", [TOKEN[:-1], "canary " * 8, "canaryü" * 8, "canary\x01" * 8])
def test_a_token_that_is_too_short_or_no_plain_text_is_refused(token: str) -> None:
    assert "OPENROUTER_MCP_HTTP_TOKEN must be 32 printable" in complaint(HTTP_TOKEN=token)


def test_a_file_without_a_token_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert "HTTP_TOKEN_FILE cannot be read: FileNotFoundError" in complaint(HTTP_TOKEN_FILE=str(tmp_path / "none"))
    assert "HTTP_TOKEN_FILE names a file that is empty" in complaint(HTTP_TOKEN_FILE=str(tmp_path / "empty"))


def test_the_callers_file_names_who_they_are_and_what_they_may(tmp_path: Path) -> None:
    more = (
        'daily_budget_usd = 0.10\nrequests_per_day = 200\nrequests_per_minute = 10\nfiles_dir = "'
        f'{(tmp_path / "bob").as_posix()}"\n'
    )
    path = callers_file(tmp_path / "callers.toml", "alice", "bob", more=more)
    found = access.load({"OPENROUTER_MCP_CALLERS": str(path), "OPENROUTER_MCP_HTTP_TOKEN": TOKEN})
    assert [caller.name for caller in found.callers] == ["http", "alice", "bob"]
    assert found.callers[1] == Caller("alice", digest_of("alice"))
    assert found.callers[2] == Caller("bob", digest_of("bob"), Decimal("0.10"), 200, 10, (tmp_path / "bob",))
    assert found.own == (path,)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("caller = canary", "is no TOML (at line 1"),
        ("", "names no caller"),
        ("caller = []", "names no caller"),
        ("caller = 3", "names no caller"),
        ("[caller]\nname = 'alice'", "names no caller"),
        (f"{ALICE}\n[[callers]]", "holds 'callers', which means nothing"),
        (f'[[caller]]\ntoken_sha256 = "{HASH}"', "has a caller without a name"),
        (f'[[caller]]\nname = "a b"\ntoken_sha256 = "{HASH}"', "has a caller without a name"),
        (f'[[caller]]\nname = "a\\nb"\ntoken_sha256 = "{HASH}"', "has a caller without a name"),
        (f"{ALICE}budget = 3", "gives alice 'budget', which means nothing"),
        ('[[caller]]\nname = "alice"\ntoken = "canary"', "gives alice 'token', which means nothing"),
        ('[[caller]]\nname = "alice"', "gives alice no token_sha256 of 64 hex digits"),
        ('[[caller]]\nname = "alice"\ntoken_sha256 = "canary"', "gives alice no token_sha256 of 64 hex digits"),
        (f"{ALICE}{ALICE}", "names alice twice"),
        (f"{ALICE}{ALICE.replace('alice', 'bob')}", "gives bob the token of alice"),
        (f"{ALICE}daily_budget_usd = -1", "daily_budget_usd that is no plain amount"),
        (f"{ALICE}daily_budget_usd = nan", "daily_budget_usd that is no plain amount"),
        (f"{ALICE}daily_budget_usd = 1e3", "daily_budget_usd that is no plain amount"),
        (f"{ALICE}daily_budget_usd = true", "daily_budget_usd that is no plain amount"),
        (f"{ALICE}requests_per_day = -1", "requests_per_day that is no whole number"),
        (f"{ALICE}requests_per_day = 1.5", "requests_per_day that is no whole number"),
        (f"{ALICE}requests_per_minute = true", "requests_per_minute that is no whole number"),
        (f'{ALICE}files_dir = "here"', "files_dir of alice, must name absolute folders"),
        (f'{ALICE}files_dir = "/"', "files_dir of alice, must name absolute folders, no whole disk"),
        (f"{ALICE}files_dir = 3", "files_dir that is no folder"),
        (f'{ALICE}files_dir = ""', "files_dir that is no folder"),
    ],
)
def test_a_mistake_in_the_callers_file_is_named(tmp_path: Path, content: str, says: str) -> None:
    assert says in of_file(tmp_path, content)


def test_a_caller_of_the_file_may_not_be_the_one_of_the_token(tmp_path: Path) -> None:
    path = callers_file(tmp_path / "callers.toml", "http")
    assert "names http twice, or beside" in complaint(CALLERS=str(path), HTTP_TOKEN=TOKEN)


def test_a_callers_file_that_is_none_is_refused(tmp_path: Path) -> None:
    assert "CALLERS must be an absolute path" in complaint(CALLERS="callers.toml")
    assert "CALLERS cannot be read: FileNotFoundError" in complaint(CALLERS=str(tmp_path / "none"))
    (tmp_path / "large").write_bytes(b"#" * (1024 * 1024 + 1))
    assert "CALLERS names a file of over 1 MiB" in complaint(CALLERS=str(tmp_path / "large"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert "CALLERS is no TOML" in complaint(CALLERS=str(tmp_path / "binary"))


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
def test_a_file_that_anybody_may_write_to_is_refused(tmp_path: Path) -> None:
    path = callers_file(tmp_path / "callers.toml", "alice")
    path.chmod(0o602)
    assert "anybody on this machine may write to" in complaint(CALLERS=str(path))
    os.mkfifo(tmp_path / "pipe")
    assert "CALLERS names no regular file" in complaint(CALLERS=str(tmp_path / "pipe"))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("team.example", ("team.example",)),
        (" Team.example:8000 , [::1]:9 ", ("team.example:8000", "[::1]:9")),
        ("team.example:443,team.example:80", ("team.example:443", "team.example", "team.example:80")),
    ],
)
def test_hosts_are_names_with_a_port_or_without(text: str, names: tuple[str, ...]) -> None:
    assert access.load({"OPENROUTER_MCP_ALLOWED_HOSTS": text}).hosts == names


@pytest.mark.parametrize(
    "text",
    ["*", "*.example", "http://a.example", "a.example/", "a.example:", "a.example:0", "a.example:70000", "a b",
     "a.example,,b.example", "u@a.example", "-a.example", "a..example", "a_b", ",", "[::1", "::1"],
)  # fmt: skip
def test_what_is_no_name_of_a_host_is_refused(text: str) -> None:
    assert "OPENROUTER_MCP_ALLOWED_HOSTS: " in complaint(ALLOWED_HOSTS=text)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (Access(), ["HTTP_TOKEN", "ALLOWED_HOSTS"]),
        (Access(callers=(Caller("http", b"x"),)), ["ALLOWED_HOSTS"]),
        (Access(hosts=("team.example",)), ["HTTP_TOKEN"]),
    ],
)
def test_an_address_others_can_reach_needs_tokens_and_names(given: Access, missing: list[str]) -> None:
    with pytest.raises(BadSetting, match="--host :: can be reached from other machines") as caught:
        require_guarded(given, "::")
    assert [
        name for name in ("HTTP_TOKEN", "ALLOWED_HOSTS") if f"OPENROUTER_MCP_{name}" in caught.value.text
    ] == missing


def test_with_both_it_may_be_served() -> None:
    require_guarded(Access(callers=(Caller("http", b"x"),), hosts=("team.example",)), "0.0.0.0")


@given(content=st.binary(max_size=300) | st.text(max_size=300).map(lambda text: (ALICE + text).encode()))
def test_whatever_the_file_holds_it_is_read_or_complained_of(content: bytes, tmp_path_factory: object) -> None:
    assert isinstance(tmp_path_factory, pytest.TempPathFactory)
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(content)
    path.chmod(0o600)
    found: tuple[Caller, ...] = ()
    said = ""
    try:
        found = read_callers(path)
    except BadSetting as error:
        said = error.text
    assert bool(found) != bool(said)
    assert "\n" not in said
    assert len({caller.name for caller in found}) == len(found)


@pytest.mark.parametrize("text", ["canary", "canary" * 5, "canary of" * 6, "canaryü" * 6, "canary\x00" * 6], ids=ascii)
def test_a_secret_for_questions_that_is_none_is_refused_and_not_repeated(text: str) -> None:
    assert complaint(REQUEST_STATE_KEY=text).startswith("OPENROUTER_MCP_REQUEST_STATE_KEY must be 32 printable")


@pytest.mark.parametrize(
    "text", ["0123456789abcdef" * 4, "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0IQ==", f"  {TOKEN}\n"]
)
def test_a_secret_for_questions_is_any_text_that_is_long_enough_and_is_never_shown(text: str) -> None:
    found = access.load({"OPENROUTER_MCP_REQUEST_STATE_KEY": text})
    assert found.state_key
    assert found.state_key.get_secret_value() == text.strip()
    assert text.strip() not in repr(found)
    assert access.load({"OPENROUTER_MCP_REQUEST_STATE_KEY": " "}) == Access()
