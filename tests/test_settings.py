"""The environment as settings: where the key may go, and what is said of one that cannot be used."""

import os
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import CANARY

from openrouter_mcp.errors import BadSetting
from openrouter_mcp.settings import BASE_URL, LOOPBACK, OPENROUTER_HOSTS, Settings, load

ALLOW = {"OPENROUTER_MCP_ALLOW_CUSTOM_BASE_URL": "1"}


def key_of(read: Settings) -> str | None:
    return read.key.get_secret_value() if read.key else None


# --- the key --------------------------------------------------------------------------------------------------------


def test_an_empty_environment_gives_the_defaults() -> None:
    found = load({})
    assert found == Settings(base_url="https://openrouter.ai/api/v1", state_dir=found.state_dir)
    assert found.state_dir is not None
    assert found.state_dir.is_absolute()
    assert found.state_dir.name == "openrouter-mcp"


def test_the_state_folder_is_the_one_named_and_never_relative_to_wherever_a_client_starts_the_server(
    tmp_path: Path,
) -> None:
    assert load({"OPENROUTER_MCP_STATE_DIR": f" {tmp_path} "}).state_dir == tmp_path
    for relative in ("state", "./state", "~/state"):
        with pytest.raises(BadSetting, match="absolute"):
            load({"OPENROUTER_MCP_STATE_DIR": relative})


@pytest.mark.parametrize("around", ["{}", " {} ", "{}\n", "\r\n\t{}\r\n"], ids=ascii)
def test_the_key_is_stripped(around: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(around.format(CANARY).encode())
    assert key_of(load({"OPENROUTER_API_KEY": around.format(CANARY)})) == CANARY
    assert key_of(load({"OPENROUTER_API_KEY_FILE": f" {file} "})) == CANARY


def test_the_variable_wins_over_the_file(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    assert key_of(load({"OPENROUTER_API_KEY": CANARY, "OPENROUTER_API_KEY_FILE": missing})) == CANARY


@pytest.mark.parametrize("blank", ["", " ", "\n"], ids=ascii)
def test_a_blank_variable_is_no_key_and_no_problem(blank: str) -> None:
    assert load({"OPENROUTER_API_KEY": blank, "OPENROUTER_API_KEY_FILE": blank}).key is None


def test_a_file_that_cannot_be_read_is_a_problem_to_tell(tmp_path: Path) -> None:
    read = load({"OPENROUTER_API_KEY_FILE": str(tmp_path / "missing")})
    assert (read.key, read.key_problem) == (None, "OPENROUTER_API_KEY_FILE cannot be read: FileNotFoundError.")


@pytest.mark.parametrize("content", [b"", b" \n", CANARY.encode() * 100], ids=["empty", "blank", "long"])
def test_a_file_that_holds_no_key_is_a_problem_to_tell(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(content)
    read = load({"OPENROUTER_API_KEY_FILE": str(tmp_path / "key")})
    assert read.key is None
    assert "empty, too long for a key, or no regular file" in read.key_problem


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_pipe_nobody_writes_to_does_not_hold_up_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "key")
    for path in (tmp_path / "key", tmp_path, Path("/dev/zero")):
        assert load({"OPENROUTER_API_KEY_FILE": str(path)}).key_problem


def test_a_file_saved_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    """As Notepad saves it."""
    (tmp_path / "key").write_bytes(b"\xef\xbb\xbf" + CANARY.encode() + b"\r\n")
    assert key_of(load({"OPENROUTER_API_KEY_FILE": str(tmp_path / "key")})) == CANARY


def test_where_files_cannot_be_opened_without_waiting_they_are_opened_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows."""
    monkeypatch.delattr(os, "O_NONBLOCK")
    (tmp_path / "key").write_text(CANARY)
    assert key_of(load({"OPENROUTER_API_KEY_FILE": str(tmp_path / "key")})) == CANARY


@pytest.mark.parametrize(
    ("key", "tail"),
    [
        pytest.param("sk-or v1-wxyz", "", id="short, a space"),
        pytest.param("sk-or\nv1-12345-wxyz", "", id="19 characters"),
        pytest.param("sk-or\nv1-123456-wxyz", "'wxyz'", id="20 characters"),
        pytest.param(f"{CANARY[:9]} {CANARY[9:-4]}wxyz", "'wxyz'", id="a space"),
        pytest.param(f"{CANARY[:9]}\r\n{CANARY[9:-4]}wxyz", "'wxyz'", id="a line break"),
        pytest.param(f"{CANARY}\x00{CANARY[:-4]}wxyz", "'wxyz'", id="a control character"),
        pytest.param(f"\u201c{CANARY[:-4]}wx\u201d", r"wx\u201d", id="curly quotes"),
    ],
)
@pytest.mark.parametrize("source", ["OPENROUTER_API_KEY", "OPENROUTER_API_KEY_FILE"])
def test_a_key_that_cannot_be_sent_is_described_and_never_shown(
    key: str, tail: str, source: str, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text(key, encoding="utf-8", newline="")
    read = load({source: key if source == "OPENROUTER_API_KEY" else str(tmp_path / "key")})
    assert read.key is None
    assert read.key_problem.startswith(f"{source} ")
    assert f"{len(key)} characters" in read.key_problem
    assert tail in read.key_problem
    assert tail or "wxyz" not in read.key_problem
    assert key not in read.key_problem
    assert key[:8] not in read.key_problem
    assert CANARY[:-4] not in repr(read)
    assert read.key_problem.isprintable()


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1).map(lambda text: f"sk-or-v1-\u00a3{text}-wxyz"))
def test_no_bad_key_is_ever_repeated(key: str) -> None:
    problem = load({"OPENROUTER_API_KEY": key}).key_problem
    assert problem.isprintable()
    assert problem.isascii()
    assert "sk-or" not in problem


def test_a_good_key_is_in_no_repr() -> None:
    read = load({"OPENROUTER_API_KEY": CANARY})
    assert key_of(read) == CANARY
    for shown in (repr(read), str(read), f"{read.key}", f"{read.key!r}"):
        assert CANARY not in shown
        assert CANARY[-8:] not in shown


# --- where it may be sent -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://openrouter.ai/api/v1",
        "https://eu.openrouter.ai/api/v1",
        "https://us.openrouter.ai/api/v1",
        "https://openrouter.ai:443/api/v1",
        "http://127.0.0.1:8080/api/v1",
        "http://localhost:8080/api/v1",
        "http://[::1]:8080/api/v1",
        "http://localhost",
    ],
)
def test_openrouter_and_this_machine_need_no_permission(url: str) -> None:
    assert load({"OPENROUTER_BASE_URL": url}).base_url == url
    assert load({"OPENROUTER_BASE_URL": f" {url}/\n"}).base_url == url


@pytest.mark.parametrize("blank", ["", "  "], ids=ascii)
def test_a_blank_base_url_is_the_default(blank: str) -> None:
    assert load({"OPENROUTER_BASE_URL": blank}).base_url == BASE_URL


CUSTOM = ["https://proxy.example.com/v1", "https://openrouter.ai.evil.com/api/v1", "https://evil.com/openrouter.ai",
          "https://openrouter.ai:8443/api/v1", "https://openrouter.ai./api/v1", "https://api.openrouter.ai/v1",
          "https://xopenrouter.ai/api/v1", "https://openrouter.a/api/v1", "https://openrouter.ai.:443/api/v1",
          "https://localhost:8443/v1", "https://169.254.169.254/latest"]  # fmt: skip
NEVER = ["http://openrouter.ai/api/v1", "http://eu.openrouter.ai/api/v1", "http://evil.com", "http://127.0.0.1.evil.com",
         "http://localhost.evil.com", "http://localhost./v1", "http://127.1/v1", "http://0.0.0.0/v1",
         "http://2130706433/v1", "http://[::ffff:1.2.3.4]/v1", "http://192.168.0.1/v1",
         "https://openrouter.ai@evil.com/api/v1", "https://user:pw@openrouter.ai/api/v1", "https://@openrouter.ai/api",
         "https://openrouter.ai/api/v1?x=1", "https://openrouter.ai/api/v1#x", "https://openrouter.ai?@evil.com",
         "https://openrouter.ai#@evil.com", "https://openrouter.ai\\@evil.com/api", "https://evil.com\\.openrouter.ai",
         "https:\\\\openrouter.ai/api", "https://OPENROUTER.AI/api/v1", "https://OPENROUTER.AI\\.evil.com",
         "HTTPS://openrouter.ai/api/v1", "https://openrouter.ai%2eevil.com/api", "https://openrouter%2eai/api/v1",
         "https://openrouter.ai/%2e%2e/v1", "https://openrouter.ai//evil.com", "https:///api/v1", "https://",
         "https:openrouter.ai/api", "//openrouter.ai/api", "openrouter.ai/api/v1", "ftp://openrouter.ai/api",
         "file:///etc/passwd", "https://openrouter.ai\n.evil.com", "https://openrouter.ai/api v1",
         "https://openrouter.ai:/api", "https://openrouter.ai:44x/api", "https://openrouter.\u0430i/api/v1",
         "https://openrouter\u3002ai/api/v1", "https://openrouter.ai/api/v1\u200b", "https://[::2]/v1",
         "javascript:alert(1)"]  # fmt: skip


@pytest.mark.parametrize("url", CUSTOM)
def test_a_stranger_gets_the_key_only_with_permission(url: str) -> None:
    for permission in ({}, {"OPENROUTER_MCP_ALLOW_CUSTOM_BASE_URL": "0"}, {"OPENROUTER_MCP_ALLOW_CUSTOM_BASE_URL": ""}):
        with pytest.raises(BadSetting, match="OPENROUTER_MCP_ALLOW_CUSTOM_BASE_URL=1"):
            load({"OPENROUTER_BASE_URL": url, "OPENROUTER_API_KEY": CANARY, **permission})
    assert load({"OPENROUTER_BASE_URL": f"{url}/", **ALLOW}).base_url == url


@pytest.mark.parametrize("url", NEVER, ids=ascii)
@pytest.mark.parametrize("permission", [{}, ALLOW], ids=["", "allowed"])
def test_no_permission_covers_plain_http_elsewhere_or_an_ambiguous_address(
    url: str, permission: dict[str, str]
) -> None:
    with pytest.raises(BadSetting, match=r"^bad_setting: OPENROUTER_BASE_URL ") as caught:
        load({"OPENROUTER_BASE_URL": url, "OPENROUTER_API_KEY": CANARY, **permission})
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("word", ["yes", "true", "2", "on"])
def test_the_permission_is_one_or_zero(word: str) -> None:
    with pytest.raises(BadSetting, match="must be 1 or 0"):
        load({"OPENROUTER_BASE_URL": CUSTOM[0], "OPENROUTER_MCP_ALLOW_CUSTOM_BASE_URL": word})


PIECES = ["https://", "http://", "openrouter.ai", "eu.", "evil.com", "localhost", "127.0.0.1", "[::1]", "@", ".", "/",
          "\\", ":443", ":80", "?", "#", "%2e", "user:pw", "api/v1", " ", "\n", "\t", "\u3002", "\x00"]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["https://openrouter.ai", "http://localhost", ""]),
    st.lists(st.sampled_from(PIECES), max_size=5).map("".join),
)
def test_every_address_accepted_leads_two_parsers_to_a_trusted_host(start: str, rest: str) -> None:
    try:
        url = load({"OPENROUTER_BASE_URL": start + rest}).base_url
    except BadSetting:
        return
    trusted = {"https": OPENROUTER_HOSTS, "http": {host.strip("[]") for host in LOOPBACK}}
    split, parsed = urlsplit(url), httpx2.URL(url)
    assert split.hostname in trusted[split.scheme]
    assert (parsed.scheme, parsed.host, parsed.userinfo) == (split.scheme, split.hostname, b"")
    assert split.username is None
    assert not split.query
    assert not split.fragment


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_a_port_that_does_not_exist_is_refused(port: str) -> None:
    with pytest.raises(BadSetting):
        load({"OPENROUTER_BASE_URL": f"http://localhost:{port}/v1"})


# --- the rest -------------------------------------------------------------------------------------------------------


def test_the_app_url_is_kept() -> None:
    assert load({"OPENROUTER_MCP_APP_URL": " https://example.com/app "}).app_url == "https://example.com/app"


@pytest.mark.parametrize("url", ["https://ex\u00e4mple.com", "a\nb", "a\x00b", "\U0001f600"], ids=ascii)
def test_an_app_url_that_no_header_can_carry_is_refused(url: str) -> None:
    with pytest.raises(BadSetting, match="OPENROUTER_MCP_APP_URL"):
        load({"OPENROUTER_MCP_APP_URL": url})
