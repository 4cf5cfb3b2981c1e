"""Commands about Paddock itself: doctor, schema, version."""

from __future__ import annotations

from typing import Annotated

import typer

from paddock.cli import show
from paddock.cli.session import session
from paddock.model.errors import PaddockError


class Unhealthy(PaddockError):
    """Something must be put right before Paddock can work here."""

    code = "unhealthy"


def add(app: typer.Typer) -> None:
    app.command()(doctor)
    app.command()(schema)
    app.command()(version)


def doctor(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port that the server is to have.")] = 8000,
    output: show.Output = show.Form.TABLE,
) -> None:
    """Check whether this machine can run Paddock, and say what to do where it cannot."""
    from paddock.app.doctor import examine

    checks = examine(session(context).data, port=port)
    if output is not show.Form.TABLE:
        show.dump([check.as_dict() for check in checks], output)
    for check in checks if output is show.Form.TABLE else ():
        typer.echo(f"{check.verdict:<7} {check.name:<15} {check.text}")
        if check.todo:
            typer.echo(f"{'':<23} -> {check.todo}")
    bad = [check.name for check in checks if check.verdict == "bad"]
    if bad:
        raise Unhealthy(f"{', '.join(bad)} must be put right before Paddock can work here: see above")


def schema(output: show.Output = show.Form.JSON) -> None:
    """Print the JSON Schema of manifests, for editors."""
    from paddock.model import manifest

    show.dump(manifest.schema(), show.Form.JSON if output is show.Form.TABLE else output)


def version() -> None:
    """Print the version."""
    from paddock import __version__

    typer.echo(f"paddock {__version__}")
