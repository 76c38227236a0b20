"""Operator versions: those that introduced the operand types at hand.

Runtimes refuse versions newer than they know; none of them reads the version to choose a kernel.
So packed weights keep the version of int8: version 7, which TensorFlow writes for int4
convolutions, is unknown to LiteRT's own reference resolver.
"""

from __future__ import annotations

#: Operator -> (version for int8 activations, version for int16 activations).
_VERSIONS: dict[str, tuple[int, int]] = {
    "CONV_2D": (3, 4),
    "DEPTHWISE_CONV_2D": (3, 5),
    "FULLY_CONNECTED": (4, 7),
    "ADD": (2, 3),
    "SUB": (2, 5),
    "MUL": (2, 4),
    "MAXIMUM": (2, 4),
    "MINIMUM": (2, 4),
    "CONCATENATION": (2, 3),
    "MAX_POOL_2D": (2, 3),
    "AVERAGE_POOL_2D": (2, 3),
    "MEAN": (2, 3),
    "RESHAPE": (1, 1),
    "TRANSPOSE": (2, 5),
    "PAD": (2, 3),
    "SLICE": (2, 4),
    "RESIZE_NEAREST_NEIGHBOR": (2, 4),
    "RESIZE_BILINEAR": (3, 4),
    "RELU": (2, 3),
    "RELU6": (2, 3),
    "LEAKY_RELU": (1, 2),
    "PRELU": (1, 1),
    "HARD_SWISH": (1, 1),
    "LOGISTIC": (2, 3),
    "TANH": (2, 3),
    "SOFTMAX": (2, 3),
    "QUANTIZE": (2, 2),
}


def operator_version(kind: str, *, activation_dtype: str, keep_num_dims: bool = False) -> int:
    """Version stamped on an operator whose (first) input is `activation_dtype`."""
    narrow, wide = _VERSIONS[kind]
    if kind == "FULLY_CONNECTED" and keep_num_dims and activation_dtype != "int16":
        return 5
    return wide if activation_dtype == "int16" else narrow
