"""Under `tf.distribute`, which wants its devices before TensorFlow starts: in one process, its own.

The training step over two replicas, and the callback in a training of mirrored variables.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import dataclasses
import keras
import numpy as np
from tests.tfeptq import small_models
import tfeptq, tflite_export

strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
assert strategy.num_replicas_in_sync == 2

config = tfeptq.QuantizationConfig(weight_bits=3, steps=10, batch_size=8, samples=8)
images = small_models.images(8)
model = small_models.short_network()
alone = tfeptq.quantize(model, images, config)
with strategy.scope():
    shared = tfeptq.quantize(small_models.short_network(), images, config)
start = tfeptq.quantize(model, images, dataclasses.replace(config, rounding="nearest"))

def distance(left, right):
    pairs = zip(left.weighted_layers, right.weighted_layers)
    ratios = [a.scales().ravel() / b.scales().ravel() for a, b in pairs]
    return np.abs(np.concatenate(ratios) - 1).mean()

print("distances", distance(shared, alone), distance(start, alone))

keras.utils.set_random_seed(0)
with strategy.scope():
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, "relu")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(hidden))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
generator = np.random.default_rng(0)
x, y = generator.normal(size=(32, 6)).astype("float32"), generator.integers(0, 3, 32)
config = tfeptq.QuantizationConfig(weight_bits=4, steps=4, samples=32, batch_size=8)
path = sys.argv[1]
callback = tfeptq.QuantizationCallback(
    x, config, export_path=path, validation_data=(x, y), save_best="quantized_accuracy"
)
history = model.fit(x, y, batch_size=8, verbose=0, callbacks=[callback]).history
(final,) = history["final_quantized_accuracy"]
answers = tflite_export.run(path, x).argmax(1)
assert abs(np.mean(answers == y) - final) < 1e-6, (answers, final)
assert len(history["quantized_accuracy"]) == 1
print("done", callback.result.size_bytes > 0)
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory) -> tuple[str, str]:
    """What the process prints, and its messages."""
    path = tmp_path_factory.mktemp("two") / "m.tflite"
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:tfeptq", "-c", _SCRIPT, str(path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, done.stderr


def test_two_replicas_learn_what_one_learns(printed):
    """Half a batch each; every batch holds all samples, so that their order does not matter."""
    (line,) = (line for line in printed[0].splitlines() if line.startswith("distances"))
    apart, learned = map(float, line.split()[1:])
    assert apart < 1e-3 * learned


def test_a_callback_in_a_training_of_mirrored_variables(printed):
    assert printed[0].strip().endswith("done True")
    assert "QuantizationCallback" not in printed[1]
