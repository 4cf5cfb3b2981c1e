"""Requests to nodes: one place that encodes, waits and turns what a node answers into our own errors."""

from __future__ import annotations

from typing import Any

import msgspec

from paddock.control.mirror import Mirror
from paddock.control.views import error_of
from paddock.fabric import subjects
from paddock.model.errors import NoResponders, Unavailable
from paddock.model.fleet import FleetSpec, Method
from paddock.ports.fabric import Fabric

CHECK_S_MAX = 45.0


class Answer(msgspec.Struct, frozen=True):
    """What every answer of a node has; the rest depends on the operation."""

    ok: bool
    error: dict[str, Any] = {}


class Checked(msgspec.Struct, frozen=True):
    """The answer to `check`."""

    methods: list[Method] | None = None


class Nodes:
    def __init__(self, fabric: Fabric, mirror: Mirror) -> None:
        self._fabric = fabric
        self._mirror = mirror

    async def ask(self, node: str, op: dict[str, Any], *, timeout_s: float = 10.0) -> bytes:
        """The node's answer as it came, once it is known to be a good one; else the error that it told."""
        reply = await self._fabric.request(subjects.node_op(node), msgspec.json.encode(op), timeout_s=timeout_s)
        try:
            answer = msgspec.json.decode(reply.data, type=Answer)
        except msgspec.MsgspecError as error:
            raise Unavailable(f"node {node} answered {op['op']} with something else than the protocol says") from error
        if not answer.ok:
            code, message = str(answer.error.get("code", "error")), str(answer.error.get("message", ""))
            raise error_of(code, message or f"node {node} refused {op['op']} without a reason")
        return reply.data

    async def check(self, spec: FleetSpec) -> list[Method] | None:
        """Let a live node find out whether the template can be made live; `TemplateBroken` when not."""
        for node in sorted(self._mirror.live(), key=lambda node: (node.agents, node.id)):
            try:
                op = {"op": "check", "spec": msgspec.to_builtins(spec)}
                data = await self.ask(node.id, op, timeout_s=CHECK_S_MAX)
            except NoResponders:
                continue  # it left a moment ago
            try:
                return msgspec.json.decode(data, type=Checked).methods
            except msgspec.MsgspecError as error:
                raise Unavailable(f"node {node.id} told methods that cannot be read: {error}") from error
        if self._mirror.nodes:
            raise Unavailable(
                "no node was heard of for a while, so none checks the templates: see 'paddock status' whether the "
                "fabric and the node are well, and apply again"
            )
        raise Unavailable("no node is there to check the templates: start one (`paddock node`) and apply again")
