"""Commands about tasks: submit, get, list, cancel, replay, wait."""

from __future__ import annotations

import json
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from paddock.cli import show
from paddock.cli.files import read_text
from paddock.cli.look import LIMIT, task_columns
from paddock.cli.session import session
from paddock.model.errors import PaddockError, Refused

WAIT_S_MAX = 600.0
FILE_BYTES_MAX = 5_000_000
"""More is not even read; the limit of one task is lower."""

ENDED = ("done", "failed", "dead", "cancelled")

task = typer.Typer(help="Give fleets and agents work, and see what became of it.", no_args_is_help=True)


SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def seconds(text: str | float) -> float:
    """`90`, `90s`, `10m`, `2h`, `1d` → seconds."""
    words = str(text)
    unit = SECONDS.get(words[-1:], 0.0)
    try:
        found = float(words[:-1] if unit else words) * (unit or 1.0)
    except ValueError:
        found = -1.0
    if not 0 <= found < 1e9:
        raise typer.BadParameter(f"{words!r} is no time: use 90, 90s, 10m, 2h or 1d")
    return found


class TaskNotDone(PaddockError):
    """The task did not end well."""

    code = "task-not-done"


class Lane(StrEnum):
    CRITICAL = "CRITICAL"
    HIGH = "HIGH"
    MEDIUM = "MEDIUM"
    LOW = "LOW"


Id = Annotated[str, typer.Argument(metavar="ID", help="The task's id.")]
WaitS = Annotated[float, typer.Option("--wait-s", min=0, help="How long to wait at the most.")]


def add(app: typer.Typer) -> None:
    app.add_typer(task, name="task")


@task.command()
def submit(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="A fleet, or one agent: critic, critic/0.", show_default=False)],
    method: Annotated[str, typer.Argument(help="What it is to do.", show_default=False)] = "",
    more: Annotated[list[Path] | None, typer.Argument(metavar="[PATH...]", help="More paths for --each.")] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option(help="key=text, key=@file (its text), key=@@text (a leading @), key:=JSON.", show_default=False),
    ] = None,
    args_json: Annotated[str, typer.Option(help="All arguments as one JSON object, or @file.")] = "",
    capability: Annotated[str, typer.Option(help="Any fleet that can do this; then give METHOD alone.")] = "",
    priority: Annotated[Lane, typer.Option(case_sensitive=False)] = Lane.MEDIUM,
    delay: Annotated[
        float, typer.Option(parser=seconds, metavar="TIME", help="Before it may start: 90, 90s, 10m, 2h or 1d.")
    ] = 0.0,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds it may run; 0: the method's own limit.")] = 0.0,
    key: Annotated[str, typer.Option(help="Idempotency key: the same key is the same task.")] = "",
    each: Annotated[
        list[Path] | None,
        typer.Option(help="One task for each *.py file in these, with its text as source and its name as path."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the result and print it.")] = False,
    wait_s: WaitS = WAIT_S_MAX,
    output: show.Output = show.Form.TABLE,
) -> None:
    """Submit a task: paddock task submit critic review --arg source=@file.py --wait"""
    if capability and not method:
        target, method = "", target
    if not method or bool(capability) == bool(target):
        raise typer.BadParameter("say who and what: FLEET METHOD, FLEET/NAME METHOD, or --capability C METHOD")
    request = {
        ("agent" if "/" in target else "fleet"): target,
        "capability": capability,
        "method": method,
        "args": arguments(arg or [], args_json),
        "priority": priority.value,
        "delay_s": delay,
        "timeout_s": timeout,
        "key": key,
    }
    request = {name: value for name, value in request.items() if value not in ("", 0.0)}
    if more and not each:
        raise typer.BadParameter(f"{more[0]} is one word too many (arguments go into --arg, paths behind --each)")
    with session(context).api() as api:
        if each:
            from paddock.cli.each import submit_each

            submit_each(api, request, [*each, *(more or [])], wait_s=wait_s, form=output)
            return
        view = api.post("/api/v1/tasks", request)
        if wait:
            _finish(_wait(api, view, wait_s), output)
        elif output is show.Form.TABLE:
            typer.echo(view["id"])
        else:
            show.dump(view, output)


@task.command("get")
def get_task(context: typer.Context, task_id: Id, output: show.Output = show.Form.TABLE) -> None:
    """Show one task."""
    from paddock.cli.client import path_of

    with session(context).api() as api:
        show.facts(api.get(path_of("tasks", task_id)), output)


@task.command("list")
def list_tasks(
    context: typer.Context,
    fleet: Annotated[str, typer.Option(help="Only of this fleet.")] = "",
    state: Annotated[str, typer.Option(help="Only in this state.")] = "",
    agent: Annotated[str, typer.Option(help="Only of this agent.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=LIMIT)] = 50,
    output: show.Output = show.Form.TABLE,
) -> None:
    """List tasks, the newest first."""
    with session(context).api() as api:
        items = list(api.pages("/api/v1/tasks", limit=limit, fleet=fleet, state=state, agent=agent))
    show.rows(items, task_columns(), output, empty="no tasks")


@task.command()
def cancel(context: typer.Context, task_id: Id, output: show.Output = show.Form.TABLE) -> None:
    """Cancel a task that has not ended."""
    _act(context, task_id, "cancel", output)


@task.command()
def replay(context: typer.Context, task_id: Id, output: show.Output = show.Form.TABLE) -> None:
    """Submit a task that failed, is dead or was cancelled once more, as a new one."""
    _act(context, task_id, "replay", output)


def _act(context: typer.Context, task_id: str, verb: str, output: show.Form) -> None:
    from paddock.cli.client import path_of

    with session(context).api() as api:
        view = api.post(f"{path_of('tasks', task_id)}/{verb}")
    if output is show.Form.TABLE:
        typer.echo(f"{view['id']} {view['state']}")
    else:
        show.dump(view, output)


@task.command()
def wait(
    context: typer.Context, task_id: Id, wait_s: WaitS = WAIT_S_MAX, output: show.Output = show.Form.TABLE
) -> None:
    """Wait for a task to end and print its result."""
    from paddock.cli.client import path_of

    with session(context).api() as api:
        _finish(_wait(api, api.get(path_of("tasks", task_id)), wait_s), output)


def _wait(api: Any, view: dict[str, Any], wait_s: float) -> dict[str, Any]:
    """The task once it has ended, or as it is when the time is over."""
    from paddock.cli.client import WAIT_S, path_of

    end = time.monotonic() + wait_s
    while view["state"] not in ENDED and (left := end - time.monotonic()) > 0:
        view = api.get(path_of("tasks", view["id"]), wait_s=round(min(left, WAIT_S), 3))
    return view


def _finish(view: dict[str, Any], output: show.Form) -> None:
    """Print the result; a task that is not done is an error."""
    if output is not show.Form.TABLE:
        show.dump(view, output)
    elif view["state"] == "done":
        result = view.get("result")
        typer.echo(result if isinstance(result, str) else json.dumps(result, indent=2, ensure_ascii=False))
    if view["state"] != "done":
        raise TaskNotDone(why_not(view))


def why_not(view: dict[str, Any]) -> str:
    """One sentence about a task that did not end well, or has not ended."""
    error = view.get("error") or {}
    if view["state"] not in ENDED:
        return f"task {view['id']} has not ended, it is {view['state']}: go on with 'paddock task wait {view['id']}'"
    told = ": ".join(str(error[part]) for part in ("code", "message") if error.get(part))
    where = f" (at {error['where']})" if error.get("where") else ""
    return f"task {view['id']} is {view['state']}{told and f': {told}'}{where}"


def arguments(pairs: list[str], whole: str) -> dict[str, Any]:
    """The arguments of a task from `--args-json` and `--arg`; the latter win."""
    args: dict[str, Any] = {}
    if whole:
        value = _json("--args-json", _text(whole))
        if not isinstance(value, dict):
            raise Refused('--args-json is not a JSON object: write it like \'{"name": "value"}\'')
        args.update(value)
    for pair in pairs:
        key, equals, value = pair.partition("=")
        as_json = key.endswith(":")
        key = key.removesuffix(":")
        if not equals or not key.isidentifier():
            raise Refused(f"--arg {pair[:60]!r} is not of the form key=text, key=@file or key:=JSON")
        args[key] = _json(f"--arg {key}", value) if as_json else _text(value)
    return args


def _text(value: str) -> str:
    """`@file` is the file's text, `@@…` is `@…`, everything else is itself."""
    if value.startswith("@@") or not value.startswith("@"):
        return value.removeprefix("@")
    return read_text(
        Path(value[1:]),
        bytes_max=FILE_BYTES_MAX,
        large="more than a task may carry",
        wanted="arguments of tasks are text files",
    )


def _json(what: str, text: str) -> Any:
    def refuse(constant: str) -> Any:
        raise Refused(f"{what} holds {constant}, which is not JSON: use null or a number")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{what} is not JSON ({error}): strings need double quotes") from error
