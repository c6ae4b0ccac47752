"""The shared model list under real processes."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from processes import Upstream, initialize, receive, send, spawned, wait_until
from support import LISTS

from openrouter_mcp.sandbox import faults


def downloads(upstream: Upstream) -> list[str]:
    """The lists that were asked for."""
    return [request.path for request in upstream.sandbox.requests if request.path in LISTS]


def until_another_asks(upstream: Upstream) -> Callable[[float], Awaitable[None]]:
    """Hold a reply until a second download begins, if one does within a second."""

    async def hold(_: float) -> None:
        with anyio.move_on_after(1):
            while len(downloads(upstream)) < 2:  # noqa: ASYNC110 - it is another thread that asks
                await anyio.sleep(0.01)

    return hold


def list_models(process: Any) -> None:
    send(process, "tools/call", id_=2, name="list_free_models", arguments={})


def listed(process: Any) -> str:
    result = receive(process)["result"]
    assert not result["isError"]
    return str(result["content"][0]["text"])


def test_two_servers_that_start_together_download_once() -> None:
    with Upstream() as upstream, spawned(**upstream.settings) as one, spawned(**upstream.settings) as other:
        upstream.sandbox.sleep = until_another_asks(upstream)
        upstream.sandbox.fail(faults.Fault(delay_headers_s=1), times=None, path="/models/user")
        for process in (one, other):
            initialize(process)
        for process in (one, other):
            list_models(process)
        assert listed(one) == listed(other)
        assert downloads(upstream) == ["/models/user"]


def test_a_server_that_is_killed_in_its_download_holds_up_nobody() -> None:
    with Upstream() as upstream, spawned(**upstream.settings) as one, spawned(**upstream.settings) as other:
        upstream.sandbox.sleep = lambda _: anyio.sleep_forever()
        upstream.sandbox.fail(faults.Fault(delay_headers_s=1), path="/models/user")
        initialize(one)
        list_models(one)
        wait_until(lambda: len(downloads(upstream)) == 1)
        one.kill()
        initialize(other)
        list_models(other)
        assert "acme/tiny:free" in listed(other)
        assert downloads(upstream) == ["/models/user"] * 2


@pytest.mark.parametrize("command", [["--sandbox"], []], ids=["sandbox", "nothing asked"])
def test_the_sandbox_writes_no_list_and_starting_writes_none(tmp_path: Path, command: list[str]) -> None:
    folder = tmp_path / "cache"
    with spawned(*command, OPENROUTER_MCP_CACHE_DIR=str(folder)) as process:
        initialize(process)
        if command:
            list_models(process)
            assert "acme/tiny:free" in listed(process)
    assert not folder.exists()
