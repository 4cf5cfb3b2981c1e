"""Plan and apply: from manifests to wanted fleets. All is checked before anything is written.

load ──> check every new or changed template on a node ──> plan ──> write, each by compare-and-set ──> event
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from paddock.control.door import check_args
from paddock.control.events import Events
from paddock.control.mirror import Former, Mirror
from paddock.control.nodes import Nodes
from paddock.control.owner import each
from paddock.decide.plan import plan as make_plan
from paddock.decide.plan import plan_notifications
from paddock.decide.room import lack
from paddock.decide.schedule import unknown_methods
from paddock.fabric import subjects
from paddock.model.errors import Conflict, NotFound, PaddockError, Refused, TemplateBroken, Unavailable
from paddock.model.fleet import FleetSpec
from paddock.model.manifest import Manifest, ManifestSource, load
from paddock.model.plan import FleetChange, Plan
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric

CHECKS_AT_ONCE = 2
"""A check runs the user's imports in a process of its own; more side by side are not sooner ready."""
REPLICAS_MAX = 10_000


class Apply:
    def __init__(
        self,
        fabric: Fabric,
        clock: Clock,
        mirror: Mirror,
        nodes: Nodes,
        events: Events,
        ensure_stream: Callable[[FleetSpec], Awaitable[None]],
    ) -> None:
        self._fabric = fabric
        self._clock = clock
        self._mirror = mirror
        self._nodes = nodes
        self._events = events
        self._ensure_stream = ensure_stream
        self._one_at_a_time = asyncio.Lock()

    async def plan(self, sources: Sequence[ManifestSource], *, prune: bool = False) -> Plan:
        """What apply would do; asks no node, writes nothing."""
        manifest = await self._load(sources, prune)
        fleets = {name: self._with_known_methods(spec) for name, spec in manifest.fleets.items()}
        told = plan_notifications(manifest.notifications, self._mirror.notifications)
        return msgspec.structs.replace(self._plan(fleets, prune), notifications=told, warnings=manifest.warnings)

    async def apply(self, sources: Sequence[ManifestSource], *, prune: bool = False, by: str = "") -> Plan:
        async with self._one_at_a_time:
            expect_told = self._mirror.notifications_seq
            expect = {name: self._mirror.fleet_seq(name) for name in {*self._mirror.fleets, *self._mirror.gone}}
            manifest = await self._load(sources, prune)
            checked = await self._checked(manifest.fleets)
            told = plan_notifications(manifest.notifications, self._mirror.notifications)
            plan = msgspec.structs.replace(self._plan(checked, prune), notifications=told)
            todo = [change for change in plan.changes if change.kind != "none"]
            self._check_room({change.fleet: checked.get(change.fleet) for change in todo})
            await self._nobody_else(todo, expect)
            if plan.notifications:
                last = await self._fabric.last(subjects.WANTED, _TOLD)
                if (last.seq if last is not None else 0) != expect_told:
                    raise Conflict("notifications were changed by somebody else meanwhile: plan and apply again")
            for change in todo:
                await self._write(change, checked, expect, by)
            if plan.notifications:
                await self._put(_TOLD, "notifications were", msgspec.json.encode(manifest.notifications), expect_told)
                await self._events.tell("notifications.applied", "notifications", plan.notifications, by=by)
            for change in todo:
                await self._events.tell("fleet.applied", change.fleet, change.text, by=by, data={"kind": change.kind})
            return msgspec.structs.replace(plan, applied=True, warnings=manifest.warnings)

    async def scale(self, name: str, replicas: int, *, by: str = "") -> None:
        async with self._one_at_a_time:
            wanted = self._mirror.fleet(name)
            if wanted.spec.owners:
                raise Refused(f"fleet {name!r} has a list of owners; change that list instead of its number")
            if not 0 <= replicas <= REPLICAS_MAX:
                raise Refused(f"replicas is {replicas}; it must be from 0 to {REPLICAS_MAX}")
            if replicas == wanted.spec.replicas:
                return
            spec = msgspec.structs.replace(wanted.spec, replicas=replicas)
            self._check_room({name: spec})
            await self._store(name, msgspec.json.encode(spec), wanted.seq)
            text = f"{name} scaled from {wanted.spec.replicas} to {replicas} agents"
            await self._events.tell("fleet.scaled", name, text, by=by, data={"replicas": replicas})

    async def rollback(self, name: str, *, by: str = "") -> FleetSpec:
        """Make a fleet what it was before its version changed last; how many agents it has stays. Doing it again brings
        the change back."""
        async with self._one_at_a_time:
            wanted, former = self._mirror.fleet(name), self._mirror.former.get(name)
            if former is None:
                raise NotFound(f"fleet {name!r} has had no other version that could be brought back")
            spec = former.spec
            if not spec.owners and not wanted.spec.owners:
                spec = msgspec.structs.replace(spec, replicas=wanted.spec.replicas)
            if spec.version == wanted.spec.version:
                raise Refused(f"fleet {name!r} is version {spec.version} already")
            await self._remember(spec, by)
            await self._store(name, msgspec.json.encode(spec), wanted.seq)
            text = f"{name} rolled back from version {wanted.spec.version} to {spec.version}"
            await self._events.tell("fleet.rolled-back", name, text, by=by, data={"version": spec.version})
            return spec

    async def delete(self, name: str, *, by: str = "") -> None:
        async with self._one_at_a_time:
            wanted = self._mirror.fleet(name)
            needed_by = [other.spec.name for other in self._mirror.fleets.values() if name in other.spec.depends_on]
            if needed_by:
                raise Refused(f"fleet {name!r} is needed by {', '.join(sorted(needed_by))}: delete those first")
            await self._store(name, None, wanted.seq)
            await self._events.tell("fleet.deleted", name, f"{name} deleted", by=by)

    # -- checks ----------------------------------------------------------------------------------------------------

    async def _load(self, sources: Sequence[ManifestSource], prune: bool) -> Manifest:
        others = {} if prune else {name: wanted.spec for name, wanted in self._mirror.fleets.items()}
        # A manifest of megabytes takes a while to parse; the event loop goes on meanwhile.
        return await asyncio.to_thread(load, sources, others=others)

    async def _checked(self, fleets: dict[str, FleetSpec]) -> dict[str, FleetSpec]:
        """The specs with their methods. Everything that is wrong is told at once."""
        specs = {name: self._with_known_methods(spec) for name, spec in fleets.items()}
        todo = [spec for spec in specs.values() if self._is_new(spec)]
        wrong: dict[str, str] = {}

        async def check(spec: FleetSpec) -> None:
            try:
                methods = await self._nodes.check(spec)
            except Unavailable:
                raise
            except PaddockError as error:
                wrong[spec.name] = error.message
            else:
                specs[spec.name] = msgspec.structs.replace(
                    spec, methods=methods if methods is not None else spec.methods
                )

        for error in await each("check", todo, check, at_once=CHECKS_AT_ONCE):
            raise error
        if wrong:
            texts = [text if name in text else f"fleet {name}: {text}" for name, text in sorted(wrong.items())]
            raise TemplateBroken("; ".join(texts))
        problems = [problem for spec in specs.values() for problem in _method_problems(spec)]
        if problems:
            raise Refused("; ".join(problems))
        return specs

    def _check_room(self, changed: Mapping[str, FleetSpec | None]) -> None:
        """Refuse what would end half-way: more agents than the nodes say they can hold. None: the fleet goes. Who
        takes agents away may always do so."""
        before = {name: len(wanted.names) for name, wanted in self._mirror.fleets.items()}
        after = before | {name: len(spec.names()) if spec else 0 for name, spec in changed.items()}
        wanted = sum(after.values())
        if wanted > sum(before.values()) and (why := lack(wanted, self._mirror.live())):
            raise Refused(why)

    def _is_new(self, spec: FleetSpec) -> bool:
        known = self._mirror.fleets.get(spec.name)
        return known is None or known.spec.version != spec.version

    def _with_known_methods(self, spec: FleetSpec) -> FleetSpec:
        """What a check found out before. What nobody can find out is what the manifest says now, or unknown."""
        if spec.methods is None and spec.runtime == "python" and not self._is_new(spec):
            return msgspec.structs.replace(spec, methods=self._mirror.fleets[spec.name].spec.methods)
        return spec

    def _plan(self, fleets: dict[str, FleetSpec], prune: bool) -> Plan:
        current = {name: wanted.spec for name, wanted in self._mirror.fleets.items()}
        running = {name: len(agents) for name, agents in self._mirror.by_fleet.items()}
        return make_plan(fleets, current, prune=prune, running=running)

    # -- writing ---------------------------------------------------------------------------------------------------

    async def _nobody_else(self, todo: Sequence[FleetChange], expect: dict[str, int]) -> None:
        """Look once more before the first write, so that two appliers do not mix their halves."""
        for change in todo:
            last = await self._fabric.last(subjects.WANTED, _key(change.fleet))
            if (last.seq if last is not None else 0) != expect.get(change.fleet, 0):
                raise Conflict(f"fleet {change.fleet!r} was changed by somebody else meanwhile: plan and apply again")

    async def _write(self, change: FleetChange, specs: dict[str, FleetSpec], expect: dict[str, int], by: str) -> None:
        seq = expect.get(change.fleet, 0)
        if change.kind == "delete":
            await self._store(change.fleet, None, seq)
            return
        spec = specs[change.fleet]
        await self._remember(spec, by)
        await self._ensure_stream(spec)  # so that tasks can be submitted as soon as the fleet is wanted
        await self._store(change.fleet, msgspec.json.encode(spec), seq)

    async def _remember(self, spec: FleetSpec, by: str) -> None:
        """Keep what a fleet was before its version changes, so that the change can be undone."""
        known = self._mirror.fleets.get(spec.name)
        if known is not None and known.spec.version != spec.version:
            former = Former(spec=known.spec, at=self._clock.now(), by=by)
            subject = f"$KV.wanted.{subjects.wanted_former(spec.name)}"
            await self._fabric.store(subject, msgspec.json.encode(former))

    async def _store(self, fleet: str, data: bytes | None, expect_seq: int) -> None:
        await self._put(_key(fleet), f"fleet {fleet!r} was", data, expect_seq)

    async def _put(self, key: str, what: str, data: bytes | None, expect_seq: int) -> None:
        headers = {"KV-Operation": "DEL"} if data is None else None
        try:
            seq = await self._fabric.store(key, data or b"", headers=headers, expect_seq=expect_seq)
        except Conflict as error:
            raise Conflict(f"{what} changed by somebody else meanwhile: plan and apply again") from error
        await self._mirror.seen(seq)


_TOLD = f"$KV.wanted.{subjects.wanted_notifications()}"


def _key(fleet: str) -> str:
    return f"$KV.wanted.{subjects.wanted_fleet(fleet)}"


def _method_problems(spec: FleetSpec) -> list[str]:
    """Schedules and probes that could never work: their method is not there, or does not take their arguments."""
    problems = unknown_methods(spec)
    methods = {method.name: method for method in spec.methods or []}
    for probe in spec.health.probes:
        if probe.kind != "task" or spec.methods is None:
            continue
        if probe.method not in methods:
            problems.append(f"probe {probe.name!r} of {spec.name} asks for {probe.method!r}, which is no method of it")
            continue
        try:
            check_args(spec, methods[probe.method], probe.args)
        except Refused as error:
            problems.append(f"probe {probe.name!r} of {spec.name}: {error.message}")
    for schedule in spec.schedules:
        if schedule.method in methods:
            try:
                check_args(spec, methods[schedule.method], schedule.args)
            except Refused as error:
                problems.append(f"schedule {schedule.name!r} of {spec.name}: {error.message}")
    return problems
