"""The one table of `./dev bench`: ours, its target, the peers, and the ratio of ours to the best of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

WIDTHS = {"measure": 22, "paddock": 23, "target": 16, "peers": 42, "ratio": 7}
WIDTH = sum(WIDTHS.values()) + 2 * len(WIDTHS)


def show(path: Path, console: Console | None = None) -> None:
    """Print what `row` and `note` have written to this file."""
    console = console or Console(width=WIDTH, highlight=False)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    table = Table(box=box.SIMPLE_HEAD, show_lines=True, show_edge=False)
    for name, width in WIDTHS.items():
        table.add_column(name, width=width)
    for cells in lines(row for row in rows if "note" not in row):
        table.add_row(*map(escape, cells))
    console.print(table)
    for text in dict.fromkeys(row["note"] for row in rows if "note" in row):
        console.print(f"  {text}", markup=False, soft_wrap=True)


def lines(rows: Iterable[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The cells of each measure, in the order in which the measures came first."""
    measures: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        measures.setdefault(row["measure"], []).append(row)
    return [cells(measure, held) for measure, held in measures.items()]


def cells(measure: str, rows: list[dict[str, Any]]) -> tuple[str, ...]:
    ours = [row for row in rows if row["who"] == "paddock"]
    peers = [row for row in rows if row["who"] != "paddock"]
    values = [row["value"] for row in peers if row["value"]]
    ratio = ""
    if values and ours and ours[-1]["value"]:
        best = max(values) if "/s" in measure else min(values)
        share = ours[-1]["value"] / best
        ratio = f"{share:.2f} ×" if share >= 0.1 else f"{share:.4f} ×"
    return (
        measure,
        "\n".join(row["figure"] for row in ours) or "not measured",
        "\n".join(filter(None, (f"{row['target']}{verdict(row['met'])}" for row in ours))),
        "\n".join(f"{row['who']}: {row['figure']}" for row in peers),
        ratio,
    )


def verdict(met: bool | None) -> str:
    return "" if met is None else "\nmet" if met else "\nMISSED"
