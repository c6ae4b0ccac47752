"""One list of models for every process of a user: on disk, of this key alone, and trusted no longer than our own."""

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from calls import PATIENT, Call, Clock, some_turns
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from support import CANARY, LISTS, SETTINGS, Time, ask, connected, fail_lists, until

from openrouter_mcp import cached, listing
from openrouter_mcp.cached import Cached
from openrouter_mcp.catalog import Catalog
from openrouter_mcp.listing import Listing
from openrouter_mcp.sandbox import Sandbox, faults
from openrouter_mcp.settings import Settings

TINY = "acme/tiny:free"
BODY = b'{"data": [{"id": "acme/tiny:free"}]}'


@pytest.fixture
def shared(tmp_path: Path) -> Settings:
    """Of processes that share their list."""
    return replace(SETTINGS, cache_dir=tmp_path / "cache")


def downloads(sandbox: Sandbox) -> list[str]:
    """The lists that were asked for."""
    return [request.path for request in sandbox.requests if request.path in LISTS]


def file_of(shared: Settings) -> Path:
    assert shared.cache_dir
    (path,) = shared.cache_dir.glob("*.json")
    return path


def mine(folder: Path | None) -> Cached:
    """The file as the servers of these tests have it."""
    return Cached(folder, SETTINGS.base_url, CANARY)


async def listed(sandbox: Sandbox, shared: Settings, at: Time | None = None) -> str:
    """What a server that starts now says of the free models."""
    async with connected(sandbox, settings=shared, at=at) as client:
        text, _, is_error = await ask(client, "list_free_models", limit=50)
    assert not is_error
    return text


# --- one download ---------------------------------------------------------------------------------------------------


async def test_a_second_server_downloads_nothing_and_may_decide_about_money_for_five_minutes(
    sandbox: Sandbox, shared: Settings
) -> None:
    at = Time()
    first = await listed(sandbox, shared, at)
    at.now += 300
    async with connected(sandbox, settings=shared, at=at) as client:
        assert (await ask(client, "list_free_models", limit=50))[0] == first
        _, _, is_error = await ask(client, prompt="Hi", model=TINY)
    assert not is_error
    assert downloads(sandbox) == ["/models/user"]


async def test_a_sibling_s_list_is_as_old_as_its_download_not_as_our_reading_of_it(
    sandbox: Sandbox, shared: Settings
) -> None:
    at = Time()
    await listed(sandbox, shared, at)
    at.now += 200
    async with connected(sandbox, settings=shared, at=at) as client:
        await ask(client, "list_free_models")
        at.now += 101
        await ask(client, "list_free_models")
        assert len(downloads(sandbox)) == 1  # good enough to be shown
        await ask(client, prompt="Hi", model=TINY)
        assert len(downloads(sandbox)) == 2  # and too old for money


async def test_what_has_not_changed_is_neither_sent_nor_read_again_and_counts_as_new_for_everybody(
    sandbox: Sandbox, shared: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, reads, read = Time(), 0, listing.read

    def counted(body: bytes, path: str, etag: str) -> Listing:
        nonlocal reads
        reads += 1
        return read(body, path, etag)

    monkeypatch.setattr(listing, "read", counted)
    async with (
        connected(sandbox, settings=shared, at=at) as client,
        connected(sandbox, settings=shared, at=at) as sibling,
    ):
        first, _, _ = await ask(client, "list_free_models")
        await ask(sibling, "list_free_models")
        assert reads == 2  # once in each process
        at.now += 1000
        assert (await ask(client, "list_free_models"))[0] == first
        assert sandbox.requests[-1].headers["if-none-match"].startswith('"')
        at.now += 300
        for each in (client, sibling):
            assert not (await ask(each, prompt="Hi", model=TINY))[2]
        assert reads == len(downloads(sandbox)) == 2
        sandbox.catalog = [row for row in sandbox.catalog if row.get("id") == TINY]
        at.now += 1000
        assert "1 of 1 free models" in (await ask(client, "list_free_models"))[0]
    assert "1 of 1 free models" in await listed(sandbox, shared, at)
    assert len(downloads(sandbox)) == 3


async def test_an_etag_that_is_none_is_never_sent_back(sandbox: Sandbox) -> None:
    rows = {"data": [{"id": TINY, "pricing": {"prompt": "0", "completion": "0"}}]}
    for odd in ("plain", '"a b"', '"' + "x" * 300 + '"', 'W/"é"'):
        sandbox.fail(faults.Fault(json=rows, headers={"etag": odd}), path="/models/user")
    at = Time()
    async with connected(sandbox, at=at) as client:
        for _ in range(5):
            assert not (await ask(client, "list_free_models"))[2]
            at.now += 1000
    assert [request.headers.get("if-none-match") for request in sandbox.requests] == [None] * 5


async def test_who_finds_a_sibling_downloading_waits_for_that_but_not_for_ever(
    sandbox: Sandbox, shared: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = Clock(monkeypatch)
    async with connected(sandbox, era="legacy", settings=shared, at=at) as client, anyio.create_task_group() as group:
        async with mine(shared.cache_dir).turn():
            call = Call(group, client, "list_free_models")
            await some_turns()
            at.jump(cached.LONGEST_TURN_S - 1)
            await some_turns()
            assert downloads(sandbox) == []
            at.jump(1)
            text, _ = await call.result()
        assert TINY in text
        assert downloads(sandbox) == ["/models/user"]


@pytest.mark.parametrize("waits_for", ["its turn", "the list"])
async def test_a_cancelled_call_holds_up_no_sibling(
    sandbox: Sandbox, shared: Settings, monkeypatch: pytest.MonkeyPatch, waits_for: str
) -> None:
    at, gate = Clock(monkeypatch), anyio.Event()

    async def hold(_: float) -> None:
        await gate.wait()

    sandbox.sleep = hold
    sandbox.fail(faults.Fault(delay_headers_s=1), path="/models/user")
    other = mine(shared.cache_dir)
    async with connected(sandbox, era="legacy", settings=shared, at=at) as client, anyio.create_task_group() as group:
        held = other._lock() if waits_for == "its turn" else None
        call = Call(group, client, "list_free_models")
        if held:
            await some_turns()
        else:
            await until(lambda: downloads(sandbox) == ["/models/user"])
            assert other._lock() is None
        call.cancel()
        await some_turns()
        if held:
            held.close()
        with anyio.fail_after(5):
            while (free := other._lock()) is None:
                await anyio.lowlevel.checkpoint()
        free.close()


async def test_a_lock_taken_for_somebody_who_is_gone_is_given_back(tmp_path: Path) -> None:
    here, taken = mine(tmp_path), threading.Event()
    lock = here._lock

    def taking() -> Any:
        held = lock()
        taken.set()
        return held

    here._lock = taking  # type: ignore[method-assign]
    with anyio.move_on_after(0) as scope:
        scope.cancel()
        async with here.turn():
            await anyio.sleep_forever()
    free = lock()
    assert free is not None
    free.close()


# --- old lists ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new_server", [True, False], ids=["a new server", "the same server"])
async def test_while_openrouter_is_down_an_old_list_is_shown_as_old_and_decides_about_nothing(
    sandbox: Sandbox, shared: Settings, *, new_server: bool
) -> None:
    at = Time()
    at.now += 50_700 - at.now % 86_400  # 14:05 UTC
    async with connected(sandbox, settings=shared, at=at) as client:
        first, _, _ = await ask(client, "list_free_models")
        assert "List as of" not in first
        fail_lists(sandbox, faults.server_error(503))
        at.now += 3 * 3600
        async with connected(sandbox, settings=shared, at=at) as newer:
            asked = newer if new_server else client
            text, _, is_error = await ask(asked, "list_free_models")
            assert not is_error
            assert "List as of 14:05 UTC" in text
            assert "OpenRouter could not be reached" in text
            assert text.splitlines()[2:] == first.splitlines()[2:]
            assert "List as of 14:05 UTC" in (await ask(asked, "list_free_models", search="nothing like it"))[0]
            _, record, _ = await ask(asked, prompt="Hi", model=TINY)
            assert record["code"] == "cannot_verify_price"
            at.now += 21 * 3600 + 1
            _, record, is_error = await ask(asked, "list_free_models")
            assert is_error
            assert record["code"] == "upstream"
    assert sandbox.chats == []


@pytest.mark.parametrize("rows", [[], [{}, "no row", 3]], ids=["empty", "unreadable"])
async def test_a_list_without_a_model_replaces_no_good_one_in_memory_or_on_disk(
    sandbox: Sandbox, shared: Settings, rows: list[Any]
) -> None:
    at = Time()
    async with connected(sandbox, settings=shared, at=at) as client:
        first, _, _ = await ask(client, "list_free_models")
        kept = file_of(shared).read_bytes()
        sandbox.catalog = rows
        at.now += 601
        text, _, _ = await ask(client, "list_free_models")
        assert text.splitlines()[2:] == first.splitlines()[2:]
        assert "List as of" in text
    assert file_of(shared).read_bytes() == kept


async def test_rows_that_cannot_be_read_are_counted_from_disk_as_well(sandbox: Sandbox, shared: Settings) -> None:
    sandbox.catalog = [row for row in sandbox.catalog if row.get("id")]
    at = Time()
    assert "unreadable" not in await listed(sandbox, shared, at)
    at.now += 1000
    odd: list[Any] = ["no row", None, {"id": ""}]
    sandbox.catalog += odd
    assert " 3 unreadable rows left out." in await listed(sandbox, shared, at)
    assert " 3 unreadable rows left out." in await listed(sandbox, shared, at)
    assert len(downloads(sandbox)) == 2
    at.now += 1000
    del sandbox.catalog[-2:]
    assert " 1 unreadable row left out." in await listed(sandbox, shared, at)


async def test_an_older_file_replaces_nothing_newer(sandbox: Sandbox, shared: Settings) -> None:
    """Somebody's download took its time; ours, begun later, was there before it."""
    at = Time()
    async with connected(sandbox, settings=shared, at=at) as client:
        first, _, _ = await ask(client, "list_free_models")
        await mine(shared.cache_dir).keep(listing.read(BODY, "/models/user", '"other"'), at.now - 1)
        fail_lists(sandbox, faults.server_error(503))
        at.now += 601
        text, _, _ = await ask(client, "list_free_models")
    assert text.splitlines()[2:] == first.splitlines()[2:]


async def test_what_is_unchanged_renews_the_file_only_if_that_is_the_same_version(tmp_path: Path) -> None:
    here, one = mine(tmp_path), listing.read(BODY, "/models/user", '"1"')
    await here.keep(one, 1000.0)
    for path, etag in (("/models/user", '"2"'), ("/models", '"1"')):
        await here.keep(replace(one, body=b"", path=path, etag=etag), 2000.0)
        assert await here.read(0, 3000) == (one, 1000.0)
    await here.keep(replace(one, body=b""), 2000.0)
    assert await here.read(0, 3000) == (one, 2000.0)


async def test_a_clock_set_back_makes_no_list_younger(tmp_path: Path) -> None:
    asked, now = 0, {"clock": 50.0, "wall": 1290.0}

    async def fetch(_: Listing | None) -> Listing:
        nonlocal asked
        asked += 1
        return listing.read(BODY, "/models", "")

    await mine(tmp_path).keep(listing.read(BODY, "/models", ""), 1000.0)
    catalog = Catalog(fetch, mine(tmp_path), clock=lambda: now["clock"], wall=lambda: now["wall"])
    await catalog.trusted()
    assert asked == 0
    now |= {"clock": 61.0, "wall": 1000.0}
    await catalog.trusted()
    assert asked == 1


# --- whose list -----------------------------------------------------------------------------------------------------


async def test_only_what_the_key_may_use_is_listed_and_asked(sandbox: Sandbox) -> None:
    sandbox.account.allows_free = False
    async with connected(sandbox) as client:
        text, _, _ = await ask(client, "list_free_models")
        assert text.startswith("No free model matches; 0 are free right now.")
        _, record, _ = await ask(client, prompt="Hi", model=TINY)
    assert record["code"] == "unknown_model"
    assert downloads(sandbox) == ["/models/user"]
    assert sandbox.chats == []


@pytest.mark.parametrize(
    "fault",
    [faults.bad_key(), faults.refusal(404, "Not found"), faults.server_error(500), faults.html_error(),
     faults.Fault(reset=True), faults.Fault(json={"data": []}), faults.Fault(json={"data": [{}]})],
    ids=["401", "404", "500", "HTML", "reset", "empty", "unreadable"],
)  # fmt: skip
async def test_where_the_key_s_list_cannot_be_had_the_public_one_serves(sandbox: Sandbox, fault: faults.Fault) -> None:
    sandbox.fail(fault, times=None, path="/models/user")
    async with connected(sandbox) as client:
        text, _, is_error = await ask(client, "list_free_models")
        assert not is_error
        assert "globex/large:free" in text
        assert "List as of" not in text
        assert not (await ask(client, prompt="Hi", model=TINY))[2]
    assert downloads(sandbox) == ["/models/user", "/models"]
    assert ["authorization" in request.headers for request in sandbox.requests[:2]] == [True, False]


async def test_a_key_s_list_that_does_not_come_is_not_waited_for(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = Clock(monkeypatch)
    sandbox.sleep = lambda _: anyio.sleep_forever()
    sandbox.fail(faults.Fault(delay_headers_s=1), path="/models/user")
    patient = replace(PATIENT, connect=1e6)
    async with (
        connected(sandbox, era="legacy", at=at, timeouts=patient) as client,
        anyio.create_task_group() as group,
    ):
        call = Call(group, client, "list_free_models")
        await until(lambda: downloads(sandbox) == ["/models/user"])
        at.jump(14)
        await some_turns()
        assert downloads(sandbox) == ["/models/user"]
        at.jump(1)
        text, _ = await call.result()
    assert TINY in text
    assert downloads(sandbox) == ["/models/user", "/models"]


async def test_the_public_list_is_never_taken_for_the_key_s_own(sandbox: Sandbox, shared: Settings) -> None:
    """Both may carry the same tag; a list is asked for by the tag of that same list."""
    at = Time()
    sandbox.fail(faults.server_error(500), path="/models/user")
    await listed(sandbox, shared, at)
    at.now += 1000
    await listed(sandbox, shared, at)
    tags = [request.headers.get("if-none-match") for request in sandbox.requests]
    assert downloads(sandbox) == ["/models/user", "/models", "/models/user"]
    assert tags == [None, None, None]


async def test_without_a_key_there_is_only_the_public_list(sandbox: Sandbox, shared: Settings) -> None:
    assert TINY in await listed(sandbox, replace(shared, key=None))
    assert downloads(sandbox) == ["/models"]


@pytest.mark.parametrize("renamed", [False, True], ids=["as it is", "under this one's name"])
@pytest.mark.parametrize(
    "other", [{"key": SecretStr("sk-or-v1-other")}, {"key": None}, {"base_url": "http://localhost/other/v1"}], ids=str
)
async def test_another_key_s_or_host_s_list_is_not_used(
    sandbox: Sandbox, shared: Settings, other: dict[str, Any], *, renamed: bool
) -> None:
    at = Time()
    assert shared.cache_dir
    await mine(shared.cache_dir).read(0, 0)  # makes the file
    own = file_of(shared)
    own.unlink()
    others = replace(shared, **other)
    theirs = Cached(shared.cache_dir, others.base_url, others.key.get_secret_value() if others.key else "")
    await theirs.keep(listing.read(BODY, "/models", ""), at.now)
    assert await theirs.read(0, at.now)
    if renamed:
        file_of(shared).rename(own)
    assert "globex/large:free" in await listed(sandbox, shared, at)
    assert downloads(sandbox) == ["/models/user"]


async def test_the_file_is_the_user_s_own_and_the_key_is_nowhere(sandbox: Sandbox, shared: Settings) -> None:
    await listed(sandbox, shared)
    folder = shared.cache_dir
    assert folder
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        assert CANARY not in path.name
        assert CANARY.encode() not in path.read_bytes()
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".lock"]  # and nothing half written


# --- odd files ------------------------------------------------------------------------------------------------------


def rewritten(**changes: Any) -> Callable[[Path], None]:
    """A change to what the file says of its list."""

    def change(path: Path) -> None:
        head, _, body = path.read_bytes().partition(b"\n")
        path.write_bytes(json.dumps(json.loads(head) | changes).encode() + b"\n" + body)

    return change


def linked(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


def replaced(path: Path, make: Callable[[Path], None]) -> None:
    path.unlink()
    make(path)


def given_away(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root may give files away")
    os.chown(path, 12345, -1)


ODD: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(os.urandom(5000)),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "no head": lambda path: path.write_bytes(path.read_bytes().partition(b"\n")[2]),
    "no rows": lambda path: path.write_bytes(path.read_bytes().partition(b"\n")[0] + b'\n{"data": []}'),
    "a list as head": lambda path: path.write_bytes(b"[]\n" + BODY),
    "of tomorrow": rewritten(at=4e9),
    "of no time": rewritten(at=float("nan")),
    "of the end of time": rewritten(at=float("inf")),
    "of a day too long ago": rewritten(at=1.0),
    "before all time": rewritten(at=-1e9),
    "time in words": rewritten(at="now"),
    "another list": rewritten(list="0" * 32),
    "another path": rewritten(path="/key"),
    "no tag": rewritten(etag=None),
    "linked": linked,
    "given away": given_away,
    "open to all": lambda path: path.chmod(0o666),
    "in a folder open to all": lambda path: path.parent.chmod(0o777),
    "a folder": lambda path: replaced(path, Path.mkdir),
    "a pipe": lambda path: replaced(path, os.mkfifo),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
async def test_an_odd_file_is_no_file(sandbox: Sandbox, shared: Settings, odd: Callable[[Path], Any]) -> None:
    at = Time()
    first = await listed(sandbox, shared, at)
    path = file_of(shared)
    odd(path)
    was_link = path.is_symlink()
    await until(lambda: True)
    assert await listed(sandbox, shared, at) == first
    assert len(downloads(sandbox)) == 2
    assert path.is_symlink() == was_link


async def test_an_odd_file_is_replaced_where_that_is_safe(sandbox: Sandbox, shared: Settings) -> None:
    at = Time()
    await listed(sandbox, shared, at)
    file_of(shared).write_bytes(b"garbage")
    for _ in range(3):
        await listed(sandbox, shared, at)
    assert len(downloads(sandbox)) == 2


@pytest.mark.parametrize("unusable", ["a file", "below a file", "not writable", "without locks", "not the user's"])
async def test_a_folder_that_cannot_be_used_costs_only_the_sharing(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unusable: str
) -> None:
    folder = tmp_path / "cache"
    if unusable == "not writable":
        folder.mkdir(mode=0o500)
        monkeypatch.setattr(os, "open", _refusing(os.open, folder))  # root may write everywhere
    elif unusable == "without locks":
        monkeypatch.setattr("filelock.FileLock.acquire", _no_locks)
    elif unusable == "not the user's":
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)
    else:
        folder.write_text("no folder")
    shared = replace(SETTINGS, cache_dir=folder / "cache" if unusable == "below a file" else folder)
    for _ in range(2):
        async with connected(sandbox, settings=shared) as client:
            assert not (await ask(client, "list_free_models"))[2]
            assert not (await ask(client, prompt="Hi", model=TINY))[2]
    assert len(downloads(sandbox)) == (1 if unusable == "without locks" else 2)


def _refusing(opening: Callable[..., int], folder: Path) -> Callable[..., int]:
    def refuse(path: Any, *arguments: Any, **more: Any) -> int:
        if str(path).startswith(str(folder)):
            raise PermissionError(13, "Permission denied", str(path))
        return opening(path, *arguments, **more)

    return refuse


def _no_locks(*_: Any, **__: Any) -> None:
    raise OSError(38, "Function not implemented")


async def test_a_disk_that_is_full_leaves_the_old_file_and_nothing_half_written(
    sandbox: Sandbox, shared: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = Time()
    await listed(sandbox, shared, at)
    kept = file_of(shared).read_bytes()
    at.now += 1000
    sandbox.catalog = sandbox.catalog[:20]

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert "List as of" not in await listed(sandbox, shared, at)
    assert file_of(shared).read_bytes() == kept
    assert shared.cache_dir
    assert len([*shared.cache_dir.iterdir()]) == 2


@pytest.mark.parametrize("dearer_first", [False, True])
@pytest.mark.parametrize(("less", "more"), [("0", "0.001"), ("0.001", "0.002"), ("0.001", "beyond counting")])
async def test_a_model_listed_twice_is_as_dear_as_the_dearer_on_disk_too(
    tmp_path: Path, less: str, more: str, *, dearer_first: bool
) -> None:
    kinds = {"input_modalities": ["text"], "output_modalities": ["text"]}
    rows = [
        {"id": TINY, "architecture": kinds, "pricing": {"prompt": price, "completion": price}}
        for price in ((more, less) if dearer_first else (less, more))
    ]
    body = json.dumps({"data": rows}).encode()
    await mine(tmp_path).keep(listing.read(body, "/models", ""), 1000.0)
    found = await mine(tmp_path).read(0, 1000)
    assert found
    assert found[0].models[TINY].pricing["prompt"] == more
    assert found[0].skipped == 0


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
HEADS = st.fixed_dictionaries(
    {},
    optional={
        "list": st.just(mine(None)._list) | JSONS,
        "at": st.floats(0, 2e9) | JSONS,
        "path": st.sampled_from(LISTS) | JSONS,
        "etag": st.just('"x"') | JSONS,
    },
)


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=300)
    | st.builds(
        lambda head, body: json.dumps(head).encode() + b"\n" + body,
        HEADS,
        st.just(BODY) | st.binary(max_size=100) | JSONS.map(lambda value: json.dumps({"data": value}).encode()),
    )
)
def test_whatever_lies_in_the_file_it_is_a_list_of_a_known_time_or_nothing(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "odd"
    here = mine(folder)
    here._path().write_bytes(content)
    found = here._read(after=1e9, until=1.5e9, known=None)
    if found:
        head = json.loads(content.partition(b"\n")[0])
        assert head["list"] == mine(None)._list
        assert 1e9 < found[1] <= 1.5e9
        assert found[0].models
        assert found[0].path in LISTS


# --- size -----------------------------------------------------------------------------------------------------------


async def test_ten_thousand_models_and_garbage_between_them_are_read_and_shared(
    sandbox: Sandbox, shared: Settings
) -> None:
    tiny = next(row for row in sandbox.catalog if row.get("id") == TINY)
    odd: list[Any] = [None, 3, [], {"id": 5}, {"id": None, "pricing": "free"}] * 100
    sandbox.catalog = odd + [tiny | {"id": f"acme/tiny-{number}:free"} for number in range(10_000)]
    for _ in range(2):
        text = await listed(sandbox, shared)
        assert "50 of 10000 free models" in text
        assert " 500 unreadable rows left out." in text
    assert len(downloads(sandbox)) == 1
