"""Zeros in front of a convolution that padding="same" would add are its own."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L

from tests.tfeptq.preparation.canonical_check import C, H, N, W, check, image_model, randomize

AMOUNTS = st.tuples(st.integers(0, 2), st.integers(0, 2))


def paddings(model: keras.Model) -> int:
    return sum(isinstance(layer, L.ZeroPadding2D) for layer in model.layers)


@given(
    sizes=st.tuples(st.integers(5, 8), st.integers(5, 8)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 3),
    amounts=st.tuples(AMOUNTS, AMOUNTS),
    is_depthwise=st.booleans(),
)
@settings(max_examples=60)
def test_they_go_where_a_convolution_that_pads_computes_the_same(
    sizes, kernel, stride, amounts, is_depthwise
):
    options = {"kernel_size": kernel, "strides": stride}
    kind = L.DepthwiseConv2D if is_depthwise else L.Conv2D
    options |= {} if is_depthwise else {"filters": N}
    padded = image_model(L.ZeroPadding2D(amounts), kind(**options), shape=(*sizes, C))
    by_itself = image_model(kind(**options, padding="same"), shape=(*sizes, C))
    by_itself.set_weights(padded.get_weights())
    images = np.random.default_rng(0).normal(size=(2, *sizes, C)).astype("float32")
    expected, found = (np.asarray(model(images)) for model in (padded, by_itself))
    # float32 sums in another order; where other places are seen values differ by tenths.
    is_same = expected.shape == found.shape and np.allclose(expected, found, atol=1e-5)
    assert (paddings(check(padded)) == 0) == is_same


def test_a_dilated_window_reaches_further():
    options = {"kernel_size": 3, "dilation_rate": 2}
    assert paddings(check(image_model(L.ZeroPadding2D(2), L.Conv2D(N, **options)))) == 0
    assert paddings(check(image_model(L.ZeroPadding2D(1), L.Conv2D(N, **options)))) == 1


def test_other_readers_keep_them():
    inputs = keras.Input((H, W, C))
    zeros = L.ZeroPadding2D(1)(inputs)
    model = keras.Model(inputs, [L.Conv2D(N, 3)(zeros), L.MaxPooling2D(2)(zeros), zeros])
    canonical = check(randomize(model))
    assert paddings(canonical) == 1
    assert canonical.get_layer(model.layers[2].name).padding == "same"


@pytest.mark.parametrize(("second", "left"), [(1, 0), (2, 2)])
def test_a_shared_layer_pads_in_all_its_calls_or_none(second, left):
    inputs, shared = keras.Input((H, W, C)), L.Conv2D(N, 3)
    calls = [shared(L.ZeroPadding2D(amount)(inputs)) for amount in (1, second)]
    assert paddings(check(randomize(keras.Model(inputs, calls)))) == left


def test_a_sequence_is_padded_by_its_convolution():
    sequence = [L.ZeroPadding1D(1), L.Conv1D(N, 3), L.ReLU()]
    canonical = check(image_model(*sequence, shape=(H, C)))
    assert paddings(canonical) == 0
