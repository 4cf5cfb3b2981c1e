"""`python -m paddock.runtimes.python.check`: can this template be made live, and what are its methods?

The spec is read from the file argv[1], the answer written to argv[2], so that what the user's code prints at import
cannot spoil it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from paddock.model.errors import PaddockError, TemplateBroken
from paddock.model.fleet import FleetSpec
from paddock.runtimes.python.load import last_line, load
from paddock.runtimes.python.wire import Answer


def check(spec: FleetSpec) -> Answer:
    try:
        cls = load(spec)
        from paddock.agent import Agent, describe

        if not issubclass(cls, Agent):
            raise TemplateBroken(f"fleet {spec.name}: agent {spec.agent!r} does not derive from paddock.agent.Agent")
        return Answer(methods=list(describe(cls)))
    except PaddockError as error:
        return Answer(broken=error.message)
    except Exception as error:
        return Answer(broken=f"fleet {spec.name}: agent {spec.agent!r}: {last_line(error)}")


def main() -> None:
    ask, answer = sys.argv[1:3]
    spec = msgspec.json.decode(Path(ask).read_bytes(), type=FleetSpec)
    Path(answer).write_bytes(msgspec.json.encode(check(spec)))
    sys.stdout.flush()
    os._exit(0)  # threads that the user's code left at import must not hold us up


if __name__ == "__main__":
    main()
