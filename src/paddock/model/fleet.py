"""What is wanted: fleets with their templates resolved, and their placement on nodes.

The manifest reader (`model/manifest.py`) turns YAML into these; nothing else makes them from user input.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from paddock.model.health import Probe
from paddock.model.policy import Policy


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """When and how fast a dead agent comes back. Intensity as in OTP's supervisor: more than `max` deaths in
    `window_s` seconds is a crash loop, and the agent is quarantined."""

    mode: Literal["always", "on-failure", "never"] = "always"
    max: int = 10
    window_s: float = 60.0
    backoff_s_min: float = 0.1
    """Delay before the second restart in a row; the first is immediate. Doubles each time, with jitter."""
    backoff_s_max: float = 30.0
    stable_s: float = 10.0
    """Alive this long after ready: the back-off starts anew."""
    quarantine_s: float = 600.0
    """How long a crash-looping agent rests before one more try; 0: until a person heals it."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """When an agent counts as ready, and when as hung."""

    start_s: float = 60.0
    """Not ready this long after its start: stopped and replaced."""
    hang_s: float = 10.0
    """No beat this long: hung. Agents that do not speak to the node's socket (`beat: false`) are not judged by it."""
    beat: bool = True
    http: str = ""
    """URL that must answer below 400; `{port}` and `{port.name}` are replaced. Empty: no probe."""
    every_s: float = 5.0
    fails: int = 3
    probes: list[Probe] = []


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one agent, by cgroup v2 where the host allows it, else by rlimits."""

    memory_bytes: int = 0
    cpus: float = 0.0
    open_files: int = 0


class Logs(msgspec.Struct, frozen=True, kw_only=True):
    max_bytes: int = 10_000_000
    keep: int = 3


class Method(msgspec.Struct, frozen=True, kw_only=True):
    """One task method of an agent class, found out when the manifest is applied."""

    name: str
    doc: str = ""
    args: dict[str, Any] = {}
    """JSON Schema of the arguments object."""
    timeout_s: float = 0.0
    retries: int = 0


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A task that is submitted again and again. `cron` has five fields, in `timezone`."""

    name: str
    cron: str
    method: str
    args: dict[str, Any] = {}
    priority: str = "MEDIUM"
    timezone: str = "UTC"


class FleetSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet with its template resolved: everything a node needs to make it live."""

    name: str
    runtime: Literal["python", "exec"]
    agent: str = ""
    """`module:Class`, for the runtime python."""
    command: list[str] = []
    """For the runtime exec; `{port}`, `{port.name}`, `{agent}`, `{name}` are replaced."""
    replicas: int = 1
    owners: list[str] = []
    """When given, one agent for each, named after it; `replicas` is not used."""
    env: dict[str, str] = {}
    cwd: str = ""
    user: str = ""
    """Another user than the node's: for commands that take no tasks, where the node runs as root. It reaches neither
    credentials nor the node's socket, and is watched by its process and its probe alone."""
    pythonpath: list[str] = []
    """Absolute folders put before sys.path, for the runtime python: the manifest's own folder by default."""
    stop_signal: str = "SIGTERM"
    stop_grace_s: float = 10.0
    ports: list[str] = []
    """Names of ports that each agent gets; `port` is the usual one. `http=8080`: a fixed one, for one agent only."""
    capabilities: list[str] = []
    concurrency: int = 1
    """How many tasks one agent holds at a time."""
    restart: Restart = Restart()
    health: Health = Health()
    policy: Policy = Policy()
    """How its agents are judged and healed."""
    limits: Limits = Limits()
    logs: Logs = Logs()
    config: dict[str, Any] = {}
    depends_on: list[str] = []
    queue_limit: int = 100_000
    """Queued tasks at the most; more are refused with 429."""
    ack_wait_s: float = 30.0
    """The net below the node's own return of a dead agent's task."""
    schedules: list[Schedule] = []
    methods: list[Method] | None = None
    """None: not known (exec without a declaration); then any method is let through."""
    template: str = ""
    """Name of the template it came from, or the fleet's own name."""
    version: str = ""
    """Hash over what decides how an agent is made (`MADE_OF` in `model/manifest_build.py`). When it changes, running
    agents are replaced; all other fields (restart, health, policy, logs, …) take effect on those that run."""
    secret_env: list[str] = []
    """Names of `env` whose values are secrets: never printed, logged or returned by the API."""

    def names(self) -> list[str]:
        """Names of the wanted agents, in order."""
        return list(self.owners) if self.owners else [str(i) for i in range(self.replicas)]


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """What one node should run of one fleet: the key `place.<node>.<fleet>` of the bucket `wanted`.

    `names` empty: stop them all. Deleting the key means the same, and that the fleet is gone.
    """

    spec: FleetSpec
    names: list[str]
