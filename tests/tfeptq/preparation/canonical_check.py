"""The check that all tests of `prepare` share, and models for it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers as L

from tfeptq.canonical.constant_layer import Constant
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.canonical.linear import WEIGHTED_LAYERS
from tfeptq.canonical.primitives import find_primitive
from tfeptq.preparation import prepare

H, W, C, N = 9, 7, 3, 5


def randomize(model: keras.Model, seed: int = 0) -> keras.Model:
    """Gives every weight a random value, so that no fold is trivially the identity."""
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        values = generator.normal(size=variable.shape).astype("float32") * 0.5
        if "variance" in variable.name:
            values = np.abs(values) + 0.3
        if variable.dtype == "float32":
            variable.assign(values)
    return model


def assert_same(found: Any, wanted: Any) -> None:
    """Float32 values of one model read in two ways: sums in another order, and nothing else.

    A few units in the last place of the largest value; a wrong weight or axis is thousands off.
    """
    found, wanted = np.asarray(found), np.asarray(wanted)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


def check(model: keras.Model, *, rounding: float = 0.0) -> keras.Model:
    """Compares the outputs and returns the canonical model.

    Args:
        rounding: allowed where an output is a difference of larger values.
    """
    canonical = prepare(model)
    for layer in canonical.layers:
        assert find_primitive(layer) or type(layer) in (L.InputLayer, Constant), layer
        if isinstance(layer, WEIGHTED_LAYERS):
            assert layer.use_bias
            assert layer.activation.__name__ == "linear"
    generator = np.random.default_rng(1)
    count = model.inputs[0].shape[0] or 4
    inputs = [generator.normal(size=(count, *t.shape[1:])).astype("float32") for t in model.inputs]
    expected = keras.tree.flatten(model(inputs if len(inputs) > 1 else inputs[0], training=False))
    found = keras.tree.flatten(canonical(inputs if len(inputs) > 1 else inputs[0]))
    assert len(expected) == len(found)
    for left, right in zip(expected, found, strict=True):
        left, right = np.asarray(left), np.asarray(right)
        assert left.shape == right.shape
        assert np.abs(left - right).max() <= 1e-5 * np.abs(left).max() + rounding
    graph = LayerGraph.of(canonical)
    # Not at batch 1: Keras 3.15 takes (1, 5, 1) + (1, 1, 5) for the sum with a bias.
    found_shapes = {key: (1, *t.shape[1:]) for key, t in graph.execute(inputs).items()}
    assert found_shapes == graph.shapes(canonical)
    return canonical


def image_model(*stack, shape=(H, W, C)) -> keras.Model:
    inputs = keras.Input(shape)
    outputs = inputs
    for layer in stack:
        outputs = layer(outputs)
    return randomize(keras.Model(inputs, outputs))
