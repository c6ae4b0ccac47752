"""`openrouter-mcp ask`, `compare`, `free` and `credits`: what an agent gets, for a person and for scripts."""

import json
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from processes import SERVER, Upstream, called, environment, on_a_terminal, run, spawned, wait_until

from openrouter_mcp.pages import PAGE
from openrouter_mcp.sandbox import Fault, faults

FREE, PRICED = "acme/tiny:free", "acme/tiny"
BUDGET = {"OPENROUTER_MCP_DAILY_BUDGET_USD": "5", "OPENROUTER_MCP_CALL_BUDGET_USD": "1"}
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs signals and a pseudo-terminal")


@pytest.fixture
def upstream() -> Generator[Upstream]:
    with Upstream() as served:
        yield served


def asked(upstream: Upstream) -> list[dict[str, Any]]:
    """What was sent."""
    return [chat.body for chat in upstream.sandbox.chats]


def id_in(text: str) -> str:
    """The id of the answer whose footer it is."""
    return text.rpartition("; id ")[2].strip().rstrip("]")


# --- the tools --------------------------------------------------------------------------------------------------------


def test_an_answer_goes_to_stdout_with_its_footer_and_nothing_to_stderr(upstream: Upstream) -> None:
    done = run("ask", "Why?", "--model", FREE, "--system", "Be brief.", "--max-tokens", "90", **upstream.settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert "'Why?'" in done.stdout
    assert "49 of 50 free requests left today" in done.stdout
    (body,) = asked(upstream)
    assert (body["model"], body["max_tokens"]) == (FREE, 90)
    assert [message["content"] for message in body["messages"]] == ["Be brief.", "Why?"]


def test_a_conversation_goes_on_by_the_id_that_was_said(upstream: Upstream) -> None:
    first = called("ask", "My name is Ada.", **upstream.settings)
    again = called("ask", "What is it?", "--continue", id_in(first.stdout), **upstream.settings)
    assert again.returncode == 0
    said = [message["content"] for message in asked(upstream)[1]["messages"]]
    assert (said[0], said[2]) == ("My name is Ada.", "What is it?")


def test_the_prompt_comes_from_stdin_for_a_dash(upstream: Upstream) -> None:
    assert called("ask", "-", stdin="\ufeffWarum? \N{SNOWMAN}\n", **upstream.settings).returncode == 0
    assert asked(upstream)[0]["messages"][0]["content"] == "Warum? \N{SNOWMAN}\n"
    done = called("ask", "-", stdin=b"\xff\xfe", **upstream.settings)
    assert (done.returncode, done.stdout) == (2, "")
    assert "not UTF-8" in done.stderr
    assert len(asked(upstream)) == 1


def test_a_file_is_named_as_a_person_does_and_sent_from_the_users_folder_only(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("open", "closed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("the cat is called Max")
    settings = upstream.settings | {"OPENROUTER_MCP_FILES_DIR": str(tmp_path / "open")}
    monkeypatch.chdir(tmp_path / "open")
    assert called("ask", "Who?", "--attach", "notes.txt", **settings).returncode == 0
    assert "the cat is called Max" in json.dumps(asked(upstream)[0])
    done = called("ask", "Who?", "--attach", "../closed/notes.txt", **settings)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("bad_file: ")
    assert len(asked(upstream)) == 1


def test_models_are_compared_and_judged(upstream: Upstream) -> None:
    models = [FREE, "globex/large:free"]
    flags = [flag for model in models for flag in ("--model", model)]
    done = called("compare", "Why?", *flags, "--judge", "initech/coder:free", **upstream.settings)
    assert done.returncode == 0
    assert all(f"## {model}" in done.stdout for model in models)
    assert {body["model"] for body in asked(upstream)} == {*models, "initech/coder:free"}
    assert called("compare", "Why?", **upstream.settings).returncode == 0
    assert len(asked(upstream)) == 6


def test_free_models_and_credits_are_listed_at_no_cost(upstream: Upstream) -> None:
    done = called("free", "--needs", "tools", "--needs", "json", "--search", "acme", **upstream.settings)
    assert done.returncode == 0
    assert [line.partition(" ")[0] for line in done.stdout.splitlines()[3:]] == [FREE]
    credits_ = called("credits", **upstream.settings)
    assert credits_.stdout.startswith("50 of 50 free requests left today")
    document = json.loads(called("credits", "--json", **upstream.settings).stdout)
    assert document["free_requests"] == {"used": 0, "limit": 50, "remaining": 50}
    assert document["text"] == credits_.stdout.rstrip("\n")
    assert asked(upstream) == []


def test_all_pages_of_a_long_answer_are_printed(upstream: Upstream) -> None:
    words = " ".join(f"word{number}" for number in range(PAGE // 4))
    reply = {
        "id": "gen-1", "model": FREE, "usage": {"prompt_tokens": 1, "completion_tokens": 9, "cost": 0},
        "choices": [{"message": {"content": words}, "finish_reason": "stop"}],
    }  # fmt: skip
    upstream.sandbox.fail(Fault(json=reply))
    done = called("ask", "Much", "--model", FREE, **upstream.settings)
    assert done.returncode == 0
    assert all(f"word{number}" in done.stdout for number in (0, PAGE // 8, PAGE // 4 - 1))


def test_json_holds_the_record_and_the_text(upstream: Upstream) -> None:
    done = called("ask", "Why?", "--model", FREE, "--json", **upstream.settings)
    document = json.loads(done.stdout)
    assert (document["status"], document["model"], document["cost_usd"]) == ("complete", FREE, "0.0")
    assert document["id"] in document["text"]
    upstream.sandbox.fail(faults.day_limit(), times=None)
    failed = called("ask", "Why?", "--model", FREE, "--json", **upstream.settings)
    assert (failed.returncode, json.loads(failed.stdout)["code"]) == (1, "daily_quota")
    assert failed.stderr.startswith("daily_quota: ")


# --- errors -----------------------------------------------------------------------------------------------------------


def test_an_error_goes_to_stderr_with_status_1(upstream: Upstream) -> None:
    done = called("ask", "Why?", "--model", PRICED, **upstream.settings)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("not_free: ")
    assert asked(upstream) == []
    done = called("ask", "Why?")
    assert (done.returncode, done.stderr.partition(":")[0]) == (1, "no_key")


@pytest.mark.parametrize(
    "arguments",
    [["ask"], ["ask", "Hi", "--max-tokens", "0"], ["compare"], ["free", "--limit", "many"], ["credits", "now"]],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    done = called(*arguments, "--sandbox")
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: " in done.stderr


def test_the_guard_and_the_budget_hold_as_for_an_agent(upstream: Upstream) -> None:
    settings = upstream.settings | BUDGET
    assert called("ask", "Hi", "--model", PRICED, **settings).returncode == 0
    spent = json.loads(called("credits", "--json", **settings).stdout)["spent_today_usd"]
    assert list(spent) == [PRICED]
    over = called("ask", "Hi", "--model", PRICED, **settings | {"OPENROUTER_MCP_DAILY_BUDGET_USD": "0.000000001"})
    assert (over.returncode, over.stderr.partition(":")[0]) == (1, "over_budget")
    upstream.sandbox.fail(Fault(cost=0.25))
    assert called("ask", "Hi", "--model", FREE, **settings).returncode == 0
    closed = called("ask", "Hi", "--model", FREE, **settings)
    assert closed.returncode == 1
    assert "guard_closed: " in closed.stderr
    assert len(asked(upstream)) == 2


# --- time, signals and the terminal -----------------------------------------------------------------------------------


def test_what_is_not_done_in_time_is_stopped_and_kept(upstream: Upstream) -> None:
    upstream.sandbox.fail(Fault(after_tokens=5, then="stall"))
    done = run("ask", "Why?", "--model", FREE, OPENROUTER_MCP_WAIT_SECONDS_WITH_PROGRESS="1", **upstream.settings)
    assert done.returncode == 3
    assert "it was not done in 1 s" in done.stdout
    assert f"Not done in 1 s, so it was stopped: id {id_in(done.stdout)}." in done.stderr
    assert upstream.sandbox.chats[0].closed_early
    assert called("ask", "Go on", "--continue", id_in(done.stdout), **upstream.settings).returncode == 0


@posix
def test_ctrl_c_stops_the_model_and_keeps_what_it_wrote(upstream: Upstream) -> None:
    upstream.sandbox.fail(Fault(then="tokens", after_tokens=5, every_s=0.01))
    with spawned("ask", "Why?", "--model", FREE, **upstream.settings) as process:
        wait_until(lambda: upstream.sandbox.open_streams > 0)
        process.send_signal(signal.SIGINT)
        shown, errors = (output.decode() for output in process.communicate(timeout=20))
    assert process.returncode == 128 + signal.SIGINT
    assert "Ctrl-C was pressed" in shown
    assert f"Stopped: id {id_in(shown)}." in errors
    assert "Traceback" not in errors
    wait_until(lambda: upstream.sandbox.open_streams == 0)
    assert upstream.sandbox.chats[0].closed_early


@posix
def test_ctrl_c_stops_the_judge_too(upstream: Upstream) -> None:
    upstream.sandbox.fail(Fault(after_tokens=5, then="stall"), times=2)
    flags = ["--model", FREE, "--model", "globex/large:free", "--judge", "initech/coder:free"]
    with spawned("compare", "Why?", *flags, **upstream.settings) as process:
        wait_until(lambda: upstream.sandbox.open_streams == 2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGINT
    assert len(errors.decode().partition("Stopped: id ")[2].split(", ")) == 2
    assert len(asked(upstream)) == 2


@posix
def test_progress_is_one_line_of_a_terminal_and_never_in_the_answer(upstream: Upstream) -> None:
    upstream.sandbox.fail(Fault(delay_first_s=0.5))
    settings: dict[str, Any] = {**upstream.settings}
    status, shown, answer = on_a_terminal("ask", "Why?", "--model", FREE, apart=True, **settings)
    assert status == 0
    assert "tiny:free: " in shown
    assert shown.startswith("\r")
    assert shown.endswith(" \r")
    assert "\n" not in shown
    assert "\x1b" not in shown + answer
    assert "\r" not in answer


@pytest.mark.parametrize(("typed", "status", "sent"), [("y\n", 0, 1), ("n\n", 1, 0), ("\n", 1, 0), ("", 1, 0)])
def test_a_person_is_asked_before_what_costs_more_than_they_want_unasked(
    upstream: Upstream, typed: str, status: int, sent: int
) -> None:
    settings = upstream.settings | BUDGET | {"OPENROUTER_MCP_CONFIRM_ABOVE_USD": "0"}
    done = called("ask", "Why?", "--model", PRICED, stdin=typed, terminal="in err", **settings)
    assert "can cost up to $" in done.stderr
    assert (done.returncode, len(asked(upstream))) == (status, sent)


@posix
@pytest.mark.parametrize(("typed", "status", "sent"), [("y\n", 0, 1), ("\x04", 1, 0)])
def test_a_terminal_is_where_a_person_is_asked(upstream: Upstream, typed: str, status: int, sent: int) -> None:
    settings = upstream.settings | BUDGET | {"OPENROUTER_MCP_CONFIRM_ABOVE_USD": "0"}
    replies = [("[y/N] ", typed)]
    ended, shown, _ = on_a_terminal("ask", "Why?", "--model", PRICED, replies=replies, apart=True, **settings)
    assert "can cost up to $" in shown
    assert (ended, len(asked(upstream))) == (status, sent)


@posix
def test_ctrl_c_at_the_question_sends_nothing(upstream: Upstream) -> None:
    settings = upstream.settings | BUDGET | {"OPENROUTER_MCP_CONFIRM_ABOVE_USD": "0"}
    command = [sys.executable, "-c", _AS_OF_A_TERMINAL, *SERVER, "ask", "Why?", "--model", PRICED]
    done = subprocess.run(command, env=environment(**settings), capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert asked(upstream) == []


# Presses Ctrl-C at the question, in a session of its own: the status must be that of SIGINT.
_AS_OF_A_TERMINAL = """
import os, pty, sys
child, terminal = pty.fork()
if not child:
    os.execv(sys.argv[1], sys.argv[1:])
shown = b""
try:
    while piece := os.read(terminal, 4096):
        shown += piece
        if shown.endswith(b"[y/N] "):
            os.write(terminal, bytes([3]))
except OSError:
    pass
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.exit(0 if status == 130 and b"Stopped." in shown else f"{status}: {shown}")
"""


def test_without_a_terminal_what_is_to_be_asked_about_is_refused(upstream: Upstream) -> None:
    settings = upstream.settings | BUDGET | {"OPENROUTER_MCP_CONFIRM_ABOVE_USD": "0"}
    done = called("ask", "Why?", "--model", PRICED, stdin="y\n", terminal="err", **settings)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("declined: ")
    assert asked(upstream) == []


def test_what_ascii_cannot_show_stops_nothing() -> None:
    done = run("ask", "Grüße \N{SNOWMAN}", "--sandbox", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Gr??e ?" in done.stdout


def test_a_server_over_stdio_loads_nothing_of_it() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "openrouter_mcp"],
        env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "openrouter_mcp.cli.stdio" in loaded
    ours = {f"openrouter_mcp.cli.{name}" for name in ("twin", "doctor", "probes", "checks", "report", "terminal")}
    assert not loaded & ours
