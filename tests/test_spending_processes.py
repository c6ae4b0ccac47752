"""The budget under real processes: the last cent goes to one, and a `kill -9` loses nothing of what was held."""

import os
import random
import signal
import sqlite3
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Generator
from contextlib import closing
from decimal import ROUND_CEILING, Decimal
from pathlib import Path

import pytest
from processes import spawned

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has neither fork nor such a signal")
CHILD = [sys.executable, str(Path(__file__).with_name("spending_child.py"))]
RAM = next((str(path) for path in (Path("/dev/shm"),) if path.is_dir()), None)  # noqa: S108 - waits for no disk

AMOUNT = (Decimal(1) / 60).quantize(Decimal("1e-18"), ROUND_CEILING)


@pytest.fixture
def folder() -> Generator[Path]:
    with tempfile.TemporaryDirectory(dir=RAM) as name:
        yield Path(name)


def charges(folder: Path) -> dict[int, tuple[Decimal, bool]]:
    """What the book's file holds of each: what it counts, and whether its cost is known. The file is whole."""
    with closing(sqlite3.connect(folder / "ledger.db")) as peek:
        assert peek.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {
            row: (Decimal(amount if cost is None else cost), cost is not None)
            for row, amount, cost in peek.execute("SELECT id, amount, cost FROM charges")
        }


# how many processes, how often each wants a cent, how many cents there are
@pytest.mark.parametrize(("processes", "tries", "cents"), [(2, 1, 1), (8, 5, 13)])
def test_of_several_processes_as_many_get_a_cent_as_there_are_cents(
    folder: Path, processes: int, tries: int, cents: int
) -> None:
    wanted = (str(processes), f"{Decimal(cents) / 100}", "0.01", str(tries))
    with spawned("race", str(folder), *wanted, command=CHILD) as child:
        output, complaint = child.communicate(timeout=60)
    assert complaint == b""
    assert Counter(output.split()) == {b"held": cents, b"refused": processes * tries - cents}
    assert [cost for cost, is_known in charges(folder).values() if is_known] == [Decimal("0.01")] * cents


def test_a_process_killed_at_any_moment_leaves_a_whole_book_and_what_it_held_is_held_still(folder: Path) -> None:
    chance = random.Random(5)
    unended: dict[int, set[int]] = defaultdict(set)
    killed: set[int] = set()
    with spawned("hammer", str(folder), "3", "1", "60", command=CHILD) as parent:
        assert parent.stdout is not None
        while len(killed) < 12:
            for _ in range(chance.randrange(10, 60)):
                victim = note(unended, parent.stdout.readline())
            if victim not in killed:  # what it had printed before may come later
                killed.add(victim)
                os.kill(victim, signal.SIGKILL)
                assert sum(counts for counts, _ in charges(folder).values()) <= 1
        parent.kill()
        for line in parent.stdout:  # until the last of them has seen that it is alone
            note(unended, line)
    found = charges(folder)
    assert Decimal("0.2") < sum(counts for counts, _ in found.values()) <= 1
    assert any(unended[victim] for victim in killed)
    for charge in set().union(*unended.values()):
        assert found[charge] == (AMOUNT, False)


def note(unended: dict[int, set[int]], line: bytes) -> int:
    """Which process a line is from. A charge is held from the line that says so until it is said to be ending."""
    pid, what, charge = line.split()
    if what == b"held":
        unended[int(pid)].add(int(charge))
    else:
        unended[int(pid)].discard(int(charge))
    return int(pid)
