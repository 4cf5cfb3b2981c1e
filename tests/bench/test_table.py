"""The table of ./dev bench: what stands beside what, and what is divided by what."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

RATE, TIME = "tasks/s, always", "submit → result"


def row(measure: str, who: str, value: float | None, **more: Any) -> dict[str, Any]:
    return {
        "measure": measure,
        "who": who,
        "figure": f"{who} {value}",
        "value": value,
        "target": "",
        "met": None,
        **more,
    }


def test_a_rate_is_divided_by_the_highest_of_the_peers_and_a_time_by_the_lowest() -> None:
    from _table import lines

    rows = [row(RATE, "rq", 50.0), row(RATE, "huey", 400.0), row(TIME, "rq", 0.5), row(TIME, "huey", 4.0)]
    rows += [row(RATE, "paddock", 1000.0), row(TIME, "paddock", 0.25)]

    rate, time = lines(rows)

    assert (rate[0], rate[-1]) == (RATE, "2.50 ×")
    assert (time[0], time[-1]) == (TIME, "0.50 ×")


def test_a_peer_that_is_not_here_is_said_and_one_without_a_value_is_not_divided_by() -> None:
    from _table import lines

    rows = [
        row(RATE, "arq", None, figure="not here: no network"),
        row(RATE, "huey, SQLite", None),
        row(RATE, "rq", 50.0),
    ]

    (cells,) = lines([*rows, row(RATE, "paddock", 100.0)])

    assert "arq: not here: no network" in cells[3]
    assert "huey, SQLite: " in cells[3]
    assert cells[-1] == "2.00 ×"


def test_without_a_peer_there_is_no_ratio_and_a_missed_target_is_said() -> None:
    from _table import lines

    (cells,) = lines([row(RATE, "paddock", 100.0, target="≥ 2 × the best", met=False)])

    assert cells[2:] == ("≥ 2 × the best\nMISSED", "", "")


def test_what_row_and_note_write_is_what_the_table_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from _bench import ROWS, note, row, times
    from _table import show

    monkeypatch.setenv(ROWS, str(tmp_path / "rows"))
    times(TIME, [0.001, 0.002, 0.003], p50_ms=2, p99_ms=2.5)
    row(TIME, "p50 [7] ms", who="rq", value=0.008)
    note("rq as it comes")
    printed, shown = capsys.readouterr().out, io.StringIO()

    show(tmp_path / "rows", Console(file=shown, width=200))

    assert "p50 2.00, p99 3.00 ms (n=3)" in printed
    assert all(text in shown.getvalue() for text in ("MISSED", "rq: p50 [7] ms", "0.25 ×", "rq as it comes"))
    assert len((tmp_path / "rows").read_text().splitlines()) == 3
    assert json.loads((tmp_path / "rows").read_text().splitlines()[0])["met"] is False
