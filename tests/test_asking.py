"""Asking one model: what the agent reads, and what left the building."""

import pytest
from mcp import Client
from support import CANARY, ERAS, ask, connected, fail_lists

from openrouter_mcp.sandbox import Fault, Sandbox, faults


@pytest.mark.parametrize("era", ERAS)
async def test_the_answer_ends_in_a_footer_and_carries_a_record(sandbox: Sandbox, era: str) -> None:
    async with connected(sandbox, era=era) as client:
        text, record, is_error = await ask(client, prompt="Why is the sky blue?", model="acme/tiny:free")
    assert not is_error
    answer, _, footer = text.rpartition("\n\n")
    assert answer.startswith("[sandbox] acme/tiny:free was asked: 'Why is the sky blue?'")
    assert footer.startswith("[acme/tiny:free via Acme Cloud, ")
    assert ", $0, 49 of 50 free requests left today; the count restarts at 00:00 UTC" in footer
    assert record["status"] == "complete"
    assert record["model"] == "acme/tiny:free"
    assert record["cost_usd"] in ("0", "0.0")
    assert record["generation_id"].startswith("gen-")
    assert record["attempts"] == 1


async def test_the_request_says_who_asks_and_carries_the_key(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        await ask(client, prompt="Hi", model="acme/tiny:free")
    (chat,) = sandbox.chats
    assert chat.headers["authorization"] == f"Bearer {CANARY}"
    assert chat.headers["x-openrouter-title"] == "openrouter-mcp"
    assert "http-referer" not in chat.headers


async def test_system_and_max_tokens_reach_the_model(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        await ask(client, prompt="Hi", model="acme/tiny:free", system="Be brief.", max_tokens="10")
    body = sandbox.chats[0].body
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert body["max_tokens"] == 10


async def test_the_output_limit_is_the_models_own_where_that_is_lower(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        await ask(client, prompt="Hi", model="soylent/chat:free")
        await ask(client, prompt="Hi", model="globex/large:free")
    assert [chat.body["max_tokens"] for chat in sandbox.chats] == [2048, 8192]


async def test_without_a_model_the_best_of_three_families_are_sent_in_one_request(sandbox: Sandbox) -> None:
    for model in ("", "openrouter/free"):
        sandbox.clear()
        async with connected(sandbox) as client:
            text, record, _ = await ask(client, prompt="Hi", **({"model": model} if model else {}))
        (chat,) = sandbox.chats
        assert chat.body["model"] == "globex/large:free"
        assert chat.body["models"] == ["hooli/thinker:free", "initech/coder:free"]
        assert record["model"] == "globex/large:free"
        assert "[globex/large:free via " in text


async def test_the_answer_says_which_of_the_models_served(sandbox: Sandbox) -> None:
    sandbox.fail(faults.pool_busy(), model="globex/large:free")
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, prompt="Hi")
    assert len(sandbox.chats) == 1  # OpenRouter itself went on to the next
    assert record["model"] == "hooli/thinker:free"
    assert "[hooli/thinker:free via " in text


async def test_a_model_too_small_for_the_prompt_is_not_chosen(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        _, record, is_error = await ask(client, prompt="word " * 160_000)
    assert not is_error
    assert record["model"] == "wonka/long:free"
    assert "models" not in sandbox.chats[0].body


async def test_where_the_catalogue_cannot_be_read_openrouters_own_free_router_serves(sandbox: Sandbox) -> None:
    fail_lists(sandbox, faults.server_error(503))
    async with connected(sandbox) as client:
        text, record, is_error = await ask(client, prompt="Hi")
    assert not is_error
    assert sandbox.chats[0].body["model"] == "openrouter/free"
    assert f"[{record['model']} (asked as openrouter/free) via " in text


async def test_an_answer_cut_off_by_the_limit_says_what_to_raise(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        text, record, is_error = await ask(client, prompt="Tell me more", model="acme/tiny:free", max_tokens=3)
    assert not is_error
    assert record["status"] == "partial"
    assert "[incomplete: cut off at max_tokens (3)" in text


async def test_reasoning_never_passes_for_the_answer(sandbox: Sandbox) -> None:
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, prompt="Think hard", model="hooli/thinker:free")
        assert record["reasoning_tokens"] > 0
        assert f"({record['reasoning_tokens']} of them reasoning)" in text
        assert text.startswith("[sandbox] hooli/thinker:free was asked")
        sandbox.fail(Fault(answer="reasoning"))
        text, record, is_error = await ask(client, prompt="Think", model="hooli/thinker:free", max_tokens=5)
    assert is_error
    assert record["code"] == "empty_answer"
    assert "Raise max_tokens" in text
    assert len(sandbox.chats) == 2  # asking again would end the same way


async def test_what_the_model_says_is_stripped_of_what_cannot_be_seen(sandbox: Sandbox) -> None:
    hidden = "a\x1b[31mb\u200bc\u202ed\ue000e\ud800f\U000e0041g"
    event = {"choices": [{"delta": {"content": hidden}, "finish_reason": "stop"}]}
    sandbox.fail(Fault(json=event))
    async with connected(sandbox) as client:
        text, _, _ = await ask(client, prompt="Hi", model="acme/tiny:free")
    assert text.startswith("a[31mbcdefg\n")


async def test_a_plain_json_reply_to_a_streamed_request_is_read_as_a_whole_answer(sandbox: Sandbox) -> None:
    sandbox.fail(Fault(plain=True))
    async with connected(sandbox) as client:
        text, record, is_error = await ask(client, prompt="Hi", model="acme/tiny:free")
    assert not is_error
    assert text.startswith("[sandbox]")
    assert record["status"] == "complete"


async def test_questions_side_by_side_do_not_mix(sandbox: Sandbox) -> None:
    import anyio

    texts: dict[int, str] = {}

    async def one(client: Client, number: int) -> None:
        texts[number], _, _ = await ask(client, prompt=f"Question {number}?", model="acme/tiny:free")

    async with connected(sandbox) as client, anyio.create_task_group() as group:
        for number in range(15):
            group.start_soon(one, client, number)
    assert all(f"'Question {number}?'" in text for number, text in texts.items())
    assert len(texts) == 15
