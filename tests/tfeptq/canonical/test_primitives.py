"""The rows of primitive layers, each checked on layers of its class."""

from __future__ import annotations

import ast
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from keras import layers as L

import tfeptq
from tests.tfeptq.layer_road import CASES, SHAPE
from tfeptq.canonical import linear
from tfeptq.canonical.primitives import PRIMITIVES, Output, Primitive, find_primitive, primitive_of
from tflite_export.graph.kinds import kind_of

N, H, W, C = 2, 5, 6, 3
ROOT = Path(tfeptq.__file__).parent

#: A layer of every row.
LAYERS = [case.layer("layer") for case in CASES.values()]


def made(row: Primitive) -> keras.Layer:
    return next(layer for layer in LAYERS if find_primitive(layer) is row)


def name(row: Primitive) -> str:
    return row.function or row.layer.__name__


@pytest.mark.parametrize("row", PRIMITIVES, ids=name)
def test_a_row_gives_its_operator_all_that_it_carries(row):
    layer = made(row)
    shape = (1, *SHAPE)
    output = layer.compute_output_shape([shape, shape] if row.merges else shape)
    kind, attributes = row.operator(layer, tuple(output), shape)
    assert attributes.keys() == kind_of(kind).attributes.keys()
    assert kind_of(kind).is_weighted == (row.weights is not None)
    assert primitive_of(layer) is row


@pytest.mark.parametrize("row", PRIMITIVES, ids=name)
def test_outputs_are_as_their_operators_demand(row):
    """What an operator ties or fixes, no row may call its own."""
    layer = made(row)
    kind, output = kind_of(row.kind_of(layer)), row.output_of(layer)
    assert (output is Output.FIXED) == bool(kind.fixes)
    # What is tied to the output of a lookup is its table, which is written in that scale.
    if kind.ties and not (row.looks_up or row.tabulates):
        assert output in (Output.MOVED, Output.AVERAGED, Output.JOINED)


def test_a_wrapped_layer_has_its_row_and_what_is_no_primitive_has_none():
    assert primitive_of(L.TimeDistributed(L.Dense(2))).layer is L.Dense
    assert find_primitive(L.Dropout(0.5)) is None
    with pytest.raises(ValueError, match=r"'odd' \(Dropout\) is no primitive"):
        primitive_of(L.Dropout(0.5, name="odd"))


def test_only_the_rows_tell_layers_by_their_class():
    """Rooms that come later ask the rows; wrapping says which class holds which layer."""
    classes = {row.layer.__name__ for row in PRIMITIVES}
    found = set()
    for path in ROOT.rglob("*.py"):
        file = path.relative_to(ROOT).as_posix()
        if file.startswith(("canonical/", "preparation/", "cli/", "loading")):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                named = {n.attr for n in ast.walk(node.args[1]) if isinstance(n, ast.Attribute)}
                found |= {(file, each) for each in named & classes}
    assert not found


WINDOWS = st.tuples(st.integers(1, 4), st.integers(1, 4))
STRIDES = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def weighted(draw):
    """A weighted layer of random geometry, built, and its input."""
    kind = draw(st.sampled_from([row.layer for row in PRIMITIVES if row.weights]))
    seed = draw(st.integers(0, 2**32 - 1))
    padding = draw(st.sampled_from(["same", "valid"]))
    strides, size = draw(STRIDES), draw(WINDOWS)
    options = {"padding": padding, "strides": strides, "kernel_size": size}
    if kind is L.DepthwiseConv2D:
        # Keras takes equal strides only.
        options |= {"depth_multiplier": draw(st.integers(1, 2)), "strides": strides[:1] * 2}
    elif kind is L.Dense:
        options = {"units": 4}
    else:
        options |= {"filters": 4}
    if kind is L.Conv2DTranspose and draw(st.booleans()):
        options["output_padding"] = tuple(draw(st.integers(0, stride - 1)) for stride in strides)
    layer, rng = kind(**options), np.random.default_rng(seed)
    inputs = rng.normal(size=(N, H, W, C)).astype("float32")
    layer.build(inputs.shape)
    layer.kernel.assign(rng.normal(size=layer.kernel.shape))
    try:
        layer(inputs)
    except tf.errors.AbortedError:
        # TensorFlow's own kernels lack some transposed convolutions with output_padding.
        reject()
    return layer, inputs, rng


def _assert_equal_sums(found: np.ndarray, expected: np.ndarray) -> None:
    """Sums of up to some hundred float32 products of about one, added in another order."""
    largest = float(np.abs(expected).max(initial=1.0))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * largest)


@settings(max_examples=60)
@given(weighted())
def test_a_map_is_the_layer_and_its_columns_times_its_weights(drawn):
    layer, inputs, _ = drawn
    kernel = np.asarray(layer.kernel)
    outputs = np.asarray(linear.linear_operation(layer, inputs, layer.kernel))
    _assert_equal_sums(outputs, np.asarray(layer(inputs)))
    grouped = linear.by_group(layer, kernel)
    np.testing.assert_array_equal(linear.from_groups(layer, grouped), kernel)
    found = np.moveaxis(
        np.asarray(linear.input_columns(layer, tf.constant(inputs))) @ grouped, 0, 1
    )
    _assert_equal_sums(found.reshape(outputs.shape), outputs)


@settings(max_examples=60)
@given(weighted(), st.integers(1, 7))
def test_columns_of_some_positions_are_those_of_all(drawn, stride):
    layer, inputs, _ = drawn
    every = np.asarray(linear.input_columns(layer, tf.constant(inputs)))
    some = np.asarray(linear.input_columns(layer, tf.constant(inputs), stride=stride))
    np.testing.assert_array_equal(some, every[:, ::stride])
    assert every.shape[1] == len(inputs) * linear.positions(layer, inputs.shape)


@settings(max_examples=40)
@given(weighted())
def test_scaling_inputs_or_outputs_is_scaling_the_kernel(drawn):
    layer, inputs, rng = drawn
    kernel, of = np.asarray(layer.kernel), linear.map_of(layer)
    channels = len(linear.by_channel(layer, kernel))
    before, behind = rng.uniform(0.5, 2.0, C), rng.uniform(0.5, 2.0, channels)
    scaled = of.scaled_outputs(of.scaled_inputs(kernel, before), behind).astype("float32")
    found = np.asarray(linear.linear_operation(layer, inputs, scaled))
    outputs = np.asarray(layer((inputs * before).astype("float32"))) * behind
    _assert_equal_sums(found, outputs)


@settings(max_examples=40)
@given(weighted())
def test_offsets_are_taken_only_where_all_outputs_get_the_same(drawn):
    layer, _, rng = drawn
    of, kernel = linear.map_of(layer), np.asarray(layer.kernel)
    offset = rng.normal(size=C).astype("float32")
    spread = np.broadcast_to(offset, (1, H, W, C))
    if of.takes_offset(layer.get_config() | _geometry(layer)):
        outputs = np.asarray(layer(spread))
        expected = np.broadcast_to(of.shift(kernel, offset), outputs.shape)
        _assert_equal_sums(outputs, expected)


def _geometry(layer: keras.Layer) -> dict:
    """Tuples, as nodes of a model under preparation have them."""
    names = ("kernel_size", "strides")
    return {each: getattr(layer, each) for each in names if hasattr(layer, each)}


@settings(max_examples=60)
@given(weighted())
def test_gradients_are_those_of_columns_times_weights(drawn):
    """Of kernels; those of inputs by what else the layer makes of an input."""
    layer, inputs, rng = drawn
    inputs, others = tf.constant(inputs), rng.normal(size=inputs.shape).astype("float32")
    kernel = tf.constant(layer.kernel.numpy())
    gradient = rng.normal(size=layer(inputs).shape).astype("float32")
    with tf.GradientTape() as tape:
        tape.watch([inputs, kernel])
        made = linear.linear_operation(layer, inputs, kernel)
    by_input, by_kernel = tape.gradient(made, [inputs, kernel], output_gradients=gradient)
    columns = np.asarray(linear.input_columns(layer, inputs), np.float64)
    by_group = np.moveaxis(gradient.reshape(columns.shape[1], len(columns), -1), 1, 0)
    expected = linear.from_groups(layer, columns.transpose(0, 2, 1) @ by_group)
    _assert_equal_sums(by_kernel.numpy(), expected)
    _assert_equal_sums(
        np.sum(by_input.numpy() * others), np.sum(np.asarray(layer(others)) * gradient)
    )


@st.composite
def points(draw):
    """A convolution of single places with strides, or any transposed convolution; and its input."""
    sizes = (1, draw(st.integers(1, 9)), draw(st.integers(1, 9)), C)
    options = {"padding": draw(st.sampled_from(["same", "valid"])), "strides": draw(STRIDES)}
    layer = L.Conv2D(4, 1, **options)
    if draw(st.booleans()):
        options["output_padding"] = tuple(
            draw(st.integers(0, stride - 1)) for stride in options["strides"]
        )
        layer = L.Conv2DTranspose(4, draw(WINDOWS), **options)
    layer.build(sizes)
    return layer, sizes


@settings(max_examples=40)
@given(points())
def test_gradients_of_kernels_leave_no_place_over(drawn):
    """Where places are left over, TensorFlow writes beyond its memory and the process may end."""
    layer, sizes = drawn

    @tf.function
    def gradient(inputs, kernel):
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            made = linear.linear_operation(layer, inputs, kernel)
        return tape.gradient(made, kernel)

    if min(layer.compute_output_shape(sizes)[1:3]) < 1:
        reject()
    graph = gradient.get_concrete_function(tf.zeros(sizes), tf.zeros(layer.kernel.shape)).graph
    (found,) = [each for each in graph.get_operations() if each.type == "Conv2DBackpropFilter"]
    whole, other = (found.inputs[index].shape.as_list()[1:3] for index in (0, 2))
    strides = found.get_attr("strides")[1:3]
    assert whole == [
        (count - 1) * stride + size
        for count, stride, size in zip(other, strides, layer.kernel_size, strict=True)
    ]


def test_strided_points_of_many_shapes_warn_of_nothing(caplog):
    layer = L.Conv2D(4, 1, strides=2)
    layer.build((None, None, None, C))
    caplog.set_level("WARNING", "tensorflow")
    tf.get_logger().addHandler(caplog.handler)
    try:
        for height in range(8, 15):
            linear.linear_operation(layer, tf.zeros((1, height, 5, C)), layer.kernel)
    finally:
        tf.get_logger().removeHandler(caplog.handler)
    assert not caplog.records


@settings(max_examples=30)
@given(weighted())
def test_squared_jacobians_are_those_of_automatic_differentiation(drawn):
    layer, inputs, rng = drawn
    gradient = rng.normal(size=layer(inputs).shape).astype("float32")
    expected = np.zeros(layer.kernel.shape)
    for sample, direction in zip(inputs, gradient, strict=True):
        with tf.GradientTape() as tape:
            made = linear.linear_operation(layer, sample[None], layer.kernel)
            product = tf.reduce_sum(made * direction)
        expected += np.square(tape.gradient(product, layer.kernel.value).numpy())
    found = linear.squared_weight_jacobian(layer, tf.constant(inputs), tf.constant(gradient))
    _assert_equal_sums(found, expected)
    alone = [
        linear.squared_weight_jacobian(layer, *(tf.constant(each[None]) for each in pair))
        for pair in zip(inputs, gradient, strict=True)
    ]
    _assert_equal_sums(tf.add_n(alone), expected)


@settings(max_examples=30)
@given(weighted())
def test_multiplications_are_those_that_are_not_with_zeros_of_padding(drawn):
    """Counted by a kernel and an image of ones, without padding."""
    layer, _, _ = drawn
    if getattr(layer, "padding", "valid") != "valid" or getattr(layer, "output_padding", None):
        return
    ones = np.ones((1, H, W, C), "float32")
    made = np.asarray(linear.linear_operation(layer, ones, np.ones(layer.kernel.shape, "float32")))
    count = linear.map_of(layer).multiplications(tuple(layer.kernel.shape), ones.shape, made.shape)
    assert count == made.sum()
