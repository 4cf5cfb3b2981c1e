"""Which start of the host this is. Alone in its module, because also who imports little asks."""

from __future__ import annotations

from functools import cache


@cache
def boot_id() -> str:
    """Pids and start ticks begin anew with each start of the host: after another one they prove nothing."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def is_this_boot(boot: str) -> bool:
    """Whether the host was not started anew since; an empty one is from before this was noted."""
    return boot in ("", boot_id())
