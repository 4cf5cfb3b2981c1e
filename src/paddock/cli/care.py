"""Commands about health and healing: explain, rollback, incident close, policy test, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from paddock.cli import show
from paddock.cli.files import read_text
from paddock.cli.session import session
from paddock.model.errors import PaddockError, Refused
from paddock.model.kpi import amount

incident = typer.Typer(no_args_is_help=True, help="Incidents: close one by hand.")
policy = typer.Typer(no_args_is_help=True, help="Policies: what one would do.")
ops = typer.Typer(no_args_is_help=True, help="Daily operations: list them, run one now.")
report = typer.Typer(no_args_is_help=True, help="Reports: health, key figures.")

CASE_BYTES_MAX = 100_000
ABOUT_CHARS_MAX = 30
"""Of what an incident is about, in a list; `explain` has the whole."""
DAY_S = 86_400.0
SINCE_S_MAX = 366 * DAY_S


def add(app: typer.Typer) -> None:
    app.command()(explain)
    app.command()(rollback)
    app.add_typer(incident, name="incident")
    app.add_typer(policy, name="policy")
    app.add_typer(report, name="report")
    app.add_typer(ops, name="ops")


def health_columns() -> dict[str, Any]:
    return {
        "agent": lambda s: s["id"],
        "score": lambda s: s["score"],
        "band": lambda s: f"{s['band']} (held)" if s.get("outside") else s["band"],
        "trend": lambda s: f"{s['trend_per_h']:+.0f}/h" if s.get("trend_per_h") else "-",
        "because": lambda s: "; ".join([*(s.get("because") or []), *(f["text"] for f in s.get("forecasts") or [])]),
    }


def incident_columns() -> dict[str, Any]:
    return {
        "number": lambda i: i["id"],
        f"opened ({show.zone()})": lambda i: show.moment(i["opened_at"]),
        "about": lambda i: (
            i["about"] if len(i["about"]) <= ABOUT_CHARS_MAX else i["about"][: ABOUT_CHARS_MAX - 1] + "…"
        ),
        "cause": lambda i: i["cause"],
        "state": lambda i: i.get("state", "open"),
        "steps": lambda i: sum(step.get("outcome") != "skipped" for step in i.get("steps") or []),
        "what": lambda i: i.get("note") or i["title"],
    }


def explain(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="incident", help="What to explain: incident.")],
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="As 'paddock get incidents' shows it.")],
    output: show.Output = show.Form.TABLE,
) -> None:
    """Say why: what was seen, what was done and why, and what came of it.

    Example: paddock explain incident 17
    """
    if kind != "incident":
        raise typer.BadParameter(f"{kind!r} cannot be explained; write: paddock explain incident {number}")
    with session(context).api() as api:
        told = api.get(f"/api/v1/incidents/{number}/explain")
    if output is not show.Form.TABLE:
        show.dump(told, output)
        return
    typer.echo(show.wrapped(f"Incident {number}: {told['summary']}"))
    for name, seconds in told["times"].items():
        typer.echo(f"  time to {name}: {seconds:.2f} s")
    if told["lines"]:
        typer.echo(f"\nTimes are {show.zone()}.")
    for line in told["lines"]:
        at = f"{show.moment(line['at'])}  "
        typer.echo(show.wrapped(at + line["text"], indent=len(at)))
    if told["now"]:
        typer.echo("\n" + show.wrapped(f"Now: {told['now']}"))


def rollback(context: typer.Context, fleet: Annotated[str, typer.Argument(show_default=False)]) -> None:
    """Bring back what a fleet was before its version changed last. Doing it again brings the change back."""
    from paddock.cli.client import path_of

    with session(context).api() as api:
        done = api.post(f"{path_of('fleets', fleet)}/rollback")
    show.say(f"{fleet} is version {done['version']} again; 'paddock get agents --fleet {fleet}' shows it come")


@incident.command()
def close(
    context: typer.Context,
    number: Annotated[int, typer.Argument(metavar="NUMBER")],
    why: Annotated[str, typer.Option(help="Kept with the incident.")] = "",
) -> None:
    """End an incident by hand; what a common cause held back goes on."""
    with session(context).api() as api:
        api.post(f"/api/v1/incidents/{number}/close", {"why": why})
    show.say(f"incident {number} is closed")


@policy.command("test")
def policy_test(
    context: typer.Context,
    case: Annotated[Path, typer.Argument(metavar="CASE", help="A YAML file with an imagined incident.")],
    output: show.Output = show.Form.TABLE,
) -> None:
    """Say what a fleet's policy would do about an imagined incident, and do nothing.

    A case names the fleet, a cause, and which actions would help:

    fleet: bot

    cause: hang

    helps: [redeploy]
    """
    with session(context).api() as api:
        told = api.post("/api/v1/policies/rehearse", read_case(case))
    if output is not show.Form.TABLE:
        show.dump(told, output)
        return
    typer.echo(f"By the policy {told['policy']}:")
    for line in told["lines"]:
        typer.echo(f"  after {show.duration(line['at_s']):>6}  {line['text']}")
    typer.echo(f"Outcome: {told['outcome']}")


@ops.command("list")
def ops_list(context: typer.Context) -> None:
    """Name the daily operations. Each runs once a day by itself; 'paddock get events' shows what they found."""
    with session(context).api() as api:
        for name in api.get("/api/v1/ops")["items"]:
            typer.echo(name)


@ops.command("run")
def ops_run(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Such as integrity-check.")],
    output: show.Output = show.Form.TABLE,
) -> None:
    """Run one now, and print what it found. Exit code 1 when something should be looked at."""
    from paddock.cli.client import path_of

    with session(context).api() as api:
        told = api.post(path_of("ops", name))
    if output is not show.Form.TABLE:
        show.dump(told, output)
    else:
        typer.echo(f"{name}: {told['text']}")
        for finding in told["findings"]:
            typer.echo(f"  - {finding}")
    if not told["ok"]:
        raise typer.Exit(1)


def read_case(path: Path) -> dict[str, Any]:
    """An imagined incident, read as strictly as manifests are; Refused tells the place of each mistake."""
    from paddock.model.yaml_source import ManifestSource, Mistakes, Table, parse, plain, without_end

    text = read_text(path, bytes_max=CASE_BYTES_MAX, large="that is no case", wanted="name a YAML file")
    source = ManifestSource(name=str(path), text=text, what="case", begins="'cause:' and, if you like, 'fleet:'")
    mistakes = Mistakes()
    tree = parse(source, mistakes)
    if tree is not None:
        for where in without_end(tree):
            mistakes.add(where, "write a finite number here")
    mistakes.refuse()
    if not isinstance(tree, Table):
        raise Refused(f"{path} holds no case: write a mapping with 'cause:' and, if you like, 'fleet:' and 'helps:'")
    return dict(plain(tree))


Fleet = Annotated[str, typer.Option(help="Only this fleet.")]
Html = Annotated[Path | None, typer.Option(help="Write one self-contained HTML page here.", show_default=False)]


@report.command("health")
def report_health(
    context: typer.Context, fleet: Fleet = "", html: Html = None, output: show.Output = show.Form.TABLE
) -> None:
    """How everybody is: bands, the worst and why, open incidents."""
    with session(context).api() as api:
        if html is not None:
            write_page(html, api.text("/api/v1/report/health", fleet=fleet, html="true"))
            return
        told = api.get("/api/v1/report/health", fleet=fleet)
    if output is not show.Form.TABLE:
        show.dump(told, output)
        return
    bands = ", ".join(f"{count} {band}" for band, count in sorted(told["bands"].items())) or "no agents"
    typer.echo(f"Agents: {bands}")
    columns = {
        "fleet": lambda f: f[0],
        "agents": lambda f: int(f[1]["agents"]),
        "lowest": lambda f: int(f[1]["lowest"]),
        "mean": lambda f: f"{f[1]['mean']:.0f}",
    }
    show.rows(list(told["fleets"].items()), columns, output, empty="no fleets")
    show.rows(told["worst"], health_columns(), output, empty="nobody is ill")
    show.rows(told["open"], incident_columns(), output, empty="no open incidents")


@report.command("kpi")
def report_kpi(
    context: typer.Context,
    since: Annotated[str, typer.Option(help="Of the last so long, such as 90m, 24h or 30d.")] = "24h",
    fleet: Fleet = "",
    html: Html = None,
    output: show.Output = show.Form.TABLE,
) -> None:
    """Key figures and how the objectives stand.

    Example: paddock report kpi --since 24h --html kpi.html
    """
    asked = {"since_s": seconds_of(since), "fleet": fleet}
    with session(context).api() as api:
        if html is not None:
            write_page(html, api.text("/api/v1/report/kpi", **asked, html="true"))
            return
        told = api.get("/api/v1/report/kpi", **asked)
    if output is not show.Form.TABLE:
        show.dump(told, output)
        return
    columns = {
        "figure": lambda k: k["name"],
        "value": lambda k: amount(k["value"], k["unit"]),
        "target": lambda k: amount(k["target"], k["unit"]) if k.get("target") is not None else "-",
        "verdict": lambda k: {True: "met", False: "missed", None: "-"}[k.get("good")],
        "what it is": lambda k: k["text"],
    }
    show.rows(told["kpis"], columns, output)
    if told["objectives"]:
        show.rows(told["objectives"], objective_columns(), output)


def objective_columns() -> dict[str, Any]:
    return {
        "fleet": lambda o: o["fleet"],
        "objective": lambda o: o["objective"]["name"],
        "promised": lambda o: amount(o["objective"]["share"], "share"),
        "value": lambda o: amount(o["value"], "share"),
        "budget left": lambda o: amount(o["budget_left"], "share"),
        "alarm": lambda o: o["alarm"] or "-",
    }


def seconds_of(text: str) -> float:
    """`90m`, `24h`, `30d` or seconds; Refused when it is neither, or nothing that a report can be of."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY_S}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1.0)
    try:
        since_s = float(number) * unit
    except ValueError:
        raise Refused(f"--since {text!r} is no time: write such as 90m, 24h or 30d") from None
    if not 60.0 <= since_s <= SINCE_S_MAX:
        raise Refused(f"--since {text!r} must be from 1m to {SINCE_S_MAX / DAY_S:.0f}d")
    return since_s


def write_page(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CannotWrite(f"{path} cannot be written: {error.strerror}") from error
    show.say(f"written: {path}")


class CannotWrite(PaddockError):
    """A file cannot be written."""

    code = "cannot-write"
