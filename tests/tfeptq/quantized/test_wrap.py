"""The wrapped model: the canonical model's layers and weights, with the plan's quantizers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L

from tests.tfeptq import small_models
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.config import QuantizationConfig
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import prepare
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.quantized.wrap import wrap
from tfeptq.quantized.wrappers import QuantizedWeights


def wrapped(model: keras.Model, **settings) -> tuple[QuantizationPlan, keras.Model]:
    plan = QuantizationPlan.of(prepare(model), QuantizationConfig(**settings))
    return plan, keras.Model(*wrap(plan))


def quantizers(model: keras.Model) -> dict[str, ActivationQuantizer]:
    return {layer.name: layer for layer in model.layers if isinstance(layer, ActivationQuantizer)}


WIDTHS = [8, 16, {"depthwise": 16, "sum": 5}]


@pytest.mark.parametrize("bits", WIDTHS, ids=str)
def test_quantizers_are_those_of_the_plan(bits):
    plan, model = wrapped(small_models.residual_network(), activation_bits=bits)
    found = quantizers(model)
    assert found.keys() == plan.quantizers.keys()
    for name, quantizer in plan.quantizers.items():
        fixed = None if quantizer.fixed is None else tuple(quantizer.fixed)
        assert (found[name].bits, found[name].fixed) == (quantizer.bits, fixed)


def test_layers_hold_the_weights_and_widths_of_the_plan():
    plan, model = wrapped(small_models.residual_network(), weight_bits={"stem": 4})
    for name, storage in plan.weights.items():
        layer = model.get_layer(name)
        assert isinstance(layer, QuantizedWeights)
        assert (layer.bits, layer.per_channel) == (storage.bits, storage.per_channel)
        for left, right in zip(
            layer.layer.get_weights(), plan.model.get_layer(name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("bits", WIDTHS, ids=str)
def test_with_float_tensors_and_fine_weights_it_is_the_canonical_model(bits):
    plan, model = wrapped(small_models.residual_network(), activation_bits=bits)
    for quantizer in quantizers(model).values():
        quantizer.float_share.assign(1.0)
    for name in plan.weights:
        layer = model.get_layer(name)
        layer.set_step(np.full(layer.step.shape, np.abs(layer.float_kernel).max() / 127))
    images = small_models.images(16)
    expected = plan.model.predict(images, verbose=0)
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, atol=0.05)
    assert expected.std() > 0.1


def test_a_shared_layer_is_one_wrapper_that_knows_its_calls():
    inputs = [keras.Input((4,), name="left"), keras.Input((4,), name="right")]
    shared = L.Dense(3, name="shared")
    plan, model = wrapped(keras.Model(inputs, L.Subtract()([shared(x) for x in inputs])))
    layer = model.get_layer("shared")
    assert layer.calls == 2
    calls = [call for call in LayerGraph.of(model).calls if call.layer is layer]
    assert len(calls) == 2
    assert len(plan.weights) == 1


def test_a_copy_in_another_type_stands_once_for_all_its_readers():
    inputs = keras.Input((6,), name="x")
    wide = L.Dense(4, name="wide")(inputs)
    outputs = [L.Dense(2, name=f"reader_{index}")(wide) for index in range(3)]
    plan, model = wrapped(keras.Model(inputs, outputs), activation_bits={"wide": 16})
    copies = {
        operand.quantizer.name
        for kernel in plan.kernels
        for operand in kernel.operands
        if operand.is_copy and operand.key[0] == "wide"
    }
    assert len(copies) == 1
    readers = [c for c in LayerGraph.of(model).calls if c.layer.name.startswith("reader")]
    sources = {call.inputs[0][0] for call in readers if isinstance(call.layer, QuantizedWeights)}
    assert sources == copies


def test_inputs_and_outputs_keep_their_order_and_structure():
    first, second = keras.Input((3,), name="b"), keras.Input((3,), name="a")
    total = L.Add(name="total")([first, second])
    model = keras.Model([first, second], {"y": L.Dense(2, name="y")(total), "x": total})
    _, quantized = wrapped(model)
    assert [tensor.name for tensor in quantized.inputs] == ["b", "a"]
    assert set(quantized.output) == {"x", "y"}
    assert [tuple(quantized.output[key].shape) for key in "xy"] == [(None, 3), (None, 2)]


def test_the_float_model_stays_as_it_was():
    model = small_models.residual_network()
    before = [array.copy() for array in model.get_weights()]
    _, quantized = wrapped(model)
    for layer in quantized.layers:
        layer.set_weights([np.zeros_like(array) for array in layer.get_weights()])
    for left, right in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
