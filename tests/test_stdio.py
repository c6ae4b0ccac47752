"""The stdio server as a real process: both eras, and a well-behaved end."""

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters
from mcp_types import CLIENT_CAPABILITIES_META_KEY, CLIENT_INFO_META_KEY, PARSE_ERROR, PROTOCOL_VERSION_META_KEY
from processes import SERVER, Upstream, environment, initialize, receive, send, spawned, wait_until
from support import CANARY, ERAS, ask

from openrouter_mcp.sandbox import Fault
from openrouter_mcp.tools import TOOLS

ENVELOPE = {
    PROTOCOL_VERSION_META_KEY: "2026-07-28",
    CLIENT_INFO_META_KEY: {"name": "test", "version": "1"},
    CLIENT_CAPABILITIES_META_KEY: {},
}


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_lists_asks_compares_and_checks_over_stdio(era: str) -> None:
    server = StdioServerParameters(command=SERVER[0], args=[*SERVER[1:], "--sandbox"], env=environment())
    async with Client(server, mode=era) as client:
        assert client.protocol_version == ("2026-07-28" if era == "auto" else "2025-11-25")
        assert [tool.name for tool in (await client.list_tools()).tools] == [
            "ask_model", "compare_models", "ask_many", "read_answer", "list_free_models", "find_models",
            "check_credits",
        ]  # fmt: skip
        text, _, is_error = await ask(client, prompt="Grüße, 世界 👩‍🚀?", model="acme/tiny:free")
        assert not is_error
        assert "'Grüße, 世界 👩‍🚀?'" in text
        _, record, _ = await ask(client, "compare_models", prompt="Why?")
        assert len(record["rows"]) == 3
        text, _, _ = await ask(client, "check_credits")
        assert "46 of 50 free requests left today" in text


def test_a_discover_followed_by_an_initialize_works() -> None:
    with spawned("--sandbox") as process:
        send(process, "server/discover", id_=7, _meta=ENVELOPE)
        found = receive(process)
        assert found["id"] == 7
        assert "2026-07-28" in found["result"]["supportedVersions"]
        assert initialize(process)["result"]["protocolVersion"] == "2025-11-25"
        send(process, "tools/list", id_=2)
        assert len(receive(process)["result"]["tools"]) == len(TOOLS)


def test_a_discover_followed_by_modern_requests_works() -> None:
    with spawned("--sandbox") as process:
        for number in (1, 2):
            send(process, "server/discover", id_=number, _meta=ENVELOPE)
            assert receive(process)["id"] == number
        send(process, "tools/list", id_=3, _meta=ENVELOPE)
        assert len(receive(process)["result"]["tools"]) == len(TOOLS)


def test_a_broken_line_is_answered_and_neither_ends_the_server_nor_decides_the_era() -> None:
    with spawned("--sandbox") as process:
        assert process.stdin is not None
        for broken in (b"{not json\n", b"[[[[\n", b"7\n", b"\xff\xfe\n"):
            process.stdin.write(broken)
            process.stdin.flush()
            assert receive(process)["error"]["code"] == PARSE_ERROR
        send(process, "server/discover", id_=1, _meta=ENVELOPE)
        assert receive(process)["id"] == 1
        initialize(process)
        send(process, "tools/list", id_=2)
        assert receive(process)["id"] == 2


def test_half_an_emoji_does_not_lose_the_call() -> None:
    """Clients that cut a text at a number of UTF-16 units send such halves."""
    with spawned("--sandbox") as process:
        initialize(process)
        assert process.stdin is not None
        arguments = '{"prompt": "cut here \\ud83d", "model": "acme/tiny:free"}'
        call = '{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"ask_model","arguments":%s}}\n'
        process.stdin.write((call % arguments).encode())
        process.stdin.flush()
        result = receive(process)["result"]
        assert "'cut here \ufffd'" in result["content"][0]["text"]


def test_without_a_key_it_starts_lists_and_says_which_variable_to_set(tmp_path: Path) -> None:
    """And starting writes nothing, neither at home nor where it was started."""
    with spawned(HOME=str(tmp_path), XDG_STATE_HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path)) as process:
        initialize(process)
        send(process, "tools/list", id_=2)
        assert len(receive(process)["result"]["tools"]) == len(TOOLS)
        send(process, "tools/call", id_=3, name="check_credits", arguments={})
        result = receive(process)["result"]
        assert result["isError"]
        assert result["content"][0]["text"].startswith("no_key: OPENROUTER_API_KEY is not set")
        assert list(tmp_path.iterdir()) == []


def test_a_malformed_key_is_complained_of_at_start_and_the_server_still_serves() -> None:
    with spawned(OPENROUTER_API_KEY=f"{CANARY[:-1]}\n{CANARY}") as process:
        assert process.stderr is not None
        complaint = process.stderr.readline().decode()
        assert complaint.startswith("openrouter-mcp: OPENROUTER_API_KEY holds a space, a line break")
        assert f"it has {2 * len(CANARY)} characters and ends in '{CANARY[-4:]}'" in complaint
        initialize(process)
        send(process, "tools/call", id_=3, name="check_credits", arguments={})
        assert receive(process)["result"]["content"][0]["text"].startswith("bad_key: OPENROUTER_API_KEY holds")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPENROUTER_BASE_URL", "https://openrouter.ai.evil.example/api/v1"),
        ("OPENROUTER_MCP_APP_URL", "https://ü.example"),
    ],
)
def test_any_other_wrong_setting_is_one_line_and_status_2(name: str, value: str) -> None:
    with spawned(**{name: value}) as process:
        output, complaint = process.communicate(timeout=20)
    assert process.returncode == 2
    assert output == b""
    assert complaint.decode().startswith(f"openrouter-mcp: {name}")
    assert complaint.count(b"\n") == 1


# --- ending ---------------------------------------------------------------------------------------------------------


def call_in_flight(process: subprocess.Popen[bytes], upstream: Upstream, count: int) -> None:
    """Start `count` calls that the upstream never finishes."""
    upstream.sandbox.fail(Fault(then="stall", after_tokens=2), times=None)
    initialize(process)
    for number in range(count):
        send(process, "tools/call", id_=10 + number, name="ask_model", arguments={"prompt": f"{number}"})
    wait_until(lambda: upstream.sandbox.open_streams == count)


def test_the_end_of_stdin_ends_it_and_closes_its_connections() -> None:
    with Upstream() as upstream, spawned(**upstream.settings) as process:
        call_in_flight(process, upstream, 5)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(1) == 0
        wait_until(lambda: upstream.sandbox.open_streams == 0)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_stdin_open_and_closes_its_connections(number: signal.Signals) -> None:
    with Upstream() as upstream, spawned(**upstream.settings) as process:
        call_in_flight(process, upstream, 5)
        process.send_signal(number)
        assert process.wait(2.5) == 128 + number
        wait_until(lambda: upstream.sandbox.open_streams == 0)
        assert process.stderr is not None
        said = process.stderr.read().splitlines()
        assert len(said) == 5  # a line for each call, and nothing of the end
        assert all(line.startswith(b'INFO openrouter_mcp.observing: caller="" tool=ask_model ') for line in said)


WITHOUT_SIGNALS = """
import anyio, sys
def refuse(*_):
    raise NotImplementedError
anyio.open_signal_receiver = refuse
from openrouter_mcp.cli import main
from openrouter_mcp.tools import TOOLS
sys.exit(main(["--sandbox"]))
"""


def test_where_the_loop_takes_no_signal_handlers_it_serves_without_them() -> None:
    """As on Windows."""
    with spawned(command=[sys.executable, "-c", WITHOUT_SIGNALS]) as process:
        assert initialize(process)["result"]["serverInfo"]["name"] == "openrouter-mcp"
        send(process, "tools/list", id_=2)
        assert len(receive(process)["result"]["tools"]) == len(TOOLS)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(1) == 0


def test_the_end_of_stdin_ends_it_although_the_client_no_longer_reads() -> None:
    """More is waiting to be written than the pipe holds."""
    with spawned("--sandbox") as process:
        initialize(process)
        for number in range(100):
            send(process, "tools/list", id_=10 + number)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(2) == 0


@pytest.mark.parametrize("ends_by_signal", [False, True])
def test_it_ends_in_time_although_a_sibling_holds_the_book(*, ends_by_signal: bool) -> None:
    with Upstream() as upstream, spawned(**upstream.settings) as process:
        initialize(process)
        send(process, "tools/call", id_=2, name="ask_model", arguments={"prompt": "1", "model": "acme/tiny:free"})
        assert not receive(process)["result"]["isError"]
        book = Path(upstream.settings["OPENROUTER_MCP_STATE_DIR"]) / "ledger.db"
        with closing(sqlite3.connect(book, isolation_level=None)) as sibling:
            sibling.execute("BEGIN EXCLUSIVE")
            for number in range(3, 8):
                send(process, "tools/call", id_=number, name="ask_model", arguments={"prompt": f"{number}"})
            send(process, "tools/list", id_=99)
            assert receive(process)["id"] == 99  # so the calls before it are under way
            if ends_by_signal:
                process.send_signal(signal.SIGTERM)
            else:
                assert process.stdin is not None
                process.stdin.close()
            assert process.wait(2.5 if ends_by_signal else 1) in (0, 128 + signal.SIGTERM)
