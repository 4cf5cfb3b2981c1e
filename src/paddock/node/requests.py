"""Answers to the server's requests on `node.<id>` and `node.all`; see docs/protocol.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog

from paddock.agent.owner import Owner
from paddock.decide.redact import secrets_of
from paddock.model.errors import NotFound, PaddockError, Refused, Unavailable
from paddock.model.fleet import FleetSpec
from paddock.model.policy import Action
from paddock.node import logs
from paddock.node.fleets import Fleets
from paddock.node.supervisor import Supervised
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric, Message
from paddock.ports.runtime import Runtime

log = structlog.get_logger(__name__)

REQUESTS_MAX = 256
LINES_MAX = 10_000


class Request(msgspec.Struct, frozen=True):
    op: str
    agent: str = ""
    task: str = ""
    fleet: str = ""
    lines: int = 50
    offset: int | None = None
    wait_s: float = 0.0
    spec: FleetSpec | None = None
    action: str = ""
    epoch: int = 0
    incident: int = 0


class Requests:
    def __init__(
        self, fabric: Fabric, clock: Clock, owner: Owner, fleets: Fleets, runtimes: Mapping[str, Runtime]
    ) -> None:
        self._fabric, self._clock, self._owner, self._fleets, self._runtimes = fabric, clock, owner, fleets, runtimes
        self._under_way = 0

    def to_us(self, message: Message) -> None:
        self._begin(message, for_us=True)

    def to_all(self, message: Message) -> None:
        """Asked of every node: only the one that has the agent or the task answers."""
        self._begin(message, for_us=False)

    def _begin(self, message: Message, *, for_us: bool) -> None:
        if self._under_way >= REQUESTS_MAX:
            self._answer(message, Unavailable(f"this node has {REQUESTS_MAX} requests under way; try again"))
            return
        self._under_way += 1
        self._owner.start("request", self._handle(message, for_us=for_us))

    async def _handle(self, message: Message, *, for_us: bool) -> None:
        try:
            request = msgspec.json.decode(message.data, type=Request)
            if not for_us and not self._ours(request):
                return
            op = self._ops.get(request.op)
            if op is None:
                raise Refused(f"op {request.op!r} is none of {', '.join(sorted(self._ops))}")
            self._answer(message, await op(self, request))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._answer(message, Refused(f"not a request of the protocol: {error}"))
        except PaddockError as error:
            self._answer(message, error)
        except Exception as error:  # a bug of ours must not leave who asked without an answer
            log.exception("a request failed", error=repr(error))
            self._answer(message, PaddockError(f"the node failed on this request: {error!r}"))
        finally:
            self._under_way -= 1

    def _answer(self, message: Message, answer: dict[str, Any] | PaddockError) -> None:
        if not message.reply:
            return
        if isinstance(answer, PaddockError):
            data: dict[str, Any] = {"ok": False, "error": {"code": answer.code, "message": answer.message}}
        else:
            data = {"ok": True, **answer}
        self._fabric.publish(message.reply, msgspec.json.encode(data))

    def _ours(self, request: Request) -> bool:
        if request.agent:
            return request.agent in self._fleets.agents
        return not request.task or self._holder(request.task) is not None

    def _agent(self, request: Request) -> Supervised:
        agent = self._fleets.agents.get(request.agent)
        if agent is None:
            raise NotFound(f"agent {request.agent!r} is not on this node")
        return agent

    def _holder(self, task: str) -> Supervised | None:
        return next((agent for agent in self._fleets.agents.values() if task in agent.holds), None)

    async def _restart(self, request: Request) -> dict[str, Any]:
        agent = self._agent(request)
        await agent.restart("a restart was asked for")
        return {"epoch": agent.row.epoch}

    async def _heal(self, request: Request) -> dict[str, Any]:
        agent = self._agent(request)
        if request.action not in set(Action):
            raise Refused(f"action {request.action!r} is none of {', '.join(Action)}")
        why = (
            f"incident {request.incident}: {request.action}" if request.incident else f"{request.action} was asked for"
        )
        detail = await agent.heal(Action(request.action), request.epoch, why)
        return {"detail": detail, "epoch": agent.row.epoch}

    async def _logs(self, request: Request) -> dict[str, Any]:
        agent = self._agent(request)
        path = agent.paths.log
        if request.offset is not None:
            text, offset = await logs.follow(self._clock, path, request.offset, request.wait_s)
        else:
            text, offset = logs.tail(path, min(request.lines, LINES_MAX))
        return {"text": logs.blank(text, secrets_of(agent.running)), "offset": offset}

    async def _cancel(self, request: Request) -> dict[str, Any]:
        agent = self._holder(request.task)
        return {"held": agent is not None and agent.cancel(request.task)}

    async def _holds(self, request: Request) -> dict[str, Any]:
        return {
            "holds": [
                {
                    "task": task,
                    "fleet": agent.spec.name,
                    "agent": agent.id,
                    "attempt": attempt(hold.ack),
                    "since": hold.since,
                }
                for agent in self._fleets.agents.values()
                for task, hold in agent.holds.items()
            ]
        }

    async def _placements(self, request: Request) -> dict[str, Any]:
        """The fleets placed here, as this node was told: it outlives the bucket that told it."""
        return {"fleets": list(self._fleets.fleets)}

    async def _placement(self, request: Request) -> dict[str, Any]:
        here = self._fleets.fleets.get(request.fleet)
        if here is None:
            raise NotFound(f"nothing of fleet {request.fleet!r} is on this node")
        return {"placement": msgspec.to_builtins(here.placement)}

    async def _check(self, request: Request) -> dict[str, Any]:
        if request.spec is None:
            raise Refused("op check needs a spec")
        runtime = self._runtimes.get(request.spec.runtime)
        if runtime is None:
            raise Refused(f"this node has no runtime {request.spec.runtime!r}")
        return {"methods": msgspec.to_builtins(await runtime.check(request.spec))}

    _ops: Mapping[str, Callable[..., Any]] = {
        "restart": _restart,
        "heal": _heal,
        "logs": _logs,
        "cancel": _cancel,
        "holds": _holds,
        "placements": _placements,
        "placement": _placement,
        "check": _check,
    }


def attempt(ack: str) -> int:
    """The number of hand-outs, from an ack subject `$JS.ACK.<stream>.<consumer>.<delivered>.…`; 1 when unreadable."""
    tokens = ack.split(".")
    if len(tokens) > 9:
        tokens = tokens[2:]  # the newer form has domain and account before the stream
    return int(tokens[4]) if len(tokens) > 4 and tokens[4].isdecimal() else 1
