"""What an author sees: quick import, described methods, clear refusals, the log."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Literal

import pytest

import paddock.agent
from paddock.agent import Agent, TaskError, describe, every, on, task
from paddock.agent.log import Log
from paddock.model.errors import PaddockError, TemplateBroken

HEAVY = ("fastapi", "sqlalchemy", "httpx", "pydantic", "structlog", "uvloop", "nkeys", "asyncio", "yaml", "uvicorn")


def test_importing_it_brings_in_nothing_heavy() -> None:
    code = f"import paddock.agent, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_these() -> None:
    names = ["Agent", "Message", "Retry", "TaskError", "connect", "describe", "every", "on", "task"]
    assert sorted(paddock.agent.__all__) == names


@dataclass
class Place:
    street: str
    number: int = 1


class Postman(Agent):
    @task(timeout_s=5, retries=2)
    async def deliver(self, to: Place, how: Literal["bike", "van"] = "van", tags: list[str] = []) -> None:  # noqa: B006 - what authors write
        """Bring it there.

        Rain or shine."""

    @task
    def count(self, untyped, *, only: int | None = None) -> int:  # type: ignore[no-untyped-def]
        return 1


def test_methods_are_described_with_a_schema_of_their_arguments() -> None:
    count, deliver = describe(Postman)
    assert (deliver.name, deliver.timeout_s, deliver.retries) == ("deliver", 5, 2)
    assert deliver.doc.startswith("Bring it there.")
    assert deliver.args["required"] == ["to"]
    assert deliver.args["properties"]["how"] == {"enum": ["bike", "van"], "default": "van"}
    assert deliver.args["$defs"]["Place"]["required"] == ["street"]
    assert deliver.args["additionalProperties"] is False
    assert count.args["properties"]["untyped"] == {}


def test_a_type_that_cannot_come_as_json_is_refused_with_method_and_argument() -> None:
    class Bad(Agent):
        @task
        async def take(self, lock: Log) -> None: ...

    with pytest.raises(TemplateBroken, match=r"Bad\.take: argument 'lock'"):
        describe(Bad)


def test_star_arguments_are_refused() -> None:
    class Bad(Agent):
        @task
        async def take(self, *things: int) -> None: ...

    with pytest.raises(TemplateBroken, match=r"Bad\.take: argument 'things'"):
        describe(Bad)


def test_an_annotation_that_cannot_be_read_is_refused() -> None:
    class Bad(Agent):
        @task
        async def take(self, thing: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TemplateBroken, match=r"Bad\.take.*Nowhere"):
        describe(Bad)


@pytest.mark.parametrize(
    "make",
    [
        lambda: task(timeout_s=-1),
        lambda: task(retries=-1),
        lambda: task(backoff_s=-1),
        lambda: every(seconds=0),
        lambda: every(seconds=1, jitter=-1),
        lambda: on(""),
        lambda: on("a..b"),
        lambda: on("a.>.b"),
        lambda: on("a b"),
    ],
)
def test_a_mark_that_makes_no_sense_is_refused(make: Any) -> None:
    with pytest.raises(TemplateBroken):
        make()


def test_an_agent_that_no_runner_made_says_so() -> None:
    with pytest.raises(PaddockError, match="does not run as an agent"):
        _ = Postman().id


def test_a_task_error_may_carry_a_code_of_its_own() -> None:
    assert TaskError("x").code == "task-failed"
    assert TaskError("x", code="mine").code == "mine"


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError


def test_every_log_call_is_one_json_line_whatever_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log("f/0", lambda: 1.5, lambda: "t1")
    log.info("hello", n=1, at="ignored")
    log.error("two\nlines", thing=Unprintable())
    log.warning("lone \ud800 surrogate", nested={"a": {1, 2}})
    log.debug("x" * 200_000)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == {"at": 1.5, "level": "info", "agent": "f/0", "task": "t1", "message": "hello", "n": 1}
    assert [line["level"] for line in lines] == ["info", "error", "warning", "debug"]
    assert lines[3]["cut"] > 200_000


def test_run_without_arguments_it_shows_its_usage() -> None:
    done = subprocess.run([sys.executable, "-m", "paddock.agent"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "module:Class" in done.stderr


def test_run_without_an_identity_it_says_what_is_missing() -> None:
    command = [sys.executable, "-m", "paddock.agent", "paddock.foundry:Critic"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={})
    assert done.returncode == 1
    assert "PADDOCK_AGENT" in done.stderr
