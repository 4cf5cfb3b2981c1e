"""The task methods of a class: what they take, said as a struct. The same struct makes the published JSON Schema and
checks the arguments of every task, so the two cannot differ."""

from __future__ import annotations

import copy
import difflib
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from paddock.agent.base import TaskMark, marks
from paddock.agent.values import BadValue, encoded
from paddock.model.errors import TaskError, TemplateBroken
from paddock.model.fleet import Method


class TaskMethod(msgspec.Struct, frozen=True):
    """One `@task` method, ready to be called."""

    name: str
    function: Callable[..., Any]
    mark: TaskMark
    args: type[msgspec.Struct]
    fields: Mapping[str, Any]
    """The fields of `args` (msgspec's FieldInfo) by name."""
    is_async: bool
    takes: str
    """Its arguments as written: `source: str, path: str = '<source>'`."""


def task_methods(cls: type) -> dict[str, TaskMethod]:
    """All `@task` methods of a class; TemplateBroken names the method and argument that cannot be."""
    return {name: _method(cls, name, function, mark) for name, (function, mark) in marks(cls, TaskMark).items()}


def describe(cls: type) -> list[Method]:
    """The task methods of an agent class, for the manifest, the API and the CLI."""
    described = []
    for name, method in sorted(task_methods(cls).items()):
        described.append(
            Method(
                name=name,
                doc=inspect.getdoc(method.function) or "",
                args=_schema(cls, method),
                timeout_s=method.mark.timeout_s,
                retries=method.mark.retries,
            )
        )
    return described


def check_args(method: TaskMethod, args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments converted to what the method declares, or TaskError `bad-arguments`, which says which argument,
    what was expected and what came."""
    fields = method.fields
    for name in args:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise bad_arguments(f"{method.name} takes no argument {name!r}{hint}; it takes: {method.takes or 'none'}")
    missing = [name for name, field in fields.items() if field.required and name not in args]
    if missing:
        raise bad_arguments(f"{method.name} needs the argument {missing[0]!r}; it takes: {method.takes}")
    converted = {}
    for name, value in args.items():
        try:
            encoded(value, name)
            converted[name] = msgspec.convert(value, fields[name].type)
        except BadValue as error:
            raise bad_arguments(f"argument {name!r} of {method.name}: {error}") from None
        except msgspec.ValidationError as error:
            raise bad_arguments(f"argument {name!r} of {method.name}: {_place(str(error), name)}") from None
    return converted


def bad_arguments(message: str) -> TaskError:
    return TaskError(message, code="bad-arguments")


def _place(text: str, name: str) -> str:
    """msgspec's "Expected `int`, got `str` - at `$.x[1]`" with the argument's name for its `$`."""
    return text.replace("`$", f"`{name}") if "`$" in text else text


def _method(cls: type, name: str, function: Callable[..., Any], mark: TaskMark) -> TaskMethod:
    where = f"{cls.__module__}:{cls.__qualname__}.{name}"
    plain_function = inspect.unwrap(function)
    try:
        hints = typing.get_type_hints(plain_function, include_extras=True)
    except Exception as error:  # an annotation is code of the author; whatever it raises is his to read
        raise TemplateBroken(f"{where}: an annotation cannot be read: {type(error).__name__}: {error}") from error
    parameters = list(inspect.signature(plain_function).parameters.values())[1:]
    fields: list[Any] = []
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TemplateBroken(
                f"{where}: argument {parameter.name!r}: tasks take named arguments only, no *, ** or /"
            )
        fields.append(_field(where, parameter, hints.get(parameter.name, Any)))
    args = msgspec.defstruct(f"{cls.__name__}_{name}", fields, kw_only=True, forbid_unknown_fields=True)
    return TaskMethod(
        name=name,
        function=function,
        mark=mark,
        args=args,
        fields={field.encode_name: field for field in msgspec.structs.fields(args)},
        is_async=inspect.iscoroutinefunction(plain_function),
        takes=", ".join(_takes(parameter, hints) for parameter in parameters),
    )


def _field(where: str, parameter: inspect.Parameter, kind: Any) -> tuple[Any, ...]:
    try:
        msgspec.json.schema(kind)
    except Exception as error:  # TypeError mostly; a foreign type's own code may raise any
        raise TemplateBroken(
            f"{where}: argument {parameter.name!r}: the type {inspect.formatannotation(kind)} cannot come as JSON: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
    default = parameter.default
    if default is parameter.empty:
        return (parameter.name, kind)
    if isinstance(default, (list, dict, set, bytearray)):
        return (parameter.name, kind, msgspec.field(default_factory=lambda: copy.deepcopy(default)))
    return (parameter.name, kind, default)


def _takes(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> str:
    """As written, with annotations that were quoted or postponed resolved."""
    annotation = hints.get(parameter.name, parameter.empty)
    return str(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation))


def _schema(cls: type, method: TaskMethod) -> dict[str, Any]:
    """JSON Schema of the arguments object, with the object itself at the top."""
    try:
        schema = msgspec.json.schema(method.args)
    except Exception as error:  # a default that has no JSON form
        raise TemplateBroken(f"{cls.__module__}:{cls.__qualname__}.{method.name}: {error}") from error
    definitions = dict(schema.pop("$defs", {}))
    top = definitions.pop(schema["$ref"].rpartition("/")[2]) if "$ref" in schema else schema
    return {**top, "$defs": definitions} if definitions else dict(top)
