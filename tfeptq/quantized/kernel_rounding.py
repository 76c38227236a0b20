"""How integer kernels round accumulators, imitated in float32 once all scales are final."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from tfeptq.quantized.quantizers import straight_through

#: Part of a grid step: above the noise of float32, below anything that changes a result.
TIE_NUDGE = 0.01


def rounded_to_grid(outputs: Any, grid: Any, *, requantization: str) -> Any:
    """First of a kernel's two roundings, with a nudge that decides ties in the second.

    Args:
        grid: distance of the values in between, broadcast against `outputs`; 0: not known yet.
        requantization: "once" (nothing to imitate), "twice" or "twice_up".
    """
    if requantization == "once":
        return outputs
    known = ops.where(grid > 0.0, grid, 1.0)
    steps = ops.floor(outputs / known + 0.5)
    nudge = TIE_NUDGE * (ops.sign(steps) if requantization == "twice" else 1.0)
    rounded = straight_through(outputs, (steps + nudge) * known)
    return ops.where(grid > 0.0, rounded, outputs)


def multiplier_exponent(multiplier: Any) -> np.ndarray:
    """e of a real multiplier q * 2^e, q in [0.5, 1) with 31 fractional bits, as kernels hold it."""
    fraction, exponent = np.frexp(np.asarray(multiplier, np.float64))
    return exponent + (np.round(fraction * 2.0**31) == 2.0**31)


def grid_between_roundings(
    multiplier: Any, output_scale: np.float32, *, divided_bits: int = 0
) -> np.ndarray:
    """Distance of the values that a kernel has between its two roundings, float64.

    A fixed-point kernel multiplies its accumulator by q * 2^e, q in [0.5, 1): it rounds the product
    with q to an integer and that times 2^e again. Multipliers above one leave nothing to round.

    Args:
        multiplier: real, one a channel or one in all.
        divided_bits: by which e is lower, where a division is part of the multiplier.
    """
    exponent = np.minimum(multiplier_exponent(multiplier) - divided_bits, 0)
    return np.float64(output_scale) * 2.0**exponent
