"""Reading Python source without running it: syntax errors, complexity, names that nothing uses. No I/O."""

from __future__ import annotations

import ast
import re
import threading
import warnings
from typing import Any

BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.match_case)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
PEEKS = {"locals", "vars", "eval", "exec", "globals", "dir"}
"""A function that calls one of these may use any of its names."""
IDENTIFIER = re.compile(r"[^\W\d]\w*")

_warnings_lock = threading.Lock()


class NotPython(Exception):
    """The source cannot be parsed; the argument is {line, column, message}."""


def parse(source: str) -> ast.Module:
    """The tree, or NotPython with the place. A byte order mark is allowed, as in files."""
    text = source.removeprefix("\ufeff")
    if (null := text.find("\0")) >= 0:
        raise _at(text, null, "source code cannot contain null bytes")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _at(text, error.start, "the source holds a character that UTF-8 cannot encode") from None
    try:
        # Warnings are the process's, not a thread's; what the source deserves of them, ruff says.
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except SyntaxError as error:
        place = {"line": error.lineno or 1, "column": max(error.offset or 1, 1), "message": error.msg}
        raise NotPython(place) from None
    except (RecursionError, MemoryError):
        raise NotPython({"line": 1, "column": 1, "message": "nested too deep to be parsed"}) from None
    except ValueError as error:
        raise NotPython({"line": 1, "column": 1, "message": str(error)}) from None


def complexity(tree: ast.Module) -> list[dict[str, Any]]:
    """Cyclomatic complexity of every function, the most complex first. Nested functions count for themselves."""
    found: list[dict[str, Any]] = []
    waiting: list[tuple[ast.AST, str, dict[str, Any] | None]] = [(tree, "", None)]
    while waiting:
        node, name, function = waiting.pop()
        if isinstance(node, FUNCTIONS):
            name = f"{name}.{node.name}" if name else node.name
            function = {"function": name, "line": node.lineno, "value": 1}
            found.append(function)
        elif isinstance(node, ast.ClassDef):
            name, function = f"{name}.{node.name}" if name else node.name, None
        elif function is not None:
            function["value"] += _weight(node)
        waiting.extend((child, name, function) for child in ast.iter_child_nodes(node))
    return sorted(found, key=lambda item: (-item["value"], item["line"]))


def unused(tree: ast.Module) -> list[dict[str, Any]]:
    """Imports and plain local variables that nothing reads, in the order of their lines."""
    scopes: list[_Scope] = []
    waiting: list[tuple[ast.AST, _Scope]] = [(tree, _Scope("module", None, scopes))]
    while waiting:
        node, scope = waiting.pop()
        _note(node, scope)
        if isinstance(node, (*FUNCTIONS, ast.Lambda)):
            scope = _Scope("function", scope, scopes)
        elif isinstance(node, ast.ClassDef):
            scope = _Scope("class", scope, scopes)
        waiting.extend((child, scope) for child in ast.iter_child_nodes(node))
    found = [item for scope in scopes for item in scope.unread()]
    return sorted(found, key=lambda item: (item["line"], item["name"]))


class _Scope:
    """Names made in one scope, and names read in it or in a scope inside."""

    def __init__(self, kind: str, outer: _Scope | None, scopes: list[_Scope]) -> None:
        self.kind, self.outer = kind, outer
        self.made: dict[str, tuple[str, int]] = {}
        self.read: set[str] = set()
        scopes.append(self)

    def make(self, kind: str, name: str, line: int) -> None:
        self.made.setdefault(name, (kind, line))

    def reads(self, name: str) -> None:
        scope: _Scope | None = self
        while scope is not None and name not in scope.read:
            scope.read.add(name)
            scope = scope.outer

    def unread(self) -> list[dict[str, Any]]:
        if self.kind == "class" or (self.kind == "function" and self.read & PEEKS):
            return []
        return [
            {"name": name, "kind": kind, "line": line}
            for name, (kind, line) in self.made.items()
            if name not in self.read and not name.startswith("_") and (kind == "import" or self.kind == "function")
        ]


def _note(node: ast.AST, scope: _Scope) -> None:
    match node:
        case ast.Name(id=name, ctx=ast.Load() | ast.Del()):
            scope.reads(name)
        case ast.Global(names=names) | ast.Nonlocal(names=names):
            for name in names:
                scope.reads(name)
        case ast.AugAssign(target=ast.Name(id=name)):
            scope.reads(name)
        case ast.Assign(targets=targets):
            for target in targets:
                if isinstance(target, ast.Name):
                    scope.make("variable", target.id, target.lineno)
        case ast.NamedExpr(target=ast.Name(id=name, lineno=line)):
            scope.make("variable", name, line)
        case ast.ExceptHandler(name=str(name), lineno=line):
            scope.make("variable", name, line)
        case ast.Import(names=aliases, lineno=line):
            for alias in aliases:
                if alias.asname is None or alias.asname != alias.name:
                    scope.make("import", alias.asname or alias.name.partition(".")[0], line)
        case ast.ImportFrom(module=module, names=aliases, lineno=line) if module != "__future__":
            for alias in aliases:
                if alias.name != "*" and alias.asname != alias.name:  # `import x as x` says: exported on purpose
                    scope.make("import", alias.asname or alias.name, line)
        case ast.Constant(value=str(text)) if len(text) < 500 and "\n" not in text:
            # It may be an annotation in quotes, a cast, an entry of __all__: names in it count as read.
            for name in IDENTIFIER.findall(text):
                scope.reads(name)
        case ast.AnnAssign(target=ast.Name(id=name, lineno=line), value=ast.expr()):
            scope.make("variable", name, line)
        case _:
            pass


def _weight(node: ast.AST) -> int:
    if isinstance(node, BRANCHES):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    return 0


def _at(text: str, index: int, message: str) -> NotPython:
    before = text[:index]
    return NotPython({"line": before.count("\n") + 1, "column": index - before.rfind("\n"), "message": message})
