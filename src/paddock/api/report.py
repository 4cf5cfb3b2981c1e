"""Reports as one HTML page each: no script, no request to anywhere, plots drawn as SVG, readable in the dark."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterable, Sequence

from paddock.decide.kpi import total
from paddock.model.health import Band, Score
from paddock.model.incident import Incident
from paddock.model.kpi import FleetPoint, HealthReport, Kpi, KpiReport, Slo, amount

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 720, 168, 56, 8, 20
BARS_MAX = 240
"""Stretches of one plot; more are drawn several to a bar."""
ROWS_MAX = 200
MISSING = "Time in which wanted agents were not ready"
NUMBER_CLASS = ' class="n"'
NUMBER = f"<td{NUMBER_CLASS}>"

STYLE = """
:root { color-scheme: light dark; --line: #8886; --bar: #2a6fb0; --bad: #b3261e; --good: #2e7d32; }
@media (prefers-color-scheme: dark) { :root { --bar: #7ab8f5; --bad: #ff8a80; --good: #81c784; } }
main { overflow-x: auto; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; min-width: 40%; margin: .5rem 0 1.5rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
svg { width: 100%; height: auto; } rect { fill: var(--bar); } svg.missing rect { fill: var(--bad); }
text { font-size: 11px; fill: currentColor; }
line { stroke: var(--line); } h2 { margin-top: 2rem; } caption { text-align: left; padding: .2rem 0; }
"""


def kpi_page(report: KpiReport) -> str:
    """Key figures, objectives, plots over time, incidents."""
    whom = f"fleet {report.fleet}" if report.fleet else "all fleets"
    title = f"Key figures of {whom}, the last {_span(report.since_s)}"
    parts = [
        _table("Key figures", ("figure", "value", "target", "", "what it is"), map(_kpi_row, report.kpis)),
        _table(
            "Objectives",
            ("fleet", "objective", "promised", "value", "error budget left", "burn rates", ""),
            map(_slo_row, report.objectives),
        ),
        _plots(report.points),
        _incidents("Incidents", report.incidents),
    ]
    return _page(title, report.at, parts)


def health_page(report: HealthReport) -> str:
    """Bands, fleets, the worst agents and why, open incidents."""
    order = [*reversed(Band), *sorted(set(report.bands) - set(Band))]
    bands = ((_text(band), _number(float(report.bands[band]))) for band in order if band in report.bands)
    fleets = (
        (_text(name), _number(held["agents"]), _number(held["lowest"]), _number(held["mean"]))
        for name, held in report.fleets.items()
    )
    worst = (
        (_text(score.id), _number(float(score.score)), _text(_band(score)), _text(_why(score)))
        for score in report.worst
    )
    parts = [
        _table("Agents by band", ("band", "agents"), bands),
        _table("Fleets", ("fleet", "agents", "lowest score", "mean score"), fleets),
        _table("The worst, and why", ("agent", "score", "band", "what pulls it down"), worst),
        _incidents("Open incidents", report.open),
    ]
    return _page("Health", report.at, parts)


# --- parts


def _page(title: str, at: float, parts: Iterable[str]) -> str:
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main><h1>{html.escape(title)}</h1><p>Made by Paddock, {when}.</p>\n{body}\n</main></body></html>\n"
    )


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = list(rows)
    lines = [f"<tr>{''.join(row)}</tr>" for row in cells]
    shown = lines[:ROWS_MAX]
    heading = f"<h2>{html.escape(title)}</h2>"
    if not lines:
        return f"{heading}<p>None.</p>"
    more = f"<p>… and {len(lines) - len(shown)} more.</p>" if len(lines) > len(shown) else ""
    numbers = [cell.startswith(NUMBER) for cell in cells[0]]
    head = "".join(
        f'<th scope="col"{NUMBER_CLASS if number else ""}>{html.escape(name)}</th>'
        for name, number in zip(heads, numbers, strict=True)
    )
    return f"{heading}<table><thead><tr>{head}</tr></thead><tbody>{''.join(shown)}</tbody></table>{more}"


def _band(score: Score) -> str:
    """Held: its score is outside of the band, and not for long enough to leave it."""
    return f"{score.band} (held)" if score.outside else str(score.band)


def _why(score: Score) -> str:
    return "; ".join([*score.because, *(forecast.text for forecast in score.forecasts)])


def _kpi_row(kpi: Kpi) -> Sequence[str]:
    verdict = "" if kpi.good is None else "met" if kpi.good else "missed"
    target = "" if kpi.target is None else amount(kpi.target, kpi.unit)
    return (
        _text(kpi.name),
        _text(amount(kpi.value, kpi.unit), "n"),
        _text(target, "n"),
        _text(verdict, {"met": "good", "missed": "bad"}.get(verdict, "")),
        _text(kpi.text),
    )


def _slo_row(slo: Slo) -> Sequence[str]:
    burns = ", ".join(f"{_span(window_s)}: {rate:.1f} x" for window_s, rate in slo.burns)
    return (
        _text(slo.fleet),
        _text(f"{slo.objective.name} ({slo.objective.measure})"),
        _text(amount(slo.objective.share, "share"), "n"),
        _text(amount(slo.value, "share"), "n"),
        _text(amount(slo.budget_left, "share"), "n"),
        _text(burns),
        _text(slo.alarm, "bad" if slo.alarm else ""),
    )


def _incidents(title: str, incidents: Sequence[Incident]) -> str:
    rows = (
        (
            _number(float(incident.id)),
            _text(time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(incident.opened_at))),
            _text(incident.about),
            _text(incident.cause),
            _text(incident.state, "good" if incident.recovered_at else ""),
            _text(incident.title),
        )
        for incident in incidents
    )
    return _table(title, ("number", "opened (UTC)", "about", "cause", "state", "what"), rows)


def _plots(points: Sequence[FleetPoint]) -> str:
    """What was, over time: one bar a stretch of all fleets together."""
    stretches: dict[float, list[FleetPoint]] = {}
    for point in points:
        stretches.setdefault(round(point.at, 1), []).append(point)
    ordered = [stretches[at] for at in sorted(stretches)]
    step = max(1, -(-len(ordered) // BARS_MAX))
    groups = [[point for held in ordered[i : i + step] for point in held] for i in range(0, len(ordered), step)]
    sums = [total(group) for group in groups]
    starts = [min(point.at for point in group) for group in groups]
    spans = [sum({point.at: point.span_s for point in group}.values()) for group in groups]
    plots: tuple[tuple[str, list[float | None], Callable[[float], str]], ...] = (
        (MISSING, [None if held.availability is None else 1 - held.availability for held in sums], _share),
        (
            "Tasks done a minute",
            [held.done / span_s * 60 if span_s else 0.0 for held, span_s in zip(sums, spans, strict=True)],
            lambda value: f"{value:,.0f}",
        ),
        ("Mean response time, s", [held.mean_s for held in sums], lambda value: f"{value:.3g}"),
    )
    return "\n".join(_bars(title, values, starts, shown) for title, values, shown in plots)


def _bars(title: str, values: Sequence[float | None], starts: Sequence[float], shown: Callable[[float], str]) -> str:
    """A bar for each value; a gap where nothing was measured."""
    known = [value for value in values if value is not None]
    if not known:
        return f"<h2>{html.escape(title)}</h2><p>Nothing was measured.</p>"
    most = max(known) or 1.0
    width, floor = (WIDTH - LEFT) / len(values), HEIGHT - BOTTOM
    bars = "".join(
        f'<rect x="{LEFT + index * width:.1f}" y="{TOP + (floor - TOP) * (1 - value / most):.1f}" '
        f'width="{max(width - 1, 0.5):.1f}" height="{(floor - TOP) * value / most:.1f}">'
        f"<title>{_clock(at)}: {html.escape(shown(value))}</title></rect>"
        for index, (value, at) in enumerate(zip(values, starts, strict=True))
        if value is not None
    )
    mark = ' class="missing"' if title == MISSING else ""
    label = f"{title}: from {shown(min(known))} to {shown(max(known))}"
    return (
        f"<h2>{html.escape(title)}</h2>"
        f'<svg{mark} viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">'
        f'<line x1="{LEFT}" y1="{floor}" x2="{WIDTH}" y2="{floor}"/>'
        f'<text x="0" y="{TOP + 4}">{html.escape(shown(most))}</text>'
        f'<text x="0" y="{floor}">{html.escape(shown(0.0))}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 4}">{_clock(starts[0])}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 4}" text-anchor="end">{_clock(starts[-1])}</text>{bars}</svg>'
    )


def _share(value: float) -> str:
    return f"{value:.3%}" if value < 0.01 else f"{value:.1%}"


def _clock(at: float) -> str:
    return time.strftime("%m-%d %H:%M", time.gmtime(at))


def _span(seconds: float) -> str:
    for size, unit, least in ((86_400, "d", 2), (3600, "h", 1), (60, "min", 1)):
        if seconds >= size * least:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def _text(value: object, kind: str = "") -> str:
    mark = f' class="{kind}"' if kind else ""
    return f"<td{mark}>{html.escape(str(value))}</td>"


def _number(value: float) -> str:
    return f"{NUMBER}{value:,.0f}</td>"
