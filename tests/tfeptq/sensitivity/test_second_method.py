"""A new sensitivity is one class and one registration: a choice of widths with the tests' own."""

from __future__ import annotations

import numpy as np
import pytest

import tfeptq
from tests.tfeptq import small_models
from tfeptq.config import SENSITIVITIES
from tfeptq.sensitivity.method import Method, Sensitivity, nested

NAME = "tests' errors"


class SquaredErrors(Method):
    """The squared norm of what rounding does, whatever the model makes of it."""

    def of_weights(self, errors):
        losses = {candidate: error.squared_norm for candidate, error in errors.shipped.items()}
        flat = dict.fromkeys((name for name, _ in losses), 1.0)
        return Sensitivity(NAME, "no Hessian", nested(losses), flat)

    def of_activations(self, grids):
        return {candidate: grid.scale**2 for candidate, grid in grids.items()}


@pytest.fixture(autouse=True)
def _registered():
    SENSITIVITIES.register(NAME, SquaredErrors)
    yield
    SENSITIVITIES.forget(NAME)


def settings(**others):
    return {
        "weight_bits": (2, 4, 8),
        "first_last_bits": None,
        "rounding": "nearest",
        "sensitivity": NAME,
        "samples": 32,
        **others,
    }


def test_widths_are_chosen_by_it():
    config = tfeptq.QuantizationConfig(**settings(budget=tfeptq.Budget(weight_bytes=650)))
    images = small_models.images(32)
    quantized = tfeptq.quantize(small_models.residual_network(), images, config)
    choice = quantized.report.choice
    assert choice.source == f"{NAME}: no Hessian"
    for name, losses in choice.sensitivity.losses.items():
        kernel = np.asarray(choice.plan.model.get_layer(name).kernel)
        for bits, loss in losses.items():
            error = choice.sensitivity.errors[name, bits].kernel
            assert loss == pytest.approx(np.square(error).sum(), rel=1e-5)
            assert error.shape == kernel.shape


def test_it_prices_activations_too():
    config = tfeptq.QuantizationConfig(
        **settings(activation_bits=(8, 16), target="microcontroller", weight_bits=8)
    )
    images = small_models.images(32)
    points = tfeptq.pareto_frontier(
        small_models.residual_network(), images, config, cost="activation_bytes"
    )
    assert len(points) > 2
    assert [point.loss for point in points] == sorted((p.loss for p in points), reverse=True)


def test_labels_are_refused_by_a_method_that_does_not_take_them():
    config = tfeptq.QuantizationConfig(**settings(budget=tfeptq.Budget(weight_bytes=650)))
    with pytest.raises(ValueError, match="taken by sensitivity='hawq_v2' alone"):
        tfeptq.quantize(
            small_models.residual_network(),
            small_models.images(32),
            config,
            labels=np.zeros(32, int),
        )
