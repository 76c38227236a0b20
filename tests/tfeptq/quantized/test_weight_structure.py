"""Pruned weights stay zero and clustered ones stay few, however their integers are chosen."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L

from tfeptq.canonical import linear
from tfeptq.canonical.integer_types import weight_range
from tfeptq.config import QuantizationConfig
from tfeptq.pipeline import quantize
from tfeptq.quantized.uniform_grid import UniformGrid
from tfeptq.quantized.weight_structure import WeightStructure
from tfeptq.quantized.wrappers import QuantizedWeights
from tfeptq.rounding import gptq as optq
from tfeptq.rounding import layerwise

KINDS = ("convolution", "depthwise", "dense")


def layer_of(kind, kernel_seed, *, pruned=0.0, clusters=None):
    layer = {
        "convolution": L.Conv2D(4, (3, 2)),
        "depthwise": L.DepthwiseConv2D((3, 2), depth_multiplier=2),
        "dense": L.Dense(5),
    }[kind]
    layer.build((None, 3) if kind == "dense" else (None, 5, 5, 3))
    if kind == "dense":
        layer = L.Dense(5)
        layer.build((None, 24))
    generator = np.random.default_rng(kernel_seed)
    kernel = generator.normal(size=layer.kernel.shape).astype("float32")
    if clusters:
        centers = generator.normal(size=clusters).astype("float32")
        kernel = centers[generator.integers(0, clusters, kernel.shape)]
    kernel[generator.uniform(size=kernel.shape) < pruned] = 0.0
    layer.kernel.assign(kernel)
    return layer


def covariance_of(layer, seed):
    grouped = linear.by_group(layer, np.asarray(layer.kernel))
    groups, size = grouped.shape[:2]
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(groups, 3 * size, size)) @ generator.normal(
        size=(groups, size, size)
    )
    return np.swapaxes(inputs, 1, 2) @ inputs / (3 * size)


def steps_of(layer, bits, per_channel):
    kernel = np.asarray(layer.kernel)
    rows = linear.by_channel(layer, np.abs(kernel))
    largest = rows.max(axis=1) if per_channel else rows.max(keepdims=True)[0]
    shape = linear.scale_shape(layer, kernel.shape, per_channel=per_channel)
    return (np.maximum(largest, 1e-3) / 2 ** (bits - 1)).reshape(shape)


def scale_groups(layer, array, per_channel):
    rows = linear.by_channel(layer, array)
    return rows if per_channel else rows.reshape(1, -1)


def output_error(layer, errors, of):
    """Sum over channels of the squared error of their outputs."""
    grouped = linear.by_group(layer, errors)
    return np.einsum("gkc,gkl,glc->", grouped, optq.damped(of), grouped)


def assert_kept(layer, integers, *, bits, per_channel):
    """Zeros are zeros; under a scale that has an integer for each of its values, so are equals."""
    kernel = np.asarray(layer.kernel)
    assert not integers[kernel == 0.0].any()
    floats, found = (scale_groups(layer, each, per_channel) for each in (kernel, integers))
    for values, chosen in zip(floats, found, strict=True):
        known = np.unique(values)
        if len(known) <= 2**bits:
            assert all(len(np.unique(chosen[values == value])) == 1 for value in known)


@settings(max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    bits=st.integers(2, 8),
    per_channel=st.booleans(),
    pruned=st.sampled_from([0.0, 0.3, 0.8, 1.0]),
    clusters=st.sampled_from([None, 3, 8, 16]),
    is_trained_later=st.booleans(),
    seed=st.integers(0, 99),
)
def test_optq_keeps_zeros_and_levels(
    kind, bits, per_channel, pruned, clusters, is_trained_later, seed
):
    layer = layer_of(kind, seed, pruned=pruned, clusters=clusters)
    kernel, steps = np.asarray(layer.kernel), steps_of(layer, bits, per_channel)
    targets = kernel + 0.2 * np.random.default_rng(seed + 1).normal(size=kernel.shape)
    integers = layerwise.rounded(
        layer,
        targets,
        UniformGrid(bits, steps, per_channel),
        covariance_of(layer, seed),
        is_trained_later=is_trained_later,
    )
    low, high = weight_range(bits)
    assert integers.min() >= low
    assert integers.max() <= high
    np.testing.assert_array_equal(integers, np.round(integers))
    assert_kept(layer, integers, bits=bits, per_channel=per_channel)
    if is_trained_later:
        below = np.clip(np.floor(kernel / steps), low, high)
        assert np.all((integers == below) | (integers == np.clip(below + 1, low, high)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clusters", [None, 6])
@pytest.mark.parametrize("bits", [3, 8])
def test_the_others_make_up_for_what_is_frozen(kind, clusters, bits):
    """Nearer to the targets than nearest rounding, which keeps the same structure."""
    layer = layer_of(kind, 5, pruned=0.5, clusters=clusters)
    kernel, steps, of = (
        np.asarray(layer.kernel),
        steps_of(layer, bits, True),
        covariance_of(layer, 5),
    )
    targets = kernel + 0.1 * np.random.default_rng(6).normal(size=kernel.shape)
    found = layerwise.rounded(layer, targets, UniformGrid(bits, steps), of, is_trained_later=False)
    nearest = np.clip(np.round(kernel / steps), *weight_range(bits))

    losses = [output_error(layer, each * steps - targets, of) for each in (found, nearest)]
    assert losses[0] < losses[1]


def test_zeros_are_left_out_of_the_problem():
    """With many codes rounding is little: what is left is least squares over the free weights."""
    layer = layer_of("dense", 3, pruned=0.6)
    kernel, of = np.asarray(layer.kernel, np.float64), covariance_of(layer, 3)
    targets = kernel + 0.3 * np.random.default_rng(4).normal(size=kernel.shape)
    steps = steps_of(layer, 8, True) * 1.5
    found = layerwise.rounded(layer, targets, UniformGrid(8, steps), of, is_trained_later=False)
    matrix, best = optq.damped(of)[0], np.zeros(kernel.shape)
    for channel in range(5):
        free = kernel[:, channel] != 0.0
        right = matrix[free] @ targets[:, channel]
        best[free, channel] = np.linalg.solve(matrix[np.ix_(free, free)], right)
    errors = [output_error(layer, each - targets, of) for each in (found * steps, best)]
    assert errors[1] <= errors[0] < 1.02 * errors[1]


def test_kernels_without_structure_are_rounded_as_ever():
    layer = layer_of("convolution", 0)
    kernel, steps, of = np.asarray(layer.kernel), steps_of(layer, 3, True), covariance_of(layer, 0)
    found = layerwise.rounded(layer, kernel, UniformGrid(3, steps), of, is_trained_later=False)
    spread = linear.by_group(layer, np.broadcast_to(steps, kernel.shape))[:, :1]
    plain = optq.compensated_integers(
        linear.by_group(layer, kernel).astype(np.float64),
        UniformGrid(3, spread.astype(np.float64)),
        of,
    )
    np.testing.assert_array_equal(found, linear.from_groups(layer, plain))


def test_values_of_different_scales_are_not_the_same():
    layer = layer_of("dense", 0, clusters=3)
    kernel = np.asarray(layer.kernel)
    alone, together = (
        WeightStructure.of(layer, kernel, UniformGrid(4, 1.0, per_channel)).shared
        for per_channel in (True, False)
    )
    assert len(np.unique(together)) == 3
    assert len(np.unique(alone)) == sum(len(np.unique(column)) for column in kernel.T)


def structured_network(*, clusters=None):
    """Three layers of 60 % zeros, the others one of `clusters` values."""
    model = keras.Sequential(
        [
            L.Input((8, 8, 3)),
            L.Conv2D(6, 3, activation="relu"),
            L.DepthwiseConv2D(3, activation="relu"),
            L.Flatten(),
            L.Dense(4),
        ]
    )
    generator = np.random.default_rng(0)
    for layer in model.layers:
        if linear.is_weighted(layer):
            kernel = generator.normal(size=layer.kernel.shape).astype("float32")
            if clusters:
                centers = generator.normal(size=clusters).astype("float32")
                kernel = centers[generator.integers(0, clusters, kernel.shape)]
            kernel[generator.uniform(size=kernel.shape) < 0.6] = 0.0
            layer.kernel.assign(kernel / np.sqrt(kernel[..., 0].size))
    return model


def quantized_network(rounding, *, clusters, target="android"):
    """Learning rates are large: without its structure, every rounding might change."""
    samples = np.random.default_rng(1).normal(size=(16, 8, 8, 3)).astype("float32")
    config = QuantizationConfig(
        weight_bits=4,
        first_last_bits=None,
        target=target,
        samples=16,
        batch_size=8,
        steps=20,
        rounding=rounding,
        initial_rounding="optq",
        rounding_learning_rate=0.4,
    )
    return quantize(structured_network(clusters=clusters), samples, config)


@pytest.mark.parametrize("rounding", ["optq", "eptq"])
def test_quantization_keeps_zeros(rounding):
    changed = 0
    for layer in quantized_network(rounding, clusters=None).weighted_layers:
        integers, scaled = layer.integers(), layer.float_kernel / np.asarray(layer.step)
        assert_kept(layer.layer, integers, bits=4, per_channel=True)
        changed += np.sum(integers != np.clip(np.round(scaled), -8, 7))
    assert changed > 0


def test_training_keeps_levels():
    for layer in quantized_network("eptq", clusters=7).weighted_layers:
        assert_kept(layer.layer, layer.integers(), bits=4, per_channel=True)


def test_a_layer_with_one_scale_keeps_the_levels_of_all_its_channels():
    quantized = quantized_network("optq", clusters=7, target="microcontroller")
    dense = quantized.weighted_layers[-1]
    assert not dense.per_channel
    assert_kept(dense.layer, dense.integers(), bits=4, per_channel=False)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_learned_the_structure_holds(kind, per_channel):
    """Also afterwards, and zeros and all but one of several equal weights get no gradient."""
    layer = layer_of(kind, 2, pruned=0.4, clusters=6)
    wrapper = QuantizedWeights(layer, 4, per_channel)
    shape = (None, 24) if kind == "dense" else (None, 5, 5, 3)
    wrapper.build(shape)
    wrapper.set_step(steps_of(layer, 4, per_channel))
    wrapper.soft_share.assign(1.0)
    wrapper.keep_structure()
    generator = np.random.default_rng(3)
    wrapper.rounding.assign(generator.normal(size=layer.kernel.shape))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(wrapper.quantized_kernel()) + wrapper.undecided(4.0)
    gradient = tf.convert_to_tensor(tape.gradient(loss, wrapper.rounding.value)).numpy()
    assert np.count_nonzero(gradient) <= 6 * (wrapper.step.shape.num_elements())
    assert np.count_nonzero(gradient)
    integers = wrapper.integers()
    assert_kept(layer, integers, bits=4, per_channel=per_channel)
    wrapper.settle_structure()
    np.testing.assert_array_equal(wrapper.integers(), integers)
    wrapper.fold()
    np.testing.assert_array_equal(wrapper.integers(), integers)
