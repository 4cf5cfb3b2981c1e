"""Answering direct questions: `ask.<fleet>.<name>`, and `ask.<fleet>` together with the fleet's other agents."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from paddock.agent.call import Call, Caller
from paddock.agent.context import Context
from paddock.agent.owner import Owner
from paddock.agent.values import encoded
from paddock.fabric import subjects
from paddock.model.task import PAYLOAD_BYTES_MAX
from paddock.ports.fabric import Message

WAITING_MAX = 1000
"""Questions in hand or waiting; more are answered with `busy`."""


class Question(msgspec.Struct, frozen=True):
    method: str
    args: dict[str, Any] = {}


class Answering:
    """Serves questions with the task methods, limited apart from tasks so that neither starves the other."""

    def __init__(self, context: Context, caller: Caller, owner: Owner, *, slots: int) -> None:
        self._context, self._caller, self._owner = context, caller, owner
        self._slots = asyncio.Semaphore(slots)
        self._calls: set[Call] = set()
        self._asked = 0
        fleet, name = context.fleet, context.name
        self._subscriptions = [
            context.fabric.subscribe(subjects.ask(fleet, name), self._question),
            context.fabric.subscribe(subjects.ask(fleet), self._question, queue=fleet),
        ]

    @property
    def unanswered(self) -> int:
        return self._asked

    def stop(self) -> None:
        """Take no more questions."""
        for subscription in self._subscriptions:
            subscription.close()
        self._subscriptions.clear()

    def cancel(self) -> None:
        """End what is in hand; who asked hears `stopping`."""
        for call in self._calls:
            call.cancel()

    def _question(self, message: Message) -> None:
        if self._asked >= WAITING_MAX:
            self._answer(
                message, {"error": {"code": "busy", "message": f"{self._context.id} has no room for questions"}}
            )
            return
        self._asked += 1
        self._owner.start("ask", self._serve(message))

    async def _serve(self, message: Message) -> None:
        try:
            async with self._slots:
                call = None
                try:
                    question = msgspec.json.decode(message.data, type=Question)
                    call = Call(question.method, question.args)
                    self._calls.add(call)
                    self._answer(message, await self._run(call))
                    if call.work is not None and not call.work.done():
                        await asyncio.wait((call.work,))  # overrun: it keeps the slot
                except msgspec.DecodeError as error:
                    text = f"the question is not of the form {{method, args}}: {error}"
                    self._answer(message, {"error": {"code": "bad-arguments", "message": text}})
                finally:
                    if call is not None:
                        self._calls.discard(call)
        finally:
            self._asked -= 1

    async def _run(self, call: Call) -> dict[str, Any]:
        outcome = await self._caller.call(call)
        if outcome.cancelled:
            return {"error": {"code": "stopping", "message": f"{self._context.id} stops"}}
        if outcome.error is not None:
            return {"error": {"code": outcome.error.code, "message": outcome.error.message}}
        return {"ok": outcome.value}

    def _answer(self, message: Message, answer: dict[str, Any]) -> None:
        if not message.reply:
            return
        data = encoded(answer)
        if len(data) > PAYLOAD_BYTES_MAX:
            text = f"the answer has {len(data)} bytes; {PAYLOAD_BYTES_MAX} are allowed"
            data = msgspec.json.encode({"error": {"code": "too-large", "message": text}})
        self._context.fabric.publish(message.reply, data)
