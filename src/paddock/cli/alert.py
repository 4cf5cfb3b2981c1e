"""Commands about telling people: alert test."""

from __future__ import annotations

from typing import Annotated

import typer

from paddock.cli import show
from paddock.cli.session import session
from paddock.model.errors import PaddockError


class Unreached(PaddockError):
    """Some channels reach nobody."""

    code = "unreached"


def add(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Tell people: try the channels of 'notifications'.")
    group.command("test")(try_channels)
    app.add_typer(group, name="alert")


def try_channels(
    context: typer.Context,
    channel: Annotated[str, typer.Argument(metavar="[CHANNEL]", help="Left out: all.", show_default=False)] = "",
    output: show.Output = show.Form.TABLE,
) -> None:
    """Send a test message by one channel, or by each, and say what came of it."""
    with session(context).api() as api:
        items = api.post("/api/v1/alerts/test", {"channel": channel})["items"]
    if output is not show.Form.TABLE:
        show.dump(items, output)
    for item in items if output is show.Form.TABLE else ():
        typer.echo(f"{item['channel']:<20} {'ok' if item['ok'] else item['text']}")
    bad = [item["channel"] for item in items if not item["ok"]]
    if bad:
        raise Unreached(f"{', '.join(bad)} reached nobody: see above; docs/alerts.md says what each channel needs")
