"""Virtual time: an event loop whose clock moves only when nothing can run, and simulated processes that can be killed.

    def test_x():
        simulate(seed, scenario)        # scenario(seed) is a coroutine; an hour of it takes milliseconds

A `Process` is a group of tasks that dies as a real one does: at an await, with no `finally` and no goodbye. Tasks
belong to the process whose task started them. Outside the simulation nothing of this is used.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import random
import selectors
import socket
import weakref
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar, TypeVarTuple, Unpack

import structlog

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LIMIT_S = 7 * 86_400.0
"""Simulated time after which a scenario is taken to run for ever."""
UNWIND_ROUNDS = 100
"""How many turns of the loop the tasks of killed processes get to end, when all is over."""


class SimulationError(AssertionError):
    """The simulated world itself is at fault, or the scenario in it."""


class Deadlock(SimulationError):
    """Nothing can run and nothing is due: everybody waits for somebody."""


class LeakedTasks(SimulationError):
    """Tasks are left after everything should have ended."""


class Process:
    """A group of tasks with one fate. `kill` may come at any time; `kill_after` strikes at a later await."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.steps = 0
        """Callbacks run so far: the awaits at which it could have been killed."""
        self.on_kill: list[Callable[[], None]] = []
        """What the operating system does when it dies: closes its connections."""
        self.sockets: list[socket.socket] = []
        self.listeners: list[socket.socket] = []
        self._signals: dict[int, Callable[[], object]] = {}
        self._kill_at = -1
        self._frozen: list[Callable[[], object]] = []
        self.tasks: dict[asyncio.Task[Any], None] = {}

    def spawn(self, coroutine: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run a coroutine as a task of this process."""
        context = contextvars.copy_context()
        context.run(_process.set, self)
        return asyncio.get_running_loop().create_task(coroutine, name=f"{self.name}: {name}", context=context)

    def call(self, function: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        """Run a plain function in it, so that what it starts and subscribes belongs to it."""
        context = contextvars.copy_context()
        context.run(_process.set, self)
        return context.run(function, *args)

    def kill(self) -> None:
        """SIGKILL: none of its tasks runs again."""
        if not self.alive:
            return
        self.alive = False
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop):
            raise SimulationError("processes can be killed in virtual time only")
        loop.killed.append(self)
        for held in self.sockets:
            loop.hang_up(held)
        for listener in self.listeners:
            if listener.fileno() >= 0:
                loop.remove_reader_of(listener.fileno())
                listener.close()
        for callback in self.on_kill:
            callback()

    def signal(self, number: int) -> None:
        """Send a signal: its handler runs soon; without one it is killed."""
        handler = self._signals.get(number)
        if handler is None:
            contextvars.Context().run(self.kill)
        elif self.alive:
            self.call(asyncio.get_running_loop().call_soon, handler)

    def on_signal(self, number: int, handler: Callable[[], object] | None) -> None:
        """For the loop: what it does on a signal."""
        if handler is None:
            self._signals.pop(number, None)
        else:
            self._signals[number] = handler

    def kill_after(self, steps: int) -> None:
        """Be killed before the step that comes after `steps` more."""
        self._kill_at = self.steps + steps

    def step(self, callback: Callable[[Unpack[Ts]], object], *args: *Ts) -> None:
        """For the loop: run one callback of this process, unless it is dead."""
        if self.alive and self.steps == self._kill_at:
            contextvars.Context().run(self.kill)
        if self.alive:
            self.steps += 1
            callback(*args)
        else:
            self._frozen.append(lambda: callback(*args))

    def forget(self, task: asyncio.Task[Any]) -> None:
        """For the loop: one of its tasks has ended."""
        self.tasks.pop(task, None)

    def thaw(self) -> None:
        """For the loop, when all is over: let what is left unwind, where it can do no harm."""
        self.alive, self._kill_at = True, -1
        loop = asyncio.get_running_loop()
        for callback in self._frozen:
            self.call(loop.call_soon, callback)
        self._frozen.clear()


_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("paddock_process", default=None)


def current_process() -> Process | None:
    """The simulated process whose code runs now; None: the world's own."""
    return _process.get()


class _Selector(selectors.DefaultSelector):
    """Never waits: what has come from real sockets is taken first, else time jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.jump: Callable[[float | None], None] = lambda _: None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and (timeout is None or timeout > 0):
            self.jump(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module's text. What goes to an executor runs in the loop itself: the order stays the same."""

    def __init__(self) -> None:
        selector = _Selector()
        super().__init__(selector)
        selector.jump = self._jump
        self.killed: list[Process] = []
        self.transports: weakref.WeakSet[asyncio.Transport] = weakref.WeakSet()
        self._virtual_s = 0.0
        self._clock_resolution = 1e-6  # asyncio's own: timers that are due within it run together

    def time(self) -> float:
        return self._virtual_s

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        context = context if context is not None else contextvars.copy_context()
        process = context.get(_process)
        if process is None:
            return super().call_soon(callback, *args, context=context)
        return super().call_soon(process.step, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        context = context if context is not None else contextvars.copy_context()
        process = context.get(_process)
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        return super().call_at(when, process.step, callback, *args, context=context)

    def create_task(
        self,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        *,
        name: object = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        task: asyncio.Task[T] = super().create_task(coro, name=str(name) if name is not None else None, context=context)
        process = (context if context is not None else contextvars.copy_context()).get(_process)
        if process is not None:
            process.tasks[task] = None
            task.add_done_callback(process.forget, context=contextvars.Context())
        return task

    def add_signal_handler(self, sig: int, callback: Callable[[Unpack[Ts]], object], *args: *Ts) -> None:
        process = current_process()
        if process is None:
            super().add_signal_handler(sig, callback, *args)
        else:
            process.on_signal(sig, lambda: callback(*args))

    def remove_signal_handler(self, sig: int) -> bool:
        process = current_process()
        if process is None:
            return super().remove_signal_handler(sig)
        process.on_signal(sig, None)
        return True

    def _start_serving(self, factory: Any, sock: socket.socket, *args: Any) -> None:
        """asyncio's own hook: a socket begins to listen."""
        process = current_process()
        if process is not None:
            process.listeners.append(sock)
        serve: Callable[..., None] = super()._start_serving  # type: ignore[misc]  # as below
        serve(factory, sock, *args)

    def _stop_serving(self, sock: socket.socket) -> None:
        """asyncio's own hook; the socket may be closed already, by a kill."""
        for process in (current_process(), *self.killed):
            if process is not None and sock in process.listeners:
                process.listeners.remove(sock)
        if sock.fileno() >= 0:
            self.remove_reader_of(sock.fileno())
            sock.close()

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        process = current_process()
        if process is not None:
            process.sockets.append(sock)
        await super().sock_connect(sock, address)

    def _accept_connection2(self, factory: Any, conn: socket.socket, *args: Any) -> Coroutine[Any, Any, None]:
        """asyncio's own hook: a connection was accepted, but nobody has looked at it yet."""
        process = current_process()
        if process is not None:
            process.sockets.append(conn)
        accept: Callable[..., Coroutine[Any, Any, None]] = super()._accept_connection2  # type: ignore[misc]  # as below
        return accept(factory, conn, *args)

    def _make_socket_transport(self, sock: socket.socket, *args: Any, **options: Any) -> asyncio.Transport:
        """asyncio's own hook; here it tells whose connection it is."""
        process = current_process()
        if process is not None:
            process.sockets.append(sock)
        make: Callable[..., asyncio.Transport] = super()._make_socket_transport  # type: ignore[misc]  # not in typeshed
        transport = make(sock, *args, **options)
        self.transports.add(transport)
        return transport

    def hang_up(self, sock: socket.socket) -> None:
        """What the system does with a connection of a process that dies: the other end sees that it is over."""
        if sock.fileno() >= 0:
            self.remove_reader_of(sock.fileno())
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it was not connected any more

    def remove_reader_of(self, fd: int) -> None:
        for remove in ("_remove_reader", "_remove_writer"):  # the public ones refuse what belongs to a transport
            getattr(self, remove)(fd)

    def run_in_executor(self, executor: Any, func: Callable[[Unpack[Ts]], T], *args: *Ts) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except BaseException as error:
                if isinstance(error, (KeyboardInterrupt, SystemExit)):
                    raise
                future.set_exception(error)

        self.call_soon(work)
        return future

    def _jump(self, timeout: float | None) -> None:
        if timeout is None:
            raise Deadlock(f"at {self._virtual_s:.3f} s everybody waits and nothing is due:\n{_where(self)}")
        self._virtual_s += timeout
        if self._virtual_s > LIMIT_S:
            raise SimulationError(f"still running after {LIMIT_S:g} simulated seconds:\n{_where(self)}")


def run(main: Callable[[], Coroutine[Any, Any, T]], seed: int = 0) -> T:
    """Run `main()` in virtual time. LeakedTasks when it leaves tasks behind, Deadlock when nothing can go on."""
    state = random.getstate()
    random.seed(seed)  # jitter of the parts under test follows the seed, too
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    try:
        result = loop.run_until_complete(main())
        _bury(loop)
        check_leaks(asyncio.all_tasks(loop))
        return result
    finally:
        _end(loop)
        asyncio.set_event_loop(None)
        random.setstate(state)


def simulate(seed: int, scenario: Callable[[int], Coroutine[Any, Any, T]]) -> T:
    """Run `scenario(seed)` in virtual time; a failure says how to see it again."""
    try:
        return run(lambda: scenario(seed), seed)
    except BaseException as error:
        # pytest tells which test this is; outside of it the scenario's name has to do
        name = os.environ.get("PYTEST_CURRENT_TEST", getattr(scenario, "__name__", "scenario")).partition("[")[0]
        error.add_note(f"failed with seed {seed}; to see it again: PADDOCK_SIM_SEED={seed} pytest '{name}'")
        raise


def check_leaks(tasks: set[asyncio.Task[Any]]) -> None:
    """LeakedTasks, with where each one waits, unless there are none."""
    left = [task for task in tasks if not task.done()]
    if left:
        raise LeakedTasks("left running:\n" + "\n".join(sorted(_describe(task) for task in left)))


async def settle(condition: Callable[[], bool], *, limit_s: float, what: str, every_s: float = 0.05) -> None:
    """Wait until `condition()` holds; SimulationError with `what` when it does not within the limit."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + limit_s
    while not condition():
        if loop.time() > give_up:
            raise SimulationError(f"not within {limit_s:g} s: {what}")
        await asyncio.sleep(every_s)


def _bury(loop: VirtualLoop) -> None:
    with structlog.testing.capture_logs():  # last words of the dead: nobody is there to read them
        loop.run_until_complete(_unwind(loop))


async def _unwind(loop: VirtualLoop) -> None:
    """The world is over: cancel what belonged to killed processes. It can reach nobody any more."""
    for process in loop.killed:
        process.thaw()
    for _ in range(UNWIND_ROUNDS):
        left = [task for process in loop.killed for task in process.tasks]
        if not left:
            return
        for task in left:
            task.cancel()
        await asyncio.sleep(0.05)


def _end(loop: VirtualLoop) -> None:
    """Cancel what is left, without judging it, and close the loop."""
    try:
        _bury(loop)
    except SimulationError:
        pass  # already failing; the first error is the one to tell
    left = [task for task in asyncio.all_tasks(loop) if not task.done()]
    for task in left:
        task.cancel()
    try:
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=60))
        for transport in list(loop.transports):
            transport.abort()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(asyncio.sleep(0))
        for process in loop.killed:
            for held in process.sockets:
                held.close()
    except SimulationError:
        pass  # already failing; the first error is the one to tell
    loop.close()


def _where(loop: asyncio.AbstractEventLoop) -> str:
    return "\n".join(sorted(_describe(task) for task in asyncio.all_tasks(loop))) or "there is no task at all"


def _describe(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack(limit=1)
    at = f"{frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else "not started"
    return f"  {task.get_name()} ({at})"
