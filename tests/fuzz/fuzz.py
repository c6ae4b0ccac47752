# ruff: noqa: T201 - says how it went
"""Looks for inputs that break the targets: guided by coverage where atheris is installed, else by Hypothesis.

uv run --group fuzz tests/fuzz/fuzz.py               all of them, 20 seconds each
uv run --group fuzz tests/fuzz/fuzz.py ids --seconds 600
uv run --group fuzz tests/fuzz/fuzz.py ids --again FILE, which it wrote when it found one
"""

import argparse
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

NAMES = ("stream", "errors", "prices", "ids", "redactor")
_GUIDED = find_spec("atheris") is not None
_LONGEST_INPUT = 4096
_FOUND = str(Path(tempfile.gettempdir()) / "openrouter-mcp-{}-")


def main() -> int:
    """Fuzz the targets named, one after another; the status is 1 when one was broken."""
    parser = argparse.ArgumentParser(description="Look for inputs that break what reads other people's bytes.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--seconds", type=int, default=20, help="for each (default: %(default)s)")
    parser.add_argument("--again", type=Path, metavar="FILE", help="try this one input")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.targets or NAMES
    if unknown := set(names) - set(NAMES):
        parser.error(f"there is no {unknown.pop()}")
    if options.again:
        from targets import TARGETS

        TARGETS[names[0]](options.again.read_bytes())
    elif options.here:
        (_guided if _GUIDED else _unguided)(names[0], options.seconds)
    else:  # each in a process of its own: a fuzzer ends it
        return max(_apart(name, options.seconds) for name in names)
    return 0


def _apart(name: str, seconds: int) -> int:
    print(f"+ {name}, {seconds} s, {'atheris' if _GUIDED else 'Hypothesis'}", flush=True)
    command = [sys.executable, __file__, name, "--here", "--seconds", str(seconds)]
    return int(subprocess.run(command, check=False).returncode != 0)


def _guided(name: str, seconds: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["openrouter_mcp"]):
        from targets import SEEDS, TARGETS
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS[name]):
            (Path(corpus) / f"{number}").write_bytes(seed)
        limits = (f"-max_total_time={seconds}", f"-max_len={_LONGEST_INPUT}", "-timeout=10", "-rss_limit_mb=1024")
        how = ("-verbosity=0", "-print_final_stats=1", f"-artifact_prefix={_FOUND.format(name)}")
        atheris.Setup([name, *limits, *how, corpus], TARGETS[name])
        atheris.Fuzz()


def _unguided(name: str, seconds: int) -> None:
    from hypothesis import HealthCheck, given, settings, strategies
    from targets import SEEDS, TARGETS

    pieces = strategies.sampled_from(SEEDS[name]) | strategies.binary(max_size=50)
    inputs = strategies.lists(pieces, max_size=4).map(b"".join) | strategies.binary(max_size=_LONGEST_INPUT)
    until, count = time.monotonic() + seconds, 0

    @settings(max_examples=1000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(inputs)
    def holds(data: bytes) -> None:
        TARGETS[name](data)

    while time.monotonic() < until:
        holds()
        count += 1
    print(f"{count} thousand inputs")


if __name__ == "__main__":
    sys.exit(main())
