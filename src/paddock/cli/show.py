"""How answers look: tables of 80 columns, JSON, YAML. States are words; colour only repeats them."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paddock.decide.redact import plain

WIDTH_UNKNOWN = 200
"""Columns of a table that goes into a file or a pipe, unless $COLUMNS says otherwise: a program cuts by itself."""

COLOURS = {
    "ready": "green",
    "done": "green",
    "running": "cyan",
    "pending": "yellow",
    "starting": "yellow",
    "degraded": "yellow",
    "draining": "yellow",
    "stopping": "yellow",
    "failed": "red",
    "dead": "red",
    "quarantined": "red",
}


ROOM_MIN = 30
"""Columns that sentences need beside others; with less they go beneath their line."""
BENEATH = "    "
UNIX_S_MIN = 1e8
"""A time in 1973; what is less, whatever its name ends with, is no time of this software."""

EXACT = frozenset(("args", "result", "config", "env", "data", "command"))
"""What authors of agents gave or returned; shown as it is."""


class Form(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


Output = Annotated[Form, typer.Option("--output", "-o", help="How to print.")]


_pictures: list[Console] = []
"""Consoles on stderr that have a picture standing now, the last one on top."""


def console(*, err: bool = False) -> Console:
    """Made at each use, so that it writes to what stdout is now; honours NO_COLOR."""
    if err and _pictures:
        return _pictures[-1]
    out = sys.stderr if err else sys.stdout
    unknown = not out.isatty() and "COLUMNS" not in os.environ
    return Console(file=out, width=WIDTH_UNKNOWN if unknown else None, highlight=False)


@contextmanager
def picture(out: Console) -> Iterator[None]:
    """While something stands on this console that is drawn anew all the time, lines for people are written by it too:
    it puts them above. Another console would write into the picture."""
    _pictures.append(out)
    try:
        yield
    finally:
        _pictures.remove(out)


def say(text: str) -> None:
    """A line about what goes on, for people: on stderr, so that stdout holds only what was asked for."""
    console(err=True).print(escape(text), soft_wrap=True)


def warn(text: str) -> None:
    console(err=True).print(f"[yellow]Warning:[/] {escape(text)}", soft_wrap=True)


def wrapped(text: str, *, indent: int = 0, taken: int = 0) -> str:
    """Text in the width of the terminal, its further lines that far in, the first one after so many columns that are
    taken already; as it is when there is no terminal."""
    wide = console().width
    if wide == WIDTH_UNKNOWN:
        return text
    blanks, further = " " * taken, " " * indent
    filled = textwrap.fill(
        text, max(wide, indent + 20), initial_indent=blanks, subsequent_indent=further, break_on_hyphens=False
    )
    return filled[taken:]


def dump(value: Any, form: Form) -> None:
    """Print as JSON or YAML (a table is the caller's)."""
    if form is Form.YAML:
        import yaml

        typer.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)
    else:
        typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def rows(items: Sequence[Any], columns: Mapping[str, Callable[[Any], Any]], form: Form, *, empty: str = "") -> None:
    """Print a list: as a table with these columns, or whole as JSON or YAML."""
    if form is not Form.TABLE:
        dump(list(items), form)
    elif not items:
        say(empty or "none")
    elif _crowded(items, columns):
        *others, last = columns
        head, *lines = _lines(table(items, {name: columns[name] for name in others}))
        typer.echo(head)
        for item, line in zip(items, lines, strict=True):
            typer.echo(line)
            if text := _line(columns[last](item)):
                typer.echo(BENEATH + wrapped(_text(text), indent=len(BENEATH), taken=len(BENEATH)))
    else:
        typer.echo("\n".join(_lines(table(items, columns))))


def _lines(table: Table) -> list[str]:
    out = console()
    with out.capture() as printed:
        out.print(table)
    # A pipe is taken to be wide: nobody wants the blanks up to its end.
    return [line.rstrip() for line in printed.get().splitlines()]


def _crowded(items: Sequence[Any], columns: Mapping[str, Callable[[Any], Any]]) -> bool:
    """Whether the last column, which holds sentences, has too little room beside the others."""
    *others, last = columns
    taken = sum(2 + max(len(name), *(len(_text(_line(columns[name](item)))) for item in items)) for name in others)
    longest = max(len(_text(_line(columns[last](item)))) for item in items)
    return longest > (room := console().width - taken) and room < ROOM_MIN


def table(items: Iterable[Any], columns: Mapping[str, Callable[[Any], Any]]) -> Table:
    """Numbers stand right. When it is narrow the last column gives way and goes over several lines; nothing is cut."""
    result = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    cells = [[_line(column(item)) for column in columns.values()] for item in items]
    last = len(columns) - 1
    for index, name in enumerate(columns):
        numeric = any(isinstance(line[index], int | float) for line in cells)
        result.add_column(
            name,
            justify="right" if numeric else "left",
            no_wrap=index < last,
            overflow="fold" if index in (0, last) else "ellipsis",
            min_width=min(36 if index == 0 else 24, max(len(name), *(len(_text(line[index])) for line in cells), 0))
            if index < last
            else None,
        )
    for line in cells:
        result.add_row(*(_cell(value) for value in line))
    return result


def _line(value: Any) -> Any:
    """A cell is one line, whatever a stranger wrote into it."""
    return " ".join(value.split()) if isinstance(value, str) else value


def _text(value: Any) -> str:
    return "-" if value is None or value == "" else plain(str(value))


def _cell(value: Any) -> str:
    text = _text(value)
    colour = COLOURS.get(text)
    return f"[{colour}]{escape(text)}[/]" if colour else escape(text)


def facts(value: Mapping[str, Any], form: Form) -> None:
    """Print one thing: name and value a line, nested values as YAML below without what is empty. Times, durations and
    sizes are written for people."""
    if form is not Form.TABLE:
        dump(value, form)
        return
    import yaml

    out = console()
    width = max((len(key) for key in value), default=0)
    for key, item in value.items():
        item = for_people(key, item)
        if isinstance(item, dict | list) and item:
            text = yaml.safe_dump(item, sort_keys=False, allow_unicode=True).rstrip()
            block = "\n".join(f"    {line}" for line in text.splitlines())
            out.print(f"[bold]{escape(key)}[/]\n{escape(block)}", soft_wrap=True)
        else:
            shown = "-" if item in (None, "", [], {}) else item
            out.print(f"[bold]{escape(key.ljust(width))}[/]  {_cell(shown)}", soft_wrap=True)


def for_people(key: str, value: Any) -> Any:
    """`value` as it is read: what its name says it is (`…_at`, `…_s`, `…_bytes`), and of nested ones what is there."""
    if key in EXACT:
        return value
    if isinstance(value, dict):
        told = {name: for_people(str(name), item) for name, item in value.items()}
        return {name: item for name, item in told.items() if item not in (None, "", [], {})}
    if isinstance(value, list):
        plain = all(isinstance(item, str | int | float) for item in value)
        return ", ".join(map(str, value)) if plain else [for_people("", item) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    time_like = key.endswith("_at") or key in ("at", "not_before", "kept_until")
    if time_like and (not value or value >= UNIX_S_MIN):
        return f"{moment(value)} {zone()}"
    if key.endswith("_s") and value >= 60:
        return duration(value)
    if key.endswith("_bytes") and value >= 2**20:
        return size(value)
    return value


def size(count_bytes: float) -> str:
    """`312.0 MiB`, `23.5 GiB`."""
    return f"{count_bytes / 2**30:.1f} GiB" if count_bytes >= 2**30 else f"{count_bytes / 2**20:.1f} MiB"


def duration(seconds: float | None) -> str:
    """`42s`, `3m10s`, `5h02m`, `12d3h`."""
    if seconds is None:
        return "-"
    whole = max(0, int(seconds))
    days, hours, minutes = whole // 86_400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d{hours}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{whole % 60:02}s" if minutes else f"{whole}s"


def moment(at: float | None) -> str:
    """A unix time as local time, with the date."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if at else "-"


def zone() -> str:
    """Of local times, such as `CEST`."""
    return time.strftime("%Z")
