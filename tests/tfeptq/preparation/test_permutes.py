"""Permutations of many axes: the same values, by layers that every target executes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L
from keras import ops

from tfeptq.preparation import prepare
from tfeptq.preparation.nodes import Input, Node
from tfeptq.preparation.permutes import MOST_AXES, permute


def computed(node: Node, values: np.ndarray) -> np.ndarray:
    """What the layers of a node make of one sample, as Keras defines them."""
    if not node.inputs:
        return values
    given = computed(node.inputs[0], values)
    if node.kind is L.Reshape:
        return given.reshape(node.options["target_shape"])
    assert node.kind is L.Permute
    return given.transpose([axis - 1 for axis in node.options["dims"]])


def chain(node: Node) -> list[Node]:
    return [node, *(chain(node.inputs[0]) if node.inputs else [])]


@settings(max_examples=300)
@given(
    shape=st.lists(st.sampled_from([1, 1, 2, 3]), min_size=1, max_size=7),
    data=st.data(),
)
def test_any_permutation_is_exact_and_moves_few_axes_at_a_time(shape, data):
    order = data.draw(st.permutations(range(len(shape))))
    values = np.arange(np.prod(shape), dtype="float32").reshape(shape)
    node = permute(Node(Input, "x", [], tuple(shape)), "moved", order)
    np.testing.assert_array_equal(computed(node, values), values.transpose(order))
    moves = [each for each in chain(node) if each.kind is L.Permute]
    assert all(len(each.shape) <= MOST_AXES for each in moves)
    assert len(moves) <= max(len(shape) - 1, 1)


def test_few_axes_are_moved_as_ever():
    inputs = keras.Input((3, 4, 2))
    model = prepare(keras.Model(inputs, L.Permute((3, 1, 2), name="moved")(inputs)))
    assert [layer.name for layer in model.layers[1:]] == ["moved"]


@pytest.mark.parametrize("block", [2, 3])
def test_depth_to_space_by_its_usual_formula_is_one_transpose(block):
    height, width, depth = 3, 5, 2
    inputs = keras.Input((height, width, depth * block * block))
    x = ops.reshape(inputs, (-1, height, width, block, block, depth))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    outputs = ops.reshape(x, (-1, height * block, width * block, depth))
    model = keras.Model(inputs, outputs)
    prepared = prepare(model)
    moves = [layer for layer in prepared.layers if isinstance(layer, L.Permute)]
    assert [layer.dims for layer in moves] == [(1, 3, 2, 4)]
    images = np.random.default_rng(0).normal(size=(2, *inputs.shape[1:])).astype("float32")
    np.testing.assert_array_equal(prepared.predict(images), model.predict(images))
