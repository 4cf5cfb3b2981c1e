"""Runs Python code in a sandboxed subprocess."""

from __future__ import annotations

from typing import Any

from paddock.agent import Agent, TaskError, task
from paddock.foundry import sandbox

MIB = 1024 * 1024
TIMEOUT_S_MAX = 300.0
MEMORY_BYTES_MIN, MEMORY_BYTES_MAX = 32 * MIB, 8192 * MIB
OUTPUT_BYTES_MAX = 300_000


class Executor(Agent):
    """Executes code that others wrote. Each run has a process, a folder and, where the system allows, a user, a network
    and a view of processes and files of its own; `isolation` in the result says which of these were in force."""

    @task(timeout_s=TIMEOUT_S_MAX + 30)
    def run(
        self,
        code: str,
        timeout_s: float = 10.0,
        memory_bytes: int = 512 * MIB,
        stdin: str = "",
        output_bytes_max: int = 100_000,
    ) -> dict[str, Any]:
        """Run Python code; returns stdout, stderr, exit_code or signal, timed_out, truncated, duration_s, cpu_s,
        memory_bytes_max and isolation. Limits: time on the wall, memory of one process, bytes of each output."""
        _within("timeout_s", timeout_s, 0.05, TIMEOUT_S_MAX)
        _within("memory_bytes", memory_bytes, MEMORY_BYTES_MIN, MEMORY_BYTES_MAX)
        _within("output_bytes_max", output_bytes_max, 0, OUTPUT_BYTES_MAX)
        if "\0" in code:
            raise TaskError("the code contains null bytes", code="bad-arguments")  # Python would stop reading there
        live = self._context is not None
        order = sandbox.Order(
            code=code,
            timeout_s=timeout_s,
            memory_bytes=memory_bytes,
            stdin=stdin,
            output_bytes_max=output_bytes_max,
            allow_unisolated=live and self.config.get("allow_unisolated") is True,
        )
        return sandbox.run(order, stop=lambda: live and self.cancelled)


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise TaskError(f"{name} must be {least:g} to {most:g}, not {value:g}", code="bad-arguments")
