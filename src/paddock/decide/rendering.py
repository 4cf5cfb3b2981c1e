"""Alerts as people read them: one message of a channel, its title and its text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from paddock.model.notify import Alert, Message

TEXT_CHARS_MAX = 3500
"""Of a message: below the limit of every channel (Telegram's is 4,096)."""
ALERTS_MAX = 20
"""Alerts that a message spells out; of more the worst are, and the rest is counted."""
_EACH_CHARS_MAX = 600


def message(channel: str, alerts: Sequence[Alert], now: float, *, summary: bool, dropped: int) -> Message:
    """One message of all these alerts (at least one): what is worst and still open comes first. `dropped`: how many
    others there was no room for."""
    ordered = sorted(alerts, key=lambda alert: (alert.recovered, -alert.severity.rank))
    shown = ordered[:ALERTS_MAX]
    more = len(ordered) - len(shown) + dropped
    parts = [_part(alert) for alert in shown]
    kept = 1
    while kept < len(parts) and sum(map(len, parts[: kept + 1])) < TEXT_CHARS_MAX - 100:
        kept += 1
    more += len(parts) - kept
    text = "\n\n".join(parts[:kept]) + (f"\n\n… and {more:,} more" if more else "")
    return Message(
        channel=channel,
        at=now,
        severity=max((alert.severity for alert in ordered), key=lambda severity: severity.rank),
        title=_title(ordered, summary=summary),
        text=text[:TEXT_CHARS_MAX],
        recovered=all(alert.recovered for alert in ordered),
        alerts=shown[:kept],
    )


def _title(alerts: Sequence[Alert], *, summary: bool) -> str:
    first = f"[{_word(alerts[0])}] {_line(alerts[0])}"
    rest = f" (and {len(alerts) - 1:,} more)" if len(alerts) > 1 else ""
    return f"{'After quiet hours: ' if summary else ''}{first[:200]}{rest}"


def _word(alert: Alert) -> str:
    return "recovered" if alert.recovered else str(alert.severity)


def _line(alert: Alert) -> str:
    """One line, whatever was put into it: it becomes a subject of mail."""
    text = alert.title if not alert.about or alert.about in alert.title else f"{alert.about}: {alert.title}"
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _part(alert: Alert) -> str:
    at = datetime.fromtimestamp(alert.at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    lines = [f"[{_word(alert)}] {_line(alert)}", at]
    if alert.repeats:
        times = "time" if alert.repeats == 1 else "times"
        lines[-1] += f", came {alert.repeats:,} more {times} since it was last told"
    if alert.text:
        lines.append(alert.text[:_EACH_CHARS_MAX].strip())
    if alert.incident:
        lines.append(f"paddock explain incident {alert.incident}")
    return "\n".join(lines)
