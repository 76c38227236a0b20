"""One setting at a time: what was received, what is allowed, in plain Python values.

NumPy's numbers are numbers here; `True`, "4" and 4.5 are not whole numbers.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import reprlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

import numpy as np

from tflite_export.near_names import meant


class NamedSettings:
    """Base of dataclasses of settings: a name that is none is answered with the one meant."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for name in kwargs:
            if name not in names:
                close = meant(name, names)
                hint = f"did you mean {close!r}?" if close else f"there are {', '.join(names)}"
                raise TypeError(f"{cls.__name__} has no setting {name!r}; {hint}")
        return super().__new__(cls)


def shown(value: Any) -> str:
    """A value in one short line, arrays by their shape."""
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    text = " ".join(reprlib.repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number from `least` to `most`.

    Raises:
        ValueError: anything else, numbers as text and truth values included.
    """
    if not _is_whole(value) or value < least or (most is not None and value > most):
        bound = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}={shown(value)} must be a whole number {bound}{_unquoted(value)}")
    return int(value)


def real(name: str, value: Any, *, may_be_zero: bool = False) -> float:
    """A finite number above zero, or from zero on.

    Raises:
        ValueError: anything else, NaN, infinity and numbers as text included.
    """
    if not (_is_finite(value) and (value > 0 or (may_be_zero and value == 0))):
        bound = "a number of at least 0" if may_be_zero else "a positive number"
        raise ValueError(f"{name}={shown(value)} must be {bound} that is finite{_unquoted(value)}")
    return float(value)


def _unquoted(value: Any) -> str:
    return ", not text" if isinstance(value, (str, bytes)) else ""


def switch(name: str, value: Any) -> bool:
    """True or False; nothing else, for every text is true to Python.

    Raises:
        ValueError: anything else.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name}={shown(value)} must be True or False")
    return bool(value)


def member(name: str, value: Any, allowed: Collection[str]) -> str:
    """One of `allowed`.

    Raises:
        ValueError: anything else, with the name that was probably meant.
    """
    if isinstance(value, str) and value in allowed:
        return value
    close = meant(value, allowed)
    hint = f"; did you mean {close!r}?" if close else ""
    raise ValueError(f"{name}={shown(value)} is unknown; allowed are {', '.join(allowed)}{hint}")


def width(name: str, value: Any, allowed: Sequence[int]) -> int:
    """One of the widths `allowed`.

    Raises:
        ValueError: anything else.
    """
    if not _is_whole(value) or value not in allowed:
        raise ValueError(
            f"{name}={shown(value)} is not a width that can be executed; "
            f"allowed are {', '.join(map(str, allowed))}{_unquoted(value)}"
        )
    return int(value)


def widths(name: str, value: Any, allowed: Sequence[int]) -> int | tuple[int, ...] | dict[str, int]:
    """One width, candidates without repeats in ascending order, or widths by layer name.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, Mapping):
        for layer in value:
            if not isinstance(layer, str):
                raise ValueError(f"{name} has the key {shown(layer)}: keys are names of layers")
        return {layer: width(f"{name}[{layer!r}]", bits, allowed) for layer, bits in value.items()}
    if isinstance(value, (tuple, list)):
        if not value:
            raise ValueError(f"{name}=() holds no candidate; for example {tuple(allowed[-3:])}")
        candidates = (width(f"{name}[{index}]", bits, allowed) for index, bits in enumerate(value))
        return tuple(sorted(set(candidates)))
    if not isinstance(value, (numbers.Number, str, bytes)):
        raise ValueError(
            f"{name}={shown(value)} is neither a width, nor a tuple of candidates, nor "
            f"{{layer name: width}}; widths are {', '.join(map(str, allowed))}"
        )
    return width(name, value, allowed)


def layer_names(name: str, value: Any) -> tuple[str, ...] | str:
    """Names of layers, each once, as a tuple, or the word "parts".

    Raises:
        ValueError: anything else.
    """
    if value == "parts":
        return "parts"
    named = list(value) if isinstance(value, (tuple, list)) else []
    if not named or not all(isinstance(each, str) for each in named):
        raise ValueError(
            f"{name}={shown(value)} must be a list of names of layers, such as ['boxes', "
            "'scores'], or 'parts'"
        )
    if len(set(named)) < len(named):
        raise ValueError(f"{name}={shown(value)} names a layer twice; name each once")
    return tuple(named)


def bounds(name: str, value: Any) -> tuple[float, float] | dict[str, tuple[float, float]]:
    """One pair (low, high) for all inputs, or one by input name.

    Raises:
        ValueError: anything else, or a range that holds no numbers.
    """
    if not isinstance(value, Mapping):
        return _pair(name, value)
    for key in value:
        if not isinstance(key, str):
            raise ValueError(f"{name} has the key {shown(key)}: keys are names of inputs")
    return {key: _pair(f"{name}[{key!r}]", pair) for key, pair in value.items()}


def state_names(name: str, value: Any) -> dict[str | int, str]:
    """Outputs, by name or number, and the inputs that they are fed back to.

    Raises:
        ValueError: anything else, or none.
    """
    is_given = isinstance(value, Mapping) and bool(value)
    if not is_given or not all(
        isinstance(key, (str, int)) and not isinstance(key, bool) and isinstance(entry, str)
        for key, entry in value.items()
    ):
        raise ValueError(
            f"{name}={shown(value)} must be a dictionary {{output name or number: input name}}"
        )
    return dict(value)


def shapes(name: str, value: Any) -> Any:
    """Sizes of one input as a tuple, or those of several as a list or a dictionary of tuples.

    Raises:
        ValueError: anything else, or sizes that are no positive integers.
    """
    if isinstance(value, Mapping):
        return {str(key): _shape(f"{name}[{key!r}]", sizes) for key, sizes in value.items()}
    several = isinstance(value, (list, tuple)) and any(np.ndim(entry) for entry in value)
    if several:
        return [_shape(f"{name}[{index}]", sizes) for index, sizes in enumerate(value)]
    return _shape(name, value)


def _shape(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple, np.ndarray)) or not len(value):
        raise ValueError(
            f"{name}={shown(value)} must be the sizes of an input without the batch, for example "
            "(224, 224, 3)"
        )
    return tuple(whole(f"{name}[{axis}]", size, 1) for axis, size in enumerate(value))


def _pair(name: str, value: Any) -> tuple[float, float]:
    is_pair = isinstance(value, (tuple, list, np.ndarray)) and len(value) == 2
    if not is_pair or not all(_is_finite(bound) for bound in value) or value[0] >= value[1]:
        raise ValueError(
            f"{name}={shown(value)} must be two finite numbers (low, high) with low < high, for "
            "example (0, 255)"
        )
    return float(value[0]), float(value[1])


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.bool_))


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))
    return is_number and math.isfinite(value)
