"""Doing a recovery action: by a request to the agent's node, or by the server itself."""

from __future__ import annotations

import msgspec
import structlog

from paddock.control.apply import Apply
from paddock.control.mirror import Mirror
from paddock.control.nodes import Nodes
from paddock.control.signs import policy_of
from paddock.model.agent import AgentStatus
from paddock.model.errors import NoResponders, PaddockError, TimedOut, Unavailable
from paddock.model.incident import Incident, StepTaken
from paddock.model.policy import Action

log = structlog.get_logger(__name__)

OWN = frozenset({Action.ACTIVATE_BACKUP, Action.ESCALATE})
"""What the server does itself, for every runtime."""
ANSWER_S_MAX = 20.0
"""Beyond the fleet's `stop_grace_s`: a node answers when it has begun with what it was asked for."""


class Actions:
    def __init__(self, mirror: Mirror, nodes: Nodes, apply: Apply) -> None:
        self._mirror, self._nodes, self._apply = mirror, nodes, apply

    def offers(self, status: AgentStatus) -> frozenset[Action]:
        """What can be done with this agent, as its node says of its runtime."""
        node, wanted = self._mirror.nodes.get(status.node), self._mirror.fleets.get(status.fleet)
        if node is None or wanted is None:
            return OWN
        told = node.attributes.get("actions", {})
        known = told.get(wanted.spec.runtime, []) if isinstance(told, dict) else []
        return OWN | {Action(name) for name in known if name in set(Action)}

    async def do(self, incident: Incident, step: StepTaken) -> tuple[bool, str]:
        """Do it; whether it could be done, and what there is to say. Doing it twice is doing it once. Raises
        Unavailable when it is not known whether it was done: do it again."""
        try:
            if step.action is Action.ACTIVATE_BACKUP:
                return True, await self._activate(incident)
            if step.action is Action.ESCALATE:
                return True, "people are told"
            return True, await self._ask(incident, step)
        except (NoResponders, TimedOut, Unavailable) as error:
            raise Unavailable(f"{step.action} of {incident.about}: {error.message}") from error
        except PaddockError as error:
            return False, error.message

    async def _ask(self, incident: Incident, step: StepTaken) -> str:
        status, wanted = self._mirror.agents.get(incident.about), self._mirror.fleets.get(incident.fleet)
        if status is None or wanted is None:
            return "it is there no more"
        op = {
            "op": "heal",
            "agent": incident.about,
            "action": step.action.value,
            "epoch": step.epoch,
            "incident": incident.id,
        }
        data = await self._nodes.ask(status.node, op, timeout_s=ANSWER_S_MAX + wanted.spec.stop_grace_s)
        return str(msgspec.json.decode(data).get("detail", ""))

    async def _activate(self, incident: Incident) -> str:
        standby = policy_of(self._mirror, incident.fleet).standby
        spec = self._mirror.fleet(standby).spec
        if spec.owners or spec.replicas > 0:
            return f"{standby} is up already"
        await self._apply.scale(standby, 1, by=f"incident {incident.id}")
        return f"{standby} is scaled up to take over"
