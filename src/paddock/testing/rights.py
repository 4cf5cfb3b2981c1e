"""What a token lets its owner do, for the fabric in memory: the same templates as the account's own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from paddock.fabric import subjects
from paddock.fabric.permissions import PERMISSIONS
from paddock.testing.streams import matches


class Rights(msgspec.Struct, frozen=True):
    """Subjects that an identity may publish and subscribe, as in its token."""

    publish: Sequence[str] = (">",)
    subscribe: Sequence[str] = (">",)

    @classmethod
    def agent(cls, fleet: str, name: str) -> Rights:
        own = {f"own{i}": subjects.agent_lane(name, lane) for i, lane in enumerate(subjects.LANES)}
        return cls.of(
            "agent", {"node": "here", "fleet": fleet, "name": name, "work": subjects.work_stream(fleet), **own}
        )

    @classmethod
    def node(cls, node: str) -> Rights:
        return cls.of("node", {"node": node})

    def may_publish(self, subject: str) -> bool:
        return any(matches(pattern, subject) for pattern in self.publish)

    def may_subscribe(self, subject: str) -> bool:
        return any(matches(pattern, subject) for pattern in self.subscribe)

    @classmethod
    def of(cls, role: str, tags: Mapping[str, str]) -> Rights:
        """What the account grants a role, with its tags filled in."""
        rules = PERMISSIONS[role]
        filled = {
            verb: [re.sub(r"{{tag\((\w+)\)}}", lambda tag: tags[tag[1]], rule) for rule in rules[verb]]
            for verb in ("pub", "sub")
        }
        return cls(filled["pub"], filled["sub"])
