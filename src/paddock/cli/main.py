"""The command `paddock`: its groups of commands, its global options, and how errors become exit codes.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage. An error is one sentence on stderr: what, where, what to do.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from paddock.cli import alert, care, fleets, look, roles, system, task, up
from paddock.cli.session import Session
from paddock.model.errors import PaddockError

GLOBAL = ("--data", "--url", "--token")


def hoist(args: list[str]) -> list[str]:
    """Move the global options to the front, wherever they stand before `--`: people write them last."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--":
            return [*front, *rest, word, *words]
        if word in GLOBAL:
            front += [word, *(value for value in [next(words, None)] if value is not None)]
        elif word.startswith(tuple(f"{option}=" for option in GLOBAL)):
            front.append(word)
        else:
            rest.append(word)
    return [*front, *rest]


class Root(TyperGroup):
    """Global options anywhere; every error of ours as one sentence and exit code 1."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, hoist(args))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PaddockError as error:
            typer.secho(f"Error: {error.message}", err=True, fg="red" if sys.stderr.isatty() else None)
            raise typer.Exit(1) from None


app = typer.Typer(
    name="paddock",
    cls=Root,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Keeps fleets of agents alive. Start with: paddock up MANIFEST",
    epilog="--data, --url and --token may stand before or after the command.",
)


@app.callback()
def options(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Option(help="Data directory; else $PADDOCK_DATA, else ./.paddock.", show_default=False),
    ] = None,
    url: Annotated[str, typer.Option(envvar="PADDOCK_URL", help="A server elsewhere; else that of --data.")] = "",
    token: Annotated[
        str, typer.Option(envvar="PADDOCK_TOKEN", help="API token; else that of --data. Prefer the variable.")
    ] = "",
) -> None:
    context.obj = Session(data=data, url=url, token=token)


up.add(app)
fleets.add(app)
look.add(app)
task.add(app)
care.add(app)
alert.add(app)
roles.add(app)
system.add(app)


def run() -> None:
    """Entry point of `paddock` and `python -m paddock`."""
    app(prog_name="paddock")
