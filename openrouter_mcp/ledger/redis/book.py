"""The book as a Redis or Valkey server keeps it. Each method is one run of the script, whole or not at all, by the
server's clock. Blocking.

What is held is as safe from a power cut as that server makes it (its `appendonly` and `appendfsync`). What its names
hold is not trusted: an amount that cannot be read counts as more than any budget.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from secrets import randbits, token_hex
from typing import Any

from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.engine import Engine
from openrouter_mcp.errors import EngineAway
from openrouter_mcp.ledger.amounts import written
from openrouter_mcp.ledger.book import MOST_REQUESTS, Charge, Closure, Look, Spent, Use, Wish
from openrouter_mcp.ledger.redis import reading, writing
from openrouter_mcp.ledger.redis.script import script
from openrouter_mcp.ledger.slots import Refusal, Slot
from openrouter_mcp.ledger.sums import Ended, Month
from openrouter_mcp.text import number

_ID_BITS = 53  # what a double holds


class RedisBook:
    """The book that `engine` keeps; `limit` requests in any `window` seconds. Every `now` is the engine's own unless
    its `own_time` is false. Each method raises EngineAway while it cannot be asked."""

    def __init__(self, engine: Engine, *, limit: int, window: float) -> None:
        self._engine = engine
        self._limit = limit
        self._window = window
        self._mark, self._turn = "", 0  # which book it is, and how often it was written in, as we know it
        # Ids that may be in the book though nobody was told of them; whoever is answered next has them released.
        self.lost_slots: list[int] = []
        self.lost_charges: list[int] = []

    def close(self) -> None:
        """Nothing to close: the engine is whoever's who opened it."""

    # --- requests

    def reserve(
        self, key: str, count: int, now: float, longest_wait: float, spare: int, *, caller: Caller = NOBODY
    ) -> list[Slot] | Refusal:
        """`Book.reserve`."""
        ids = _new_ids(count)
        said = self._ask(
            "reserve", now, slots=ids, key=key, longest_wait=longest_wait, spare=spare, caller=writing.share(caller),
            ids=[str(one) for one in ids], limit=self._limit, window=self._window,
        )  # fmt: skip
        if said[0] != "granted":
            return reading.refusal(said, caller)
        granted, *moments = map(float, said[1:])
        return [Slot(one, at, at - granted, self) for one, at in zip(ids, moments, strict=True)]

    def give_back(self, slots: Sequence[Slot]) -> None:
        """`Book.give_back`."""
        self._ask("give_back", ids=[str(slot.id) for slot in slots])

    def use(self, key: str, now: float) -> Use:
        """`Book.use`."""
        return reading.use(self._ask("use", now, key=key, window=self._window))

    def look(self, key: str, now: float) -> Look:
        """`Book.look`."""
        used, cooling, sums = self._ask("look", now, key=key, window=self._window)
        return Look(reading.use(used), reading.cooldowns(cooling), reading.health(sums))

    def share_left(self, key: str, caller: Caller, now: float) -> int | None:
        """`Book.share_left`."""
        return reading.count(self._ask("share_left", now, key=key, caller=writing.share(caller)))

    def note_count(self, key: str, used: int, limit: int, now: float) -> None:
        """`Book.note_count`."""
        self._ask("note_count", now, key=key, used=min(used, MOST_REQUESTS), limit=min(limit, MOST_REQUESTS))

    def stop(self, key: str, until: float, *, daily: bool) -> None:
        """`Book.stop`."""
        self._ask("stop", key=key, until=until, daily=daily)

    # --- the account

    def account(self, key: str) -> str:
        """`Book.account`."""
        return str(self._ask("account", key=key))

    def name(self, key: str, account: str) -> None:
        """`Book.name`."""
        self._ask("name", key=key, account=account)

    # --- models

    def cool(self, models: Sequence[str], now: float, *, shortest: float, hint: float, reason: str) -> None:
        """`Book.cool`."""
        self._ask("cool", now, models=list(models), shortest=shortest, hint=hint, reason=reason)

    def probe(self, models: Sequence[str], now: float, until: float) -> set[str]:
        """`Book.probe`."""
        ends = until if not self._engine.own_time else None
        return set(self._ask("probe", now, models=list(models), until=ends, lease=until - now))

    def recover(self, model: str) -> None:
        """`Book.recover`."""
        self._ask("recover", model=model)

    # --- daily sums

    def count(self, key: str, day: int, ended: Ended) -> None:
        """`Book.count`."""
        self._ask("count", key=key, day=day, ended=writing.ending(ended))

    def month(self, key: str, now: float, caller: str | None) -> Month:
        """`Book.month`."""
        at, rows = self._ask("month", now, key=key)
        return reading.month(rows, float(at), caller)

    # --- money

    def hold(self, key: str, wishes: Sequence[Wish], now: float) -> list[list[Charge] | Spent]:
        """`Book.hold`."""
        ids = [_new_ids(len(wish.amounts)) for wish in wishes]
        wished = [writing.wished(wish, mine) for wish, mine in zip(wishes, ids, strict=True)]
        answers = self._ask("hold", now, charges=[one for mine in ids for one in mine], key=key, wishes=wished)
        return [
            [Charge(one, model, amount, self) for one, (model, amount) in zip(mine, wish.amounts, strict=True)]
            if answer[0] == "held"
            else reading.spent(answer[1:], wish.caller.name if answer[0] == "own" else None)
            for answer, wish, mine in zip(answers, wishes, ids, strict=True)
        ]

    def spent(self, key: str, now: float, caller: str | None = None) -> Spent:
        """`Book.spent`."""
        return reading.spent(self._ask("spent", now, key=key, caller=caller), caller)

    def settle(self, charge: int, cost: Decimal, ended: Ended | None = None) -> None:
        """`Book.settle`."""
        self._ask("settle", id=str(charge), cost=written(cost), ended=ended and writing.ending(ended))

    def release(self, charges: Sequence[int]) -> None:
        """`Book.release`."""
        self._ask("release", ids=[str(charge) for charge in charges])

    def leave_open(self, charge: int, generation: str, now: float, ended: Ended | None = None) -> None:
        """`Book.leave_open`."""
        self._ask(
            "leave_open", now, id=str(charge), generation=generation or None, ended=ended and writing.ending(ended)
        )

    def alive(self, holder: str, now: float) -> None:
        """`Book.alive`."""
        self._ask("alive", now, holder=holder)

    def note_generation(self, charge: int, generation: str) -> None:
        """`Book.note_generation`."""
        self._ask("note_generation", id=str(charge), generation=generation)

    def due(self, key: str, now: float, holder: str = "") -> list[tuple[int, str, Decimal]]:
        """`Book.due`."""
        rows = self._ask("due", now, key=key, holder=holder)
        return [(int(one), generation, reading.usd(amount)) for one, generation, amount in rows]

    def shut(self, reason: str, now: float) -> None:
        """`Book.shut`."""
        self._ask("shut", now, reason=reason)

    def closures(self) -> list[Closure]:
        """`Book.closures`."""
        return [Closure(number(at) or 0.0, reason) for at, reason in self._ask("closures")]

    def acknowledge(self, seen: Sequence[Closure]) -> None:
        """`Book.acknowledge`."""
        self._ask("acknowledge", seen=[(one.at, one.reason) for one in seen])

    def doubts(self) -> list[str]:
        """`Book.doubts`: when the engine was found without the book that was there."""
        return list(self._ask("doubts"))

    def forget_doubts(self, seen: Sequence[str]) -> None:
        """`Book.forget_doubts`."""
        self._ask("forget_doubts", seen=list(seen))

    # --- batches

    def promise(self, key: str, batch: str, requests: int, *, now: float, spare: int, caller: Caller) -> Refusal | None:
        """`Book.promise`."""
        said = self._ask(
            "promise", now, key=key, batch=batch, requests=requests, spare=spare, caller=writing.share(caller)
        )  # fmt: skip
        return None if said[0] == "granted" else reading.refusal(said, caller)

    def take(self, key: str, batch: str, holder: str, now: float) -> bool:
        """`Book.take`."""
        return bool(self._ask("take", now, key=key, batch=batch, holder=holder))

    def renew(self, batch: str, holder: str, requests: int, now: float) -> bool:
        """`Book.renew`."""
        return bool(self._ask("renew", now, batch=batch, holder=holder, requests=requests))

    def draw(self, charge: int) -> bool:
        """`Book.draw`."""
        return bool(self._ask("draw", id=str(charge)))

    def leave(self, batch: str, holder: str) -> None:
        """`Book.leave`."""
        self._ask("leave", batch=batch, holder=holder)

    def end(self, batch: str) -> None:
        """`Book.end`."""
        self._ask("end", batch=batch)

    def is_leased(self, batch: str, now: float) -> bool:
        """`Book.is_leased`."""
        return bool(self._ask("is_leased", now, batch=batch))

    # --- what a person was asked

    def seal(self, seal: str, now: float) -> bool:
        """`Book.seal`."""
        return bool(self._ask("seal", now, seal=seal))

    # --- the engine

    def _ask(
        self,
        method: str,
        now: float = 0.0,
        *,
        slots: Sequence[int] = (),
        charges: Sequence[int] = (),
        **arguments: object,
    ) -> Any:  # noqa: ANN401 - as the method has it
        """What the script's `method` says to the `arguments`, of which None are left out; `slots` and `charges` are the
        ids that it may put into the book."""
        given = {name: value for name, value in arguments.items() if value is not None}
        is_sent = not self._engine.away
        try:
            return self._run(method, json.dumps(given, ensure_ascii=False), "" if self._engine.own_time else now)
        except EngineAway:
            if is_sent:  # and perhaps carried out
                self.lost_slots += slots
                self.lost_charges += charges
            raise

    def _run(self, method: str, arguments: str, now: str | float) -> Any:  # noqa: ANN401 - as the method has it
        while True:
            slots, charges = list(self.lost_slots), list(self.lost_charges)
            unheard = json.dumps({"slots": [*map(str, slots)], "charges": [*map(str, charges)]})
            happened, *said = self._engine.run(
                script(), method, arguments, now, self._mark, token_hex(8), unheard if slots or charges else "",
                self._turn,
            )  # fmt: skip
            if happened == "newer":
                raise self._engine.refuse("the book was written by a newer version of openrouter-mcp")
            self._mark = said[0]
            if happened == "done":
                del self.lost_slots[: len(slots)], self.lost_charges[: len(charges)]
                self._turn = said[2]
                return said[1]
            self._turn = 0
            self._note_loss()

    def _note_loss(self) -> None:
        """Say, for every process, that what was in the book is not known any more."""
        at = datetime.fromtimestamp(self._engine.now(), UTC)
        said = f"the books at {self._engine.name} were lost at {at:%Y-%m-%d %H:%M} UTC: emptied, or restarted without"
        self._run("note_lost", json.dumps({"text": f"{said} its latest data"}), "")


def _new_ids(count: int) -> list[int]:
    return [randbits(_ID_BITS) for _ in range(count)]
