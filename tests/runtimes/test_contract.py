from __future__ import annotations

import sys
from pathlib import Path

from paddock.model.fleet import FleetSpec
from paddock.ports.runtime import Live, Runtime
from paddock.runtimes.exec import ExecRuntime
from paddock.runtimes.python import PythonRuntime
from paddock.testing.runtime import ScriptedHost, ScriptedProcess, ScriptedRuntime
from paddock.testing.runtime_contract import RuntimeContract, RuntimeWorld, tree_alive

LAB = Path(__file__).with_name("lab_script.py")


class ExecWorld:
    def runtime(self) -> Runtime:
        return ExecRuntime()

    def spec(self, script: str) -> FleetSpec:
        command = ["/no/such/program"] if script == "broken" else [sys.executable, str(LAB)]
        return FleetSpec(name="lab", runtime="exec", command=command)

    def children(self, live: Live, folder: Path) -> int:
        return tree_alive(folder)

    def started(self, live: Live, folder: Path) -> bool:
        return "deaf now" in (folder / "agent-1.log").read_text()


class PythonWorld(ExecWorld):
    def runtime(self) -> Runtime:
        return PythonRuntime(run="lab_script:run")

    def spec(self, script: str) -> FleetSpec:
        agent = "lab_script:Nobody" if script == "broken" else "lab_script_agent:Lab"
        return FleetSpec(name="lab", runtime="python", agent=agent, pythonpath=[str(LAB.parent)])


class ScriptedWorld:
    def __init__(self) -> None:
        self.host = ScriptedHost()

    def runtime(self) -> Runtime:
        return ScriptedRuntime(self.host)

    def spec(self, script: str) -> FleetSpec:
        return FleetSpec(name="lab", runtime="exec", command=script.split(" "))

    def children(self, live: Live, folder: Path) -> int:
        assert isinstance(live, ScriptedProcess)
        return live.children

    def started(self, live: Live, folder: Path) -> bool:
        return True


class TestExec(RuntimeContract):
    def world(self, folder: Path) -> RuntimeWorld:
        return ExecWorld()


class TestPython(RuntimeContract):
    def world(self, folder: Path) -> RuntimeWorld:
        return PythonWorld()


class TestScripted(RuntimeContract):
    def world(self, folder: Path) -> RuntimeWorld:
        return ScriptedWorld()
