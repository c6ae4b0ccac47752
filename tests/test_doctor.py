"""`openrouter-mcp doctor`: a person sees why the guard is closed and opens it again; nobody and nothing else does."""

import io
import os
import select
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import anyio
import pytest
from processes import SERVER, environment, spawned
from support import SETTINGS, ask, connected, opened

from openrouter_mcp.cli.doctor import doctor
from openrouter_mcp.sandbox import Fault, Sandbox
from openrouter_mcp.settings import Policy, Settings

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
    assert doctor(shared, sandbox=False, acknowledge=False) == 0
    assert "guard    open" in capsys.readouterr().out
    closed_by_a_cost(shared, sandbox)
    close(shared, "another\x1b[31m reason")
    assert doctor(shared, sandbox=False, acknowledge=False) == 1
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
    assert doctor(shared, sandbox=False, acknowledge=False) == 1
    assert "ledger.db.broken-" in capsys.readouterr().out
    at_a_terminal(monkeypatch, f"{WORD}\n")
    assert doctor(shared, sandbox=False, acknowledge=True) == 0
    assert code_of_asking(shared, sandbox, PRICED) == ""
    assert len(list(shared.state_dir.glob("ledger.db.acknowledged-*"))) == 1  # it is kept


# --- as it is: a process on a terminal of its own ---------------------------------------------------------------------


def acknowledging(settings: Settings, typed: str) -> tuple[int, str]:
    """`doctor --acknowledge` on a pseudo-terminal where `typed` is typed: its status, and what it showed."""
    import pty  # not on Windows

    master, slave = pty.openpty()
    command = [*SERVER, "doctor", "--acknowledge"]
    its_own = environment(OPENROUTER_MCP_STATE_DIR=str(settings.state_dir))
    shown = b""
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=its_own) as process:
        os.close(slave)
        with suppress(OSError):  # how a terminal ends
            while select.select([master], [], [], 20)[0] and (piece := os.read(master, 4096)):
                shown += piece
                if typed and shown.endswith(b"let requests be sent again: "):
                    os.write(master, typed.encode())
                    typed = ""
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()  # if it has not ended
    os.close(master)
    return process.returncode, shown.decode()


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
