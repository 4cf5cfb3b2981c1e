"""The source itself: small stays small, time and tasks stay in their places, and every exception says why.

A ratchet: the exceptions below may shrink; a new one needs its reason here.
"""

from __future__ import annotations

import ast
import re
import tokenize
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"

LINES_MAX = 400
FUNCTION_LINES_MAX = 60
PARAMETERS_MAX = 7

LARGE_MODULES: dict[str, str] = {
    "paddock.testing.fabric_contract": "one contract suite, read top to bottom",
}
"""module → why it may be longer."""

LONG_FUNCTIONS: dict[str, str] = {}
"""module:qualified name → why it may be longer."""

WIDE_FUNCTIONS: dict[str, str] = {
    "paddock.testing.faults:Faults.__init__": "the fault menu: each parameter is one fault's rate",
    "paddock.cli.task:submit": "its parameters are the options of the command",
}
"""module:qualified name → why it may take more."""

COMMANDS = "paddock.cli."
"""Functions here that take a Typer context declare options, not a call; each counts for what people type."""

SIMULATED = "the simulated world and the contract suites: seeded dice, virtual time, tasks awaited by who runs them"

PLACES: dict[str, dict[str, str]] = {
    "time.time": {
        "paddock.foundry.infrastructure": "looks at the host's own clock: whether it was set, how old its files are",
        "paddock.app.clock": "the host's clock behind the port",
        "paddock.agent.clock": "the agent's clock; an agent's process has no other room to get it from",
        "paddock.fabric.identity": "a token holds when it was issued; the fabric judges it by the host's clock",
    },
    "datetime.now": {},
    "datetime.utcnow": {},
    "random": {
        "paddock.agent.clock": "the dice of an agent, for the delay of a reconnect",
        "paddock.fabric.connection": "jitter of a reconnect, so that not all come back at once",
        "paddock.testing": SIMULATED,
    },
    "create_task": {
        "paddock.agent.owner": "the task owner of an agent",
        "paddock.control.owner": "the task owner of the server",
        "paddock.api.serve": "owns the server's own tasks until it stops",
        "paddock.api.stream": "owns the tasks of one stream and awaits them before it ends",
        "paddock.api.waiting": "one race of an answer against the caller's going away; awaits both",
        "paddock.app.roles": "owns the main task of a role's process",
        "paddock.fabric.client": "owns the tails of one connection",
        "paddock.fabric.connection": "owns the reader of one connection",
        "paddock.fabric.groups": "owns the questions of one connection, and ends them with it",
        "paddock.testing": SIMULATED,
    },
    "asyncio.sleep": {
        "paddock.app.clock": "the host's clock behind the port",
        "paddock.agent.clock": "the agent's clock",
        "paddock.api.stream": "the keep-alive of an open stream",
        "paddock.fabric.client": "waits for a real server: the adapter has no virtual time",
        "paddock.fabric.connection": "waits for a real server: the adapter has no virtual time",
        "paddock.fabric.groups": "waits for a real syncer, as the adapter that it belongs to",
        "paddock.fabric.embedded": "waits for a foreign process to answer",
        "paddock.testing": SIMULATED,
    },
}
"""what is banned → the modules or packages where it is at home, and why."""

ENTRANCES: dict[str, str] = {
    "paddock.__main__": "python -m paddock",
    "paddock.agent.__main__": "the process of an agent",
    "paddock.record.migrations": "Alembic finds them by their folder",
}
"""Modules and packages that nobody imports, and who runs them."""


def within(name: str, places: Iterable[str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


@cache
def modules() -> dict[str, tuple[Path, ast.Module]]:
    found = {}
    for path in sorted((SOURCE / "paddock").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = (path, ast.parse(path.read_text(), filename=str(path)))
    return found


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}{node.name}", node
            yield from functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")
        else:
            yield from functions(node, prefix)


def judged(found: dict[str, str], allowed: dict[str, str], what: str) -> None:
    """Fail with all that is new, and with exceptions that are needed no longer."""
    new = [f"{name}: {text}" for name, text in found.items() if name not in allowed]
    stale = [f"{name}: the exception is needed no longer, take it out" for name in allowed if name not in found]
    assert not new + stale, f"{what}:\n" + "\n".join(new + stale)


def test_modules_stay_small() -> None:
    found = {}
    for name, (path, _) in modules().items():
        lines = len(path.read_text().splitlines())
        if lines > LINES_MAX:
            found[name] = f"{lines} lines, at most {LINES_MAX}"
    judged(found, LARGE_MODULES, "large modules")


def test_functions_stay_small() -> None:
    found = {}
    for name, (_, tree) in modules().items():
        for function, node in functions(tree):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX and not is_command(name, node):
                found[f"{name}:{function}"] = f"{lines} lines, at most {FUNCTION_LINES_MAX}"
    judged(found, LONG_FUNCTIONS, "long functions")


def test_functions_take_few_parameters() -> None:
    found = {}
    for name, (_, tree) in modules().items():
        for function, node in functions(tree):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = sum(1 for argument in every if argument.arg not in ("self", "cls"))
            if count > PARAMETERS_MAX:
                found[f"{name}:{function}"] = f"{count} parameters, at most {PARAMETERS_MAX}"
    judged(found, WIDE_FUNCTIONS, "functions with many parameters")


def is_command(module: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A command's length is its options; what it does is counted without them."""
    if not module.startswith(COMMANDS) or not node.body or "context" not in {a.arg for a in node.args.args}:
        return False
    return (node.end_lineno or 0) - node.body[0].lineno < FUNCTION_LINES_MAX


def uses(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """(what of the banned, line)"""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imported(node)
        elif isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            for banned in ("time.time", "asyncio.sleep"):
                if text == banned:
                    yield banned, node.lineno
            for banned in ("datetime.now", "datetime.utcnow"):
                if text.endswith(banned):
                    yield banned, node.lineno
            if node.attr in ("create_task", "ensure_future") and not is_group(node.value):
                yield "create_task", node.lineno


def imported(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, int]]:
    """Names that would hide a banned one: `from time import time`, `import random`."""
    names = {alias.name for alias in node.names}
    module = node.module if isinstance(node, ast.ImportFrom) else ""
    if ("random" in names and not module) or module == "random":
        yield "random", node.lineno
    if module == "time" and "time" in names:
        yield "time.time", node.lineno
    if module == "asyncio":
        for name in names & {"sleep", "create_task", "ensure_future"}:
            yield "asyncio.sleep" if name == "sleep" else "create_task", node.lineno


def is_group(node: ast.expr) -> bool:
    """A TaskGroup owns its tasks; ours are called `group` or `tasks`."""
    return ast.unparse(node).split(".")[-1].lstrip("_") in ("group", "tasks", "tg")


def test_time_dice_and_tasks_stay_in_their_places() -> None:
    found = [
        f"{name}:{line} uses {banned}: take it as an argument, from the clock or from the task owner"
        for name, (_, tree) in modules().items()
        for banned, line in uses(tree)
        if not within(name, PLACES[banned])
    ]
    assert not found, "\n".join(found)


def test_the_places_are_still_in_use() -> None:
    every = [(name, banned) for name, (_, tree) in modules().items() for banned, _ in uses(tree)]
    places = [(name, banned) for banned, names in PLACES.items() for name in names]
    stale = [
        f"{name} uses {banned} no longer: take it out"
        for name, banned in places
        if not any(within(user, [name]) and used == banned for user, used in every)
    ]
    assert not stale, "\n".join(stale)


def test_tasks_of_groups_have_names() -> None:
    found = [
        f"{name}:{node.lineno} makes a task without a name"
        for name, (_, tree) in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "create_task"
        and "name" not in {keyword.arg for keyword in node.keywords}
    ]
    assert not found, "\n".join(found)


def test_every_module_is_imported_by_another() -> None:
    known = set(modules())
    wanted: set[str] = set()
    for name, (path, tree) in modules().items():
        wanted |= wanted_by(tree) - {name}
        assert not name.startswith("paddock.paddock"), path
    text = "\n".join(path.read_text() for folder in ("tests", "bench") for path in (ROOT / folder).rglob("*.py"))
    packages = {name for name, (path, _) in modules().items() if path.name == "__init__.py"}
    public = {name for name in known if name.startswith("paddock.testing.") and name in text}
    named = set(re.findall(r"paddock(?:\.\w+)+", "\n".join(p.read_text() for p in named_in())))
    alone = sorted(name for name in known - wanted - packages - public - named if not within(name, ENTRANCES))
    assert not alone, f"nobody imports {', '.join(alone)}: use them or delete them"


def wanted_by(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # `python -m paddock.x.y`, `paddock.foundry:Critic`
            names |= set(re.findall(r"paddock(?:\.\w+)+", node.value)) if " " not in node.value.strip() else set()
    return names


def named_in() -> list[Path]:
    """Files that name modules of agents."""
    return [*(ROOT / "examples").rglob("*.y*ml"), ROOT / "pyproject.toml"]


EXCEPTION = re.compile(r"#\s*(?P<kind>noqa|type:\s*ignore|pragma)\b(?P<rest>.*)")


def test_every_exception_states_its_reason_beside_it() -> None:
    found = []
    for path in python_files():
        with path.open("rb") as file:
            comments = [t for t in tokenize.tokenize(file.readline) if t.type == tokenize.COMMENT]
        for comment in comments:
            match = EXCEPTION.search(comment.string)
            if not match or (match["kind"].startswith("type") and SOURCE not in path.parents):
                continue  # mypy reads src/ alone
            rest = re.sub(r"^(?::?\s*[A-Z]+\d+(?:\s*,\s*[A-Z]+\d+)*|\s*\[[\w\-, ]+\]|:?\s*no cover)", "", match["rest"])
            if not re.search(r"[A-Za-z]{4}", rest):
                found.append(f"{path.relative_to(ROOT)}:{comment.start[0]} {comment.string}: say why")
    assert not found, "\n".join(found)


def test_no_test_is_skipped_and_nothing_is_left_to_do() -> None:
    banned = {
        "TO" + "DO": "is left to do",
        "FIX" + "ME": "is left to do",
        "pytest.mark." + "skip": "skips",
        "pytest.mark." + "xfail": "expects to fail",
        "pytest." + "skip(": "skips",
        "unittest." + "mock": "mocks",
        "Magic" + "Mock": "mocks",
    }
    found = [
        f"{path.relative_to(ROOT)}:{number} {why}: {line.strip()[:80]}"
        for path in python_files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for word, why in banned.items()
        if word in line
    ]
    assert not found, "\n".join(found)


def python_files() -> Iterator[Path]:
    for folder in ("src", "tests", "bench", "examples", ".ci"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def test_every_package_says_what_it_is_for() -> None:
    silent = [name for name, (path, tree) in modules().items() if path.name == "__init__.py" and not documented(tree)]
    assert not silent, f"{', '.join(silent)}: say in the docstring what the room is for"


def documented(tree: ast.Module) -> bool:
    return bool(ast.get_docstring(tree))


def test_the_locks_hold_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for wanted, locks in (
        (project["dependencies"], ("requirements.lock",)),
        (project["optional-dependencies"]["dev"], ("requirements.lock", "requirements-dev.lock")),
    ):
        pins = {
            plain(line.split("==")[0])
            for lock in locks
            for line in (ROOT / lock).read_text().splitlines()
            if "==" in line
        }
        missing = [name for name in wanted if plain(re.split(r"[\[<>=~!; ]", name)[0]) not in pins]
        assert not missing, f"{', '.join(missing)} are in no lock: run './dev lock'"


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_no_registry_host_is_in_the_locks() -> None:
    for lock in ("requirements.lock", "requirements-dev.lock"):
        assert "://" not in (ROOT / lock).read_text()
