"""Rounding variables of all layers as one vector give what each layer gives."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.quantized.wrappers import QuantizedWeights
from tfeptq.rounding.quick_graph import with_kernels
from tfeptq.rounding.soft_rounding import soft_rounding

WEIGHTS = {"window": 0.7, "depthwise": 0.2, "head": 1.9}


def network():
    """Layers of every kind, one with zeros and equal weights, in the middle of a training."""
    generator = np.random.default_rng(0)
    wrapped = [
        QuantizedWeights(keras.layers.Conv2D(5, (3, 2), name="window"), bits=3),
        QuantizedWeights(keras.layers.DepthwiseConv2D(2, name="depthwise"), bits=4),
        QuantizedWeights(keras.layers.Dense(4, name="head"), bits=2, per_channel=False),
    ]
    inputs = tensor = keras.Input((6, 7, 3))
    for layer in wrapped:
        tensor = layer(tensor)
        kernel = generator.normal(size=layer.layer.kernel.shape)
        if layer.name == "window":
            kernel = np.round(kernel)
        layer.layer.kernel.assign(kernel)
        layer.set_step(np.full(layer.step.shape, 0.7, np.float32).reshape(-1))
        layer.set_units(rounding=3.0, bias=1.0)
        layer.keep_structure()
        layer.rounding.assign(generator.normal(size=kernel.shape))
        layer.log_scale.assign(generator.normal(size=layer.log_scale.shape) / 9.0)
    return keras.Model(inputs, tensor), wrapped


@pytest.mark.parametrize("soft_share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("is_compiled", [False, True])
def test_kernels_regularizer_and_gradients(soft_share, is_compiled):
    _, layers = network()
    assert layers[0].structure.has_zeros
    assert layers[0].structure.shared is not None
    for layer in layers:
        layer.soft_share.assign(soft_share)
    beta = tf.constant(3.5)
    variables = [each.value for layer in layers for each in (layer.rounding, layer.log_scale)]

    def together():
        return soft_rounding(layers, WEIGHTS, beta)

    def apart():
        kernels = {layer.name: layer.quantized_kernel() for layer in layers}
        return kernels, sum(WEIGHTS[layer.name] * layer.undecided(beta) for layer in layers)

    def results(run):
        with tf.GradientTape() as tape:
            kernels, loss = run()
            loss += sum(tf.reduce_sum(tf.sin(3.0 * kernel)) for kernel in kernels.values())
        return kernels, loss, tape.gradient(loss, variables)

    wrap = tf.function if is_compiled else lambda function: function
    found, expected = (wrap(lambda run=run: results(run))() for run in (together, apart))
    # A scale's gradient is a float32 sum over its channel, in another order: 2e-6 of about 1.
    for left, right in zip(*map(tf.nest.flatten, (found, expected)), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=5e-6)


def test_one_large_layer_among_small_ones_is_compiled_by_xla():
    sizes = {f"dense_{index}": 2 for index in range(53)} | {"wide": 1500}
    layers = [
        QuantizedWeights(keras.layers.Dense(n, name=name), bits=4) for name, n in sizes.items()
    ]
    for layer in layers:
        layer(keras.Input((sizes[layer.name],)))
    weights = {name: 0.1 * index for index, name in enumerate(sizes)}

    @tf.function(jit_compile=True)
    def slope():
        with tf.GradientTape() as tape:
            _, undecided = soft_rounding(layers, weights, tf.constant(2.0))
        return undecided, tape.gradient(undecided, layers[-1].rounding.value)

    undecided, found = slope()
    assert found.shape == (1500, 1500)
    expected = sum(weights[layer.name] * layer.undecided(2.0) for layer in layers)
    np.testing.assert_allclose(undecided, expected, rtol=1e-5)


def test_calls_take_the_kernels_that_they_are_given():
    model, layers = network()
    kernels, _ = soft_rounding(layers, WEIGHTS, tf.constant(2.0))
    images = np.random.default_rng(1).normal(size=(2, 6, 7, 3)).astype("float32")
    graph = LayerGraph.of(model)
    [expected] = graph.compute([images], graph.outputs)
    [found] = with_kernels(graph, kernels).compute([images], graph.outputs)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    nothing = {name: tf.zeros_like(kernel) for name, kernel in kernels.items()}
    [found] = with_kernels(graph, nothing).compute([images], graph.outputs)
    assert not np.allclose(found, expected, atol=1e-2)
