"""What candidates of widths do to a layer: the errors that selection compares."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.tfeptq import small_models
from tfeptq.canonical import linear
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.config import QuantizationConfig
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import prepare
from tfeptq.rounding import input_moments
from tfeptq.sensitivity.rounding_errors import weight_errors

CONFIG = QuantizationConfig(weight_bits=(2, 3), threshold="mse", target="ethos-u")
LAYERS = ("stem", "depthwise", "pointwise", "classes")


@pytest.fixture(scope="module")
def canonical():
    return prepare(small_models.residual_network())


@pytest.fixture(scope="module")
def images():
    return smooth(128)


def smooth(count):
    """Neighbouring pixels resemble each other, as they do in pictures."""
    return 3.0 * np.asarray(tf.nn.avg_pool2d(small_models.images(count), 3, 1, "SAME"))


def errors(model, data, **settings):
    config = dataclasses.replace(CONFIG, **settings)
    plan = QuantizationPlan.of(model, config)
    candidates = {name: tuple(plan.storage(name, bits) for bits in (2, 3)) for name in LAYERS}
    return weight_errors(model, [data], candidates, {}, config)


def output_shift(model, data, name, error):
    """What the error adds to the layer's output on float inputs, (positions, channels)."""
    graph = LayerGraph.of(model)
    (call,) = (call for call in graph.calls if call.layer.name == name)
    inputs = graph.execute([tf.constant(data)])[call.inputs[0]]
    added = linear.linear_operation(call.layer, inputs, error.kernel) + error.bias
    return np.asarray(added, np.float64).reshape(-1, added.shape[-1])


def test_without_optq_what_ships_is_the_nearest(canonical, images):
    found = errors(canonical, images, rounding="nearest")
    assert set(found.shares.values()) == {1.0}
    for key, error in found.nearest.items():
        np.testing.assert_array_equal(found.shipped[key].kernel, error.kernel)


def test_shares_are_what_is_left_of_the_error_in_the_output(canonical, monkeypatch):
    """Correlations are shrunk by what may be chance: the less, the more positions there are."""
    count = 4096
    monkeypatch.setattr(input_moments, "_ENOUGH", 2**30)
    images = smooth(count)
    samples = {"covariances": count, "rounding_errors": count}
    found = errors(canonical, images, rounding="optq", stage_samples=samples)
    for (name, bits), share in found.shares.items():
        left, whole = (
            np.square(output_shift(canonical, images, name, each[name, bits])).sum()
            for each in (found.shipped, found.nearest)
        )
        # The last layer has one position an image.
        few = name == "classes"
        assert share == pytest.approx(left / whole, rel=5e-3 if few else 1e-3), (name, bits)
    assert max(found.shares.values()) < 1.0


@pytest.mark.parametrize("rounding", ["optq", "nearest"])
def test_biases_take_the_mean_of_what_kernels_add(canonical, images, rounding):
    found = errors(canonical, images, rounding=rounding)
    for (name, _), error in found.shipped.items():
        shift = output_shift(canonical, images, name, error)
        np.testing.assert_allclose(shift.mean(axis=0), 0.0, atol=1e-5 * np.abs(shift).max())


def test_training_starts_next_to_the_float_weights(canonical, images):
    learned = errors(canonical, images, initial_rounding="optq").shipped
    written = errors(canonical, images, rounding="optq").shipped
    reach = {key: np.abs(each.kernel).max() for key, each in learned.items()}
    assert any(reach[key] < np.abs(each.kernel).max() for key, each in written.items())
