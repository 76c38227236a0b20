"""What integer kernels can hold: bounds of scales, multipliers and sums, as numbers.

Quantization chooses scales within them, and `tflite_export.graph.proofs` proves of a whole graph
that no input leaves them. They are those of the strictest of LiteRT's kernels, XNNPACK and
TensorFlow Lite Micro: a graph within them runs everywhere. Found in the runtimes' sources and
measured on both sides of each bound by tests/tflite_export/graph/test_proofs.py.
"""

from __future__ import annotations

INT32 = 2**31 - 1
#: Largest sum of a weighted operator, by activation type: int32 registers, and 40 bits in an
#: Ethos-U, where kernels in software have int64.
ACCUMULATOR = {"int8": INT32, "int16": 2**39 - 1}
#: Results are at most this before the output's zero point is added.
RESULT = INT32 - 2**16
#: A weighted operator's input scale * weight scale / output scale is below this: XNNPACK refuses
#: int8 beyond, kernels of int16 shift by fewer than 8 bits.
MULTIPLIER = {"int8": 256.0, "int16": 128.0}
#: Of any tensor: products of two are normal float32 numbers, as kernels compute them.
LOWEST_SCALE, HIGHEST_SCALE = 2.0**-60, 2.0**60
#: Lowest product of input and weight scale, the unit of a bias.
LOWEST_UNIT = 2.0**-120
#: ADD and SUB: twice the larger input scale / output scale is below this, or kernels abort; under
#: XNNPACK sums of int8 wrap around.
SUM_RATIO = {"int8": 2.0**9, "int16": 2.0**15}
#: HARD_SWISH: input scale / output scale is below this.
HARD_SWISH_RATIO = 128.0
#: Output scales under a fused or single RELU6 are above this: kernels hold 6 / scale as int32.
RELU6_SCALE = 6.0 / RESULT


def reach(dtype: str, zero_point: int) -> tuple[int, int]:
    """Lowest and highest difference of an integer of a tensor from its zero point."""
    low, high = (-(2**15), 2**15 - 1) if dtype == "int16" else (-128, 127)
    return low - zero_point, high - zero_point
