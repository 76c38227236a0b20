"""Two sets of samples of one input that are in two units, as pixels beside parts of one."""

from __future__ import annotations

import warnings

import numpy as np

from tflite_export.file.ends import dequantized
from tflite_export.file.stored import StoredModel

#: Values that are not zero of which more lie as far again as a range is wide, outside of it.
_MOST = 1 / 2
#: What fills less of a range has probably another unit.
_LEAST_SHARE = 1 / 16
#: Types of inputs whose ranges scales give.
_CODES = ("int8", "uint8", "int16")


def bounds_of(samples: np.ndarray) -> tuple[float, float]:
    """Lowest and highest value of samples, and zero, which every range holds."""
    return float(samples.min(initial=0)), float(samples.max(initial=0))


def doubt_unit(
    samples: np.ndarray, known: tuple[float, float], *, what: str, beside: str
) -> list[str]:
    """Warns of samples most of which a range clips, or that fill hardly any of it.

    Args:
        known: lowest and highest value that an input was calibrated for.
        what: names the samples, and `beside` what the range is of.

    Returns:
        The sentence, if there is one.
    """
    first, last = bounds_of(samples)
    low, high = known
    width, told = high - low, samples[samples != 0]
    beyond = np.mean((told < low - width) | (told > high + width)) if told.size else 0.0
    if beyond <= _MOST and last - first >= _LEAST_SHARE * width:
        return []
    sentence = (
        f"{what} reach from {first:g} to {last:g}, {beside} from {low:g} to {high:g}: are both in "
        "one unit?"
    )
    warnings.warn(sentence, stacklevel=3)
    return [sentence]


def warn_of_another_unit(inputs: np.ndarray, stored: StoredModel, *, what: str) -> None:
    """`doubt_unit` of what a file of one input is given, unless it is the file's own integers."""
    if len(stored.inputs) != 1:
        return
    tensor = stored.tensors[stored.inputs[0]]
    if tensor.scale is None or tensor.type not in _CODES or inputs.dtype.name == tensor.type:
        return
    codes = np.iinfo(tensor.type)
    low, high = dequantized(np.array([codes.min, codes.max], tensor.type), tensor)
    doubt_unit(
        inputs,
        (float(low), float(high)),
        what=what,
        beside=f"input {tensor.name!r} of the file reaches",
    )
