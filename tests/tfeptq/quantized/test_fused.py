"""Fused kernels compute what the plain ones do, gradients included."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfeptq
from tests.tfeptq import small_models
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.quantized import fused, quick_calls
from tfeptq.quantized.fused import compared, gradual_fake_quantize
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.quantized.wrappers import QuantizedWeights
from tfeptq.rounding.losses import spread
from tfeptq.rounding.losses import weighted_square as plain_weighted_square

SHAPE = (4, 5, 7, 3)


def draw(seed, shape=SHAPE):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), "float32")


@pytest.mark.parametrize("float_share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_fake_quantization(bits, float_share):
    quantizer = ActivationQuantizer(bits)
    quantizer.build(SHAPE)
    # Narrower than the values: some are clipped.
    quantizer.set_range(-1.1, 0.9)
    quantizer.float_share.assign(float_share)
    values, upstream = draw(0), draw(1)
    found = {}
    for is_fused in (False, True):
        with tf.GradientTape() as tape:
            tape.watch(values)
            outputs = quantizer(values, is_fused=is_fused)
        sources = [values, quantizer.log_scale.value]
        found[is_fused] = outputs, *tape.gradient(outputs, sources, upstream)
    for plain, other in zip(found[False], found[True], strict=True):
        np.testing.assert_allclose(other, plain, rtol=1e-5, atol=1e-6 * np.abs(plain).max())


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_large_tensors_of_any_shape_take_one_trace_and_give_the_same(bits, monkeypatch):
    monkeypatch.setattr(quick_calls, "_LARGE", 6)
    inputs = keras.Input((2, 3))
    quantizer = ActivationQuantizer(bits, name="quantizer")
    model = keras.Model(inputs, quantizer(inputs))
    quantizer.set_range(-1.1, 0.9)
    [call] = LayerGraph.of(model).calls
    for shape in ((1, 2, 3), (7, 2, 3), (4, 3)):
        values = draw(3, shape)
        found = quick_calls.quick_call(call)([values])
        assert found.shape == values.shape
        np.testing.assert_allclose(found, quantizer(values), rtol=1e-6, atol=1e-7)
    assert fused._flat_forward.experimental_get_tracing_count() == 1


def test_a_kernel_is_quantized_once_for_all_batches(monkeypatch):
    inputs = keras.Input((4, 4, 3))
    layer = QuantizedWeights(keras.layers.Conv2D(5, 3, name="layer"), bits=3)
    model = keras.Model(inputs, layer(inputs))
    layer.set_step(np.full(5, 0.1, "float32"))
    [call] = LayerGraph.of(model).calls
    batches = [draw(seed, (2, 4, 4, 3)) for seed in (0, 1)]
    expected = [layer(batch) for batch in batches]
    made, original = [], QuantizedWeights.quantized_kernel
    monkeypatch.setattr(
        QuantizedWeights, "quantized_kernel", lambda self: made.append(1) or original(self)
    )
    run = quick_calls.quick_call(call)
    for batch, outputs in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(run([batch]), outputs)
    compiled = tf.function(lambda batch: quick_calls.quick_call(call)([batch]))
    for batch, outputs in zip(batches, expected, strict=True):
        np.testing.assert_allclose(compiled(batch), outputs, rtol=1e-5, atol=1e-6)
    assert len(made) == 2


@pytest.mark.parametrize("requantization", ["once", "twice", "twice_up"])
@pytest.mark.parametrize("calls", [1, 2])
def test_kernels_are_imitated_as_soon_as_one_call_has_a_grid(requantization, calls):
    layer = QuantizedWeights(
        keras.layers.Dense(5, name="layer"), requantization=requantization, calls=calls
    )
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [layer(inputs, call_index=index) for index in range(calls)])
    layer.set_step(np.full(5, 0.01, "float32"))
    values = draw(0, (6, 4))
    for has_grid in (False, True):
        if has_grid:
            layer.set_accumulator_grid(np.float32(0.1), np.float32(0.3), call_index=calls - 1)
        for call in LayerGraph.of(model).calls:
            found = quick_calls.quick_call(call)([values])
            np.testing.assert_array_equal(found, call([values]))
        assert layer.has_accumulator_grid == has_grid


def test_quick_outputs_are_those_of_all_tensors_also_where_outputs_are_read_on():
    inputs = keras.Input((3,))
    first = keras.layers.Dense(3, name="first")(inputs)
    second = keras.layers.Add(name="second")([first, first])
    third = keras.layers.Add(name="third")([second, inputs])
    graph = LayerGraph.of(keras.Model(inputs, [third, first, inputs]))
    values = draw(0, (2, 3))
    tensors, compute = graph.execute([values]), quick_calls.quick_outputs(graph)
    for _ in range(2):
        for key, found in zip(graph.outputs, compute([values]), strict=True):
            np.testing.assert_array_equal(found, tensors[key])


@pytest.mark.parametrize("sums_positions", [False, True])
@pytest.mark.parametrize("shape", [SHAPE, (4, 3)])
def test_weighted_squares(shape, sums_positions):
    values, targets = draw(0, shape), draw(1, shape)
    for scores in (tf.square(draw(2, (4, 3))), tf.square(draw(2, (4, 1)))):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(values)
            error = values - targets
            plain = 3.0 * plain_weighted_square(error, scores, sums_positions=sums_positions)
            weights = spread(scores, values.shape, sums_positions=sums_positions)
            same, together = compared(values, targets, weights)
            further = [tf.reduce_sum(tf.sin(each)) for each in (values, same)]
            losses = plain + further[0], 3.0 * together + further[1]
        np.testing.assert_array_equal(same, values)
        np.testing.assert_allclose(3.0 * together, plain, rtol=1e-6)
        slopes = [tape.gradient(loss, values) for loss in (*losses, plain, together)]
        np.testing.assert_allclose(slopes[1], slopes[0], rtol=1e-5, atol=1e-6)
        # Nobody goes on with the logits.
        np.testing.assert_allclose(3.0 * slopes[3], slopes[2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ends", [None, (0.0, np.inf), (0.0, 0.7)])
@pytest.mark.parametrize("is_compiled", [False, True])
def test_tensors_are_compared_and_quantized_together(ends, is_compiled):
    quantizer = ActivationQuantizer(4)
    quantizer.build(SHAPE)
    quantizer.set_range(-0.4, 0.9)
    quantizer.float_share.assign(0.3)
    values, targets, upstream = 2.0 * draw(0), draw(1), draw(2)
    weights = tf.square(draw(3, (4, 1, 1, 3)))

    def apart():
        same, loss = compared(values, targets, weights)
        return quantizer(same, is_fused=True, ends=ends), loss

    def together():
        return quantizer.compared(values, targets, weights, ends=ends)

    def results(run):
        with tf.GradientTape() as tape:
            tape.watch(values)
            outputs, loss = run()
            total = tf.reduce_sum(outputs * upstream) + 3.0 * loss
        return outputs, loss, *tape.gradient(total, [values, quantizer.log_scale.value])

    wrap = tf.function if is_compiled else lambda function: function
    expected, found = (wrap(lambda run=run: results(run))() for run in (apart, together))
    np.testing.assert_array_equal(found[0], expected[0])
    # The loss and the scale's gradient are float32 sums in another order.
    for left, right in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("highest", [None, 6.0, 0.7])
@pytest.mark.parametrize("float_share", [0.0, 0.3])
@pytest.mark.parametrize("is_compiled", [False, True])
def test_quantizers_apply_relus_themselves(highest, float_share, is_compiled):
    quantizer = ActivationQuantizer(4)
    quantizer.build(SHAPE)
    quantizer.set_range(0.0, 0.9)
    quantizer.float_share.assign(float_share)
    values, upstream = 4.0 * draw(0), draw(1)
    relu = keras.layers.ReLU(highest)
    ends = (0.0, np.inf if highest is None else highest)

    def apart():
        return quantizer(relu(values), is_fused=True)

    def together():
        return quantizer(values, is_fused=True, ends=ends)

    def results(run):
        with tf.GradientTape() as tape:
            tape.watch(values)
            outputs = run()
        return outputs, *tape.gradient(outputs, [values, quantizer.log_scale.value], upstream)

    wrap = tf.function if is_compiled else lambda function: function
    expected, found = (wrap(lambda run=run: results(run))() for run in (apart, together))
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-5)


def test_the_backward_pass_keeps_nothing_of_the_size_of_a_tensor_but_the_values():
    """A mask or a rounded copy for each tensor would take as much as the tensors themselves."""

    @tf.function
    def step(values, targets, weights):
        with tf.GradientTape() as tape:
            tape.watch(values)
            same, loss = compared(values, targets, weights)
            scalars = map(tf.constant, (0.1, 0.0, 0.5))
            codes = tf.constant([-128.0, 127.0])
            loss += tf.reduce_sum(gradual_fake_quantize(same, *scalars, codes, ends=(0.0, np.inf)))
        return tape.gradient(loss, values)

    arguments = [tf.TensorSpec(shape) for shape in (SHAPE, SHAPE, (4, 1, 1, 3))]
    graph = step.get_concrete_function(*arguments).graph
    calls = {
        operation: operation.get_attr("f").name
        for operation in graph.get_operations()
        if "PartitionedCall" in operation.type
    }
    forward = {each for each, name in calls.items() if "_forward" in name}
    backward = {each for each, name in calls.items() if "_backward" in name or "_slope" in name}
    assert (len(forward), len(backward)) == (1, 2)
    read = {maker(tensor) for each in backward for tensor in each.inputs if tensor.shape == SHAPE}
    # The rest is what one gradient hands to the next.
    assert {each.type for each in read - backward} <= {
        "Placeholder",
        "Tile",
        "Const",
        "BroadcastTo",
    }
    assert not read & forward


def maker(tensor):
    operation = tensor.op
    while operation.type in ("Identity", "IdentityN"):
        operation = operation.inputs[tensor.value_index if operation.type == "IdentityN" else 0].op
    return operation


class Predicts(keras.callbacks.Callback):
    """Has the prediction traced in the middle of training."""

    def __init__(self, images):
        super().__init__()
        self._images = images

    def on_epoch_end(self, epoch, logs=None):
        self.model.predict(self._images, verbose=0)


def test_predictions_after_training_are_those_of_the_file():
    """Training leaves out what kernels do between their roundings; a traced model must not."""
    model, images = small_models.residual_network(), small_models.images(32)
    config = tfeptq.QuantizationConfig(
        weight_bits=3, first_last_bits=None, target="microcontroller", steps=20, samples=32
    )
    quantized = tfeptq.quantize(model, images, config, callbacks=[Predicts(images)])
    again = tfeptq.QuantizedModel.from_config(quantized.get_config())
    again.set_weights(quantized.get_weights())
    found = quantized.predict(images, verbose=0)
    np.testing.assert_array_equal(found, again.predict(images, verbose=0))
