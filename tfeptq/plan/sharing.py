"""Which inputs of a concatenation, maximum or minimum have its scale, and which are requantized.

Their kernels copy integers, so all inputs need the output's scale. A tensor that only this kernel
reads is computed in that scale at once: nothing is lost, no operator is added. Where others read it
too, a wide scale takes precision from them. Then a requantization in front of the kernel is worth
its operator and its rounding, unless the ranges are alike: at a ratio of r it multiplies the square
of the kernel's own error by 1 + 1/r^2, and spares the other readers a factor of r^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from tfeptq.canonical.layer_graph import Key

#: Tensor of the canonical model -> smallest and largest value on the calibration samples.
Ranges = Mapping[Key, tuple[float, float]]

#: Bits of precision that a tensor with other readers may lose before it is requantized instead.
#: One of 8: then a requantization would add a quarter to the square of the kernel's error. 16 bits
#: have more to lend.
_LENT_BITS = {8: 1, 16: 4}


def extent(values: Iterable[tuple[float, float]], bits: int) -> float:
    """Length of the range that a quantizer of `bits` needs for all of these ranges and zero."""
    low, high = 0.0, 0.0
    for smallest, largest in values:
        low, high = min(low, smallest), max(high, largest)
    return 2.0 * max(-low, high) if bits == 16 else high - low


def shared(
    candidates: Sequence[Sequence[Key]],
    made: Key,
    ranges: Ranges | None,
    bits: int,
    is_read_elsewhere: Callable[[Key], bool],
) -> list[int]:
    """Indices of the candidates that get the scale of `made`, in their order.

    Args:
        candidates: for each input that may share the scale, the tensors that its quantizer serves
            as their own: several, if it is shared already.
        made: the kernel's result.
        ranges: None: not known yet; then all share, which costs least.
        is_read_elsewhere: whether anything but the kernel reads a tensor, or what only moves its
            integers.
    """
    if ranges is None:
        return list(range(len(candidates)))
    chosen: list[int] = []
    bounds = [made]
    narrowest = _least([made], ranges, bits)
    # What nobody else reads comes first: it takes whatever scale the kernel needs.
    public = [[key for key in keys if is_read_elsewhere(key)] for keys in candidates]
    for index in sorted(range(len(candidates)), key=lambda index: bool(public[index])):
        widest = [*bounds, *candidates[index]] if public[index] else bounds
        least = min(narrowest, _least(public[index], ranges, bits))
        if extent((ranges[key] for key in widest), bits) <= _factor(bits) * least:
            chosen.append(index)
            bounds, narrowest = widest, least
    return sorted(chosen)


def _factor(bits: int) -> float:
    return 2.0 ** _LENT_BITS[max(bits, 8)]


def _least(keys: Iterable[Key], ranges: Ranges, bits: int) -> float:
    """The narrowest range of these tensors; those that are always zero lose nothing."""
    found = (extent([ranges[key]], bits) for key in keys)
    return min((length for length in found if length > 0.0), default=math.inf)
