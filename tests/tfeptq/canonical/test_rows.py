"""Every primitive layer on the whole road, in the integer types of the runtimes."""

from __future__ import annotations

import importlib.util

import keras
import numpy as np
import pytest

import tfeptq
import tflite_export
from tests.tfeptq.layer_road import CASES, SHAPE, LayerRoad, branches
from tfeptq.canonical.primitives import PRIMITIVES, find_primitive

#: Layers whose kernels exist for int8 alone.
ONLY_INT8 = ("leaky_relu", "prelu", "hard_silu", "rsqrt", "elu")
#: The kernel counts places in 1/1024 of a pixel, which is many steps of 16 bits.
COARSE = ("resize",)
LEFT_OUT_OF_16_BITS = (*ONLY_INT8, *COARSE, "exponential")


def test_every_row_has_a_case_and_every_case_is_its_operator():
    rows = {name: find_primitive(case.layer(name)) for name, case in CASES.items()}
    missing = [row.kind for row in PRIMITIVES if row not in rows.values()]
    assert not missing, "add a case to tests/tfeptq/layer_road.py"
    for name, row in rows.items():
        assert row.kind_of(CASES[name].layer(name)) == CASES[name].kind


class TestIn8Bits(LayerRoad):
    names = tuple(name for name in CASES if CASES[name].has_road)


class TestIn16Bits(LayerRoad):
    names = tuple(name for name in TestIn8Bits.names if name not in LEFT_OUT_OF_16_BITS)
    activation_bits = 16
    # Steps are 256 times finer: float32 sums in another order, and tanh is interpolated.
    most, average = 6.0, 1.0


class TestASteepFunctionIn16Bits(LayerRoad):
    """Kernels hold it as 512 straight pieces over the input's whole range."""

    names = ("exponential",)
    activation_bits = 16
    most, average = 32.0, 1.0


@pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="extra 'microcontroller' is missing"
)
class TestInFewBits(LayerRoad):
    names = ("conv", "depthwise", "transposed", "dense")
    target = "microcontroller"
    runtime = "tflm"
    weight_bits = 4
    average = 0.02


def test_normalizations_have_the_operator_of_roots(tmp_path):
    """On its own the function is a table: the road of the row is theirs."""
    model = branches(("conv",))
    # Over whole images: where a variance is a few steps, one step of it moves roots by many.
    outputs = keras.layers.LayerNormalization(axis=(1, 2, 3), name="norm")(
        model.get_layer("one").output
    )
    model = keras.Model(model.inputs, outputs)
    images = np.random.default_rng(0).normal(size=(48, *SHAPE)).astype("float32")
    # An image without variance has the integer zero there.
    images[::5] = 0.0
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=48)
    quantized = tfeptq.quantize(model, images, config, verbose=0)
    kinds = [operator.kind for operator in quantized.freeze().operators]
    assert kinds.count(CASES["rsqrt"].kind) == 1
    path = tmp_path / "m.tflite"
    tflite_export.export(quantized, path)
    quantized.save(tmp_path / "m.keras")
    loaded = tfeptq.load_model(tmp_path / "m.keras")
    expected = quantized.predict(images, verbose=0)
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), expected)
    inspection = tflite_export.inspect(path)
    scales = {tensor.name: tensor.scale for tensor in inspection.tensors}
    step = scales[inspection.outputs[0]]
    distances = np.abs(tflite_export.run(path, images) - expected) / step
    assert distances.max() <= 2.01
    assert distances.mean() < 0.2
