"""Attributes of operators as option fields and constant int32 operands of a file, and back.

What goes where is part of an operator's description, see `tflite_export.graph.kinds.Attribute`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_export.graph.kinds import Attribute, OperatorKind, kind_of
from tflite_export.graph.structure import Operator

_T = TypeVar("_T")


def encode(operator: Operator) -> tuple[int, Any, dict[str, np.ndarray]]:
    """Options type, options table (or None) and constant int32 operands by attribute name."""
    kind = kind_of(operator.kind)
    operands = {name: np.asarray(operator.attributes[name], np.int32) for name in kind.constants}
    if kind.options is None:
        return schema.BuiltinOptions.NONE, None, operands
    options = getattr(schema, f"{kind.options}T")()
    for name, value in kind.written.items():
        setattr(options, name, value)
    for name, stored in kind.attributes.items():
        if stored.field is not None:
            value = operator.attributes[name]
            setattr(options, stored.field, _codes(stored)[value] if stored.enumeration else value)
    return getattr(schema.BuiltinOptions, kind.options), options, operands


def decode(name: str, options: Any, operands: Sequence[np.ndarray]) -> dict[str, Any]:
    """Attributes of an operator read from a file; the inverse of `encode`.

    Args:
        name: of a known operator.
        operands: its constants, in the order of `OperatorKind.constants`.

    Raises:
        ValueError: an option value outside what the integer graph can say.
    """
    kind = kind_of(name)
    _check_options(kind, options)
    attributes = {
        attribute: _decoded(name, attribute, stored, getattr(options, stored.field))
        for attribute, stored in kind.attributes.items()
        if stored.field is not None
    }
    for attribute, operand in zip(kind.constants, operands, strict=True):
        if not np.issubdtype(operand.dtype, np.integer):
            raise ValueError(f"{name}: {attribute} is {operand.dtype}, need integers")
        attributes[attribute] = _nested_tuple(np.atleast_1d(operand).tolist())
    return attributes


def arranged(kind: OperatorKind, inputs: Sequence[_T], constants: Mapping[str, _T]) -> list[_T]:
    """Operands of an operator in the order of a file.

    Args:
        inputs: those of the graph.
        constants: attributes that are operands.
    """
    if not kind.layout:
        return [*inputs, *constants.values()]
    named = dict(zip(kind.roles, inputs, strict=False)) | dict(constants)
    return [named[name] for name in kind.layout if name in named]


def parted(kind: OperatorKind, operands: Sequence[_T]) -> tuple[list[_T], list[_T]]:
    """Inputs and constants of an operator of a file; the inverse of `arranged`.

    Too few operands give too few of either.
    """
    if not kind.layout:
        count = max(len(operands) - len(kind.constants), 0)
        return list(operands[:count]), list(operands[count:])
    named = dict(zip(kind.layout, operands, strict=False))
    return (
        [named[name] for name in kind.roles if name in named],
        [named[name] for name in kind.constants if name in named],
    )


def _codes(stored: Attribute) -> dict[str, int]:
    """Names of an enumeration that the integer graph knows, and their codes."""
    enumeration = getattr(schema, str(stored.enumeration))
    return {name: getattr(enumeration, name) for name in stored.names}


def _check_options(kind: OperatorKind, options: Any) -> None:
    """The table of options is the operator's own, where it says anything, and says what we can."""
    has_fields = any(stored.field is not None for stored in kind.attributes.values())
    if not has_fields and not kind.required:
        return
    if type(options).__name__ != f"{kind.options}T":
        found = "none" if options is None else type(options).__name__.removesuffix("T")
        raise ValueError(f"{kind.name}: its options are {found}, need {kind.options}")
    for field, value in kind.required.items():
        if getattr(options, field) != value:
            raise ValueError(
                f"{kind.name}: its option {field} is {getattr(options, field)}; known is {value}"
            )


def _decoded(kind: str, attribute: str, stored: Attribute, value: Any) -> Any:
    if stored.enumeration is None:
        return value
    for name, code in _codes(stored).items():
        if code == value:
            return name
    raise ValueError(f"{kind}: {attribute} code {value} is not one of {list(stored.names)}")


def _nested_tuple(value: Any) -> Any:
    return tuple(_nested_tuple(item) for item in value) if isinstance(value, list) else value
