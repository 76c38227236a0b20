"""Ranges are chosen for what is read of a tensor: behind maxima, ReLUs, crops, LeakyReLUs."""

from __future__ import annotations

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st
from keras import layers as L

import tfeptq
import tflite_export
from tfeptq.calibrate.histograms import Histogram
from tfeptq.calibrate.ranges import best_range, calibration_histograms, squared_errors
from tfeptq.calibrate.read_values import ReadValues
from tfeptq.canonical import tabulated
from tfeptq.canonical.layer_graph import Key, LayerGraph
from tfeptq.canonical.topology import Topology
from tfeptq.plan.assignment import tensor_plans
from tfeptq.plan.tensors import TensorPlans
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
    ours, extremes = squared_errors(most, low, high, bits=8) @ np.ones(most.size)
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
    "leaky": lambda: L.LeakyReLU(0.2),
    "bounded": lambda: L.ReLU(0.5),
    "softplus": lambda: L.Activation("softplus"),
    "soft": lambda: L.Activation("sigmoid"),
    "factor": lambda: L.Rescaling(0.4, offset=0.1),
    "turned": lambda: L.Rescaling(-0.4),
    "slopes": lambda: L.PReLU(alpha_initializer="random_normal"),
    # Factors whose kernels apply a ReLU: what is between is in no tensor of the file.
    "hard": lambda: L.Activation("hard_sigmoid"),
    "cut factor": lambda: lambda x: L.ReLU()(L.Rescaling(0.7, offset=-0.1)(x)),
    "bounded factor": lambda: lambda x: L.ReLU(6.0)(L.Rescaling(1.7)(x)),
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
def test_what_is_not_read_of_random_graphs_may_be_clipped_whatever_layers_keep_its_order(data):
    """A tensor without what lies beyond what is read of it gives the same, for every scale too."""
    model = _grown(data.draw)
    graph, plans, histograms = planned(model)
    _clip_what_is_not_read(graph, histograms)
    _compare_with_the_extremes_as_range(graph, plans, histograms)


def _compare_with_the_extremes_as_range(
    graph: LayerGraph, plans: TensorPlans, histograms: dict[Key, Histogram]
) -> None:
    """What is read is no further, and clipping what is not changes nothing that is."""
    tensors = {key: np.asarray(t, np.float64) for key, t in graph.execute([IMAGES]).items()}
    topology = Topology(graph)
    reads = ReadValues(topology, histograms)
    for quantizer in {tensor.quantizer for tensor in plans.tensors.values()}:
        if quantizer.fixed is not None:
            continue
        values = reads.of_quantizer(quantizer)
        low, high = best_range(values, bits=8)
        lowest = min(tensors[key].min() for key in quantizer.sources)
        highest = max(tensors[key].max() for key in quantizer.sources)
        read = np.concatenate([tensors[key].ravel() for key in quantizer.read])
        ranges = np.array([[low, min(lowest, 0.0)], [high, max(highest, 0.0)]])
        ours, theirs = squared_errors(read, *ranges, bits=8) @ np.ones(read.size)
        alike = all(topology.seen(key) == topology.read(key) for key in quantizer.sources)
        if alike and not quantizer.chosen:
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


@pytest.mark.parametrize("bounded", [L.Activation("hard_sigmoid"), L.ReLU(6.0), L.ReLU()])
def test_a_factor_whose_kernel_applies_a_relu_passes_on_what_is_read(bounded):
    """What is between the two is in no tensor of the file; a flattening reads it all the same."""
    inputs = keras.Input(SHAPE, name="image")
    source = L.DepthwiseConv2D(2, padding="same", name="source")(inputs)
    cut = bounded(L.Rescaling(1.3, offset=0.2)(source))
    most = L.GlobalMaxPooling2D()(L.Concatenate()([cut, source]))
    graph, _, histograms = planned(prepare(keras.Model(inputs, L.Dense(2)(most))))
    _clip_what_is_not_read(graph, histograms)
    topology = Topology(graph)
    assert any(topology.fused_relu(call) for call in topology.consumers["source", 0])


def _clip_what_is_not_read(graph: LayerGraph, histograms: dict[Key, Histogram]) -> None:
    reads, topology = ReadValues(Topology(graph), histograms), Topology(graph)
    expected = graph.execute([IMAGES])
    for key in (key for key in topology.written() if topology.seen(key) != (key,)):
        values = reads[key]
        found = _with(graph, key, lambda t, v=values: np.clip(t, v.minimum, v.maximum))
        for seen in topology.seen(key):
            right, got = (np.asarray(tensors[seen], np.float64) for tensors in (expected, found))
            # Functions are inverted between the bins of a histogram.
            np.testing.assert_allclose(got, right, atol=5e-3 * max(np.ptp(right), 1e-6))


def _with(graph: LayerGraph, key: Key, change) -> dict[Key, np.ndarray]:
    def changed(call, _, output):
        return change(np.asarray(output)) if call.output == key else output

    return graph.execute([IMAGES], hook=changed)


@pytest.mark.parametrize(
    "layers",
    [
        (L.LeakyReLU(0.1),),
        (L.Activation("sigmoid"), L.LeakyReLU(0.3)),
        (L.Activation("softplus"), L.Cropping2D(1)),
        (L.Activation("softplus"), L.MaxPooling2D(2, strides=1), L.Activation("tanh")),
        (L.Activation("softplus"), L.Rescaling(0.7), L.ReLU(20.0), L.LeakyReLU(0.1)),
    ],
)
def test_in_front_of_a_maximum_extremes_are_read_whatever_keeps_their_order(layers):
    model = functional(*layers, L.GlobalMaxPooling2D())
    graph, plans, histograms = planned(model)
    reads = ReadValues(Topology(graph), histograms)
    found = reads.of_quantizer(plans.tensors["source", 0].quantizer)
    source = np.asarray(graph.execute([IMAGES])["source", 0])
    if any(isinstance(layer, L.Cropping2D) for layer in layers):
        source = source[:, 1:-1, 1:-1]
    most = source.max(axis=(1, 2))
    bin_width = 2.0 ** histograms["source", 0].exponent
    assert found.minimum == pytest.approx(most.min(), abs=2 * bin_width)
    assert abs(found.maximum - histograms["source", 0].maximum) <= 2 * bin_width


@pytest.mark.parametrize(
    "layer", [L.Activation("silu"), L.PReLU(alpha_initializer="random_normal")]
)
def test_what_falls_and_rises_or_differs_by_channel_reads_all(layer):
    model = functional(layer, L.GlobalMaxPooling2D())
    assert Topology(LayerGraph.of(model)).seen(("source", 0)) == (("source", 0),)


def test_a_maximum_of_a_tensor_and_its_leaky_relu_reads_its_largest_values():
    """As Maxout-like heads have it: beside extremes as range, codes are not spent below."""
    inputs = keras.Input(SHAPE, name="image")
    source = L.Conv2D(3, 2, name="source")(inputs)
    x = L.Maximum()([L.LeakyReLU(0.4)(source), source])
    x = L.GlobalMaxPooling2D()(x)
    model = prepare(keras.Model(inputs, L.Dense(4)(x)))
    config = tfeptq.QuantizationConfig(rounding="nearest", bias_correction=False, samples=48)
    quantized = tfeptq.quantize(model, IMAGES, config)
    graph, plans, _ = planned(model)
    most = np.asarray(graph.execute([IMAGES])["source", 0]).max(axis=(1, 2))
    name = plans.tensors["source", 0].quantizer.name
    quantizer = next(q for q in quantized.activation_quantizers if q.name == name)
    scale, zero_point = quantizer.parameters()
    assert (127 - zero_point) * scale >= 0.99 * most.max()
    assert scale <= 1.2 * (most.max() - min(most.min(), 0.0)) / 255
    assert quantized.report.quality.layers["source"] > 30.0


def test_what_a_crop_drops_tells_how_far_others_may_go():
    """One large value in a dropped row: samples that were not seen have it elsewhere."""
    images = IMAGES.copy()
    images[:, 0] *= 0.3
    inputs = keras.Input(SHAPE, name="image")
    source = L.Conv2D(3, 1, use_bias=False, name="source")
    x = L.MaxPooling2D(2)(L.Cropping2D(((1, 0), (0, 0)))(source(inputs)))
    source.set_weights([2.0 * np.eye(3, dtype="float32")[None, None]])
    model = prepare(keras.Model(inputs, L.Conv2D(2, 1)(x)))
    topology = Topology(LayerGraph.of(model))
    for factor, is_wider in ((1.5, True), (1.0, False), (40.0, False)):
        kept = images[:, 1:].max()
        images[3, 0, 0, 0] = factor * kept
        histograms = calibration_histograms(model, [images])
        found = ReadValues(topology, histograms)["source", 0]
        assert found.maximum == pytest.approx(2 * kept * (factor if is_wider else 1.0))


def test_functions_that_are_said_to_keep_order_do():
    settings = {
        "affine": {"scale": -2.5, "offset": 1.0},
        "at_least": {"bound": 0.3},
        "greater": {"bound": -0.3},
        "floor_divide": {"divisor": -0.7},
    }
    numbers = np.linspace(-6.0, 6.0, 4001).astype("float32")
    for name in tabulated.MONOTONE:
        results = np.asarray(tabulated.FUNCTIONS[name](numbers, **settings.get(name, {})))
        steps = np.diff(results.astype(np.float64))
        slack = 1e-6 * max(np.abs(results).max(), 1.0)
        assert (steps >= -slack).all() or (steps <= slack).all(), name


@pytest.mark.parametrize("rounding", ["nearest", "optq"])
def test_a_factor_in_front_of_a_relu_is_not_corrected_for_what_is_clipped(rounding):
    """Of an average that a ReLU reads nothing below zero is in the file: its mean has moved."""
    inputs = keras.Input(SHAPE, name="image")
    x = L.Flatten()(inputs)
    mean = L.ReLU()(L.Average()([x, L.Activation("swish")(x)]))
    model = keras.Model(inputs, L.Dense(4)(mean))
    right = model.predict(IMAGES, verbose=0)
    config = tfeptq.QuantizationConfig(rounding=rounding, samples=48)
    found = tfeptq.quantize(model, IMAGES, config).predict(IMAGES, verbose=0)
    assert float(np.sqrt(np.mean(np.square(found - right))) / right.std()) < 0.04


def test_factors_are_not_corrected_for_what_is_clipped_on_purpose():
    """Coral has no LeakyReLU: it is the larger of a tensor and its multiple."""
    inputs = keras.Input(SHAPE, name="image")
    x = L.LeakyReLU(0.4)(L.Conv2D(3, 2, name="source")(inputs))
    model = keras.Model(inputs, L.Dense(4)(L.GlobalMaxPooling2D()(x)))
    right = model.predict(IMAGES, verbose=0)
    errors = {}
    for target in ("coral", "android"):
        config = tfeptq.QuantizationConfig(rounding="nearest", samples=48, target=target)
        found = tfeptq.quantize(model, IMAGES, config).predict(IMAGES, verbose=0)
        errors[target] = float(np.sqrt(np.mean(np.square(found - right))) / right.std())
    assert errors["coral"] <= 1.2 * errors["android"] + 1e-3
    assert errors["android"] < 0.03
