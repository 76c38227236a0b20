"""What grids promise, uniform ones and others; and that nobody else rounds weights."""

from __future__ import annotations

import ast
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L

import tfeptq
from tests.tfeptq.codebook import Codebook
from tfeptq.calibrate.thresholds import weighted_error
from tfeptq.canonical import linear
from tfeptq.quantized.uniform_grid import UniformGrid
from tfeptq.quantized.weight_grid import WeightGrid
from tfeptq.quantized.weight_structure import WeightStructure
from tfeptq.quantized.wrappers import QuantizedWeights
from tfeptq.rounding.gptq import compensated_integers
from tfeptq.rounding.layerwise import rounded

#: H, W, in and out differ, so that no axis can stand for another.
LAYERS = {
    "convolution": lambda: L.Conv2D(5, (3, 2), kernel_initializer="zeros"),
    "depthwise": lambda: L.DepthwiseConv2D(
        (3, 2), depth_multiplier=2, depthwise_initializer="zeros"
    ),
    "dense": lambda: L.Dense(5, kernel_initializer="zeros"),
}


@st.composite
def grids(draw, kind=None):
    """A layer with random weights, some beyond the bounds, and a grid of its kernel."""
    name = draw(st.sampled_from(sorted(LAYERS)))
    bits, per_channel = draw(st.integers(2, 8)), draw(st.booleans())
    generator = np.random.default_rng(draw(st.integers(0, 9999)))
    layer = LAYERS[name]()
    layer.build((None, 7) if name == "dense" else (None, 5, 5, 3))
    layer.kernel.assign(generator.normal(size=layer.kernel.shape))
    shape = linear.scale_shape(layer, tuple(layer.kernel.shape), per_channel=per_channel)
    step = generator.uniform(0.3, 3.0, shape).astype("float32") / np.float32(2 ** (bits - 1))
    if (kind or draw(st.sampled_from(["uniform", "codebook"]))) == "uniform":
        return layer, UniformGrid(bits, step, per_channel)
    span = np.setdiff1d(np.arange(-127, 128), [0])
    books = [generator.choice(span, 2 ** min(bits, 6) - 1, replace=False) for _ in step.flat]
    entries = np.sort([[*book, 0] for book in books]).reshape(*shape, -1)
    return layer, Codebook(min(bits, 6), step * 2 ** (bits - 8), entries, per_channel)


def kernel_of(layer):
    return np.asarray(layer.kernel)


def all_values(grid, shape):
    """Every value that a weight may have, (..., levels)."""
    low, high = grid.bounds()
    integers = (
        grid.entries if isinstance(grid, Codebook) else np.arange(low, high + 1, dtype="float32")
    )
    return np.broadcast_to(integers * grid.step[..., None], (*shape, integers.shape[-1]))


@settings(max_examples=80)
@given(case=grids())
def test_the_nearest_is_a_neighbour_and_no_value_is_nearer(case):
    layer, grid = case
    weights = kernel_of(layer)
    nearest, (below, above) = grid.nearest(weights), grid.neighbours(weights)
    assert np.all((nearest == below) | (nearest == above))
    distance = np.abs(weights[..., None] - all_values(grid, weights.shape)).min(axis=-1)
    np.testing.assert_allclose(
        np.abs(grid.values(nearest) - weights), distance, atol=1e-5 * grid.step.max()
    )
    np.testing.assert_allclose(
        grid.error(weights), grid.values(nearest) - weights, atol=1e-5 * grid.step.max()
    )
    np.testing.assert_array_equal(grid.nearest(weights, within=(below, above)), nearest)


@settings(max_examples=80)
@given(case=grids())
def test_neighbours_contain_the_weight_and_bounds_contain_them(case):
    layer, grid = case
    weights, (low, high) = kernel_of(layer), grid.bounds()
    below, above = grid.neighbours(weights)
    assert np.all((low <= below) & (below <= above) & (above <= high))
    inside = (weights >= grid.values(low)) & (weights <= grid.values(high))
    slack = 1e-5 * grid.step
    assert np.all((grid.values(below) <= weights + slack) | ~inside)
    assert np.all((grid.values(above) >= weights - slack) | ~inside)
    outside = np.where(weights < grid.values(low), low, high)
    assert np.all(((below == outside) & (above == outside)) | inside)


@settings(max_examples=80)
@given(case=grids())
def test_training_goes_from_one_neighbour_to_the_other(case):
    """A place and a share are the weight itself; the ends of the way are its neighbours."""
    layer, grid = case
    weights = kernel_of(layer)
    place, share = grid.place(weights)
    assert np.all((share >= 0.0) & (share < 1.0))
    for end, neighbour in zip((0.0, 1.0), grid.neighbours(weights), strict=True):
        np.testing.assert_array_equal(grid.between(place, end), neighbour)
    clipped = np.clip(weights, *map(grid.values, grid.bounds()))
    np.testing.assert_allclose(
        grid.values(grid.between(place, share)), clipped, atol=1e-4 * grid.step.max()
    )


@settings(max_examples=80)
@given(case=grids(), seed=st.integers(0, 99))
def test_chosen_integers_are_one_end_of_a_way_towards_the_weight(case, seed):
    layer, grid = case
    weights = kernel_of(layer)
    moved = weights + np.random.default_rng(seed).normal(size=weights.shape)
    integers = grid.nearest(moved)
    np.testing.assert_array_equal(grid.between(grid.place_above(integers), 0.0), integers)
    place, share, is_upper = grid.place_beside(integers, weights)
    assert np.all((share >= 0.0) & (share <= 1.0))
    np.testing.assert_array_equal(grid.between(place, is_upper), integers)
    # The other end is no farther on the weight's side than the next value.
    other = grid.values(grid.between(place, 1.0 - is_upper))
    assert np.all((other - grid.values(integers)) * (weights - grid.values(integers)) >= 0.0)


@settings(max_examples=80)
@given(case=grids())
def test_storage_round_trips(case):
    layer, grid = case
    integers = grid.nearest(kernel_of(layer))
    stored = grid.stored(integers)
    shape = linear.scale_shape(layer, integers.shape, per_channel=grid.per_channel)
    assert stored.codes.dtype == np.int8
    assert stored.scale.shape == (int(np.prod(shape)),)
    values = stored.codes * stored.scale.reshape(shape)
    np.testing.assert_allclose(values, grid.values(integers), rtol=1e-6)
    np.testing.assert_array_equal(grid.nearest(values), stored.codes)
    assert len(np.unique(stored.codes)) <= grid.levels * stored.scale.size
    assert grid.levels <= 2**stored.bits


@settings(max_examples=60)
@given(case=grids())
def test_arrangements_change_nothing(case):
    layer, grid = case
    kernel = kernel_of(layer)

    def by_group(array):
        return linear.by_group(layer, np.broadcast_to(array, kernel.shape))

    found = grid.arranged(by_group).nearest(by_group(kernel))
    np.testing.assert_array_equal(linear.from_groups(layer, found), grid.nearest(kernel))
    assert grid.arranged(by_group).per_channel == grid.per_channel


@settings(max_examples=40)
@given(case=grids("uniform"))
def test_tensors_are_rounded_as_arrays(case):
    layer, grid = case
    weights, tensor = kernel_of(layer), tf.constant(kernel_of(layer))
    np.testing.assert_array_equal(grid.nearest(tensor), grid.nearest(weights))
    for left, right in zip(grid.place(tensor), grid.place(weights), strict=True):
        np.testing.assert_array_equal(left, right)
    for left, right in zip(grid.neighbours(tensor), grid.neighbours(weights), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("bits", range(2, 9))
def test_thresholds_clip_and_the_largest_weight_is_held(bits):
    grid = UniformGrid.of_threshold(0.75, bits=bits)
    assert grid.threshold == 0.75
    assert grid.values(grid.bounds()[0]) == (-0.75 if bits < 8 else -0.75 * 127 / 128)
    holding = UniformGrid.holding(0.75, bits=bits)
    assert holding.values(holding.nearest(np.array(0.75))) == pytest.approx(0.75)
    assert holding.bounds()[1] == holding.nearest(np.array(0.76))


@settings(max_examples=40)
@given(case=grids(), seed=st.integers(0, 99), stays=st.booleans())
def test_optq_chooses_on_any_grid(case, seed, stays):
    layer, grid = case
    kernel = kernel_of(layer)
    groups, size, _ = linear.by_group(layer, kernel).shape
    inputs = np.random.default_rng(seed).normal(size=(groups, 3 * size, size))
    inputs[:, :, 1:] += 0.8 * inputs[:, :, :-1]
    covariance = np.swapaxes(inputs, 1, 2) @ inputs / (3 * size)
    targets = kernel + 0.1 * np.random.default_rng(seed).normal(size=kernel.shape)
    found = rounded(layer, targets, grid, covariance, is_trained_later=stays)
    np.testing.assert_array_equal(grid.nearest(grid.values(found)), found)
    if stays:
        below, above = grid.neighbours(kernel)
        assert np.all((found == below) | (found == above))


def test_other_grids_keep_what_is_zero_and_lose_less_with_more_values():
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(1, 40, 3))
    weights[generator.uniform(size=weights.shape) < 0.3] = 0.0
    covariance = np.eye(40)[None]
    losses = []
    for step in (64, 16, 4):
        entries = np.arange(-120, 121, step) + np.array([[[0]], [[0]], [[0]]]).reshape(1, 1, 3, 1)
        entries = np.sort(np.where(np.abs(entries) < step / 2, 0, entries))
        grid = Codebook(6, np.full((1, 1, 3), 1 / 40), entries)
        found = compensated_integers(weights, grid, covariance, zeros=weights == 0.0)
        assert not found[weights == 0.0].any()
        losses.append(weighted_error(weights[0].T, np.ones((3, 40)), by_row(grid)).sum())
    assert losses == sorted(losses, reverse=True)


def by_row(grid):
    return grid.arranged(lambda array: array[0, 0][:, None])


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_trained_layer_rounds_as_its_grid_says(per_channel):
    layer = LAYERS["convolution"]()
    layer.build((None, 5, 5, 3))
    layer.kernel.assign(np.random.default_rng(1).normal(size=layer.kernel.shape))
    wrapper = QuantizedWeights(layer, 3, per_channel)
    wrapper.build((None, 5, 5, 3))
    count = 5 if per_channel else 1
    wrapper.set_step(np.linspace(0.2, 0.5, count))
    grid, kernel = wrapper.weight_grid, kernel_of(layer)
    assert grid.per_channel is per_channel
    np.testing.assert_array_equal(wrapper.integers(), grid.nearest(kernel))
    wrapper.soft_share.assign(1.0)
    np.testing.assert_allclose(
        wrapper.quantized_kernel(),
        np.clip(kernel, *map(grid.values, grid.bounds())),
        atol=1e-5,
    )
    below, _ = grid.neighbours(kernel)
    wrapper.set_integers(below)
    np.testing.assert_array_equal(wrapper.integers(), below)
    wrapper.fold()
    np.testing.assert_array_equal(wrapper.stored().codes, below)
    np.testing.assert_array_equal(wrapper.quantized_kernel(), grid.values(below))
    np.testing.assert_allclose(wrapper.integer_kernel(), grid.values(below), rtol=1e-6)


def test_clusters_are_kept_where_the_grid_has_a_value_for_each():
    layer = L.Dense(2)
    layer.build((None, 6))
    kernel = np.array([[1, 2, 3, 1, 2, 3], [1, 2, 3, 4, 5, 5]], "float32").T
    grid = Codebook(2, np.ones((1, 2)), np.array([[[-2, 0, 1, 2], [-2, 0, 1, 2]]]))
    shared = WeightStructure.of(layer, kernel, grid).shared
    np.testing.assert_array_equal(shared[:3, 0], shared[3:, 0])
    assert len(np.unique(shared[:, 1])) == 6


PACKAGE = Path(tfeptq.__file__).parent
ROUNDING = {"round", "rint", "floor", "ceil", "trunc", "fix", "clip", "clip_by_value", "around"}
#: Who else rounds or clips, and what, because it is no weight.
OTHERS = {
    "calibrate/": "activations: ranges and their codes",
    "canonical/": "activations",
    "foreign/keras2_layers.py: keras2_hard_sigmoid": "a function of Keras 2",
    "freeze/freeze.py: _array": "arrays that are activations of the integer graph",
    "freeze/kernel_scales.py: _visible_bias": "biases",
    "hessian/": "activations",
    "plan/": "activations: zero points and fixed ranges",
    "preparation/": "samples of the proof",
    "quantized/fused.py": "activations",
    "quantized/integer_bias.py": "biases and accumulators",
    "quantized/quantizers.py: asymmetric_parameters": "a zero point",
    "quantized/quantizers.py: fake_quantize": "activations",
    "quantized/quantizers.py: rectified_sigmoid": "the share of the way between two neighbours",
    "quantized/uniform_grid.py": "the one place where weights are rounded",
    "quantized/kernel_rounding.py: multiplier_exponent": "a kernel's multiplier",
    "quantized/kernel_rounding.py: rounded_to_grid": "an accumulator",
    "quantized/wrappers.py: shrink": "a bias, to the ends of the output",
    "report/": "labels and figures",
    "rounding/schedule.py": "the schedule",
    "selection/": "costs",
}


def roundings(path):
    """`file: function` of every call that rounds or clips."""
    name = path.relative_to(PACKAGE).as_posix()

    def visit(node, function):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = node.name
        if isinstance(node, ast.Call):
            called = node.func
            kind = getattr(called, "attr", getattr(called, "id", ""))
            if kind in ROUNDING:
                yield f"{name}: {function}"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function)

    return set(visit(ast.parse(path.read_text()), ""))


def test_nobody_else_rounds_weights():
    found = {place for path in PACKAGE.rglob("*.py") for place in roundings(path)}
    assert "quantized/uniform_grid.py: _nearest" in found
    unknown = sorted(place for place in found if not place.startswith(tuple(OTHERS)))
    assert not unknown, f"{unknown}: ask the weight grid; or say in OTHERS what is rounded there"


def test_every_grid_answers_the_whole_protocol():
    asked = {name for name in vars(WeightGrid) if not name.startswith("_")}
    for grid in (UniformGrid(4, 1.0), Codebook(2, np.ones(1), np.array([[0, 1]]))):
        assert not {name for name in asked if not hasattr(grid, name)}


@pytest.mark.parametrize("calls", [1, 2])
def test_old_files_find_their_variables(calls):
    """`.keras` files tell variables apart by their order, which is part of the format."""
    layer = QuantizedWeights(keras.layers.Dense(2), 4, calls=calls)
    layer.build((None, 3))
    learned = ["rounding", "log_scale", "bias_offset"]
    kept = ["step", "floor", "soft_share", "bias_unit", "rounding_unit", "grid"]
    by_call = ["bias_residue"] if calls > 1 else []
    names = [variable.name for variable in layer.variables]
    assert names == [*learned, *kept, *by_call, "kernel", "bias"]
