"""Damaged and hostile files: whatever fails on one is an error in our words."""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

#: What Python raises where tables of a file contradict each other.
_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    TypeError,
    struct.error,
)


class DamagedFileError(ValueError):
    """A file is not what a TensorFlow Lite file must be."""


def damaged(problem: str) -> ValueError:
    """The error for a file that is not what a TensorFlow Lite file must be."""
    return DamagedFileError(f"damaged TensorFlow Lite file: {problem}")


def names_damage(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """A function that reads a file of others, with errors in our words.

    Checks that know what is wrong say so themselves; this says at least that the file is, and
    which one, where the function is given its path first.
    """

    @functools.wraps(function)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        try:
            return function(*args, **kwargs)
        except _FAULTS as error:
            raise damaged(f"{type(error).__name__}: {error}") from error

    return names_path(call)


def names_path(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """A function whose errors about a damaged file begin with its path, where that comes first."""

    @functools.wraps(function)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        try:
            return function(*args, **kwargs)
        except DamagedFileError as error:
            path = args[0] if args else None
            if not isinstance(path, (str, os.PathLike)) or str(error).startswith(f"{path}: "):
                raise
            raise DamagedFileError(f"{path}: {error}") from error

    return call
