"""Every kernel can hold what it is given, for weights, biases and ranges of any size."""

from __future__ import annotations

import dataclasses
import functools
from fractions import Fraction

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L

import tfeptq
import tflite_export
from tfeptq.calibrate.thresholds import fitted_grid
from tfeptq.canonical import linear
from tfeptq.freeze.kernel_scales import settle
from tfeptq.model import QuantizedModel
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import prepare
from tfeptq.quantized.wrap import wrap
from tflite_export.graph.kinds import is_weighted
from tflite_export.graph.structure import IntegerGraph, Operator
from tflite_export.runtimes import reference

H, W, C, N = 5, 4, 3, 6


def network() -> keras.Model:
    """Every weighted layer, one of them shared, and every operator that rescales."""
    inputs = keras.Input((H, W, C), name="image")
    x = L.Conv2D(N, 3, padding="same", activation="relu", name="conv")(inputs)
    y = L.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = L.Multiply(name="product")([L.Subtract(name="difference")([x, y]), y])
    x = L.ReLU(6.0, name="bounded")(L.Add(name="sum")([x, y]))
    shared = L.Conv2D(N, 1, name="shared")
    x = shared(L.LeakyReLU(0.3, name="leaky")(shared(x)))
    x = L.ReLU(0.7, name="capped")(L.Conv2D(N, 1, name="behind_shared")(x))
    x = L.Activation("hard_silu", name="curve")(L.PReLU(shared_axes=[1, 2], name="slopes")(x))
    x = L.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(inputs, L.Dense(4, name="dense")(x), name="extremes")


@functools.cache
def quantized(bits: int, activation_bits: int, per_channel: bool) -> QuantizedModel:
    """Whatever a target has: kernels of all widths and granularities."""
    plan = QuantizationPlan.of(prepare(network()), tfeptq.QuantizationConfig())
    weights = {
        name: dataclasses.replace(held, bits=bits, per_channel=per_channel, requantization="once")
        for name, held in plan.weights.items()
    }
    tensors = {
        key: dataclasses.replace(
            tensor,
            quantizer=dataclasses.replace(
                tensor.quantizer,
                bits=activation_bits,
                fixed=plan.fixed_parameters(tensor.quantizer, activation_bits),
            ),
        )
        for key, tensor in plan.tensors.items()
    }
    plan = dataclasses.replace(
        plan,
        weights=weights,
        tensors=tensors,
        requantizations=dict.fromkeys(plan.requantizations, "once"),
    )
    return QuantizedModel(*wrap(plan), name="extremes")


class Extremes:
    """Weights, biases and ranges over many orders of magnitude, some of them zero."""

    def __init__(self, seed: int, spread: float) -> None:
        self.generator = np.random.default_rng(seed)
        self.spread = spread

    def sizes(self, count: int) -> np.ndarray:
        sizes = 10.0 ** self.generator.uniform(-self.spread, self.spread, count)
        return np.where(self.generator.random(count) < 0.15, 0.0, sizes)

    def fill(self, model: QuantizedModel) -> None:
        for layer in model.weighted_layers:
            axes = linear.channel_axes(layer.layer)
            shape = [size if axis in axes else 1 for axis, size in enumerate(layer.place.shape)]
            kernel = self.generator.normal(size=layer.place.shape)
            kernel = kernel * self.sizes(int(np.prod(shape))).reshape(shape)
            signs = self.generator.choice([-1.0, 1.0], layer.layer.bias.shape)
            bias = self.sizes(len(signs)) * signs
            layer.layer.set_weights([kernel.astype("float32"), bias.astype("float32")])
        for quantizer in model.activation_quantizers:
            if quantizer.fixed is None:
                high = float(self.sizes(1)[0])
                quantizer.set_range(float(self.generator.choice([0.0, -1.0, -0.1])) * high, high)


def with_steps(model: QuantizedModel, method: str) -> None:
    for layer in model.weighted_layers:
        grid = fitted_grid(
            layer.layer,
            None,
            grid=layer.grid_name,
            bits=layer.bits,
            method=method,
            per_channel=layer.per_channel,
        )
        layer.set_grid(grid)


def exact(value: float) -> Fraction:
    return Fraction(float(value))


def check_all(graph: IntegerGraph) -> None:
    for operator in graph.operators:
        (check_weighted if is_weighted(operator.kind) else check_others)(graph, operator)


def check_weighted(graph: IntegerGraph, operator: Operator) -> None:
    """Sums of the worst inputs and multipliers, in exact rational arithmetic."""
    source, weights, bias = (graph.tensors[name] for name in operator.inputs)
    output = graph.tensors[operator.outputs[0]]
    low, high = (-(2**15), 2**15 - 1) if source.dtype == "int16" else (-128, 127)
    low, high = low - source.quantization.zero_point, high - source.quantization.zero_point
    axis = 3 if operator.kind == "DEPTHWISE_CONV_2D" else 0
    scales = weights.quantization.scale
    register = 2**39 if source.dtype == "int16" else 2**31
    for channel, kernel in enumerate(np.moveaxis(weights.data, axis, 0)):
        products = [(int(w) * low, int(w) * high) for w in kernel.reshape(-1)]
        least, most = (sum(pick(pair) for pair in products) for pick in (min, max))
        offset = int(bias.data[channel])
        multiplier = (
            exact(source.quantization.scale[0])
            * exact(scales[channel % scales.size])
            / exact(output.quantization.scale[0])
        )
        for total in (least, most, offset, least + offset, most + offset):
            assert -register <= total < register
            if source.dtype == "int16":
                assert abs(total * multiplier) < 2**31
        shift = 1
        while multiplier >= shift:
            shift *= 2
        if source.dtype == "int8":
            assert max(abs(least + offset), abs(most + offset)) * shift < 2**31
        assert Fraction(1, 2**31) < multiplier < (128 if source.dtype == "int16" else 256)


def check_others(graph: IntegerGraph, operator: Operator) -> None:
    tensors = [graph.tensors[name] for name in operator.inputs]
    output = exact(graph.tensors[operator.outputs[0]].quantization.scale[0])
    scales = [exact(tensor.quantization.scale[0]) for tensor in tensors]
    wide = tensors[0].dtype == "int16"
    reach = [
        int(np.abs(tensor.data.astype(int)).max())
        if tensor.data is not None
        else 2**15
        if wide
        else 128 + abs(tensor.quantization.zero_point)
        for tensor in tensors
    ]
    if operator.kind in ("ADD", "SUB"):
        assert 2 * max(scales) / output < (2**15 if wide else 2**20)
    elif operator.kind == "HARD_SWISH":
        assert scales[0] / output < 128
    elif operator.kind in ("MUL", "PRELU"):
        assert reach[0] * reach[1] * scales[0] * scales[1] / output < 2**31
    if operator.kind not in ("MUL", "ADD", "SUB"):
        assert reach[0] * scales[0] / output < 2**31


@settings(max_examples=24)
@given(
    bits=st.sampled_from([2, 8]),
    activation_bits=st.sampled_from([8, 16]),
    per_channel=st.booleans(),
    method=st.sampled_from(["max", "mse"]),
    spread=st.sampled_from([1.0, 3.0, 6.0]),
    seed=st.integers(0, 10**6),
)
def test_every_graph_that_freeze_returns_fits(
    bits, activation_bits, per_channel, method, spread, seed
):
    # Hard swish has no 16-bit kernel; its own graph is not exported here.
    model = quantized(bits, activation_bits, per_channel)
    Extremes(seed, spread).fill(model)
    with_steps(model, method)
    settle(model, is_trained=False)
    assert not settle(model, is_trained=False)
    graph = model.freeze()
    check_all(graph)


@settings(max_examples=15)
@given(
    bits=st.sampled_from([2, 8]),
    activation_bits=st.sampled_from([8, 16]),
    drift=st.floats(0.1, 6.0),
    seed=st.integers(0, 10**6),
)
def test_training_cannot_leave_what_fits(bits, activation_bits, drift, seed):
    """Scales and biases learn; folding repairs what they left, once."""
    model = quantized(bits, activation_bits, True)
    extremes = Extremes(seed, 3.0)
    extremes.fill(model)
    with_steps(model, "mse")
    settle(model, is_trained=False)
    normal = extremes.generator.normal
    for layer in model.weighted_layers:
        layer.log_scale.assign(normal(0, drift, layer.log_scale.shape))
        offset = normal(size=layer.bias_offset.shape) * 10.0 ** normal(0, drift)
        layer.bias_offset.assign(offset)
    for quantizer in model.activation_quantizers:
        if quantizer.fixed is None:
            quantizer.log_scale.assign(normal(0, drift))
    first = model.freeze()
    second = model.freeze()
    for name, tensor in first.tensors.items():
        np.testing.assert_array_equal(
            tensor.quantization.scale, second.tensors[name].quantization.scale
        )
        if tensor.data is not None:
            np.testing.assert_array_equal(tensor.data, second.tensors[name].data)
    check_all(first)


@settings(max_examples=15)
@given(
    activation_bits=st.sampled_from([8, 16]),
    per_channel=st.booleans(),
    seed=st.integers(0, 10**6),
    tiny=st.sampled_from([0.0, 1e-30, 1e-12, 1e-7, 1e-4]),
    bias=st.sampled_from([1e-3, 1.0, 30.0, 1e4, -1e4, 1e9, -1e9]),
)
def test_nothing_is_lost_by_widening(activation_bits, per_channel, seed, tiny, bias):
    """Dead channels give, for random inputs, what float arithmetic gives, to one code."""
    model = quantized(8, activation_bits, per_channel)
    Extremes(seed, 0.5).fill(model)
    layer = model.get_layer("conv")
    kernel = np.random.default_rng(seed).normal(size=(3, 3, C, N)).astype("float32")
    kernel[..., [1, 4]] *= tiny
    offsets = np.zeros(N, "float32")
    offsets[[1, 4]] = bias
    layer.layer.set_weights([kernel, offsets])
    model.get_layer("image_quantizer").set_range(-1.0, 1.0)
    target = model.get_layer("conv_relu_quantizer")
    target.set_range(0.0, max(4.0, bias))
    with_steps(model, "max")
    settle(model, is_trained=False)
    graph = model.freeze()
    values = np.random.default_rng(1).uniform(-1.0, 1.0, (3, H, W, C)).astype("float32")
    found = conv_codes(graph, values)[..., [1, 4]]
    source = graph.tensors["image"].quantization
    steps = np.round(values / source.scale[0]).astype(np.float64) * source.scale[0]
    real = (
        np.asarray(keras.ops.conv(steps.astype("float32"), kernel, padding="same")).astype(
            np.float64
        )
        + offsets
    )
    made = graph.tensors["conv_relu" if "conv_relu" in graph.tensors else "conv"].quantization
    top = 127 if activation_bits == 8 else 2**15 - 1
    wanted = np.clip(
        np.maximum(real, 0.0)[..., [1, 4]] / made.scale[0] + made.zero_point, -(2**15), top
    )
    # Natural rounding of eight-bit weights, seen in codes of the output.
    natural = 27 * 0.5 * layer.scales().max() / made.scale[0] if tiny == 1e-4 else 0.0
    # Kernels of 16-bit activations have multipliers of 15 bits.
    rounding = 0.51 if activation_bits == 8 else 1.01
    assert np.abs(found - wanted).max() <= rounding + natural + 0.1


def conv_codes(graph: IntegerGraph, values: np.ndarray) -> np.ndarray:
    operator = next(op for op in graph.operators if op.layer == "conv")
    source = graph.tensors[operator.inputs[0]]
    info = np.iinfo(source.dtype)
    scaled = np.round(values / source.quantization.scale[0]) + source.quantization.zero_point
    codes = np.clip(scaled, info.min, info.max).astype(source.dtype)
    constants = [graph.tensors[name].data for name in operator.inputs[1:]]
    return reference.run_operator(operator, graph.tensors, [codes, *constants]).astype(np.float64)


def dead_channels(tiny: float, bias: float, depthwise: bool) -> keras.Model:
    """What batch normalization leaves of channels that it has switched off."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((H, W, C))
    x = L.Conv2D(N, 3, padding="same", use_bias=False, name="conv")(inputs)
    x = L.ReLU()(L.BatchNormalization(name="norm")(x))
    if depthwise:
        x = L.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
        x = L.ReLU(6.0)(L.BatchNormalization(name="depthwise_norm")(x))
    x = L.Dense(4, name="head")(L.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, x)
    for name in ("norm", "depthwise_norm")[: 1 + depthwise]:
        gamma, beta = np.ones(N), np.zeros(N)
        gamma[[2, 4]], beta[[2, 4]] = tiny, bias
        model.get_layer(name).gamma.assign(gamma)
        model.get_layer(name).beta.assign(beta)
    return model


IMAGES = np.random.default_rng(0).uniform(0.0, 1.0, (48, H, W, C)).astype("float32")
RECIPES = {
    "nearest": {"rounding": "nearest"},
    "max": {"rounding": "nearest", "threshold": "max", "activation_bits": 16},
    "optq": {"rounding": "optq", "weight_bits": 4},
    "per tensor": {"rounding": "optq", "weight_bits": {"head": 4}, "target": "microcontroller"},
    "eptq": {"rounding": "eptq", "steps": 5, "batch_size": 16, "target": "ethos-u"},
}


@pytest.mark.parametrize(
    ("recipe", "tiny", "bias"),
    [("nearest", 1e-7, 1.2), ("nearest", 0.0, -6.0)] + [(name, 1e-24, 6.0) for name in RECIPES],
)
def test_dead_channels_are_repaired_and_reported(tmp_path, recipe, tiny, bias):
    model = dead_channels(tiny, bias, depthwise=recipe in ("nearest", "eptq"))
    config = tfeptq.QuantizationConfig(samples=48, **RECIPES[recipe])
    quantized = tfeptq.quantize(model, IMAGES, config)
    # Biases of 16-bit activations have 64 bits.
    if config.activation_bits == 8:
        (repair,) = [line for line in quantized.report.repairs if "'conv'" in line]
        assert "the weight scales of 2 channels (2, 4)" in repair
    tflite_export.export(quantized, tmp_path / "m.tflite")
    runtime = "tflm" if config.target == "microcontroller" else "litert"
    found = tflite_export.run(tmp_path / "m.tflite", IMAGES, runtime=runtime)
    expected = model.predict(IMAGES, verbose=0)
    assert np.abs(found - expected).max() < 0.08 * np.abs(expected).max()
    np.testing.assert_allclose(
        found, quantized.predict(IMAGES, verbose=0), atol=0.03 * np.abs(expected).max()
    )


def test_ordinary_models_need_no_repair():
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=48)
    quantized = tfeptq.quantize(dead_channels(1.0, 0.5, depthwise=True), IMAGES, config)
    assert quantized.report.repairs == []


@pytest.mark.parametrize("activation_bits", [8, 16])
@pytest.mark.parametrize("units", [1e3, 1e6])
def test_bounded_outputs_behind_large_values_are_exported(tmp_path, units, activation_bits):
    """Their scales are fixed: kernels shall hold what is end to end in one step of an input."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((H, W, C))
    gate = L.Activation("hard_sigmoid", name="gate")(inputs)
    cap = L.ReLU(0.5, name="cap")(L.Conv2D(N, 3, padding="same", name="conv")(inputs))
    x = [L.GlobalAveragePooling2D()(x) for x in (gate, cap)]
    model = keras.Model(inputs, L.Dense(4, name="head")(L.Concatenate()(x)))
    model.get_layer("conv").bias.assign(np.linspace(0.0, 0.5, N))
    images = (np.random.default_rng(0).normal(size=(48, H, W, C)) * units).astype("float32")
    config = tfeptq.QuantizationConfig(
        rounding="nearest", samples=48, activation_bits=activation_bits
    )
    quantized = tfeptq.quantize(model, images, config)
    if units == 1e6:
        assert any("from end to end" in line for line in quantized.report.repairs)
    tflite_export.export(quantized, tmp_path / "m.tflite")
    found = tflite_export.run(tmp_path / "m.tflite", images, runtime="litert")
    expected = model.predict(images, verbose=0)
    assert np.sqrt(np.square(found - expected).mean()) < 0.05 * np.std(expected)
