"""Ranges are chosen for what is read of a tensor: behind maxima, ReLUs and crops."""

from __future__ import annotations

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st
from keras import layers as L

import tfeptq
import tflite_export
from tfeptq.calibrate.activation_ranges import read_values
from tfeptq.calibrate.histograms import Histogram
from tfeptq.calibrate.ranges import best_range, calibration_histograms, range_errors
from tfeptq.canonical.layer_graph import Key, LayerGraph
from tfeptq.canonical.topology import Topology
from tfeptq.plan.tensors import TensorPlans, tensor_plans
from tfeptq.preparation import prepare

SHAPE = (6, 5, 3)
IMAGES = np.random.default_rng(0).laplace(size=(48, *SHAPE)).astype("float32")


def functional(*layers: keras.layers.Layer, then: tuple[keras.layers.Layer, ...] = ()):
    """One path behind a depthwise convolution "source"; and another, `then`, if there is one."""
    inputs = keras.Input(SHAPE, name="image")
    source = L.DepthwiseConv2D(3, padding="same", name="source")(inputs)
    paths = []
    for path in (layers, then):
        x = source
        for layer in path:
            x = layer(x)
        paths += [L.Dense(4)(x)] if path else []
    return prepare(keras.Model(inputs, paths))


def planned(model: keras.Model) -> tuple[LayerGraph, TensorPlans, dict[Key, Histogram]]:
    graph = LayerGraph.of(model)
    names = {key[0] for key in graph.inputs} | {call.layer.name for call in graph.calls}
    histograms = calibration_histograms(model, [IMAGES])
    ranges = {key: (h.minimum, h.maximum) for key, h in histograms.items()}
    plans = tensor_plans(Topology(graph), dict.fromkeys(names, 8), ranges)
    return graph, plans, histograms


def source_quantizer(model: keras.Model):
    _, plans, _ = planned(model)
    return plans.tensors["source", 0].quantizer


def test_a_tensor_is_read_behind_what_moves_chooses_or_cuts_its_integers():
    model = functional(L.Permute((2, 1, 3)), L.Cropping2D(1), L.ReLU(name="relu"))
    found = source_quantizer(model)
    assert (found.sources, found.read, found.chosen) == ((("source", 0),), (("relu", 0),), ())


def test_an_average_reads_what_it_averages():
    found = source_quantizer(functional(L.AveragePooling2D(2, name="mean"), L.ReLU()))
    assert found.read == (("source", 0),)


def test_what_others_read_as_well_counts_and_so_does_what_is_chosen_of_it():
    model = functional(
        L.GlobalMaxPooling2D(name="most"), then=(L.GlobalAveragePooling2D(name="mean"),)
    )
    found = source_quantizer(model)
    assert found.read == (("source", 0),)
    assert len(found.chosen) == 1
    graph = LayerGraph.of(model)
    most, whole = (graph.execute([IMAGES])[key] for key in (found.chosen[0], ("source", 0)))
    np.testing.assert_array_equal(
        np.asarray(most).reshape(len(IMAGES), -1), np.asarray(whole).max(axis=(1, 2))
    )


def test_inputs_and_outputs_keep_what_their_callers_see():
    inputs = keras.Input(SHAPE, name="image")
    pooled = L.ReLU(name="relu")(L.MaxPooling2D(2, name="pooled")(inputs))
    _, plans, _ = planned(prepare(keras.Model(inputs, [pooled, L.Dense(2)(pooled)])))
    assert plans.tensors["image", 0].quantizer.read == (("image", 0),)


@pytest.mark.parametrize("kind", ["alone", "beside an average"])
def test_the_largest_values_keep_their_precision(kind):
    """Beside a range of all values, from the least to the largest, as converters choose it."""
    then = (L.GlobalAveragePooling2D(),) if kind == "beside an average" else ()
    model = functional(L.GlobalMaxPooling2D(), then=then)
    config = tfeptq.QuantizationConfig(rounding="nearest", bias_correction=False, samples=48)
    quantized = tfeptq.quantize(model, IMAGES, config)
    quantizer = next(q for q in quantized.activation_quantizers if "source" in q.name)
    scale, zero_point = quantizer.parameters()
    values = np.asarray(LayerGraph.of(model).execute([IMAGES])["source", 0], np.float64)
    most = values.max(axis=(1, 2)).ravel()
    low = np.array([(-128 - zero_point) * scale, values.min()])
    high = np.array([(127 - zero_point) * scale, values.max()])
    ours, extremes = range_errors(most, np.ones(most.size), low, high, bits=8)
    assert ours <= (1.1 if then else 0.8) * extremes


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("reached", "end"), [(0.3, 0.3), (2.9, 3.0), (5.0, 3.0), (-1.0, 3.0)])
def test_a_bound_that_nothing_comes_near_takes_no_codes(tmp_path, reached, end, bits):
    """The range of a bounded ReLU ends at its bound, or at what is seen far below it."""
    x = keras.Input((4,), name="x")
    y = L.ReLU(max_value=3.0, name="bounded")(L.Dense(1, name="sum")(x))
    model = keras.Model(x, L.Dense(2)(y))
    kernel = np.zeros((4, 1), "float32")
    kernel[0] = reached
    model.get_layer("sum").set_weights([kernel, np.zeros(1, "float32")])
    samples = np.random.default_rng(0).uniform(0.0, 1.0, (32, 4)).astype("float32")
    samples[7, 0] = 1.0
    config = tfeptq.QuantizationConfig(
        rounding="nearest", samples=32, activation_bits=bits, bias_correction=False
    )
    quantized = tfeptq.quantize(model, samples, config)
    (found,) = [q for q in quantized.activation_quantizers if q.fixed is not None]
    scale, zero_point = found.parameters()
    last = 127 if bits == 8 else 32767
    assert scale * (last - zero_point) == pytest.approx(end, rel=1e-5)
    tflite_export.export(quantized, tmp_path / "m.tflite")
    # Inputs that were not seen end there too, in the file as in Keras.
    ends = np.array([[50.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]], "float32")
    found = tflite_export.run(tmp_path / "m.tflite", ends)
    np.testing.assert_allclose(found, quantized.predict(ends, verbose=0), atol=0.05)


_LAYERS = {
    "pool": lambda: L.MaxPooling2D(2, strides=1, padding="same"),
    "most": lambda: L.MaxPooling2D((4, 3), padding="same"),
    "mean": lambda: L.AveragePooling2D(2, strides=1, padding="same"),
    "relu": L.ReLU,
    "relu6": lambda: L.ReLU(6.0),
    "turn": lambda: L.Permute((2, 1, 3)),
    "pad": lambda: L.ZeroPadding2D(1),
    "crop": lambda: L.Cropping2D(((0, 1), (0, 0))),
    "conv": lambda: L.Conv2D(3, 1),
    "curve": lambda: L.Activation("tanh"),
    "grow": lambda: L.UpSampling2D((1, 2)),
}


def _grown(draw) -> keras.Model:
    keras.utils.set_random_seed(draw(st.integers(0, 99)))
    inputs = keras.Input(SHAPE, name="image")
    tensors = [L.DepthwiseConv2D(2, padding="same")(inputs)]
    for _ in range(draw(st.integers(1, 9))):
        x = tensors[draw(st.integers(max(len(tensors) - 2, 0), len(tensors) - 1))]
        alike = [y for y in tensors if y is not x and y.shape == x.shape]
        if alike and draw(st.booleans()):
            kinds = (L.Add, L.Maximum, L.Minimum, L.Concatenate)
            tensors.append(draw(st.sampled_from(kinds))()([x, alike[-1]]))
        elif min(x.shape[1:3]) > 1:
            tensors.append(_LAYERS[draw(st.sampled_from(sorted(_LAYERS)))]()(x))
    unread = {id(t) for t in tensors} - {
        id(s) for t in tensors for s in keras.tree.flatten(t._keras_history.operation.input)
    }
    ends = [t for t in tensors if id(t) in unread] or tensors[-1:]
    return prepare(keras.Model(inputs, [L.Dense(2)(t) for t in ends[-3:]]))


@hypothesis.settings(max_examples=40, deadline=None, phases=[hypothesis.Phase.generate])
@hypothesis.given(st.data())
def test_what_is_read_is_no_further_than_with_the_extremes_as_range(data):
    """Of random graphs, for every scale: clipping what is not read changes nothing that is."""
    model = _grown(data.draw)
    graph, plans, histograms = planned(model)
    tensors = {key: np.asarray(t, np.float64) for key, t in graph.execute([IMAGES]).items()}
    for quantizer in {tensor.quantizer for tensor in plans.tensors.values()}:
        if quantizer.fixed is not None:
            continue
        values = read_values(quantizer, histograms)
        low, high = best_range(values, bits=8)
        lowest = min(tensors[key].min() for key in quantizer.sources)
        highest = max(tensors[key].max() for key in quantizer.sources)
        read = np.concatenate([tensors[key].ravel() for key in quantizer.read])
        ranges = np.array([[low, min(lowest, 0.0)], [high, max(highest, 0.0)]])
        ours, theirs = range_errors(read, np.ones(read.size), *ranges, bits=8)
        if not quantizer.chosen:
            assert ours <= theirs * 1.05
        # The kernels between the tensor and its readers give the same on clipped values.
        for source in quantizer.sources:
            clipped = np.clip(tensors[source], min(low, 0.0), high)
            for key, found in _behind(graph, source, clipped, quantizer.read).items():
                np.testing.assert_allclose(
                    np.clip(found, low, high), np.clip(tensors[key], low, high), rtol=1e-6
                )


def _behind(graph: LayerGraph, source: Key, values: np.ndarray, read) -> dict[Key, np.ndarray]:
    """What tied layers make of other values of a tensor, as far as to where it is read."""
    topology = Topology(graph)
    wanted = [key for key in topology.read(source) if key in read]
    known = {source: values}
    for call in graph.calls:
        if call.inputs[0] in known and topology.is_tied(call) and call.output not in known:
            known[call.output] = np.asarray(call.layer(known[call.inputs[0]]), np.float64)
    return {key: known[key] for key in wanted}
