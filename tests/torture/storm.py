"""A storm: many tasks of mixed length, submitted by impatient clients, while processes are killed by lot."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psutil

from paddock.agent import TaskError
from paddock.agent.calls import TaskOptions
from paddock.agent.client import Client
from paddock.model.errors import PaddockError
from paddock.model.task import Priority

from .rig import Rig

KINDS = ("agent", "agent", "agent", "node", "server", "fabric", "sync", "fork server", "keeper")
"""What is killed: dealt out like cards, so that each kind has its turn; agents more often."""
AT_ONCE = 60
HTTP_SHARE, TWICE_SHARE, OWN_SHARE = 0.05, 0.05, 0.08
STILL_S_MAX = 120.0
"""Longer than any keeper's back-off: so long without a single result is a stall."""
RETRY_S = 0.1


class Storm:
    """`run` returns what each client was told of its task."""

    def __init__(self, rig: Rig, agents: list[str], *, tasks: int, rounds: int, say: Callable[[str], None]) -> None:
        self.rig, self.agents, self.tasks, self.rounds, self.say = rig, agents, tasks, rounds, say
        self.told: dict[str, tuple[str, Any]] = {}
        """Line → (state, value or message)."""
        self.refusals: Counter[str] = Counter()
        self._deck: list[str] = []
        self._round = 0
        self._moved = asyncio.Event()

    async def run(self) -> None:
        client = await self.rig.client()
        lines = iter(range(self.tasks))
        try:
            async with asyncio.TaskGroup() as group:
                for lane in range(AT_ONCE):
                    group.create_task(self._lane(client, lines), name=f"lane {lane}")
                group.create_task(self._kills(), name="kills")
        finally:
            await client.close()

    # --- clients

    async def _lane(self, client: Client, lines: Iterator[int]) -> None:
        async with httpx.AsyncClient(timeout=30.0) as http:
            for number in lines:
                await self._until(lambda number=number: number < self._share(self._round + 1))
                line = f"s{self.rig.seed}-{number}"
                dice = random.Random(f"{self.rig.seed} {number}")
                request = self._request(line, dice)
                by_http = dice.random() < HTTP_SHARE
                ask = self._by_http(http, request) if by_http else self._by_sdk(client, request, dice)
                self.told[line] = await ask
                self._moved.set()

    def _request(self, line: str, dice: random.Random) -> dict[str, Any]:
        kind = dice.random()
        ms = dice.uniform(0, 5) if kind < 0.85 else dice.uniform(20, 100) if kind < 0.97 else dice.uniform(300, 1500)
        return {
            "to": dice.choice(self.agents) if dice.random() < OWN_SHARE else "hand",
            "args": {"line": line, "effects": self.rig.path("effects"), "ms": round(ms, 1)},
            "priority": dice.choice([Priority.CRITICAL, *[Priority.MEDIUM] * 3, Priority.LOW]),
            "key": line,
        }

    async def _by_sdk(self, client: Client, request: dict[str, Any], dice: random.Random) -> tuple[str, Any]:
        """Submit under an id of its own until there is an answer; now and then twice at the same moment."""
        if dice.random() < TWICE_SHARE:
            first, second = await asyncio.gather(self._sdk(client, request), self._sdk(client, request))
            assert first == second, request
            return first
        return await self._sdk(client, request)

    async def _sdk(self, client: Client, request: dict[str, Any]) -> tuple[str, Any]:
        options = TaskOptions(id=request["key"], priority=request["priority"], wait_s=5.0)
        while True:
            try:
                return "done", await client.run(request["to"], "work", request["args"], options=options)
            except TaskError as error:
                return error.code, error.message
            except PaddockError as error:
                self.refusals[error.code] += 1
                await asyncio.sleep(RETRY_S)

    async def _by_http(self, http: httpx.AsyncClient, request: dict[str, Any]) -> tuple[str, Any]:
        fleet, _, name = request["to"].partition("/")
        body = {
            **({"agent": request["to"]} if name else {"fleet": fleet}),
            "method": "work",
            "args": request["args"],
            "priority": request["priority"].name,
        }
        headers = {"Idempotency-Key": request["key"]}
        while True:
            try:
                server = self.rig.held.running("server")["url"]
                headers["Authorization"] = f"Bearer {(self.rig.held.data / 'token').read_text().strip()}"
                answer = await http.post(f"{server}/api/v1/tasks", params={"wait_s": 5}, json=body, headers=headers)
                if answer.status_code not in (200, 202):
                    self.refusals[f"HTTP {answer.status_code}"] += 1
                elif (told := answer.json())["finished_at"]:
                    error = told["error"] or {}
                    return ("done", told["result"]) if told["state"] == "done" else (error["code"], error["message"])
            except (httpx.HTTPError, OSError, json.JSONDecodeError) as error:
                self.refusals[type(error).__name__] += 1
            await asyncio.sleep(RETRY_S)

    # --- kills

    async def _kills(self) -> None:
        """The rounds follow the work, not the clock: each comes when half of its share of tasks has ended, and lets the
        next share begin."""
        agents: list[psutil.Process] = []
        for number in range(1, self.rounds + 1):
            due = (self._share(number - 1) + self._share(number)) // 2
            await self._until(lambda due=due: len(self.told) >= due)
            agents = await asyncio.to_thread(self.rig.agent_processes) or agents
            kinds = [self._deal() for _ in range(self.rig.dice.choice([1, 2, 2, 3]))]
            killed = [(kind, self.rig.kill(kind, among=agents)) for kind in kinds]
            self._round = number
            self._moved.set()
            if any(kind == "keeper" and pid for kind, pid in killed):
                await asyncio.to_thread(self.rig.up_again)
            what = ", ".join(kind if pid else f"no {kind} there to kill" for kind, pid in killed)
            self.say(f"  round {number:3} of {self.rounds}: {len(self.told):,} of {self.tasks:,} ended; killed {what}")
        await self._until(lambda: len(self.told) == self.tasks)

    def _share(self, number: int) -> int:
        """How many tasks the first `number` rounds have between them."""
        return self.tasks * number // (self.rounds + 1) if number <= self.rounds else self.tasks

    def _deal(self) -> str:
        if not self._deck:
            self._deck = list(KINDS)
            self.rig.dice.shuffle(self._deck)
        return self._deck.pop()

    async def _until(self, look: Callable[[], bool]) -> None:
        """Wait for a state of this storm; AssertionError when nothing at all ends any more."""
        while not look():
            before = len(self.told)
            moved = self._moved
            try:
                async with asyncio.timeout(STILL_S_MAX):
                    await moved.wait()
            except TimeoutError:
                if len(self.told) == before:
                    raise AssertionError(f"nothing ended for {STILL_S_MAX:.0f} s, at {before} tasks") from None
            if self._moved is moved:
                self._moved = asyncio.Event()
