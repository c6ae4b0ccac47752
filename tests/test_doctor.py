"""`openrouter-mcp doctor`: a person sees what does not work and what to do; only they open a closed guard again."""

import io
import json
import os
import re
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import anyio
import httpx2
import pytest
from processes import Upstream, called, on_a_terminal, run, spawned
from support import CANARY, SETTINGS, ask, connected, opened

from openrouter_mcp import environment as known
from openrouter_mcp.app import open_app
from openrouter_mcp.cli.doctor import doctor
from openrouter_mcp.cli.probes import account
from openrouter_mcp.policy import Policy
from openrouter_mcp.sandbox import Fault, Sandbox, faults
from openrouter_mcp.settings import Settings

FREE, PRICED, WORD = "acme/tiny:free", "acme/tiny", "reopen"


@pytest.fixture
def shared(tmp_path: Path) -> Settings:
    """Of processes that share their books, and may spend."""
    return replace(SETTINGS, state_dir=tmp_path, policy=Policy(Decimal(5), Decimal(1)))


def code_of_asking(settings: Settings, sandbox: Sandbox, model: str = FREE) -> str:
    """Ask in a process of its own: the code of the error, empty where an answer came."""

    async def code() -> str:
        async with connected(sandbox, settings=settings) as client:
            _, record, _ = await ask(client, prompt="Hi", model=model)
            return str(record.get("code", ""))

    return anyio.run(code)


def closed_by_a_cost(settings: Settings, sandbox: Sandbox) -> None:
    sandbox.fail(Fault(cost=0.25))
    assert code_of_asking(settings, sandbox) == ""
    assert code_of_asking(settings, sandbox) == "guard_closed"


def close(settings: Settings, reason: str) -> None:
    """Another process closes the guard."""

    async def now() -> None:
        async with opened(Sandbox(), settings=settings) as app:
            await app.ledger.spending.close(reason)

    anyio.run(now)


def reasons(settings: Settings) -> list[str]:
    """Why the guard is closed."""

    async def now() -> list[str]:
        async with opened(Sandbox(), settings=settings) as app:
            return [closure.reason for closure in await app.ledger.spending.closures()]

    return anyio.run(now)


def at_a_terminal(monkeypatch: pytest.MonkeyPatch, typed: str, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Let this process pass for one at a terminal, where `typed` is typed after `meanwhile`."""

    class Keyboard(io.StringIO):
        def isatty(self) -> bool:
            return True

        def readline(self, size: int = -1, /) -> str:  # type: ignore[override]  # typeshed: as if of bytes
            meanwhile()
            return super().readline(size)

    monkeypatch.setattr("sys.stdin", Keyboard(typed))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)


def test_a_closed_guard_is_shown_with_its_reason_and_since_when(
    sandbox: Sandbox, shared: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor(shared, sandbox=False, offline=True) == 0
    assert "guard    open" in capsys.readouterr().out
    closed_by_a_cost(shared, sandbox)
    close(shared, "another\x1b[31m reason")
    assert doctor(shared, sandbox=False, offline=True) == 1
    shown = capsys.readouterr().out
    assert "budget   $5 of $5 left today, $1 a call" in shown
    assert shown.count("guard    CLOSED since 20") == 2
    assert f"UTC: a call to {FREE} cost $0.25" in shown
    assert "another[31m reason" in shown  # and the terminal is not told to do anything
    assert "guard    open" not in shown
    assert code_of_asking(shared, sandbox) == "guard_closed"  # to look is not to acknowledge


def test_an_open_guard_leaves_nothing_to_acknowledge(shared: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(shared, sandbox=False, acknowledge=True) == 0
    assert "There is nothing to acknowledge." in capsys.readouterr().out


def test_a_program_that_says_the_word_is_not_believed(shared: Settings) -> None:
    close(shared, "it cost")
    with spawned("doctor", "--acknowledge", OPENROUTER_MCP_STATE_DIR=str(shared.state_dir)) as process:
        shown, errors = process.communicate(f"{WORD}\n".encode())
        assert process.returncode == 1
    assert b"it cost" in shown
    assert b"needs a person at a terminal; nothing was changed" in errors
    assert reasons(shared) == ["it cost"]


def test_nobody_acknowledges_what_they_cannot_see(
    shared: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    close(shared, "it cost")
    at_a_terminal(monkeypatch, f"{WORD}\n")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert doctor(shared, sandbox=False, acknowledge=True) == 1
    assert "needs a person at a terminal" in capsys.readouterr().err
    assert reasons(shared) == ["it cost"]


@pytest.mark.parametrize("typed", ["yes\n", "\n", "REOPEN\n", "reopen it\n", "r\n", ""], ids=repr)
def test_another_word_or_none_changes_nothing(
    shared: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str
) -> None:
    close(shared, "it cost")
    at_a_terminal(monkeypatch, typed)
    assert doctor(shared, sandbox=False, acknowledge=True) == 1
    assert "Nothing was changed." in capsys.readouterr().out
    assert reasons(shared) == ["it cost"]


def test_only_what_was_shown_is_acknowledged(
    shared: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sandbox: Sandbox
) -> None:
    close(shared, "it cost")
    assert shared.state_dir
    broken = shared.state_dir / "ledger.db.broken-1800000000"

    def meanwhile() -> None:
        close(shared, "it cost again")
        broken.touch()

    at_a_terminal(monkeypatch, f"{WORD}\n", meanwhile)
    assert doctor(shared, sandbox=False, acknowledge=True) == 1
    assert reasons(shared) == ["it cost again"]
    assert broken.exists()
    assert "The guard is open." not in capsys.readouterr().out
    assert code_of_asking(shared, sandbox) == "guard_closed"


def test_a_book_that_broke_keeps_what_costs_from_being_sent_until_it_is_acknowledged(
    sandbox: Sandbox, shared: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shared.state_dir
    (shared.state_dir / "ledger.db").write_bytes(b"no book at all" * 100)
    for _ in range(2):  # by the process that found it so, and by the next
        assert code_of_asking(shared, sandbox, PRICED) == "cannot_reserve"
    assert code_of_asking(shared, sandbox) == ""  # free models can be asked
    assert doctor(shared, sandbox=False, offline=True) == 1
    assert "ledger.db.broken-" in capsys.readouterr().out
    at_a_terminal(monkeypatch, f"{WORD}\n")
    assert doctor(shared, sandbox=False, acknowledge=True) == 0
    assert code_of_asking(shared, sandbox, PRICED) == ""
    assert len(list(shared.state_dir.glob("ledger.db.acknowledged-*"))) == 1  # it is kept


# --- as it is: a process on a terminal of its own ---------------------------------------------------------------------


def acknowledging(settings: Settings, typed: str) -> tuple[int, str]:
    """`doctor --acknowledge` on a pseudo-terminal where `typed` is typed: its status, and what it showed."""
    replies = [("let requests be sent again: ", typed)]
    folder = str(settings.state_dir)
    status, shown, _ = on_a_terminal("doctor", "--acknowledge", replies=replies, OPENROUTER_MCP_STATE_DIR=folder)
    return status, shown


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_person_who_types_the_word_opens_the_guard_for_every_process(sandbox: Sandbox, shared: Settings) -> None:
    closed_by_a_cost(shared, sandbox)
    status, shown = acknowledging(shared, "yes\n")
    assert "Nothing was changed." in shown
    assert status == 1
    assert code_of_asking(shared, sandbox) == "guard_closed"
    status, shown = acknowledging(shared, f"{WORD}\n")
    assert f"a call to {FREE} cost $0.25" in shown
    assert "The guard is open." in shown
    assert status == 0
    assert code_of_asking(shared, sandbox) == code_of_asking(shared, sandbox, PRICED) == ""


# --- the checks -------------------------------------------------------------------------------------------------------

CHECKS = [
    *("python", "versions", "settings", "network", "key", "free"),
    *("budget", "guard", "state", "answers", "cache", "question"),
]
Found = dict[str, list[tuple[str, str]]]


def read(shown: str) -> Found:
    """What was found by each check: levels and texts."""
    found: Found = {}
    for line in shown.splitlines():
        level, check, text = line.split(maxsplit=2)
        found.setdefault(check, []).append((level, text))
    return found


def examined(*flags: str, **settings: str) -> tuple[int, Found, str]:
    """`openrouter-mcp doctor FLAGS`: its status, what it found, and its stderr."""
    return what_it_says(called("doctor", *flags, **settings))


def what_it_says(done: subprocess.CompletedProcess[str]) -> tuple[int, Found, str]:
    """The status of a doctor that has ended, what it found, and its stderr."""
    assert "\x1b" not in done.stdout
    return done.returncode, read(done.stdout), done.stderr


def worst(found: Found) -> set[tuple[str, str]]:
    """Checks that are not ok, with their levels."""
    return {(check, level) for check, each in found.items() for level, _ in each if level != "ok"}


LIMITED = ("key", "warning")  # the sandbox's key has no limit of its own


@pytest.fixture
def upstream() -> Generator[Upstream]:
    with Upstream() as served:
        yield served


def test_all_is_well_and_one_free_question_is_asked_after_it_was_said(upstream: Upstream) -> None:
    status, found, errors = what_it_says(run("doctor", **upstream.settings))  # a process of its own
    assert (status, worst(found)) == (0, {LIMITED})
    assert list(found) == CHECKS
    assert "uses one of today's free requests" in errors
    (chat,) = upstream.sandbox.chats
    assert chat.body["model"].endswith(":free")
    assert "answered in" in found["question"][0][1]
    assert "mcp 2." in found["versions"][0][1]
    assert "2025-11-25, 2026-07-28" in found["versions"][0][1]
    assert "50 of 50 free requests left today" in found["free"][0][1]
    assert "$0 of $0 left" in found["budget"][0][1]
    assert found["key"][1][1].startswith("the key has no credit limit of its own")
    assert "https://openrouter.ai/settings/keys can set one" in found["key"][1][1]


def test_the_sandbox_needs_no_key() -> None:
    status, found, _ = examined("--sandbox")
    assert (status, worst(found)) == (0, {LIMITED})
    assert "the embedded sandbox" in found["network"][0][1]


def test_json_is_one_document_that_says_the_same(upstream: Upstream) -> None:
    upstream.sandbox.rejected_keys.add(CANARY)
    done = called("doctor", "--json", **upstream.settings)
    document = json.loads(done.stdout)
    status, found, _ = examined(**upstream.settings)
    assert done.returncode == status == 1
    assert document["worst"] == "problem"
    assert read("\n".join(" ".join(each.values()) for each in document["findings"])) == found


def test_without_the_question_no_request_is_used_and_offline_nothing_is_sent(upstream: Upstream) -> None:
    status, found, errors = examined("--no-question", **upstream.settings)
    assert (status, worst(found), errors) == (0, {LIMITED}, "")
    assert upstream.sandbox.chats == []
    upstream.sandbox.clear()
    assert examined("--offline", **upstream.settings)[0] == 0
    assert upstream.sandbox.requests == []


def test_a_key_that_openrouter_does_not_accept_is_no_fault_of_the_network(upstream: Upstream) -> None:
    upstream.sandbox.rejected_keys.add(CANARY)
    status, found, _ = examined(**upstream.settings)
    assert (status, worst(found)) == (1, {("key", "problem"), ("question", "warning")})
    assert "Check OPENROUTER_API_KEY" in found["key"][0][1]
    assert upstream.sandbox.chats == []


def test_no_key_is_a_problem_wherever_it_is_looked_for(upstream: Upstream) -> None:
    without = upstream.settings | {"OPENROUTER_API_KEY": ""}
    status, found, _ = examined(**without)
    assert (status, worst(found)) == (1, {("key", "problem"), ("question", "warning")})
    assert "Set OPENROUTER_API_KEY" in found["key"][0][1]
    assert examined("--offline", **without)[0] == 1


def test_a_host_that_is_not_there_a_proxy_that_is_not_and_silence_are_told_apart(upstream: Upstream) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        dead = upstream.settings | {"OPENROUTER_BASE_URL": f"http://127.0.0.1:{taken.getsockname()[1]}/api/v1"}
        status, found, _ = examined(**dead)
    assert (status, worst(found)) == (1, {("network", "problem"), LIMITED, ("question", "warning")})
    assert "refuses connections" in found["network"][0][1]
    proxied = {"OPENROUTER_API_KEY": CANARY, "HTTPS_PROXY": "http://me:secret@127.0.0.1:9"}
    status, found, errors = examined(**proxied)
    assert status == 1
    assert "The proxy http://127.0.0.1:9 does not let requests out" in found["network"][0][1]
    assert "secret" not in str(found) + errors
    upstream.sandbox.fail(faults.html_error(), times=None, path="/key")
    status, found, _ = examined(**upstream.settings)
    assert status == 1
    assert "not OpenRouter's" in found["network"][0][1]


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), "DNS: the name localhost is not found"),
        (ssl.SSLCertVerificationError(1, "self-signed"), "TLS: the certificate of localhost is not trusted"),
        (ConnectionRefusedError(), "refuses connections"),
    ],
)
async def test_the_cause_of_a_connection_that_failed_decides_what_is_said(cause: OSError, words: str) -> None:
    def refuse(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("All connection attempts failed") from cause

    async with open_app(SETTINGS, transport=httpx2.MockTransport(refuse)) as app:
        network, key = await account(app, sandbox=False)
    assert words in network.text
    assert (network.level, key.level) == ("problem", "warning")


@contextmanager
def speaking_tls(folder: Path) -> Generator[int]:
    """A port of this machine that shows a certificate nobody has signed."""
    made = (folder / "key.pem", folder / "certificate.pem")
    command = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout"]
    subprocess.run(["openssl", *command, made[0], "-out", made[1]], check=True, capture_output=True)  # noqa: S607
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made[1], made[0])
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    with suppress(ssl.SSLError):
                        context.wrap_socket(listening.accept()[0], server_side=True).close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.mark.skipif(not shutil.which("openssl") or sys.platform == "win32", reason="needs openssl")
def test_a_certificate_that_is_not_trusted_is_named(tmp_path: Path) -> None:
    with speaking_tls(tmp_path) as port:
        status, found, _ = examined(
            OPENROUTER_API_KEY=CANARY,
            OPENROUTER_BASE_URL=f"https://localhost:{port}/api/v1",
            OPENROUTER_MCP_ALLOW_CUSTOM_BASE_URL="1",
            NO_PROXY="localhost",
        )
    assert status == 1
    assert "TLS: the certificate of localhost is not trusted (self-signed certificate)" in found["network"][0][1]
    assert "SSL_CERT_FILE" in found["network"][0][1]


def test_a_404_by_our_own_limit_of_0_is_told_apart_from_any_other(upstream: Upstream) -> None:
    by_price = faults.unavailable(404, "constraint_filtered", "No endpoints found", FREE, excluded_by=["max_price"])
    upstream.sandbox.fail(by_price, times=None)
    status, found, _ = examined(**upstream.settings)
    assert (status, worst(found)) == (1, {LIMITED, ("question", "problem")})
    assert "limit of $0 (max_price)" in found["question"][0][1]
    upstream.sandbox.clear()
    upstream.sandbox.fail(faults.unavailable(404, "no_endpoints", "No endpoints found", FREE), times=None)
    status, found, _ = examined(**upstream.settings)
    assert (status, worst(found)) == (1, {LIMITED, ("question", "problem")})
    assert "no_provider: " in found["question"][0][1]
    assert "max_price" not in found["question"][0][1]


def test_busy_models_and_a_day_that_is_used_up_are_warnings(upstream: Upstream) -> None:
    upstream.sandbox.fail(faults.day_limit(), times=None)
    status, found, _ = examined(**upstream.settings)
    assert (status, worst(found)) == (0, {LIMITED, ("question", "warning")})
    assert "daily_quota" in found["question"][0][1]
    upstream.sandbox.clear()
    status, found, _ = examined(**upstream.settings)  # the book knows
    assert (status, worst(found)) == (0, {LIMITED, ("free", "warning"), ("question", "warning")})
    assert upstream.sandbox.chats == []


def test_a_closed_guard_is_a_problem_and_nothing_is_asked(upstream: Upstream) -> None:
    upstream.sandbox.fail(Fault(cost=0.25))
    assert called("ask", "Hi", "--model", FREE, **upstream.settings).returncode == 0
    status, found, _ = examined(**upstream.settings)
    assert (status, worst(found)) == (1, {LIMITED, ("guard", "problem"), ("question", "warning")})
    assert "cost $0.25" in found["guard"][0][1]
    assert "`openrouter-mcp doctor --acknowledge` opens it again" in found["guard"][0][1]
    assert len(upstream.sandbox.chats) == 1


def test_folders_that_cannot_be_used_are_named_and_only_the_book_is_a_problem(
    upstream: Upstream, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    inside = str(tmp_path / "file" / "folder")
    spoilt = upstream.settings | {"OPENROUTER_MCP_STATE_DIR": inside, "OPENROUTER_MCP_CACHE_DIR": inside}
    status, found, _ = examined("--offline", **spoilt)
    warned = {(check, "warning") for check in ("guard", "answers", "cache")}
    assert (status, worst(found)) == (1, {("state", "problem"), *warned})
    assert all(inside in found[check][0][1] for check in ("state", "answers", "cache"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_state_folder_that_may_not_be_written_is_a_problem(upstream: Upstream, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    status, found, _ = examined("--offline", **upstream.settings | {"OPENROUTER_MCP_STATE_DIR": str(tmp_path)})
    tmp_path.chmod(0o700)
    assert (status, worst(found)) == (1, {("state", "problem"), ("guard", "warning"), ("answers", "warning")})


def test_books_of_a_newer_version_are_left_alone(upstream: Upstream) -> None:
    assert called("ask", "Hi", **upstream.settings).returncode == 0
    _, found, _ = examined("--offline", **upstream.settings)
    assert found["answers"][0][1].startswith("1 kept in ")
    for name in ("ledger.db", "answers.db"):
        with sqlite3.connect(Path(upstream.settings["OPENROUTER_MCP_STATE_DIR"]) / name) as db:
            db.execute("PRAGMA user_version=99")
        db.close()
    status, found, _ = examined("--offline", **upstream.settings)
    assert (status, worst(found)) == (1, {("state", "problem"), ("guard", "warning"), ("answers", "warning")})
    assert all("newer version" in found[check][0][1] for check in ("state", "answers"))


# --- the settings -----------------------------------------------------------------------------------------------------


def test_each_setting_is_shown_with_its_source_and_no_secret(upstream: Upstream, tmp_path: Path) -> None:
    settings = upstream.settings | {"OPENROUTER_MCP_HTTP_TOKEN": "0123456789abcdef" * 3, "OPENROUTER_MCP_BUDGET": "5"}
    _, found, _ = examined("--offline", **settings)
    shown = dict(found["settings"])  # one of each level is enough
    assert "OPENROUTER_MCP_BUDGET is set, and no setting has that name" in shown["warning"]
    texts = [text for _, text in found["settings"]]
    assert f"OPENROUTER_API_KEY = [hidden], ends in {CANARY[-4:]!r} (environment variable)" in texts
    assert "OPENROUTER_MCP_HTTP_TOKEN = [hidden], ends in 'cdef' (environment variable)" in texts
    assert f"OPENROUTER_BASE_URL = {settings['OPENROUTER_BASE_URL']} (environment variable)" in texts
    file = tmp_path / "key"
    file.write_text(CANARY)
    file.chmod(0o644)
    by_file = upstream.settings | {"OPENROUTER_API_KEY": "", "OPENROUTER_API_KEY_FILE": str(file)}
    _, found, _ = examined("--offline", **by_file)
    assert ("ok", f"OPENROUTER_API_KEY_FILE = {file} (the key is read from this file)") in found["settings"]
    if os.name != "nt":
        assert [text for level, text in found["settings"] if level == "warning" and "chmod 600" in text]
    file.chmod(0o600)
    _, found, _ = examined("--offline", **by_file)
    assert worst(found) == set()


def test_a_setting_that_cannot_be_followed_is_a_problem_like_any_other() -> None:
    for flags in ([], ["--json"]):
        done = called("doctor", *flags, OPENROUTER_MCP_DAILY_BUDGET_USD="lots")
        assert done.returncode == 1
        assert "OPENROUTER_MCP_DAILY_BUDGET_USD must be a plain amount" in done.stdout
    assert json.loads(done.stdout)["worst"] == "problem"
    status, found, _ = examined("--offline", OPENROUTER_API_KEY="two words")
    assert status == 1
    assert "holds a space" in found["settings"][-1][1]


def test_the_settings_it_knows_are_those_there_are() -> None:
    package = Path(known.__file__).parent
    source = "".join((package / name).read_text() for name in ("settings.py", "access.py", "state.py"))
    named = set(re.findall(r'"(OPENROUTER_\w+)"', source)) | {"OPENROUTER_MCP_STATE_URL_FILE"}
    assert {name for name in known.KNOWN if name.startswith("OPENROUTER_")} == named


# --- terminals --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_levels_have_colours_on_a_terminal_that_has_some_and_nowhere_else() -> None:
    assert "\x1b[32mok" in on_a_terminal("doctor", "--sandbox")[1]
    plain = ("doctor", "--sandbox", "--offline")
    assert "\x1b[32mok" in called(*plain, terminal="out", TERM="xterm").stdout
    assert "\x1b" not in called(*plain, terminal="out", TERM="xterm", NO_COLOR="1").stdout
    assert "\x1b" not in called(*plain, terminal="out", TERM="dumb").stdout
    assert "\x1b" not in called(*plain, terminal="in err", TERM="xterm").stdout


def test_what_ascii_cannot_show_stops_nothing(tmp_path: Path) -> None:
    folder = str(tmp_path / "bücher")
    status, found, _ = what_it_says(
        run("doctor", "--offline", "--sandbox", OPENROUTER_MCP_STATE_DIR=folder, PYTHONIOENCODING="ascii")
    )
    assert status == 0
    assert any("b?cher" in text for _, text in found["settings"])
