"""Concatenations, maxima and minima take no precision from tensors that others read."""

from __future__ import annotations

from collections import Counter

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from keras import layers as L

import tfeptq
import tflite_export
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.canonical.topology import Topology, joins
from tfeptq.plan.assignment import tensor_plans
from tfeptq.plan.sharing import extent, shared
from tfeptq.preparation import prepare

H, W, C = 6, 5, 3
NEAREST = {"rounding": "nearest", "threshold": "mse", "samples": 32}


def images(count: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, H, W, C)).astype("float32")


def scaled(x, gain: float, channels: int = C, relu: bool = False):
    """A convolution whose result is about `gain` times as large as its input."""
    layer = L.Conv2D(channels, 1, activation="relu" if relu else None)
    y = layer(x)
    layer.kernel.assign(layer.kernel * gain)
    return y


def quantized(model, **settings):
    config = tfeptq.QuantizationConfig(**{**NEAREST, **settings})
    return tfeptq.quantize(model, images(), config)


def signal_to_noise(expected: np.ndarray, found: np.ndarray) -> float:
    """In dB."""
    noise = np.mean(np.square(expected - found))
    return float(10 * np.log10(np.mean(np.square(expected)) / noise))


@pytest.mark.parametrize(
    ("bits", "gain", "copies"), [(8, 1.0, 0), (8, 1000.0, 2), (16, 8.0, 0), (16, 1000.0, 2)]
)
def test_a_concatenation_leaves_its_inputs_their_precision(tmp_path, bits, gain, copies):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((H, W, C))
    x = scaled(inputs, 1.5)
    joined = L.Concatenate()([inputs, x, scaled(x, gain)])
    model = keras.Model(inputs, [joined, scaled(x, 1.0), scaled(inputs, 1.0)])
    path = tmp_path / "m.tflite"
    tflite_export.export(quantized(model, activation_bits=bits), path)
    found = tflite_export.run(path, images(8, seed=5))
    expected = model.predict(images(8, seed=5), verbose=0)
    # 8-bit weights are what 16 bits are limited by.
    least = 30.0 if bits == 8 else 45.0
    # Nothing could hold the small channels of the concatenation at 8 bits, but the others are fine.
    for left, right in zip(expected, found, strict=True):
        assert signal_to_noise(left, right) > least
    kinds = Counter(operator.kind for operator in tflite_export.inspect(path).operators)
    assert kinds["QUANTIZE"] == copies


@pytest.mark.parametrize("kind", [L.Minimum, L.Maximum])
def test_what_a_minimum_hides_costs_no_precision(tmp_path, kind):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((H, W, C))
    sign = 1.0 if kind is L.Minimum else -1.0
    small, large = (scaled(inputs, gain, relu=True) for gain in (1.0, 1000.0))
    bounded = kind()([L.Rescaling(sign)(small), L.Rescaling(sign)(large)])
    model = keras.Model(inputs, bounded)
    path = tmp_path / "m.tflite"
    tflite_export.export(quantized(model), path)
    expected = model.predict(images(8, seed=5), verbose=0)
    # The large input's own 8 bits say little where it is as small as the other: one value in 100.
    assert signal_to_noise(expected, tflite_export.run(path, images(8, seed=5))) > 15.0


def test_equal_fixed_parameters_are_kept(tmp_path):
    """Sigmoids of several heads: their codes are copied as they are."""
    inputs = keras.Input((H, W, C))
    heads = [L.Activation("sigmoid")(L.Conv2D(2, 1)(inputs)) for _ in range(3)]
    model = keras.Model(inputs, L.Concatenate(name="scores")(heads))
    result = tflite_export.export(quantized(model), tmp_path / "m.tflite")
    assert not any(layer.kind == "QUANTIZE" for layer in result.layers)
    tensors = {t.name: t for t in tflite_export.inspect(tmp_path / "m.tflite").tensors}
    assert (tensors["scores"].scale, tensors["scores"].zero_point) == (1 / 256, -128)


def test_ranges_that_are_not_known_yet_share():
    assert shared([["x"], ["y"]], "z", None, 8, lambda key: True) == [0, 1]


def test_tensors_of_zeros_share_any_scale():
    ranges = {"zeros": (0.0, 0.0), "y": (-1.0, 3.0), "z": (-1.0, 3.0)}
    assert shared([["zeros"], ["y"]], "z", ranges, 8, lambda key: True) == [0, 1]


def test_a_part_that_is_concatenated_later_in_the_graph():
    inputs = keras.Input((6, 5, 3))
    x = L.Conv2D(3, 1)(inputs)
    smallest = L.Minimum()([x, inputs])
    for _ in range(3):
        smallest = L.Conv2D(3, 1)(smallest)
    # Closer to the outputs, and so behind the minimum in Keras's order.
    part = L.Cropping2D(((0, 1), (0, 0)))(x)
    joined = L.Concatenate()([part, L.ReLU()(part)])
    samples = np.random.default_rng(0).normal(size=(8, 6, 5, 3)).astype("float32")
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=8, threshold="max")
    tfeptq.quantize(keras.Model(inputs, [smallest, joined]), samples, config).freeze()


def test_a_chain_of_concatenations_does_not_add_up_small_losses():
    """Each step is alike, the last is not like the first."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((H, W, C))
    x = scaled(inputs, 1.0)
    first, readers = x, []
    for step in range(1, 6):
        readers.append(scaled(x, 1.0))
        x = L.Concatenate()([x, scaled(first, 1.8**step)])
    model = prepare(keras.Model(inputs, [x, *readers]))
    check_plan(model, [images()])


def test_each_tensor_of_stacked_joins_is_looked_at_once_a_question():
    """Twice as many ways lead through every block."""
    looked_at = []

    class Consumers(dict):
        def get(self, key, default=()):
            looked_at[-1] += 1
            return super().get(key, default)

    for blocks in (6, 12):
        inputs = keras.Input((H, W, C))
        x = L.Conv2D(C, 1)(inputs)
        for _ in range(blocks):
            windows = [L.MaxPooling2D(size, 1, padding="same")(x) for size in (2, 3)]
            x = L.Maximum()([*windows, L.Conv2D(C, 1)(inputs)])
        graph = LayerGraph.of(prepare(keras.Model(inputs, L.Dense(2)(x))))
        topology = Topology(graph)
        topology.consumers = Consumers(topology.consumers)
        keys = [*graph.inputs, *(call.output for call in graph.calls)]
        looked_at.append(0)
        ranges = {key: (-1.0, 1.0 + 0.01 * number) for number, key in enumerate(keys)}
        tensor_plans(topology, {name: 8 for name, _ in keys}, ranges)
    assert looked_at[1] <= 2**3 * looked_at[0]


class _Builder:
    """A random graph of what shares scales: merges, what moves integers, gains of any size."""

    def __init__(self, draw) -> None:
        self.draw = draw
        keras.utils.set_random_seed(draw(st.integers(0, 99)))
        self.inputs = [keras.Input((H, W, C)) for _ in range(draw(st.integers(1, 2)))]
        self.tensors = list(self.inputs)
        for _ in range(draw(st.integers(3, 9))):
            self.tensors.append(self._layer())
        ends = self.tensors[-1 - draw(st.integers(0, 2)) :]
        # Every input is read.
        self.model = keras.Model(self.inputs, [*ends, *(scaled(x, 1.0) for x in self.inputs)])

    def _any(self):
        return self.draw(st.sampled_from(self.tensors))

    def _layer(self):
        kind = self.draw(
            st.sampled_from(["gain", "gain", "join", "join", "extreme", "move", "curve", "relu"])
        )
        x = self._any()
        if kind == "gain":
            return scaled(x, 10.0 ** self.draw(st.integers(-2, 3)))
        if kind == "join":
            count = self.draw(st.integers(2, 3))
            return L.Concatenate()([x, *(self._any() for _ in range(count - 1))])
        if kind == "extreme":
            layer = self.draw(st.sampled_from([L.Maximum, L.Minimum]))()
            return layer([scaled(tensor, 1.0) for tensor in (x, self._any())])
        if kind == "move":
            pools = (L.MaxPooling2D, L.AveragePooling2D)
            return self.draw(st.sampled_from(pools))(2, strides=1, padding="same")(x)
        return L.Activation("sigmoid")(x) if kind == "curve" else L.ReLU()(x)


def check_plan(model: keras.Model, samples: list[np.ndarray]) -> None:
    """The rules of `tfeptq.plan.sharing`, told from its results."""
    graph = LayerGraph.of(model)
    tensors = graph.execute(samples)
    ranges = {key: (float(np.min(t)), float(np.max(t))) for key, t in tensors.items()}
    topology, readers = Topology(graph), graph.consumers()
    names = {key[0] for key in graph.inputs} | {call.layer.name for call in graph.calls}
    plans = tensor_plans(topology, dict.fromkeys(names, 8), ranges)
    slots = {key: tensor.quantizer for key, tensor in plans.tensors.items()}

    def is_read_elsewhere(key, slot, call):
        """By a kernel that writes in another scale, or by the caller."""
        others = (reader for reader in readers.get(key, ()) if reader is not call)
        return key in graph.outputs or any(slots.get(o.output) is not slot for o in others)

    for call in graph.calls:
        if not joins(call.layer):
            continue
        made = slots[call.output]
        for key in call.inputs:
            slot, owner = slots[key], topology.owner(key)
            if slot.fixed is not None:
                continue
            if slot is not made:
                served = [k for k, other in slots.items() if other is slot]
                assert any(is_read_elsewhere(k, slot, call) for k in served), (key, call)
            elif is_read_elsewhere(owner, slot, call):
                widest = extent((ranges[source] for source in slot.sources), 8)
                own = extent([ranges[owner]], 8)
                assert own == 0.0 or widest <= 2.0 * own * (1 + 1e-6), (owner, call)
        covered = [ranges[source] for source in made.sources]
        if made.fixed is None:
            low, high = ranges[call.output]
            assert min(a for a, _ in covered) <= low
            assert max(b for _, b in covered) >= high


def inputs_of(model: keras.Model) -> list[np.ndarray]:
    return [images(8, seed) for seed in range(len(model.inputs))]


@hypothesis.settings(max_examples=40, phases=[hypothesis.Phase.generate])
@hypothesis.given(st.data())
def test_random_graphs_share_where_that_is_free_or_cheap(data):
    canonical = prepare(_Builder(data.draw).model)
    check_plan(canonical, inputs_of(canonical))


@hypothesis.settings(max_examples=5, phases=[hypothesis.Phase.generate])
@hypothesis.given(st.data())
def test_random_graphs_compute_the_same_in_keras_and_in_the_file(tmp_path_factory, data):
    model = _Builder(data.draw).model
    config = tfeptq.QuantizationConfig(**{**NEAREST, "samples": 8, "bias_correction": False})
    made = tfeptq.quantize(model, tuple(inputs_of(model)), config)
    path = tmp_path_factory.mktemp("m") / "m.tflite"
    tflite_export.export(made, path)
    found = tflite_export.run(path, inputs_of(model), runtime="reference")
    found = found if isinstance(found, list) else [found]
    scales = {tensor.name: tensor.scale for tensor in tflite_export.inspect(path).tensors}
    outputs = keras.tree.flatten(made([tf.constant(array) for array in inputs_of(model)]))
    for name, left, right in zip(tflite_export.inspect(path).outputs, outputs, found, strict=True):
        # Ties of requantizations may fall to the other side, here and there.
        assert np.mean(np.abs(left - right)) <= 0.1 * scales[name]
