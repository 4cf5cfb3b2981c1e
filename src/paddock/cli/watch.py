"""What a foreground `up` shows: the fleets, live on a terminal; elsewhere a line when something changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from rich.console import Group
from rich.text import Text

from paddock.app.keeper import Keeper
from paddock.cli import show
from paddock.cli.client import Api
from paddock.cli.look import fleet_columns
from paddock.model.errors import PaddockError

LOOK_S = 1.0


async def watch(api: Api, keeper: Keeper) -> None:
    """Show until a stop is asked for. A server that does not answer is shown, not an error: the keeper sees to it."""
    out = show.console(err=True)
    if not out.is_terminal:
        last = ""
        async for fleets, trouble in _looks(api, keeper):
            now = trouble or ", ".join(f"{fleet['name']} {fleet['ready']}/{fleet['wanted']} ready" for fleet in fleets)
            if now and now != last:
                show.say(now)
            last = now
        return
    from rich.live import Live

    with show.picture(out), Live(console=out, auto_refresh=False, transient=True) as live:
        async for fleets, trouble in _looks(api, keeper):
            live.update(picture(fleets, trouble, api.url), refresh=True)


async def _looks(api: Api, keeper: Keeper) -> AsyncIterator[tuple[list[dict[str, Any]], str]]:
    fleets: list[dict[str, Any]] = []
    while not keeper.stopping:
        trouble = ""
        try:
            answer = await asyncio.to_thread(api.get, "/api/v1/fleets")
            fleets = list(answer["items"] if isinstance(answer, dict) else answer)
        except PaddockError as error:
            trouble = error.message
        yield fleets, trouble
        await keeper.stop_asked(LOOK_S)


def picture(fleets: list[dict[str, Any]], trouble: str, url: str) -> Group:
    """The table of fleets under one line with the address, and what is wrong below it."""
    columns = {name: column for name, column in fleet_columns().items() if name not in ("runtime", "methods")}
    lines: list[Any] = [Text(f"Paddock at {url}; Ctrl-C stops everything in order", style="bold")]
    lines.append(show.table(fleets, columns) if fleets else Text("no fleets yet: paddock apply MANIFEST"))
    if trouble:
        lines.append(Text(f"Warning: {trouble}", style="yellow"))
    return Group(*lines)
