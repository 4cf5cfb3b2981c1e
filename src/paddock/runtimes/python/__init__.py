"""The runtime `python`: one warm image per template (the fork server), forked on demand.

`runtime.py` and `forkserver.py` are the node's side, `server.py` the warm image, `load.py` finds the user's class and
says what is wrong with it, `check.py` does that in a process of its own.
"""

from paddock.runtimes.python.runtime import PythonRuntime

__all__ = ["PythonRuntime"]
