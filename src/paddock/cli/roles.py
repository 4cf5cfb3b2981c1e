"""The processes of one machine: `node` for people, `role …` (hidden) for the keeper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from paddock.app import machine
from paddock.app.data import DataDir, Locked
from paddock.app.keeper import ALREADY_RUNS
from paddock.cli import show
from paddock.cli.session import session

role = typer.Typer(help="Run one role in this process.", no_args_is_help=True)


def add(app: typer.Typer) -> None:
    app.command()(node)
    app.add_typer(role, name="role", hidden=True)


def node(
    context: typer.Context,
    name: Annotated[str, typer.Option(help="The node's name.")] = machine.NODE,
) -> None:
    """Run the node of this data directory in the foreground: it keeps the agents alive that are placed on it."""
    node_role(context, name)


@role.command("node")
def node_role(context: typer.Context, node: Annotated[str, typer.Option()] = machine.NODE) -> None:
    """Run the node. SIGTERM stops its agents, then it; SIGHUP or a kill leaves them running."""
    from paddock.app.roles import run_node
    from paddock.model.names import check_name

    check_name("node", node)
    data = DataDir.open(session(context).data)
    _run(lambda: run_node(data, node=node))


@role.command("sync")
def sync_role(context: typer.Context) -> None:
    """Run the syncer: it puts on disk what the fabric took, and says so to who asks."""
    from paddock.app.roles import run_sync

    data = DataDir.open(session(context).data)
    _run(lambda: run_sync(data))


@role.command("server")
def server_role(context: typer.Context, port: Annotated[int, typer.Option(min=1, max=65535)] = 8000) -> None:
    """Run the server."""
    from paddock.app.roles import run_server

    data = DataDir.open(session(context).data)
    _run(lambda: run_server(data, port=port))


def _run(role: Callable[[], int]) -> None:
    try:
        code = role()
    except Locked as error:  # one runs already: the keeper adopts that
        show.say(error.message)
        raise typer.Exit(ALREADY_RUNS) from None
    raise typer.Exit(code)


@role.command("keeper")
def keeper_role(
    context: typer.Context,
    port: Annotated[int, typer.Option()] = 8000,
    durability: Annotated[str, typer.Option()] = "always",
    report_fd: Annotated[int, typer.Option(help="Where to tell the progress of the start.")] = 2,
) -> None:
    """Run the keeper, for `up --detach`."""
    import asyncio

    from paddock.cli.up import keep_detached

    data = DataDir.open(session(context).data)
    raise typer.Exit(asyncio.run(keep_detached(data, port=port, durability=durability, report_fd=report_fd)))
