"""Models that others trained, and architectures that others designed."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L

from tests.tfeptq.preparation.canonical_check import check
from tfeptq.loading import load_model


@pytest.mark.parametrize(
    "name",
    [
        "mlperf_tiny/tiny_ic.keras",
        "mlperf_tiny/tiny_kws.keras",
        "mlperf_tiny/tiny_vww.keras",
        "mlperf_tiny/tiny_ad.keras",
        "mlperf_tiny/tiny_sww.keras",
        "mlperf_tiny/keras2_vww_96.h5",
        "mlperf_tiny/keras2_ad01.h5",
        "cifar10/cifar_resnet20.keras",
        "cifar10/cifar_resnet56.keras",
    ],
)
def test_trained_models(assets, name):
    check(load_model(assets / name))


@pytest.mark.parametrize(
    ("build", "depthwise"),
    [(keras.applications.MobileNetV2, 17), (keras.applications.MobileNetV3Small, 12)],
    ids=["MobileNetV2", "MobileNetV3Small"],
)
def test_mobile_networks_fold_completely(build, depthwise):
    """No depthwise convolution besides the network's own, and the input scaling of V3."""
    model = build(weights=None, input_shape=(64, 32, 3), classes=10)
    generator = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            shape = layer.gamma.shape
            layer.moving_mean.assign(generator.normal(size=shape) * 0.1)
            layer.moving_variance.assign(generator.uniform(0.5, 2.0, shape))
    canonical = check(model)
    assert sum(isinstance(layer, L.DepthwiseConv2D) for layer in canonical.layers) == depthwise
