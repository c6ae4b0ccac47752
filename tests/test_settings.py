"""The environment as settings: where the key may go, what may be spent and on whom, and what cannot be followed."""

import os
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import CANARY

from openrouter_mcp.errors import BadSetting
from openrouter_mcp.policy import Policy
from openrouter_mcp.settings import BASE_URL, LOOPBACK, OPENROUTER_HOSTS, Settings, load

ALLOW = {"OPENROUTER_MCP_ALLOW_CUSTOM_BASE_URL": "1"}


def key_of(read: Settings) -> str | None:
    return read.key.get_secret_value() if read.key else None


# --- the key --------------------------------------------------------------------------------------------------------


def test_an_empty_environment_gives_the_defaults() -> None:
    found = load({})
    assert found == Settings(
        base_url="https://openrouter.ai/api/v1", state_dir=found.state_dir, cache_dir=found.cache_dir
    )
    for folder in (found.state_dir, found.cache_dir):
        assert folder is not None
        assert folder.is_absolute()
        assert folder.name == "openrouter-mcp"
    assert found.state_dir != found.cache_dir


@pytest.mark.parametrize(
    ("name", "field"), [("OPENROUTER_MCP_STATE_DIR", "state_dir"), ("OPENROUTER_MCP_CACHE_DIR", "cache_dir")]
)
def test_a_folder_is_the_one_named_and_never_relative_to_wherever_a_client_starts_the_server(
    tmp_path: Path, name: str, field: str
) -> None:
    assert getattr(load({name: f" {tmp_path} "}), field) == tmp_path
    for relative in ("state", "./state", "~/state"):
        with pytest.raises(BadSetting, match=f"{name} must be an absolute path"):
            load({name: relative})


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


# --- what may be spent ----------------------------------------------------------------------------------------------

DAILY, CALL, CONFIRM = (f"OPENROUTER_MCP_{name}_USD" for name in ("DAILY_BUDGET", "CALL_BUDGET", "CONFIRM_ABOVE"))
MODELS, DENY, DEFAULT = (f"OPENROUTER_MCP_{name}" for name in ("MODELS", "MODELS_DENY", "DEFAULT_MODEL"))
NO_AMOUNTS = ["-1", "+1", "-0", "1e3", "1E-3", "NaN", "nan", "inf", "Infinity", "free", "none", "$5", "5$", "5 USD",
              "1,5", "1,000", "1_000", "1 000", ".5", "5.", "1.2.3", "0x5", "true", "\u0663", "\uff15", "5\u200b",
              "1\n2", "0.0000000001", "12345678", "9" * 400, "0." + "9" * 400]  # fmt: skip


def policy_of(**variables: str) -> Policy:
    """The policy read from the variables, named without what they have in common."""
    return load({f"OPENROUTER_MCP_{name}": value for name, value in variables.items()}).policy


def test_without_a_word_on_money_nothing_is_spent_and_nobody_asked() -> None:
    assert load({}).policy == Policy()
    policy = load(dict.fromkeys((DAILY, CALL, CONFIRM, MODELS, DENY, DEFAULT), " ")).policy  # blank is not set
    assert policy == Policy(Decimal(0), Decimal(0), None, (), (), "")


@pytest.mark.parametrize("text", ["0", "00", "5", "5.00", "0.50", "0.000000001", "1234567.123456789"])
@pytest.mark.parametrize("around", ["{}", " {}\n"], ids=["", "blanks around"])
def test_a_plain_amount_is_taken_exactly(text: str, around: str) -> None:
    written = around.format(text)
    policy = load({DAILY: written, CALL: written, CONFIRM: written}).policy
    assert policy.daily_budget == policy.call_budget == policy.confirm_above == Decimal(text)


@pytest.mark.parametrize("text", NO_AMOUNTS, ids=lambda text: ascii(text[:12]))
@pytest.mark.parametrize("name", [DAILY, CALL, CONFIRM])
def test_what_is_not_plainly_an_amount_is_refused_and_not_guessed_at(name: str, text: str) -> None:
    with pytest.raises(BadSetting, match=rf"^bad_setting: {name} must be a plain amount of US dollars") as caught:
        load({DAILY: "5"} | {name: text})
    assert len(str(caught.value)) < 200


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.text(max_size=12),
        st.text("0123456789.+-eE_, \u0663", max_size=8),
        st.floats().map(repr),
        st.decimals(allow_nan=True, allow_infinity=True).map(str),
    )
)
def test_whatever_is_taken_for_an_amount_is_the_number_a_person_reads(text: str) -> None:
    try:
        policy = load({DAILY: text}).policy
    except BadSetting:
        return
    read = text.strip() or "0"
    assert set(read) <= set("0123456789.")
    assert policy.daily_budget == Decimal(read)
    assert 0 <= policy.call_budget <= policy.daily_budget < 10_000_000


@pytest.mark.parametrize(
    ("daily", "call", "most"),
    [
        ("5", "", "0.5"),
        ("0.01", "", "0.001"),
        ("5", "0.2", "0.2"),
        ("5", "0", "0"),
        ("5", "50", "5"),
        ("0", "1", "0"),
        ("", "1", "0"),
    ],
)
def test_a_call_may_cost_a_tenth_of_the_day_or_what_is_said_and_never_more_than_the_day(
    daily: str, call: str, most: str
) -> None:
    assert load({DAILY: daily, CALL: call}).policy.call_budget == Decimal(most)


def test_to_be_asked_above_nothing_is_not_never_to_be_asked() -> None:
    assert policy_of(CONFIRM_ABOVE_USD="0").confirm_above == 0
    assert policy_of(CONFIRM_ABOVE_USD="").confirm_above is None


# --- on whom --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("acme/tiny", ("acme/tiny",)),
        ("acme/tiny:free", ("acme/tiny:free",)),
        ("acme/", ("acme/",)),
        (" acme/ ,\n globex/large,, ", ("acme/", "globex/large")),
        ("a.b-c_1/X.2", ("a.b-c_1/X.2",)),
        ("openrouter/free", ("openrouter/free",)),
    ],
)
@pytest.mark.parametrize("name", [MODELS, DENY])
def test_a_list_names_models_and_vendors(name: str, text: str, entries: tuple[str, ...]) -> None:
    policy = load({name: text}).policy
    assert (policy.allowed if name == MODELS else policy.denied) == entries
    assert policy.restricts


JUNK = ["acme", "/", "/tiny", "acme//", "acme/tiny/", "acme/*", "*", "acme/tiny:*", "acme/ tiny", "acme/tiny:", "none",
        "acme/tiny:free:online", "~acme/tiny", "@preset/mine", "acme/tiny;x/y", "acme/tiny globex/large", "-/x",
        '"acme/tiny"', "acme/t\u0456ny", "acme/tiny\u200b", "https://openrouter.ai/acme/tiny", "x" * 5000]  # fmt: skip


@pytest.mark.parametrize("junk", JUNK, ids=lambda text: ascii(text[:25]))
@pytest.mark.parametrize("name", [MODELS, DENY])
def test_a_list_with_junk_in_it_is_refused_and_not_read_in_part(name: str, junk: str) -> None:
    for text in (junk, f"acme/tiny,{junk}", f"{junk},acme/"):
        with pytest.raises(BadSetting, match=f"^bad_setting: {name}: ") as caught:
            load({name: text})
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", [",", " , ,"])
@pytest.mark.parametrize("name", [MODELS, DENY])
def test_a_list_of_nothing_is_refused_and_does_not_allow_all(name: str, text: str) -> None:
    with pytest.raises(BadSetting, match=f"{name} names no model"):
        load({name: text})


@pytest.mark.parametrize(
    ("allowed", "denied", "admitted", "excluded"),
    [
        ("", "", "acme/tiny acme/tiny:free openrouter/free globex/large", ""),
        ("acme/tiny", "", "acme/tiny", "acme/tiny:free acme/tiny2 acme/old globex/large openrouter/free"),
        ("acme/tiny:free", "", "acme/tiny:free", "acme/tiny acme/old:free openrouter/free"),
        ("acme/", "", "acme/tiny acme/tiny:free acme/old", "acmex/tiny xacme/tiny globex/large openrouter/free"),
        ("acme/,openrouter/free", "", "acme/tiny openrouter/free", "globex/large"),
        ("openrouter/", "", "openrouter/auto", "openrouter/free acme/tiny"),
        ("", "acme/tiny", "acme/old acme/tiny2 globex/large", "acme/tiny acme/tiny:free acme/tiny:x openrouter/free"),
        ("", "acme/tiny:free", "acme/tiny", "acme/tiny:free openrouter/free"),
        ("", "acme/", "acmex/tiny globex/large", "acme/tiny acme/tiny:free openrouter/free"),
        ("acme/", "acme/tiny", "acme/old acme/old:free", "acme/tiny acme/tiny:free globex/large"),
        ("acme/tiny:free", "acme/tiny", "", "acme/tiny:free acme/tiny"),
        ("acme/,openrouter/free", "acme/tiny", "acme/old", "openrouter/free"),
    ],
)
def test_a_denied_model_takes_its_variants_along_and_an_allowed_one_is_that_very_id(
    allowed: str, denied: str, admitted: str, excluded: str
) -> None:
    policy = load({MODELS: allowed, DENY: denied}).policy
    assert [model for model in admitted.split() if not policy.admits(model)] == []
    assert [model for model in excluded.split() if policy.admits(model)] == []


NAMED = ["acme/", "globex/", "acme/tiny", "acme/tiny:free", "globex/large", "openrouter/free"]
ENTRIES = st.lists(st.sampled_from(NAMED), max_size=3)
ASKED = st.builds("{}{}".format, st.sampled_from(["acme/tiny", "acme/old", "globex/large", "openrouter/free"]),
                  st.sampled_from(["", ":free", ":x"]))  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(ENTRIES, ENTRIES, ENTRIES, ASKED)
def test_to_deny_more_never_admits_more_and_to_allow_more_never_admits_less(
    allowed: list[str], denied: list[str], more: list[str], model: str
) -> None:
    policy = Policy(allowed=tuple(allowed), denied=tuple(denied))
    if Policy(allowed=tuple(allowed), denied=(*denied, *more)).admits(model):
        assert policy.admits(model)
    if allowed and policy.admits(model):
        assert Policy(allowed=(*allowed, *more), denied=tuple(denied)).admits(model)
        assert model.partition("/")[0] + "/" not in denied
        assert model not in denied


# --- the default model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "daily"), [("acme/tiny:free", ""), ("openrouter/free", ""), ("acme/tiny", "5"), ("acme/tiny:free", "5")]
)
def test_a_default_model_is_taken_where_it_can_be_asked(model: str, daily: str) -> None:
    assert load({DEFAULT: f" {model} ", DAILY: daily}).policy.default_model == model


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({DEFAULT: "tiny"}, "one model's id"),
        ({DEFAULT: "acme/"}, "one model's id"),
        ({DEFAULT: "acme/tiny:free,acme/old:free"}, "one model's id"),
        ({DEFAULT: "acme/tiny:free:online"}, "one model's id"),
        ({DEFAULT: "@preset/mine", DAILY: "5"}, "one model's id"),
        ({DEFAULT: "~acme/tiny-latest", DAILY: "5"}, "one model's id"),
        ({DEFAULT: "acme/tiny\u200b:free"}, "one model's id"),
        ({DEFAULT: "acme/tiny"}, "is not free, and the budget of the day is \\$0"),
        ({DEFAULT: "acme/tiny", DAILY: "0.00", CALL: "1"}, "is not free, and the budget of the day is \\$0"),
        ({DEFAULT: "acme/tiny:free", DENY: "acme/tiny"}, "the lists of models exclude"),
        ({DEFAULT: "acme/tiny:free", MODELS: "acme/tiny"}, "the lists of models exclude"),
        ({DEFAULT: "openrouter/free", DENY: "acme/"}, "the lists of models exclude"),
    ],
)
def test_a_default_model_that_could_never_be_asked_is_refused(variables: dict[str, str], why: str) -> None:
    with pytest.raises(BadSetting, match=f"^bad_setting: {DEFAULT} .*{why}"):
        load(variables)


@pytest.mark.parametrize(
    ("model", "kept"),
    [("acme/tiny", ""), ("acme/tiny:free", "acme/tiny:free"), ("openrouter/free", "openrouter/free"), ("", "")],
)
def test_without_money_the_lists_stay_and_a_default_model_that_costs_does_not(model: str, kept: str) -> None:
    lists = {MODELS: "acme/,openrouter/free"}
    policy = load({DAILY: "5", CALL: "1", CONFIRM: "0.1", DEFAULT: model, **lists}).policy
    poor = policy.without_money()
    assert poor.daily_budget == poor.call_budget == 0
    assert poor.default_model == kept
    assert (poor.allowed, poor.denied, poor.confirm_above) == (policy.allowed, policy.denied, Decimal("0.1"))
    assert load({DAILY: "5", DENY: "acme/"}).policy.without_money().denied == ("acme/",)


# --- the rest -------------------------------------------------------------------------------------------------------


def test_the_app_url_is_kept() -> None:
    assert load({"OPENROUTER_MCP_APP_URL": " https://example.com/app "}).app_url == "https://example.com/app"


@pytest.mark.parametrize("url", ["https://ex\u00e4mple.com", "a\nb", "a\x00b", "\U0001f600"], ids=ascii)
def test_an_app_url_that_no_header_can_carry_is_refused(url: str) -> None:
    with pytest.raises(BadSetting, match="OPENROUTER_MCP_APP_URL"):
        load({"OPENROUTER_MCP_APP_URL": url})


# --- the engine of several hosts --------------------------------------------------------------------------------------

URL, FALLBACK = "OPENROUTER_MCP_STATE_URL", "OPENROUTER_MCP_STATE_FALLBACK"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("redis://books", "redis://books"),
        (" redis://books:6379/3\n", "redis://books:6379/3"),
        ("rediss://team:p%40ss@books.example:6380/0", "rediss://team:p%40ss@books.example:6380/0"),
        ("valkey://:secret-word@[::1]:6379/0", "redis://:secret-word@[::1]:6379/0"),
        ("valkeys://books", "rediss://books"),
    ],
)
def test_an_engine_is_named_by_its_url_whatever_it_calls_itself(said: str, meant: str, tmp_path: Path) -> None:
    (file := tmp_path / "url").write_text(said)
    for environ in ({URL: said}, {f"{URL}_FILE": str(file)}):
        url = load(environ).state_url
        assert url is not None
        assert url.get_secret_value() == meant
        assert meant not in repr(load(environ))
    assert load({f"{URL}_FILE": str(file)}).own == (file,)
    assert load({}).state_url is None


@pytest.mark.parametrize(
    "url",
    ["books", "http://books", "redis:books", "redis://", "redis://secret-word@", "redis://a:secret-word@b@books",
     "redis://:secret-word@books?ssl_cert_reqs=none", "redis://:secret-word@books#0", "redis://:secret-word@books/zero",
     "redis://:secret-word@books:65536", "redis://:secret-word@books:0", "unix:///secret-word",
     "redis://:secret word@books", "redis://:secret-word@books/0/1", "REDIS://:secret-word@books"],
)  # fmt: skip
def test_what_is_no_plain_address_of_an_engine_is_refused_without_a_word_of_it(url: str, tmp_path: Path) -> None:
    (file := tmp_path / "url").write_text(url)
    for name, environ in ((URL, {URL: url}), (f"{URL}_FILE", {f"{URL}_FILE": str(file)})):
        with pytest.raises(BadSetting, match=f"{name} must be redis://") as refused:
            load(environ)
        assert "secret" not in str(refused.value)


def test_an_engine_without_its_library_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openrouter_mcp.state.find_spec", lambda _: None)
    with pytest.raises(BadSetting, match=r"start openrouter-mcp as openrouter-mcp\[redis\]"):
        load({URL: "redis://books"})
    load({})


def test_a_fallback_is_for_those_who_spend_nothing() -> None:
    assert not load({URL: "redis://books"}).goes_on_alone
    assert load({URL: "redis://books", FALLBACK: "local"}).goes_on_alone
    with pytest.raises(BadSetting, match="for a budget of the day of"):
        load({URL: "redis://books", FALLBACK: "local", "OPENROUTER_MCP_DAILY_BUDGET_USD": "1"})
    with pytest.raises(BadSetting, match="must be local"):
        load({URL: "redis://books", FALLBACK: "yes"})
