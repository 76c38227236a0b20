"""What a step of the distillation takes beside a plain training step, in bytes of tensors."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import tfeptq

BATCH = 16


def network(kind):
    """Convolutions with normalizations and ReLUs, whose tensors are large beside their weights."""
    keras.utils.set_random_seed(0)
    inputs = tensor = keras.Input((48, 48, 3))
    for index in range(4):
        make = L.DepthwiseConv2D(3, padding="same") if kind == "depthwise" and index % 2 else None
        tensor = (make or L.Conv2D(12, 3, padding="same"))(tensor)
        tensor = L.ReLU()(L.BatchNormalization()(tensor))
    return keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling2D()(tensor)))


class Peak(keras.callbacks.Callback):
    """The most that the second step has held at once, beyond what there was before it."""

    def __init__(self):
        super().__init__()
        self._steps = 0

    def on_train_batch_begin(self, batch, logs=None):
        tf.config.experimental.reset_memory_stats("CPU:0")
        self._before = tf.config.experimental.get_memory_info("CPU:0")["current"]

    def on_train_batch_end(self, batch, logs=None):
        self._steps += 1
        if self._steps == 2:
            peak = tf.config.experimental.get_memory_info("CPU:0")["peak"]
            self.bytes = peak - self._before


@pytest.mark.parametrize("kind", ["whole", "depthwise"])
def test_a_step_takes_about_what_a_plain_one_does(kind):
    try:
        tf.config.experimental.get_memory_info("CPU:0")
    except ValueError:
        pytest.skip("this TensorFlow counts no memory of processors")
    model = network(kind)
    images = np.random.default_rng(0).normal(size=(2 * BATCH, 48, 48, 3)).astype("float32")
    plain, ours = Peak(), Peak()
    copy = keras.models.clone_model(model)
    copy.compile("adam", "mse", jit_compile=False)
    targets = copy.predict(images, verbose=0)
    copy.fit(images, targets, batch_size=BATCH, verbose=0, callbacks=[plain])
    config = tfeptq.QuantizationConfig(
        weight_bits=4,
        samples=2 * BATCH,
        batch_size=BATCH,
        steps=2,
        threshold="mse",
        sample_layer_attention=False,
        bias_correction=False,
    )
    tfeptq.quantize(model, images, config, callbacks=[ours])
    # One tensor of a batch between two layers.
    tensor = 4 * BATCH * 48 * 48 * 12
    assert plain.bytes > 5 * tensor
    assert ours.bytes < 1.5 * plain.bytes
