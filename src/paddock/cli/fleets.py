"""Commands that say what is wanted: apply, plan, scale, delete, heal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from paddock.cli import show
from paddock.cli.files import read_text
from paddock.cli.session import session
from paddock.model.errors import PaddockError

MANIFEST_BYTES_MAX = 1_000_000
"""More is not even read; the server's own limit is lower."""

READY_S_MAX = 300.0
RESTING = ("quarantined", "failed")
"""States that end by themselves only after long, or never."""

Manifests = Annotated[list[Path], typer.Argument(metavar="MANIFEST...", show_default=False)]
Wait = Annotated[float, typer.Option("--wait-s", min=0, help="How long to wait for agents; 0: do not wait.")]


class NotReady(PaddockError):
    """Not all agents became ready."""

    code = "not-ready"


def add(app: typer.Typer) -> None:
    app.command()(apply)
    app.command()(plan)
    app.command(context_settings={"ignore_unknown_options": True})(scale)  # -1 is a number that is refused, no option
    app.command()(delete)
    app.command()(heal)


def apply(
    context: typer.Context,
    manifests: Manifests,
    prune: Annotated[bool, typer.Option(help="Also remove fleets that no manifest names.")] = False,
    wait_s: Wait = READY_S_MAX,
    output: show.Output = show.Form.TABLE,
) -> None:
    """Make it so: create, change and scale the fleets of these manifests, and wait until they are ready."""
    from paddock.cli.ready import wait_fleets

    sources = read(manifests)
    with session(context).api() as api:
        done = api.post("/api/v1/apply", {"manifests": sources, "prune": prune})
        print_plan(done, output)
        if wait_s:
            raise_problems(wait_fleets(api, wanted_fleets(done), limit_s=wait_s))


def plan(
    context: typer.Context,
    manifests: Manifests,
    prune: Annotated[bool, typer.Option(help="As if fleets that no manifest names were removed.")] = False,
    output: show.Output = show.Form.TABLE,
) -> None:
    """Show what apply would change, and change nothing."""
    sources = read(manifests)
    with session(context).api() as api:
        print_plan(api.post("/api/v1/plan", {"manifests": sources, "prune": prune}), output)


def scale(
    context: typer.Context,
    fleet: str,
    replicas: Annotated[int, typer.Argument(metavar="N", min=0)],
    wait_s: Wait = READY_S_MAX,
) -> None:
    """Set how many agents a fleet has, and wait until they are ready."""
    from paddock.cli.client import path_of
    from paddock.cli.ready import wait_fleets

    with session(context).api() as api:
        api.post(f"{path_of('fleets', fleet)}/scale", {"replicas": replicas})
        if wait_s:
            raise_problems(wait_fleets(api, [fleet], limit_s=wait_s))
    show.say(f"{fleet} is scaled to {replicas}")


def delete(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="fleet", help="What to delete: fleet.")],
    fleet: Annotated[str, typer.Argument(metavar="NAME", help="As 'paddock get fleets' shows it.")],
    wait_s: Wait = READY_S_MAX,
) -> None:
    """Stop the agents of a fleet and want it no more; they end what they hold first.

    Example: paddock delete fleet coder
    """
    from paddock.cli.client import path_of
    from paddock.cli.ready import wait_gone

    if kind != "fleet":
        raise typer.BadParameter(f"{kind!r} cannot be deleted, a fleet can: paddock delete fleet NAME")
    with session(context).api() as api:
        api.call("DELETE", path_of("fleets", fleet))
        left = wait_gone(api, fleet, limit_s=wait_s) if wait_s else 0
    if left:
        raise NotReady(f"{fleet} is deleted, and {left} of its agents run still: see 'paddock get agents'")
    show.say(f"{fleet} is deleted")


def heal(
    context: typer.Context,
    agent: Annotated[str, typer.Argument(metavar="[ID]", help="Such as executor/0.", show_default=False)] = "",
    everything: Annotated[bool, typer.Option("--all", help="Every agent that is failed or quarantined.")] = False,
    action: Annotated[
        str | None,
        typer.Option(
            help="restart, restart-clean, redeploy (or recreate), …: what its runtime offers.", show_default=False
        ),
    ] = None,
) -> None:
    """Restart one agent (this lifts a quarantine), or all that have failed; or do one recovery action.

    Example: paddock heal bot/3 --action redeploy
    """
    from paddock.cli.client import agent_path

    if bool(agent) == everything:
        raise typer.BadParameter("name one agent, such as executor/0, or say --all")
    if action is not None and everything:
        raise typer.BadParameter("--action goes with one agent")
    with session(context).api() as api:
        if action is not None:
            done = api.post(f"{agent_path(agent)}/heal", {"action": action})
            told = "is done and being verified" if done["state"] != "escalated" else "is done: people are told"
            show.say(f"{action} of {agent} {told}: paddock explain incident {done['id']}")
            if action in ("degrade", "redistribute"):
                show.say(f"it stays so until it is restarted: paddock heal {agent}")
            return
        if agent:
            api.post(f"{agent_path(agent)}/restart")
            show.say(f"{agent} is restarted")
            return
        healed = api.post("/api/v1/heal")
        names = healed if isinstance(healed, list) else next((v for v in healed.values() if isinstance(v, list)), [])
        for name in names:
            typer.echo(name)
        show.say(f"{len(names)} restarted" if names else "no agent is failed or quarantined")


def read(paths: list[Path]) -> list[dict[str, str]]:
    """Manifests as the API takes them: text, name for messages, and the folder that relative paths start from."""
    return [_read(path) for path in paths]


def _read(path: Path) -> dict[str, str]:
    text = read_text(path, bytes_max=MANIFEST_BYTES_MAX, large="that is no manifest", wanted="name a manifest file")
    return {"name": str(path), "text": text, "folder": str(path.absolute().parent)}


def print_plan(plan: dict[str, Any], form: show.Form) -> None:
    if form is not show.Form.TABLE:
        show.dump(plan, form)
        return
    for warning in plan.get("warnings") or []:
        show.warn(str(warning))
    for change in plan["changes"]:
        restarts = change.get("restarts") or 0
        typer.echo(change["text"] + (f" (replaces {restarts} running)" if restarts else ""))
        for field, values in (change.get("fields") or {}).items():
            typer.echo(f"    {field}: {values[0]!r} -> {values[-1]!r}")
    if told := plan.get("notifications"):
        typer.echo(told)
    if not plan["changes"] and not told:
        typer.echo("nothing to change")


def wanted_fleets(plan: dict[str, Any]) -> list[str]:
    """The fleets that are there after this plan."""
    return [change["fleet"] for change in plan["changes"] if change["kind"] != "delete"]


def raise_problems(problems: list[str]) -> None:
    if problems:
        rests = any(f" is {state}: " in problem for problem in problems for state in RESTING)
        mended = ". When the cause is mended, 'paddock heal --all' tries at once" if rests else ""
        raise NotReady("; ".join(problems) + mended)
