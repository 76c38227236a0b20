"""Options of the command line from the fields of a dataclass: name, form, help and default.

A new field of `QuantizationConfig` is an option without another line.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

import docstring_parser
from cyclopts import Group, Parameter

from tfeptq.cli.values import (
    layer_names,
    named_names,
    named_numbers,
    number,
    sizes,
    typed,
    widths,
)

#: Values that only a program can make come from files here, and Keras stays unloaded.
_FROM_FILES = {"keras": types.SimpleNamespace(Layer=Path)}
_WIDTHS = "One width for all layers, candidates to choose from, or widths by layer name."


def options(
    kind: type,
    *,
    group: Group,
    flags: Mapping[str, str] | None = None,
    without_default: Collection[str] = (),
    only: Collection[str] | None = None,
    metavars: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Field name -> its type, annotated for cyclopts; the ingredients of a `TypedDict`.

    Args:
        kind: a dataclass whose docstring describes its attributes.
        flags: field name -> its option, where that is not the name itself.
        without_default: fields that have no default on the command line.
        only: fields to take; None: all that can be typed; dataclasses have options of their own.
        metavars: field name -> what stands for its value in the help, where the type says little.
    """
    hints = typing.get_type_hints(kind, localns=_FROM_FILES)
    said = attribute_docs(kind)
    found = {}
    for field in dataclasses.fields(kind):
        members = _members(hints[field.name])
        form = _form(field.name, members)
        if form is None or (only is not None and field.name not in only):
            continue
        parts = [_capitalized(said[field.name]), form.note]
        if field.name not in without_default and field.default is not dataclasses.MISSING:
            parts.append(f"Default: {_spelled(field.default)}.")
        parameter = Parameter(
            name=(flags or {}).get(field.name),
            metavar=(metavars or {}).get(field.name, form.metavar),
            help=" ".join(filter(None, parts)),
            group=group,
            negative=form.negative,
        )
        reader = [] if form.parse is None else [typed(form.parse)]
        found[field.name] = Annotated[(form.annotation, *reader, parameter)]
    return found


def attribute_docs(kind: type) -> dict[str, str]:
    """Field name -> what the docstring of its class says of it, as one line."""
    found = {}
    for part in docstring_parser.parse(kind.__doc__ or "").params:
        for name in part.arg_name.split(","):
            found[name.strip()] = " ".join((part.description or "").split())
    return found


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


@dataclasses.dataclass(frozen=True)
class _Form:
    """How a kind of value is typed.

    Attributes:
        parse: reads one word; None: cyclopts reads the annotation.
        metavar: what stands for the value in the help.
        negative: the option that says no.
    """

    annotation: Any
    parse: Callable[[str], Any] | None = None
    metavar: str | None = None
    note: str = ""
    negative: str | tuple[()] = ()


def _form(name: str, members: tuple[Any, ...]) -> _Form | None:
    """The form of a field; None for what cannot be typed, or has options of its own."""
    if Mapping[str, int] in members and int in members:
        return _Form(Any, widths, "N|N,N,...|LAYER=N,...", _WIDTHS)
    if Mapping[str, int] in members:
        return _Form(Any, named_numbers, "NAME=N,...")
    if Mapping[str, tuple[int, ...]] in members:
        return _Form(Any, sizes, "N,N,...|INPUT=N,N,...")
    if Mapping[str | int, str] in members:
        return _Form(Any, named_names, "OUTPUT=INPUT,...")
    if tuple[str, ...] in members:
        return _Form(Any, layer_names, "parts|LAYER,LAYER,...")
    if tuple[float, float] in members:
        return _Form(tuple[float, float], metavar="LOW HIGH")
    if bool in members:
        return _Form(bool, negative=f"--no-{name.replace('_', '-')}")
    if Path in members:
        return _Form(Path, metavar="F.keras", note="Here: the file of a saved one.")
    for plain, metavar in ((int, "N"), (float, "R")):
        if plain in members:
            may_be_none = types.NoneType in members
            shown = f"{metavar}|none" if may_be_none else metavar
            return _Form(Any, number(plain, may_be_none=may_be_none), shown)
    return _Form(str, metavar="NAME") if str in members else None


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
