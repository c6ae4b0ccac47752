"""Comparing models: all at once, one row each, and failures are rows too."""

import anyio
import pytest
from calls import PATIENT, Call, Clock, some_turns
from mcp import Client
from served import says
from support import ERAS, Time, ask, connected, fail_lists, opened, until

from openrouter_mcp.sandbox import Fault, Sandbox, faults
from openrouter_mcp.server import build

FOUR = ["acme/tiny:free", "globex/large:free", "initech/coder:free", "tyrell/polyglot:free"]


@pytest.mark.parametrize("era", ERAS)
async def test_the_rows_and_the_answers_stand_in_the_order_asked_for(sandbox: Sandbox, era: str) -> None:
    async with connected(sandbox, era=era) as client:
        text, record, is_error = await ask(client, "compare_models", prompt="Why?", models=FOUR[::-1])
    assert not is_error
    table, *sections = text.split("\n\n## ")
    head, *rows = table.splitlines()
    assert head == "model | outcome | seconds | tokens | tokens/s | cost | id"
    assert [row.split(" | ")[0] for row in rows] == FOUR[::-1]
    assert [row.split(" | ")[1] for row in rows] == ["complete"] * 4
    assert [row.split(" | ")[4] for row in rows] == ["-"] * 4  # in no time at all
    assert [row.split(" | ")[5] for row in rows] == ["$0"] * 4
    assert [section.splitlines()[0] for section in sections] == FOUR[::-1]
    assert all(f"[sandbox] {model} was asked: 'Why?'" in text for model in FOUR)
    assert [row["model"] for row in record["rows"]] == FOUR[::-1]


async def test_the_models_are_asked_at_once(sandbox: Sandbox) -> None:
    """Each waits until all four have been asked: one after the other would never end."""
    everybody = anyio.Event()

    async def wait_for_everybody(_: float) -> None:
        if len(sandbox.chats) == 4:
            everybody.set()
        await everybody.wait()

    sandbox.sleep, sandbox.delay_s = wait_for_everybody, 1.0
    async with connected(sandbox) as client:
        with anyio.fail_after(10):
            _, record, _ = await ask(client, "compare_models", prompt="Why?", models=FOUR)
    assert [row["status"] for row in record["rows"]] == ["complete"] * 4


async def test_failures_are_rows_with_their_reason(sandbox: Sandbox) -> None:
    sandbox.fail(faults.pool_busy(), times=None, model=FOUR[1])
    sandbox.fail(Fault(then="end", after_tokens=3), model=FOUR[2])
    models = [*FOUR[:3], "acme/tiny", "acme/nothing:free"]
    async with connected(sandbox) as client:
        text, record, is_error = await ask(client, "compare_models", prompt="Why?", models=models)
    assert not is_error
    assert [row.get("code", row["status"]) for row in record["rows"]] == [
        "complete", "model_busy", "partial", "not_free", "unknown_model",
    ]  # fmt: skip
    assert f"{FOUR[1]} | model_busy | - | - | - | - | " in text
    assert f"## {FOUR[1]}\n\nmodel_busy: " in text
    assert f"{FOUR[2]} | partial | " in text
    assert sandbox.bill == 0


async def test_a_comparison_without_any_answer_is_an_error(sandbox: Sandbox) -> None:
    sandbox.fail(faults.day_limit(), times=None)
    async with connected(sandbox) as client:
        text, record, is_error = await ask(client, "compare_models", prompt="Why?", models=FOUR[:2])
        assert is_error
        assert text.startswith("daily_quota: None of the 2 models answered")
        assert record["code"] == "daily_quota"
        sandbox.clear()
        text, record, is_error = await ask(client, "compare_models", prompt="Why?", models=FOUR[:2])
        assert is_error
        assert text.startswith("daily_quota: ")
        assert sandbox.chats == []  # a day that is used up is not tried again


async def test_failures_of_different_kinds_are_an_upstream_error(sandbox: Sandbox) -> None:
    sandbox.fail(faults.pool_busy(), times=None, model=FOUR[0])
    sandbox.fail(faults.bad_key(), times=None, model=FOUR[1])
    async with connected(sandbox) as client:
        text, record, is_error = await ask(client, "compare_models", prompt="Why?", models=FOUR[:2])
    assert is_error
    assert text.startswith("upstream: None of the 2 models answered")
    assert [row["code"] for row in record["rows"]] == ["model_busy", "bad_key"]


async def test_answers_that_say_the_same_are_said_to(sandbox: Sandbox) -> None:
    said = {"choices": [{"message": {"content": "The sky is blue."}, "finish_reason": "stop"}]}
    for model in (FOUR[1], FOUR[3]):
        sandbox.fail(Fault(json=said), model=model)
    async with connected(sandbox) as client:
        text, _, _ = await ask(client, "compare_models", prompt="Why?", models=FOUR)
    assert f"\n\n{FOUR[3]} says word for word what {FOUR[1]} does.\n\n## " in text
    assert "nearly" not in text


LONG = (
    "Air scatters the short waves of sunlight more than the long ones so that blue light comes from all over the sky."
)


async def test_answers_that_say_nearly_the_same_are_said_to(sandbox: Sandbox) -> None:
    for model, words in zip(FOUR, (LONG, LONG.replace("all over", "everywhere in"), LONG.upper(), "No."), strict=True):
        sandbox.fail(says(words), model=model)
    async with connected(sandbox) as client:
        text, _, _ = await ask(client, "compare_models", prompt="Why?", models=FOUR)
    table, likeness, *_ = text.split("\n\n")
    assert table.startswith("model | ")
    assert likeness.splitlines() == [
        f"{FOUR[1]} says nearly word for word what {FOUR[0]} does.",
        f"{FOUR[2]} says word for word what {FOUR[0]} does.",
    ]


async def test_failures_of_the_same_kind_are_no_answers_that_are_alike(sandbox: Sandbox) -> None:
    for model in FOUR[:2]:
        sandbox.fail(faults.moderation(), model=model)
    async with connected(sandbox) as client:
        text, _, _ = await ask(client, "compare_models", prompt="Why?", models=FOUR)
    assert "word for word" not in text


async def test_the_table_says_how_fast_each_wrote(sandbox: Sandbox) -> None:
    at = Time()
    sandbox.sleep = at.sleep
    sandbox.fail(Fault(delay_first_s=1.0, delay_token_s=0.25), model=FOUR[0])
    async with connected(sandbox, at=at) as client:
        text, record, _ = await ask(client, "compare_models", prompt="Why?", models=[FOUR[0], "acme/tiny"])
    wrote, refused = (row.split(" | ") for row in text.split("\n\n")[0].splitlines()[1:])
    tokens = record["rows"][0]["completion_tokens"]
    seconds = 1 + 0.25 * (tokens - 1)
    assert wrote[:6] == [FOUR[0], "complete", f"{seconds:.1f}", str(tokens), f"{tokens / seconds:.0f}", "$0"]
    assert refused[:6] == ["acme/tiny", "not_free", "-", "-", "-", "-"]


async def test_one_that_fails_one_that_is_busy_and_one_that_is_slow_keep_nobody_waiting_for_the_rest(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = Clock(monkeypatch)
    sandbox.fail(faults.moderation(), times=None, model=FOUR[1])
    sandbox.fail(faults.pool_busy(), times=None, model=FOUR[2])
    sandbox.fail(Fault(then="stall", after_tokens=1), model=FOUR[3])
    sandbox.fail(says("[sandbox]"), model=FOUR[0])  # just what the slow one has said by then
    async with (
        opened(sandbox, at=at, timeouts=PATIENT) as app,
        Client(build(app), mode="legacy") as client,
        anyio.create_task_group() as group,
    ):
        call = Call(group, client, "compare_models", token=False, prompt="Why?", models=FOUR)
        await until(lambda: len(sandbox.chats) == 4 and len(app.writing.running("")) == 1)
        await until(lambda: sandbox.open_streams == 1)
        await some_turns()
        at.jump(54)
        await some_turns()
        assert not call.is_over
        at.jump(1)
        text, record = await call.result()
        fine, failed, busy, slow = record["rows"]
        assert record["status"] == "running"
        assert [fine["status"], failed["code"], busy["code"], slow["status"]] == [
            "complete", "blocked", "model_busy", "running",
        ]  # fmt: skip
        assert f"## {FOUR[0]}\n\n[sandbox]\n\n## " in text
        assert f"## {FOUR[3]}\n\n[sandbox]\n\n[still writing; " in text
        assert f"## {FOUR[1]}\n\nblocked: " in text
        assert f"## {FOUR[2]}\n\nmodel_busy: " in text
        assert f"\n{FOUR[3]} | still writing | - | - | - | - | {slow['id']}\n" in text
        assert f'[still writing; read_answer(id="{slow["id"]}") waits for more]' in text
        assert "word for word" not in text
        _, stopped, _ = await ask(client, "read_answer", id=slow["id"], cancel=True)
    assert stopped["status"] == "cancelled"
    assert len(sandbox.chats) == 4


async def test_without_models_those_are_compared_that_can_read_the_prompt(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        _, record, _ = await ask(client, "compare_models", prompt="word " * 30_000)
    short = {row["id"] for row in sandbox.catalog if (row.get("context_length") or 10**9) < 60_000}
    assert short
    assert not short & {row["model"] for row in record["rows"]}
    assert [row["status"] for row in record["rows"]] == ["complete"] * len(record["rows"])


async def test_without_models_the_best_of_three_families_are_compared(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        _, record, _ = await ask(client, "compare_models", prompt="Why?")
    assert [row["model"] for row in record["rows"]] == ["globex/large:free", "hooli/thinker:free", "initech/coder:free"]


async def test_a_catalogue_with_too_few_free_models_is_said_to_be_so(sandbox: Sandbox) -> None:
    sandbox.catalog[:] = [
        row for row in sandbox.catalog if row["id"] in ("acme/tiny:free", "acme/old:free", "acme/pro")
    ]
    async with connected(sandbox) as client:
        text, _, is_error = await ask(client, "compare_models", prompt="Why?")
    assert is_error
    assert text.startswith("no_provider: Free models that can be asked right now: 1, too few")
    assert sandbox.chats == []


async def test_a_catalogue_that_cannot_be_read_is_asked_once_for_all_models(sandbox: Sandbox) -> None:
    """A dead host takes seconds to fail; four models must not wait for it one after the other."""
    fail_lists(sandbox, faults.server_error(503))
    async with connected(sandbox) as client:
        _, record, is_error = await ask(client, "compare_models", prompt="Why?", models=FOUR)
    assert is_error
    assert record["code"] == "cannot_verify_price"
    assert [request.path for request in sandbox.requests] == ["/models/user", "/models"]


async def test_second_tries_of_a_comparison_leave_room_for_a_question_too(sandbox: Sandbox) -> None:
    at = Time()
    async with opened(sandbox, at=at) as app, Client(build(app)) as client:
        await app.ledger.reserve(14, longest_wait=0)
        for model in FOUR:
            sandbox.fail(faults.server_error(503), model=model)
        await ask(client, "compare_models", prompt="Why?", models=FOUR)
        assert len(sandbox.chats) == 4  # the minute has room for two more, but not for them
        _, _, is_error = await ask(client, prompt="Mine?", model=FOUR[0])
    assert not is_error
    assert at.waits == [] or max(at.waits) < 1
