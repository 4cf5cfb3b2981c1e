"""Ways to reach people: the log, mail, Telegram, webhooks. Each is a `Sender` of `ports/alerts.py`.

A channel sends one message and says whether it was accepted, within a time and with a bound on what it reads. What is
sent when, and what is tried again, is decided elsewhere (`decide/alerting.py`, `control/alerts.py`). Channels are
strangers to each other.
"""

from paddock.alerts.make import make_sender

__all__ = ["make_sender"]
