"""Conversations: any answer with words can be gone on from, by whom and as often as one likes, at no hidden cost."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client
from mcp_types import ElicitRequestParams, ElicitResult
from pydantic import SecretStr
from served import HASTY, MODEL, Served, held_back, says, served
from support import SETTINGS, ask, opened, until

from openrouter_mcp.chat import ChatRequest, Turn
from openrouter_mcp.conversation import fitting
from openrouter_mcp.policy import Policy
from openrouter_mcp.pricing import most_prompt_tokens
from openrouter_mcp.sandbox import Fault, Sandbox, faults
from openrouter_mcp.server import build
from openrouter_mcp.text import tokens

OLD = "acme/old:free"  # reads 8,192 tokens and writes 2,048


def roles(sandbox: Sandbox) -> list[tuple[str, str]]:
    """The messages of the last request, as role and text."""
    return [(message["role"], message["content"]) for message in sandbox.chats[-1].body["messages"]]


async def answered(here: Served, says_: str, **arguments: Any) -> str:
    """The id of a new answer that says just that."""
    here.sandbox.fail(says(says_))
    _, record, is_error = await here.ask(**arguments)
    assert not is_error
    return str(record["id"])


@pytest.mark.parametrize("model", ["", "globex/large:free"], ids=["the same model", "another model"])
async def test_a_conversation_goes_on_with_all_that_was_said_and_its_system_prompt(
    sandbox: Sandbox, model: str
) -> None:
    async with served(sandbox) as here:
        first = await answered(here, "One.", prompt="First?", system="Be brief.")
        second = await answered(here, "Two.", prompt="Second?", continue_from=first)
        text, record, _ = await here.ask(prompt="Third?", continue_from=second, model=model)
        said = [("system", "Be brief."), ("user", "First?"), ("assistant", "One."), ("user", "Second?")]
        assert roles(sandbox) == [*said, ("assistant", "Two."), ("user", "Third?")]
        assert record["model"] == sandbox.chats[-1].body["model"] == (model or MODEL)
        assert "This is turn 3 of the conversation." in text
        assert "[note: " not in text
        await here.ask(prompt="Fourth?", continue_from=record["id"], system="Be long.")
    assert roles(sandbox)[:3] == [("system", "Be long."), ("user", "First?"), ("assistant", "One.")]
    assert len(sandbox.chats) == 4


async def test_one_answer_can_be_gone_on_from_twice(sandbox: Sandbox) -> None:
    async with served(sandbox) as here:
        root = await answered(here, "Root.")
        left, right = [await answered(here, f"{side}.", prompt=f"{side}?", continue_from=root) for side in "LR"]
        for side, leaf in (("L", left), ("R", right)):
            await here.ask(prompt="On?", continue_from=leaf)
            assert roles(sandbox)[2:4] == [("user", f"{side}?"), ("assistant", f"{side}.")]
            assert len(roles(sandbox)) == 5


async def test_our_choice_of_a_model_stays_the_conversations(sandbox: Sandbox) -> None:
    sandbox.fail(faults.pool_busy(), model="globex/large:free")
    async with served(sandbox) as here:
        _, record, _ = await here.ask(model="")
        assert record["model"] == "hooli/thinker:free"
        _, record, _ = await here.ask(continue_from=record["id"])
    assert sandbox.chats[-1].body["model"] == record["model"] == "hooli/thinker:free"


@pytest.mark.parametrize(
    "fault", [Fault(then="end", after_tokens=3), Fault(then="reset", after_tokens=3)], ids=["ended early", "broken"]
)
async def test_a_partial_answer_can_be_gone_on_from(sandbox: Sandbox, fault: Fault) -> None:
    async with served(sandbox) as here:
        sandbox.fail(fault)
        _, record, _ = await here.ask()
        await here.ask(prompt="Go on.", continue_from=record["id"])
    assert roles(sandbox) == [("user", "Why?"), ("assistant", "[sandbox] acme/tiny:free"), ("user", "Go on.")]


# --- nothing to go on from --------------------------------------------------------------------------------------------


async def test_what_is_still_written_or_has_no_words_or_is_nobodys_is_refused_and_nothing_sent(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, state_dir=tmp_path)
    stranger = Sandbox()
    stranger.account.user = "user_stranger"
    async with served(sandbox, settings=settings, waits=HASTY) as here:
        held_back(sandbox)
        _, running, _ = await here.ask()
        await until(lambda: "[sandbox]" in here.arrived())
        sandbox.fail(faults.bad_key())
        _, failed, _ = await here.ask()
        await until(lambda: set(here.app.writing.running("")) == {running["id"]})
        for id_, code, words in (
            (
                running["id"],
                "invalid_request",
                "is still being written. read_answer(id=",
            ),
            (failed["id"], "invalid_request", "has no text to continue from. Ask anew, without continue_from."),
            ("nonsense", "unknown_answer", "No answer 'nonsense' is kept here"),
        ):
            text, record, is_error = await here.ask(continue_from=id_)
            assert is_error
            assert record["code"] == code
            assert words in text
        assert len(sandbox.chats) == 2
        async with served(
            stranger, settings=replace(settings, key=SecretStr("sk-or-v1-" + "a-strangers-own-key"))
        ) as there:
            for id_ in (running["id"], failed["id"]):
                _, record, _ = await there.ask(continue_from=id_)
                assert record["code"] == "unknown_answer"
    assert stranger.chats == []


# --- as much as a model can read --------------------------------------------------------------------------------------


async def test_the_oldest_turns_are_left_out_where_the_model_cannot_read_them_and_that_is_said(
    sandbox: Sandbox,
) -> None:
    async with served(sandbox) as here:
        id_ = ""
        for turn in "ABC":
            more = {"continue_from": id_} if id_ else {"system": "Be brief."}
            id_ = await answered(here, f"{turn} said " + "so " * 2500, prompt=f"{turn}?", **more)
        text, record, _ = await here.ask(prompt="On?", continue_from=id_, model=OLD)
        kept = [text_ for role, text_ in roles(sandbox) if role == "user"]
        assert roles(sandbox)[0] == ("system", "Be brief.")
        assert kept == ["B?", "C?", "On?"]
        assert f"[note: the 1 oldest of 3 turns were left out: {OLD} cannot read more]" in text
        assert (await here.read(record["id"]))[0] == text
        text, _, _ = await here.ask(prompt="On?", continue_from=id_, model="wonka/long:free")
        assert len(roles(sandbox)) == 8
    assert "[note: " not in text


async def test_no_more_than_a_megabyte_is_sent(sandbox: Sandbox) -> None:
    async with served(sandbox) as here:
        first = await answered(here, "é" * 400_000, model="wonka/long:free")
        second = await answered(here, "é" * 200_000, model="wonka/long:free", continue_from=first)
        text, _, is_error = await here.ask(prompt="On?", continue_from=second)
        assert not is_error
        assert [len(text_) for _, text_ in roles(sandbox)] == [4, 200_000, 3]
        assert "the 1 oldest of 2 turns were left out" in text


async def test_what_is_no_longer_kept_is_left_out_and_that_is_said(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openrouter_mcp.archive.sqlite.MOST_ANSWERS", 2)
    async with served(sandbox) as here:
        id_ = await answered(here, "A.", prompt="A?", system="Be brief.")
        for turn in "BC":
            here.at.now += 1
            id_ = await answered(here, f"{turn}.", prompt=f"{turn}?", continue_from=id_)
        text, _, _ = await here.ask(prompt="On?", continue_from=id_)
    said = [text_ for _, text_ in roles(sandbox)]
    assert said == ["Be brief.", "B?", "B.", "C?", "C.", "On?"]
    assert "[note: what was said before that is no longer kept]" in text


TURNS = st.lists(st.builds(Turn, st.text(max_size=40), st.text(max_size=200)), max_size=12)


@given(
    turns=TURNS,
    prompt=st.text(max_size=50),
    system=st.text(max_size=50),
    context=st.integers(0, 600),
    max_bytes=st.integers(0, 1500),
)
def test_what_is_sent_again_fits_and_is_the_latest_there_is_room_for(
    turns: list[Turn], prompt: str, system: str, context: int, max_bytes: int
) -> None:
    request = ChatRequest(model="a/b", prompt=prompt, system=system, max_tokens=50)

    def fits(count: int) -> bool:
        latest = turns[len(turns) - count :]
        texts = [text for turn in latest for text in (turn.prompt, turn.answer)]
        needs = tokens(system, prompt) + sum(tokens(turn.prompt, turn.answer) + 16 for turn in latest)
        size = sum(len(text.encode()) for text in [system, prompt, *texts])
        return needs + 50 <= context and size <= max_bytes

    kept = fitting(turns, request, context=context, max_bytes=max_bytes)
    assert kept == tuple(turns[len(turns) - len(kept) :])
    assert not kept or fits(len(kept))
    assert len(kept) == len(turns) or not fits(len(kept) + 1)


# --- money ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["globex/large", "openrouter/auto", "acme/tiny:free:online", "@preset/mine"])
async def test_at_zero_budget_a_conversation_goes_on_with_free_models_alone(sandbox: Sandbox, model: str) -> None:
    async with served(sandbox) as here:
        id_ = await answered(here, "One.")
        text, record, is_error = await here.ask(continue_from=id_, model=model)
    assert is_error
    assert record["code"] == "not_free"
    assert text.startswith("not_free: ")
    assert len(sandbox.chats) == 1
    assert sandbox.bill == 0


async def test_a_conversation_with_a_priced_model_is_not_gone_on_with_once_the_budget_is_zero(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, state_dir=tmp_path)
    rich = replace(settings, policy=Policy(daily_budget=Decimal(1), call_budget=Decimal(1)))
    async with served(sandbox, settings=rich) as here:
        id_ = await answered(here, "One.", model="globex/large")
    async with served(sandbox, settings=settings) as here:
        _, record, _ = await here.ask(continue_from=id_, model="globex/large")
        assert record["code"] == "not_free"
        assert len(sandbox.chats) == 1
        text, _, _ = await here.ask(continue_from=id_)  # a call that names no model is free
    assert "name globex/large to go on with it" in text
    assert sandbox.chats[-1].body["model"].endswith(":free")
    assert len(sandbox.chats[-1].body["messages"]) == 3


async def test_the_whole_history_counts_in_what_a_continuation_can_cost_and_in_what_the_user_is_asked(
    sandbox: Sandbox,
) -> None:
    """At $2.50 a million, a history of 30,000 bytes can cost 7.5 cents before the first word of the answer."""
    policy = Policy(daily_budget=Decimal(1), call_budget=Decimal("0.5"), confirm_above=Decimal("0.05"))
    questions: list[str] = []

    async def person(context: object, params: ElicitRequestParams) -> ElicitResult:  # noqa: ARG001
        questions.append(params.message)
        return ElicitResult(action="accept", content={"spend": len(questions) > 1})

    paid: dict[str, Any] = {"prompt": "On?", "model": "globex/large", "max_tokens": 600}
    sandbox.fail(says("word " * 6000))
    async with (
        opened(sandbox, settings=replace(SETTINGS, policy=policy)) as app,
        Client(build(app), elicitation_callback=person) as client,
    ):
        _, record, _ = await ask(client, prompt="Why?", model=MODEL)
        _, _, is_error = await ask(client, **paid)
        assert not is_error
        assert questions == []
        _, refused, _ = await ask(client, **paid, continue_from=record["id"])
        assert refused["code"] == "declined"
        assert len(sandbox.chats) == 2
        worst = most_prompt_tokens(["Why?", ("word " * 6000).strip(), "On?"]) * Decimal("0.0000025") + Decimal("0.006")
        assert f"can cost up to ${worst.quantize(Decimal('0.001'), rounding='ROUND_CEILING')}" in questions[0]
        assert questions[0].endswith("The task: On?")
        _, dear, _ = await ask(client, **paid, continue_from=record["id"], max_cost_usd=0.06)
        assert dear["code"] == "over_budget"
        assert len(questions) == 1
        _, _, is_error = await ask(client, **paid, continue_from=record["id"])
        assert not is_error
    assert len(sandbox.chats) == 3
    assert len(sandbox.chats[-1].body["messages"]) == 3


async def test_going_on_from_an_unknown_answer_asks_nobody(sandbox: Sandbox) -> None:
    policy = Policy(daily_budget=Decimal(1), call_budget=Decimal(1), confirm_above=Decimal(0))
    async with served(sandbox, settings=replace(SETTINGS, policy=policy)) as here:
        _, record, is_error = await here.ask(model="globex/large", continue_from="nonsense")
    assert is_error
    assert record["code"] == "unknown_answer"
    assert sandbox.chats == []
