"""The fuzzer's targets, tried on what a fuzzer begins with: `tests/fuzz/fuzz.py` goes on from there."""

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent / "fuzz"))
from fuzz import NAMES
from targets import SEEDS, TARGETS


def test_each_can_be_named_and_has_somewhere_to_begin() -> None:
    assert set(TARGETS) == set(NAMES) == set(SEEDS)


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name in NAMES for seed in SEEDS[name]])
def test_each_holds_for_what_it_begins_with(name: str, seed: bytes) -> None:
    TARGETS[name](seed)


@pytest.mark.parametrize("name", NAMES)
def test_each_holds_for_pieces_of_it_in_any_order(name: str) -> None:
    pieces = st.sampled_from([piece for seed in SEEDS[name] for piece in (seed, seed[: len(seed) // 2])])

    @settings(max_examples=50, deadline=None)
    @given(st.lists(pieces | st.binary(max_size=20), max_size=4).map(b"".join))
    def holds(data: bytes) -> None:
        TARGETS[name](data)

    holds()
