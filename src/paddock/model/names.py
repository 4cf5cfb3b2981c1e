"""Names that people give: fleets, agents, nodes, methods, task ids. All are safe as subject tokens and file names."""

from __future__ import annotations

import re

from paddock.model.errors import Refused

NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")
METHOD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
TASK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def check_name(kind: str, text: object) -> str:
    """Return `text` if it is a good name, else raise Refused with the `kind` of name and what is allowed."""
    if isinstance(text, str) and NAME.fullmatch(text):
        return text
    raise Refused(
        f"{kind} {text!r} is not a name: use 1 to 63 of a-z, 0-9, '-' and '_', first and last a letter or digit"
    )


def split_agent(text: str) -> tuple[str, str]:
    """`fleet/name` → (fleet, name); Refused when it is not of that form."""
    fleet, slash, name = text.partition("/")
    if not slash:
        raise Refused(f"agent {text!r} is not of the form fleet/name, such as executor/0")
    return check_name("fleet", fleet), check_name("agent", name)


def check_task_id(text: str) -> str:
    """Return `text` if it may be a task id (1 to 64 of letters, digits, '-', '_'), else raise Refused."""
    if TASK_ID.fullmatch(text):
        return text
    raise Refused(f"task id {text!r} is not of 1 to 64 letters, digits, '-' and '_'")
