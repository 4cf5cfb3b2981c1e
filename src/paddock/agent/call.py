"""Running one method: arguments checked, time limited, whatever it does turned into an outcome.

(args) ──bad──> failed
   └──ok──> running ──returns──> value | bad-result
               ├──raises──> raised | TaskError's own | Retry
               ├──too long──> timed-out ··> overrun (still running) ──too long again──> `stuck`
               └──cancelled──> cancelled | stopped (the agent drains)
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from paddock.agent.base import Agent
from paddock.agent.context import Running, running
from paddock.agent.methods import TaskMethod, bad_arguments, check_args
from paddock.agent.owner import Owner
from paddock.agent.threads import Threads
from paddock.agent.values import BadValue, plain
from paddock.model.errors import PaddockError, Retry, TaskError
from paddock.model.task import TaskFailure

OVERRUN_S_MIN = 5.0
TRACE_FRAMES = 8
TEXT_MAX = 4_000


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one call: a value, or an error with how it may be treated."""

    value: Any = None
    error: TaskFailure | None = None
    retry: bool = False
    """The error is one that the method's retries cover."""
    asked: bool = False
    """The code asked for a retry itself."""
    cancelled: bool = False


class Caller:
    """Calls the methods of one agent. `stuck` is called when code goes on long after its time-out."""

    def __init__(
        self,
        agent: Agent,
        methods: Mapping[str, TaskMethod],
        threads: Threads,
        owner: Owner,
        stuck: Callable[[str], None],
    ) -> None:
        self.methods = methods
        self._agent, self._threads, self._owner, self._stuck = agent, threads, owner, stuck
        self._loop = asyncio.get_running_loop()

    def prepare(self, name: str, args: Mapping[str, Any]) -> tuple[TaskMethod, dict[str, Any]]:
        """The method and its checked arguments; TaskError when there is no such method or the arguments are bad."""
        method = self.methods.get(name)
        if method is None:
            known = ", ".join(sorted(self.methods)) or "none"
            raise TaskError(f"{type(self._agent).__name__} has no task {name!r}; it has: {known}", code="no-method")
        if not isinstance(args, Mapping):
            raise bad_arguments("the arguments must be an object")
        return method, check_args(method, args)

    async def call(self, call: Call) -> Outcome:
        """Run it; returns when there is an outcome, which with a time-out may be before the code has ended: then
        `call.work` is not done yet."""
        try:
            method, args = self.prepare(call.method, call.args)
        except TaskError as error:
            return Outcome(error=TaskFailure(code=error.code, message=error.message))
        token = running.set(call.running)
        try:
            if method.is_async:
                work = self._owner.start(f"call-{method.name}", self._guard(method, args))
            else:
                work = self._owner.start(f"call-{method.name}", self._thread(method, args))
        finally:
            running.reset(token)
        call.work = work
        work.add_done_callback(call.end_wait)
        timeout_s = call.timeout_s or method.mark.timeout_s
        timer = self._loop.call_later(timeout_s, call.end_wait) if timeout_s else None
        try:
            await call.wait(self._loop)
        finally:
            if timer is not None:
                timer.cancel()
        if work.done():
            return self._outcome(call, work)
        call.running.cancelled = True
        if method.is_async:
            work.cancel()
            await asyncio.wait((work,), timeout=1.0)
            if call.cancelled and work.done():
                return self._outcome(call, work)
        if not work.done():
            self._owner.start(f"overrun-{method.name}", self._overrun(method.name, work, max(OVERRUN_S_MIN, timeout_s)))
        if call.cancelled:
            return Outcome(cancelled=True)
        text = f"{method.name} took longer than its time-out of {timeout_s:g} s"
        return Outcome(error=TaskFailure(code="timed-out", message=text), retry=True)

    async def _guard(self, method: TaskMethod, args: dict[str, Any]) -> Outcome:
        try:
            return _returned(await method.function(self._agent, **args))
        except asyncio.CancelledError:
            return Outcome(cancelled=True)
        except BaseException as error:  # also SystemExit: a task's code cannot end the agent
            return _raised(error)

    async def _thread(self, method: TaskMethod, args: dict[str, Any]) -> Outcome:
        try:
            return _returned(await self._threads.run(lambda: method.function(self._agent, **args)))
        except asyncio.CancelledError:
            return Outcome(cancelled=True)
        except BaseException as error:  # as above
            return _raised(error)

    def _outcome(self, call: Call, work: asyncio.Task[Outcome]) -> Outcome:
        outcome = Outcome(cancelled=True) if work.cancelled() else work.result()
        if outcome.cancelled and not call.cancelled:
            text = "its code cancelled itself (asyncio.CancelledError)"
            return Outcome(error=TaskFailure(code="raised", message=text), retry=True)
        return outcome

    async def _overrun(self, name: str, work: asyncio.Task[Outcome], limit_s: float) -> None:
        await asyncio.wait((work,), timeout=limit_s)
        if not work.done():
            self._stuck(f"{name} goes on {limit_s:g} s after it was told to stop; this agent asks to be replaced")


class Call:
    """One call on its way. `cancel` ends its wait at once; the code itself is cancelled if it can be."""

    def __init__(self, method: str, args: Mapping[str, Any], *, task_id: str = "", timeout_s: float = 0.0) -> None:
        self.method, self.args, self.timeout_s = method, args, timeout_s
        self.running = Running(task_id)
        self.cancelled = False
        self.work: asyncio.Task[Outcome] | None = None
        self._over = False
        """The code has ended, its time is over, or the call was cancelled."""
        self._waited: asyncio.Future[None] | None = None

    def cancel(self) -> None:
        self.cancelled = self.running.cancelled = True
        self.end_wait()

    def end_wait(self, work: asyncio.Task[Outcome] | None = None) -> None:
        self._over = True
        if self._waited is not None and not self._waited.done():
            self._waited.set_result(None)

    async def wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Until it is over, at once if it is."""
        if not self._over:
            self._waited = loop.create_future()
            await self._waited


def _returned(value: Any) -> Outcome:
    try:
        return Outcome(value=plain(value, "the result"))
    except BadValue as error:
        return Outcome(error=TaskFailure(code="bad-result", message=f"the result cannot be written as JSON: {error}"))


def _raised(error: BaseException) -> Outcome:
    if isinstance(error, TaskError):
        failure = TaskFailure(code=error.code, message=_text(error.message))
        return Outcome(error=failure, retry=isinstance(error, Retry), asked=isinstance(error, Retry))
    return Outcome(error=describe_error(error), retry=True)


def describe_error(error: BaseException) -> TaskFailure:
    """Kind, text and place of what an author's code raised; the frames of Paddock itself are left out."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_HOUSE)] or list(frames)
    where = f"{own[-1].filename}:{own[-1].lineno} in {own[-1].name}" if own else ""
    try:
        text = str(error.message) if isinstance(error, PaddockError) else str(error)
    except Exception as broken:  # a __str__ that raises must not hide the error
        text = f"(its text raised {type(broken).__name__})"
    message = f"{type(error).__name__}: {text}" if text else type(error).__name__
    trace = "".join(traceback.format_list(own[-TRACE_FRAMES:]))
    return TaskFailure(code="raised", message=_text(message), where=_text(where), trace=_text(trace))


_HOUSE = __file__.rpartition("call.py")[0]


def _text(text: str) -> str:
    """Cut, and without lone surrogates, which JSON in UTF-8 cannot carry."""
    return text[:TEXT_MAX].encode("utf-8", "backslashreplace").decode()
