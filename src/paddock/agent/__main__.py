"""`python -m paddock.agent module:Class` runs one agent from its environment."""

from __future__ import annotations

import os
import sys

from paddock.agent.runner import run_standalone

if __name__ == "__main__":
    code = run_standalone()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of methods that never return must not hold the process back
