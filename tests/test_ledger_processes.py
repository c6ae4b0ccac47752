"""The shared book under real processes: exact, fair, and whole after a `kill -9`."""

import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from processes import Upstream, spawned, wait_until

CHILD = [sys.executable, str(Path(__file__).with_name("ledger_child.py"))]
PROCESSES, EACH, LIMIT, WINDOW, PER_DAY = 8, 25, 100, 2.0, 150


def lines(process: subprocess.Popen[bytes]) -> list[str]:
    """What a child that has ended printed; its errors fail the test."""
    output, complaint = process.communicate(timeout=60)
    assert complaint == b""
    assert process.returncode == 0
    return output.decode().splitlines()


def ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"


def test_eight_processes_together_keep_the_limits_and_their_turns(tmp_path: Path) -> None:
    """Room for 100 requests in two seconds and for 150 a day, and 200 are wanted. A full run wants what issue 3 does,
    in 40 s: EACH = 50, LIMIT = 20, PER_DAY = 1000."""
    with Upstream() as upstream, ExitStack() as stack:
        account = upstream.sandbox.account
        account.per_minute, account.window_s, account.per_day = LIMIT, WINDOW * 0.75, PER_DAY
        sizes = (str(LIMIT), str(WINDOW), str(EACH))
        children = [
            stack.enter_context(spawned("send", str(tmp_path), *sizes, command=CHILD, **upstream.settings))
            for _ in range(PROCESSES)
        ]
        for child in children:
            ready(child)
        for child in children:
            assert child.stdin is not None
            child.stdin.write(b"go\n")
            child.stdin.flush()
        printed = [line for child in children for line in lines(child)]
        arrived = len(upstream.sandbox.chats)

    sent = [line.split() for line in printed if line != "refused"]
    assert {status for _, _, status in sent} == {"200"}
    assert len(sent) == arrived == min(PROCESSES * EACH, PER_DAY)
    assert len(printed) == PROCESSES * EACH
    slots = sorted(float(slot) for _, slot, _ in sent)
    assert all(last - first >= WINDOW - 1e-5 for first, last in zip(slots, slots[LIMIT:], strict=False))
    turns = sorted((float(asked), float(slot)) for asked, slot, _ in sent)
    for turn, (_, slot) in enumerate(turns):
        assert slot <= turns[0][0] + turn // LIMIT * WINDOW + WINDOW + 1.0


@contextmanager
def hammering(folder: Path) -> Generator[subprocess.Popen[bytes]]:
    """A process that reserves without a pause."""
    with spawned("hammer", str(folder), "50", "0.2", command=CHILD) as process:
        ready(process)
        yield process


def moments(folder: Path) -> list[float]:
    with closing(sqlite3.connect(folder / "ledger.db")) as peek:
        assert peek.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [moment for (moment,) in peek.execute("SELECT at FROM slots ORDER BY at")]


def grow(folder: Path, rows: int) -> None:
    """Wait until so many more are reserved."""
    before = len(moments(folder))
    wait_until(lambda: len(moments(folder)) >= before + rows)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_a_process_killed_at_any_moment_leaves_a_whole_book_and_the_others_go_on(tmp_path: Path) -> None:
    chance = random.Random(3)
    with hammering(tmp_path) as other:
        for _ in range(8):
            with hammering(tmp_path) as victim:
                grow(tmp_path, chance.randrange(1, 30))
                victim.kill()
                victim.wait(5)
            grow(tmp_path, 10)
        assert other.poll() is None
        other.kill()
        other.wait(5)
    taken = moments(tmp_path)
    assert len(taken) > 100
    assert all(last - first >= 0.2 - 1e-5 for first, last in zip(taken, taken[50:], strict=False))
