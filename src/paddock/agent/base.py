"""The class that authors derive from, and the marks they put on its methods.

Quick to import: whatever an agent needs only when it runs (asyncio, the fabric) is imported by its runner.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

from paddock.model.errors import PaddockError, TemplateBroken

if TYPE_CHECKING:
    from paddock.agent.calls import TaskOptions
    from paddock.agent.context import Context
    from paddock.agent.log import Log
    from paddock.agent.state import State

F = TypeVar("F", bound=Callable[..., Any])

MARK = "__paddock__"


class TaskMark(msgspec.Struct, frozen=True):
    timeout_s: float
    retries: int
    backoff_s: float


class EveryMark(msgspec.Struct, frozen=True):
    seconds: float
    jitter: float


class OnMark(msgspec.Struct, frozen=True):
    topic: str


class Message(msgspec.Struct, frozen=True):
    """What an `@on` method gets: the topic it came on and the value that was published."""

    topic: str
    value: Any


@overload
def task(method: F, /) -> F: ...
@overload
def task(*, timeout_s: float = 0.0, retries: int = 0, backoff_s: float = 1.0) -> Callable[[F], F]: ...
def task(
    method: F | None = None, /, *, timeout_s: float = 0.0, retries: int = 0, backoff_s: float = 1.0
) -> F | Callable[[F], F]:
    """Mark a method as a task. `timeout_s` 0: no time-out; `retries`: how often an error is tried again."""
    _check(timeout_s >= 0, "task", f"timeout_s must not be negative, not {timeout_s}")
    _check(0 <= retries <= 1000, "task", f"retries must be 0 to 1000, not {retries}")
    _check(backoff_s >= 0, "task", f"backoff_s must not be negative, not {backoff_s}")
    mark = _marker(TaskMark(timeout_s, retries, backoff_s))
    return mark(method) if method is not None else mark


def every(*, seconds: float, jitter: float = 0.0) -> Callable[[F], F]:
    """Run a method again and again: `seconds` after its last end, up to `jitter` seconds later."""
    _check(seconds > 0, "every", f"seconds must be above 0, not {seconds}")
    _check(jitter >= 0, "every", f"jitter must not be negative, not {jitter}")
    return _marker(EveryMark(seconds, jitter))


def on(topic: str) -> Callable[[F], F]:
    """Call a method with every `Message` on a topic; `*` stands for one word, `>` at the end for all that follow."""
    words = topic.split(".")
    good = all(word and (word == "*" or _plain(word)) for word in words[:-1])
    last = words[-1]
    _check(good and bool(last) and (last in ("*", ">") or _plain(last)), "on", f"{topic!r} is not a topic")
    return _marker(OnMark(topic))


class Agent:
    """Derive from it, mark methods with `@task`, `@every`, `@on`, and name the class in a manifest.

    The properties below work from `__init__` on, but only in an agent that its runner made.
    """

    _context: Context | None = None

    async def start(self) -> None:
        """Called once, before the first task. An exception here ends the process; its node decides what follows."""

    async def stop(self) -> None:
        """Called once, after the last task, within what is left of the template's `stop_grace_s`."""

    async def degrade(self) -> None:
        """Called once when this agent is told to do less, after `degraded` became true; tasks go on meanwhile."""

    @property
    def degraded(self) -> bool:
        """Whether it was told to do less, because it is not well; until its next start."""
        return self._live.degraded

    @property
    def id(self) -> str:
        """`fleet/name`."""
        return self._live.id

    @property
    def fleet(self) -> str:
        return self._live.fleet

    @property
    def name(self) -> str:
        return self._live.name

    @property
    def epoch(self) -> int:
        """The incarnation: a fencing token that only grows."""
        return self._live.epoch

    @property
    def config(self) -> Mapping[str, Any]:
        """The fleet's settings from the manifest; read-only."""
        return self._live.config

    @property
    def log(self) -> Log:
        return self._live.log

    @property
    def state(self) -> State:
        """Saved values of this agent that outlive it: `await self.state.put("seen", 3)`."""
        return self._live.state

    @property
    def cancelled(self) -> bool:
        """Whether the task that runs here was cancelled or timed out; for plain `def` code that can stop early."""
        return self._live.cancelled()

    def publish(self, topic: str, value: Any = None) -> None:
        """Tell everybody who listens with `@on`; at most once, never blocking."""
        self._live.publish(topic, value)

    def progress(self, fraction: float, note: str = "") -> None:
        """Report how far this task is, 0 to 1; more than 5 a second are left out. Outside a task: nothing happens."""
        self._live.progress(fraction, note)

    def ask(
        self, to: str, method: str, args: Mapping[str, Any] | None = None, /, *, timeout_s: float = 30.0, **named: Any
    ) -> Awaitable[Any]:
        """Ask an agent (`fleet/name`) or any agent of a fleet directly, and await its answer; nothing is stored.
        Arguments by name, or in `args` when they are called as an option is."""
        return self._live.calls.ask(to, method, {**(args or {}), **named}, timeout_s=timeout_s)

    def submit(
        self,
        to: str,
        method: str,
        args: Mapping[str, Any] | None = None,
        /,
        *,
        options: TaskOptions | None = None,
        wait: bool = False,
        **named: Any,
    ) -> Awaitable[Any]:
        """Submit a durable task for a fleet or an agent. Awaiting it gives the task's id once it is on disk, or with
        `wait` the result of the task."""
        calls = self._live.calls
        return (calls.run if wait else calls.submit)(to, method, {**(args or {}), **named}, options)

    @property
    def _live(self) -> Context:
        if self._context is None:
            raise PaddockError(
                f"this {type(self).__name__} does not run as an agent; `paddock up` or a runner makes it"
            )
        return self._context


def marks(cls: type, kind: type[Any]) -> dict[str, tuple[Callable[..., Any], Any]]:
    """Method name → (function, mark) for all marks of one kind, of the class and its bases."""
    found: dict[str, tuple[Callable[..., Any], Any]] = {}
    for name in dir(cls):
        function = getattr(cls, name, None)
        for mark in getattr(function, MARK, ()):
            if isinstance(mark, kind) and callable(function):
                found[name] = (function, mark)
    return found


def _marker(mark: Any) -> Callable[[F], F]:
    def put(method: F) -> F:
        if isinstance(method, (staticmethod, classmethod)) or not callable(method):
            raise TemplateBroken(f"{method!r} cannot be marked: only methods with a self can")
        setattr(method, MARK, (*getattr(method, MARK, ()), mark))
        return method

    return put


def _plain(word: str) -> bool:
    return word.replace("-", "").replace("_", "").isalnum() and word.isascii()


def check_topic(topic: str) -> str:
    """Return `topic` if it may be published on, else raise PaddockError."""
    if not topic or not all(_plain(word) for word in topic.split(".")):
        raise PaddockError(f"{topic!r} is not a topic: words of letters, digits, '-' and '_' with dots between")
    return topic


def _check(good: bool, mark: str, message: str) -> None:
    if not good:
        raise TemplateBroken(f"@{mark}: {message}")
