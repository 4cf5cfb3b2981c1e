"""From `module:Class` to the class; what is wrong with the user's code becomes one sentence."""

from __future__ import annotations

import importlib
import os
import sys
import traceback

from paddock.model.errors import TemplateBroken
from paddock.model.fleet import FleetSpec

CHECK_S_MAX = 30.0
"""How long the import of the user's code may take."""


def load(spec: FleetSpec) -> type:
    """Import the spec's class; `TemplateBroken` says what is wrong, and where."""
    module_name, colon, class_name = spec.agent.partition(":")
    if not colon or not module_name or not class_name:
        raise TemplateBroken(f"fleet {spec.name}: agent {spec.agent!r} is not of the form module:Class")
    prepend(spec)
    where = f"fleet {spec.name}: agent {spec.agent!r}"
    try:
        found: object = importlib.import_module(module_name)
    except SyntaxError as error:
        raise TemplateBroken(
            f"{where}: {type(error).__name__} in {error.filename}, line {error.lineno}: {error.msg}"
        ) from error
    except ModuleNotFoundError as error:
        raise TemplateBroken(f"{where}: no module named {error.name!r}{_place(error)}") from error
    except ImportError as error:
        raise TemplateBroken(f"{where}: ImportError{_place(error)}: {error}") from error
    except BaseException as error:  # SystemExit and the like: user code at import can raise anything
        raise TemplateBroken(f"{where}: raises at import{_place(error)}: {last_line(error)}") from error
    for part in class_name.split("."):
        if not hasattr(found, part):
            raise TemplateBroken(f"{where}: module {module_name!r} has no class {class_name!r}")
        found = getattr(found, part)
    if not isinstance(found, type):
        raise TemplateBroken(f"{where}: {class_name!r} of module {module_name!r} is not a class")
    return found


def prepend(spec: FleetSpec) -> None:
    """Put the spec's folders first on sys.path."""
    folders = [os.path.abspath(folder) for folder in spec.pythonpath]
    sys.path[:] = [*folders, *(entry for entry in sys.path if entry not in folders)]


def last_line(error: BaseException) -> str:
    """`ValueError: no such thing`, cut to a sane length."""
    return " ".join("".join(traceback.format_exception_only(error)).split())[:500]


def _place(error: BaseException) -> str:
    """` in file, line n` of the user's code: the deepest frame that is not the import system's."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    frames = [frame for frame in frames if frame.filename != __file__]
    return f" in {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
