"""The budget under real processes: the last cent goes to one, and a `kill -9` loses nothing of what was held."""

import os
import random
import signal
import sqlite3
import sys
from collections import Counter, defaultdict
from contextlib import closing
from decimal import ROUND_CEILING, Decimal
from pathlib import Path

import pytest
import redis
from processes import spawned

from openrouter_mcp.engine import PREFIX

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has neither fork nor such a signal")
CHILD = [sys.executable, str(Path(__file__).with_name("spending_child.py"))]
AMOUNT = (Decimal(1) / 60).quantize(Decimal("1e-18"), ROUND_CEILING)
# All that an engine holds, at one moment.
HASHES = """
local found = {}
for _, name in ipairs(redis.call('KEYS', '*')) do
    if redis.call('TYPE', name).ok == 'hash' then found[#found + 1] = {name, redis.call('HGETALL', name)} end
end
return found
"""


def charges(place: str) -> dict[int, tuple[Decimal, bool]]:
    """What the book holds of each: what it counts, and whether its cost is known. The book is whole."""
    if "://" in place:
        return charges_of_engine(place)
    with closing(sqlite3.connect(Path(place) / "ledger.db")) as peek:
        assert peek.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {
            row: (Decimal(amount if cost is None else cost), cost is not None)
            for row, amount, cost in peek.execute("SELECT id, amount, cost FROM charges")
        }


def charges_of_engine(url: str) -> dict[int, tuple[Decimal, bool]]:
    """The same; what is kept added up is the sum of it."""
    with redis.Redis.from_url(url, decode_responses=True) as names:
        rows = {name: dict(zip(flat[::2], flat[1::2], strict=True)) for name, flat in names.eval(HASHES, 0)}
    found = {
        int(name.rpartition(":")[2]): (Decimal(row["cost"] if "cost" in row else row["amount"]), "cost" in row)
        for name, row in rows.items()
        if name.startswith(f"{PREFIX}charge:")
    }
    for each in (row for name, row in rows.items() if name.startswith(f"{PREFIX}spent:")):
        for field, counted in (
            ("all", [*found.values()]),
            ("held", [one for one in found.values() if not one[1]]),
            ("cost:acme/tiny", [one for one in found.values() if one[1]]),
        ):
            count, usd = each.get(field, "0 0").split(" ")
            assert (int(count), Decimal(usd)) == (len(counted), sum(amount for amount, _ in counted))
    return found


# how many processes, how often each wants so much, what there is, and for how many that does
@pytest.mark.parametrize(
    ("processes", "tries", "amount", "budget", "fit"),
    [(2, 1, "0.01", "0.01", 1), (8, 5, "0.01", "0.13", 13), (8, 5, "0.010000000000000001", "0.13", 12)],
)
def test_of_several_processes_no_more_get_a_part_of_the_budget_than_it_has(
    place: str, *, processes: int, tries: int, amount: str, budget: str, fit: int
) -> None:
    with spawned("race", place, str(processes), budget, amount, str(tries), command=CHILD) as child:
        output, complaint = child.communicate(timeout=60)
    assert complaint == b""
    assert Counter(output.split()) == {b"held": fit, b"refused": processes * tries - fit}
    assert [*charges(place).values()] == [(Decimal(amount), True)] * fit


def test_a_process_killed_at_any_moment_leaves_a_whole_book_and_what_it_held_is_held_still(place: str) -> None:
    chance = random.Random(5)
    unended: dict[int, set[int]] = defaultdict(set)
    killed: set[int] = set()
    with spawned("hammer", place, "3", "1", "60", command=CHILD) as parent:
        assert parent.stdout is not None
        while len(killed) < 12:
            for _ in range(chance.randrange(10, 60)):
                victim = note(unended, parent.stdout.readline())
            if victim not in killed:  # what it had printed before may come later
                killed.add(victim)
                os.kill(victim, signal.SIGKILL)
                assert sum(counts for counts, _ in charges(place).values()) <= 1
        parent.kill()
        for line in parent.stdout:  # until the last of them has seen that it is alone
            note(unended, line)
    found = charges(place)
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
