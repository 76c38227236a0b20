"""Infinite and NaN weights are refused by name before anything computes with them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L

import tfeptq
from tests.tfeptq.preparation.canonical_check import C, H, W, check, image_model
from tfeptq.preparation import prepare

BAD = (np.inf, -np.inf, np.nan)
#: Layer -> its variables; every one of them is made bad in turn.
LAYERS = {
    "Conv2D": L.Conv2D(4, 3, name="culprit"),
    "Conv2D without bias": L.Conv2D(4, 3, use_bias=False, name="culprit"),
    "DepthwiseConv2D": L.DepthwiseConv2D(3, name="culprit"),
    "SeparableConv2D": L.SeparableConv2D(4, 3, name="culprit"),
    "Dense": L.Dense(4, name="culprit"),
    "BatchNormalization": L.BatchNormalization(name="culprit"),
    "PReLU": L.PReLU(shared_axes=[1, 2], name="culprit"),
    "Normalization": L.Normalization(name="culprit"),
}


def model_of(name: str) -> keras.Model:
    layer = LAYERS[name]
    layer = type(layer).from_config(layer.get_config())
    if isinstance(layer, L.Normalization):
        layer.adapt(np.random.default_rng(0).normal(size=(9, H, W, C)))
    return image_model(layer)


@pytest.mark.parametrize("name", LAYERS)
def test_every_variable_is_looked_at(name):
    model = model_of(name)
    variables = [v for v in model.variables if keras.backend.is_float_dtype(v.dtype)]
    assert variables
    for index, variable in enumerate(variables):
        sound = keras.ops.convert_to_numpy(variable)
        damaged = sound.copy()
        damaged.flat[-1] = BAD[index % len(BAD)]
        variable.assign(damaged)
        with pytest.raises(ValueError, match=rf"'culprit': its {variable.name}.* infinite or NaN"):
            prepare(model)
        variable.assign(sound)
    check(model)


def test_nested_models_and_wrapped_layers_are_named():
    inner = keras.Sequential([L.Input((H, W, C)), L.Conv2D(2, 1, name="deep")], name="inner")
    inputs = keras.Input((H, W, C))
    model = keras.Model(inputs, inner(inputs))
    kernel, bias = inner.get_layer("deep").get_weights()
    kernel[0, 0, 0, 1] = np.nan
    inner.get_layer("deep").set_weights([kernel, bias])
    with pytest.raises(ValueError, match=r"deep': its kernel has 1 .*first at \(0, 0, 0, 1\)"):
        prepare(model)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: x * np.array([1.0, np.inf, 1.0], "float32"),
        lambda x: x + float("nan"),
        lambda x: L.Rescaling(float("inf"))(x),
        lambda x: L.Normalization(mean=[0.0] * C, variance=[1.0, float("nan"), 1.0])(x),
    ],
)
def test_constants_are_looked_at_as_well(build):
    inputs = keras.Input((H, W, C))
    with pytest.raises(ValueError, match=r"infinite or NaN|is nan|is inf"):
        prepare(keras.Model(inputs, build(inputs)))


def test_folding_out_of_the_range_of_float32_is_refused_by_name():
    model = image_model(L.Conv2D(4, 1, name="conv"), L.BatchNormalization(epsilon=0.0, name="norm"))
    norm = model.get_layer("norm")
    norm.moving_variance.assign(np.full(4, 1e-38, "float32"))
    norm.gamma.assign(np.full(4, 1e25, "float32"))
    with pytest.raises(ValueError, match=r"layer 'conv': .* folded in, its weights reach"):
        prepare(model)


def test_quantize_refuses_before_it_reads_samples():
    model = model_of("Conv2D")
    model.get_layer("culprit").bias.assign([0.0, np.inf, 0.0, 0.0])

    def samples():
        raise AssertionError("the samples were read")
        yield

    with pytest.raises(ValueError, match="layer 'culprit': its bias"):
        tfeptq.quantize(model, samples(), tfeptq.QuantizationConfig(rounding="nearest"))
