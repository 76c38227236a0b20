"""Every primitive layer on the whole road, in the integer types of the runtimes."""

from __future__ import annotations

from tests.tfeptq.layer_road import CASES, LayerRoad

#: Layers whose kernels exist for int8 alone.
ONLY_INT8 = ("leaky_relu", "prelu", "hard_silu")


class TestIn8Bits(LayerRoad):
    names = tuple(CASES)


class TestIn16Bits(LayerRoad):
    names = tuple(name for name in CASES if name not in ONLY_INT8)
    activation_bits = 16


class TestInFewBits(LayerRoad):
    names = ("conv", "depthwise", "dense")
    target = "microcontroller"
    weight_bits = 4
