"""Constants that layers and operations read beside tensors: folded, or operands of their own."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from tests.tfeptq.preparation.canonical_check import C, H, N, W, check, randomize
from tfeptq.canonical.constant_layer import Constant
from tfeptq.preparation import UnsupportedLayerError, prepare

MERGES = (L.Add, L.Subtract, L.Multiply, L.Maximum, L.Minimum, L.Average)
#: Shape of a constant -> whether scale * x + offset can stand for it.
SHAPES = {
    (1, 1, 1, 1): True,
    (1, 1, 1, C): True,
    (1, H, W, C): False,
    (1, H, W, 1): False,
    (1, H, 1, 1): False,
}


def drawn(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def constants_of(model: keras.Model) -> list[Constant]:
    return [layer for layer in model.layers if isinstance(layer, Constant)]


@pytest.mark.parametrize("kind", MERGES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_constants_in_the_lists_of_merging_layers(kind, shape):
    inputs = keras.Input((H, W, C))
    canonical = check(keras.Model(inputs, kind()([inputs, ops.convert_to_tensor(drawn(shape))])))
    is_order = kind in (L.Maximum, L.Minimum)
    folds = SHAPES[shape] and not (is_order and shape[-1] > 1)
    assert len(constants_of(canonical)) == (not folds)


@pytest.mark.parametrize("kind", [L.Add, L.Multiply, L.Maximum, L.Minimum, L.Average])
def test_several_constants_are_combined(kind):
    inputs = keras.Input((H, W, C))
    parts = [drawn((1, H, W, C), 1), drawn((1, 1, 1, C), 2), drawn((1, 1, 1, 1), 3)]
    outputs = kind()([L.Conv2D(C, 1)(inputs), parts[0], inputs, *parts[1:]])
    canonical = check(randomize(keras.Model(inputs, outputs)))
    assert len(constants_of(canonical)) == 1


@pytest.mark.parametrize("kind", MERGES)
def test_an_array_that_repeats_one_value_a_channel_folds(kind):
    inputs = keras.Input((H, W, C))
    value = 1.5 if kind in (L.Maximum, L.Minimum) else drawn((C,))
    array = np.broadcast_to(np.float32(value), (1, H, W, C))
    assert not constants_of(check(keras.Model(inputs, kind()([inputs, array]))))


@pytest.mark.parametrize("kind", [L.Add, L.Multiply, L.Maximum])
def test_constants_of_more_or_fewer_axes_than_the_tensor(kind):
    # Keras inserts the axes that lack behind the batch.
    inputs = keras.Input((H, W, C))
    vector = L.GlobalAveragePooling2D()(inputs)
    check(keras.Model(inputs, kind()([vector, drawn((1, H, W, C))])))
    check(keras.Model(inputs, kind()([inputs, drawn((1, C))])))


OPERATIONS = {
    "add": lambda x, c: ops.add(x, c),
    "constant first": lambda x, c: ops.subtract(c, x),
    "operator": lambda x, c: x * c[None],
    "maximum": lambda x, c: ops.maximum(c, x),
    "minimum": lambda x, c: ops.minimum(x, ops.convert_to_tensor(c)),
    "divide": lambda x, c: x / (ops.abs(c) + 1.0),
    "keywords": lambda x, c: ops.subtract(x1=c, x2=x),
    "clip": lambda x, c: ops.clip(x, c - 0.5, c + 0.5),
    "variable": lambda x, c: x + keras.Variable(c),
    "twice": lambda x, c: (x + c) * c,
    "ones like": lambda x, c: x + 3.0 * ops.ones_like(x),
    "nothing but a constant": lambda x, c: x + ops.relu(ops.zeros_like(x) - 1.0) + 1.0,
}


@pytest.mark.parametrize("shape", [(C,), (W, C), (H, W, C), (H, 1, 1)], ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_constants_of_operations(name, shape):
    inputs = keras.Input((H, W, C))
    check(keras.Model(inputs, OPERATIONS[name](inputs, drawn(shape))))


@pytest.mark.parametrize("axis", [1, 2, 3, -1])
def test_constants_in_concatenations(axis):
    inputs = keras.Input(batch_shape=(1, H, W, C))
    shape = [1, H, W, C]
    shape[axis] = 2
    parts = [drawn(tuple(shape)), L.Conv2D(C, 1)(inputs), np.zeros(shape, "float32")]
    check(randomize(keras.Model(inputs, ops.concatenate(parts, axis=axis))))
    layer = L.Concatenate(axis=axis)([inputs, parts[0], parts[2]])
    assert len(constants_of(check(keras.Model(inputs, layer)))) == 2


def test_padding_with_zeros_that_are_concatenated():
    inputs = keras.Input((H, W, C))
    zeros = ops.zeros_like(L.AveragePooling2D(1)(inputs))
    check(keras.Model(inputs, L.Concatenate()([inputs, zeros])))


def test_constants_given_to_a_nested_model_are_computed_once():
    image, other = keras.Input((H, W, C)), keras.Input((H, W, C))
    branch = L.ReLU()(L.BatchNormalization()(L.Conv2D(N, 3, padding="same")(other)))
    inner = keras.Model([image, other], L.Multiply()([L.Conv2D(N, 1)(image), branch]))
    inputs = keras.Input((H, W, C))
    model = randomize(
        keras.Model(inputs, inner([inputs, ops.convert_to_tensor(drawn((1, H, W, C)))]))
    )
    canonical = check(model)
    assert sum(isinstance(layer, L.Conv2D) for layer in canonical.layers) == 1


def test_normalization_and_rescaling_by_position():
    inputs = keras.Input((H, W, C))
    mean, variance = drawn((H,)), np.abs(drawn((H,), 1)) + 0.1
    x = L.Normalization(axis=1, mean=mean, variance=variance)(inputs)
    x = L.Rescaling(drawn((W, 1), 2), offset=drawn((H, 1, C), 3))(x)
    check(keras.Model(inputs, x))


def test_the_first_argument_by_its_keyword():
    inputs = keras.Input((H, W, C))
    x = L.Conv2D(N, 1)(inputs=inputs)
    check(randomize(keras.Model(inputs, L.Add()(inputs=[x, drawn((1, H, W, N))]))))


#: Size of an image and shape of an array with one axis, which Keras may add along another.
BIASES = [
    ((5, 4, 3), (5, 1, 1)),
    ((4, 5, 3), (5, 1)),
    ((5, 5, 3), (5, 1)),
    ((5, 4, 5), (5, 1, 1)),
    ((4, 5, 5), (5, 1)),
    ((5, 5, 5), (5, 1)),
    ((5, 4, 5), (5,)),
]


@pytest.mark.parametrize(("size", "shape"), BIASES, ids=str)
def test_keras_takes_an_array_with_one_axis_for_a_bias(size, shape):
    inputs = keras.Input(size)
    array = drawn(shape)
    check(keras.Model(inputs, inputs + array))
    check(keras.Model(inputs, ops.add(array, inputs)))
    batched = array.reshape(1, *[1] * (3 - len(shape)), *shape)
    check(keras.Model(inputs, L.Add()([inputs, batched])))
    check(keras.Model(inputs, L.Average()([inputs, batched, L.ReLU()(inputs)])))


def test_constants_that_differ_by_sample_are_refused():
    inputs = keras.Input(batch_shape=(2, H, W, C))
    model = keras.Model(inputs, L.Add(name="sum")([inputs, drawn((2, H, W, C))]))
    with pytest.raises(UnsupportedLayerError, match=r"'sum' \(Add\).*first axis is the batch"):
        prepare(model)


def test_an_output_that_no_input_reaches_is_refused():
    inputs = keras.Input((H, W, C))
    with pytest.raises(ValueError, match=r"output 1 of model 'm'.*does not depend on the inputs"):
        prepare(keras.Model(inputs, [L.ReLU()(inputs), ops.zeros_like(inputs)], name="m"))
