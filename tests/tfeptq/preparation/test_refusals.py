"""What has no place is refused by name, with the nearest supported way."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

from tests.tfeptq.preparation.canonical_check import C, H, W, image_model
from tfeptq.preparation import UnsupportedLayerError, as_functional, prepare

REFUSED = {
    "Activation": (L.Activation("sparsemax", name="culprit"), "keras.activations"),
    "Flatten": (L.Flatten(data_format="channels_first", name="culprit"), "channels_last"),
    "MaxPooling2D": (
        L.MaxPooling2D(data_format="channels_first", name="culprit"),
        "channels_last",
    ),
    "Lambda": (L.Lambda(lambda x: tf.sort(x), name="culprit"), "keras.ops"),
    "UpSampling2D": (L.UpSampling2D(interpolation="lanczos3", name="culprit"), "bilinear"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_name_the_layer_its_class_and_the_way_out(kind):
    layer, advice = REFUSED[kind]
    with pytest.raises(UnsupportedLayerError) as refusal:
        prepare(image_model(layer))
    assert f"layer 'culprit' ({kind})" in str(refusal.value)
    assert advice in str(refusal.value)


@pytest.mark.parametrize(
    "layer",
    [
        L.Conv3D(2, 2, name="culprit"),
        L.AveragePooling3D(2, name="culprit"),
        L.MaxPooling3D(2, name="culprit"),
        L.ConvLSTM3D(2, 2, name="culprit"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_volumes_are_refused_by_name(layer):
    shape = (5, 4, 6, 3) if not isinstance(layer, L.ConvLSTM3D) else (2, 5, 4, 6, 3)
    inputs = keras.Input(shape)
    with pytest.raises(UnsupportedLayerError, match=r"works over 3 dimensions") as refusal:
        prepare(keras.Model(inputs, layer(inputs)))
    assert "'culprit'" in str(refusal.value)


@pytest.mark.parametrize(
    ("layer", "advice"),
    [
        (L.CenterCrop(H + 1, W, name="culprit"), "use Resizing"),
        (L.AdaptiveAveragePooling2D((H - 1, 1), name="culprit"), "output_size that divides"),
    ],
    ids=["crop", "pooling"],
)
def test_what_depends_on_sizes_is_refused_with_them(layer, advice):
    with pytest.raises(UnsupportedLayerError, match=advice):
        prepare(image_model(layer))


def test_unsupported_operations_are_refused_by_name():
    inputs = keras.Input((H, W, C))
    with pytest.raises(UnsupportedLayerError, match=r"\(Sort\)"):
        prepare(keras.Model(inputs, ops.sort(inputs)))


@pytest.mark.parametrize(
    "model", [keras.Sequential([L.Dense(2)]), "not a model"], ids=["unbuilt", "text"]
)
def test_unbuilt_models_get_one_clear_error(model):
    with pytest.raises(ValueError, match=r"keras\.Model|symbolic inputs"):
        prepare(model)


def test_unknown_sizes_are_refused():
    inputs = keras.Input((None, None, 3))
    with pytest.raises(ValueError, match="fixed sizes"):
        prepare(keras.Model(inputs, L.Conv2D(2, 3)(inputs)))


def test_masks_of_layers_that_do_not_take_them_into_account_are_refused():
    inputs, mask = keras.Input((W, C)), keras.Input((W,), dtype="bool")
    normalization = L.BatchNormalization(name="culprit")
    model = keras.Model([inputs, mask], normalization(inputs, mask=mask))
    with pytest.raises(UnsupportedLayerError, match=r"'culprit' \(BatchNorm.*'mask'"):
        prepare(model)


def test_merging_batches_is_refused():
    inputs = keras.Input((W,))
    with pytest.raises(UnsupportedLayerError, match="axis=0 is the batch"):
        prepare(keras.Model(inputs, L.Concatenate(axis=0)([inputs, inputs])))


def test_a_model_that_overrides_call_is_refused():
    class Doubled(keras.Model):
        def call(self, inputs, training=None):
            return 2 * super().call(inputs)

    inputs = keras.Input((W,))
    with pytest.raises(ValueError, match=r"overrides call\(\)"):
        prepare(Doubled(inputs, L.Dense(2)(inputs)))


def test_a_table_that_is_flattened_is_refused():
    """NumPy's `take` without an axis."""
    inputs = keras.Input((W,), dtype="int32")
    table = np.ones((C, 4), "float32")
    with pytest.raises(UnsupportedLayerError, match=r"takes along axis None.*rows of a matrix"):
        prepare(keras.Model(inputs, keras.ops.take(table, inputs)))


def test_a_subclassed_model_of_open_sizes_is_told_to_have_them_fixed():
    class Open(keras.Model):
        def __init__(self):
            super().__init__()
            self.layer = L.Conv2D(2, 3)

        def build(self, shape):
            self.layer.build(shape)

        def call(self, inputs):
            return self.layer(inputs)

    model = Open()
    model.build((None, None, None, 3))
    with pytest.raises(ValueError, match="fixed sizes: give input_shape="):
        prepare(as_functional(model))
