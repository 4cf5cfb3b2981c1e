"""The difference between what a manifest wants and what is wanted now."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class FleetChange(msgspec.Struct, frozen=True, kw_only=True):
    kind: Literal["create", "update", "scale", "delete", "none"]
    fleet: str
    text: str
    """One line for people: `create executor: 3 agents, python paddock.foundry:Executor`."""
    fields: dict[str, list[Any]] = {}
    """For update: field → [old, new], secrets blanked."""
    restarts: int = 0
    """How many running agents would be replaced."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    changes: list[FleetChange]
    notifications: str = ""
    """What changes for who is told of what, in one line; empty when nothing does."""
    applied: bool = False
    warnings: list[str] = []
