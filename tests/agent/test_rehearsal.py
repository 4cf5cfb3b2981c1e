"""The rehearsal in the warm image leaves it fit to be forked."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

PROGRAM = """
    import json, os, signal, sys
    from paddock.agent import rehearsal

    def look():
        # The pipe of the event loop's signals stays, once for the process; so it is there before the first look.
        return {
            "threads": len(os.listdir("/proc/self/task")),
            "files": len(os.listdir("/proc/self/fd")),
            "signals": [str(signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)],
            "env": dict(os.environ),
        }

    rehearsal.rehearse(1)
    before = look()
    rehearsal.rehearse()
    print(json.dumps([before, look(), rehearsal.Stand.lived]))
"""


def test_a_rehearsal_does_a_task_in_each_life_and_leaves_nothing_behind() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    before, after, lived = json.loads(done.stdout)
    assert after == before
    assert before["threads"] == 1
    assert before["signals"][0] == "0"  # SIG_DFL
    assert lived == 1 + 8
