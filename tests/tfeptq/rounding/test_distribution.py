"""The training step under `tf.distribute`, which wants its devices before TensorFlow starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import dataclasses
import numpy as np
from tests.tfeptq import small_models
import tfeptq

config = tfeptq.QuantizationConfig(weight_bits=3, steps=10, batch_size=8, samples=8)
images = small_models.images(8)
model = small_models.residual_network()
alone = tfeptq.quantize(model, images, config)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    shared = tfeptq.quantize(small_models.residual_network(), images, config)
assert strategy.num_replicas_in_sync == 2
start = tfeptq.quantize(model, images, dataclasses.replace(config, rounding="nearest"))

def distance(left, right):
    pairs = zip(left.weighted_layers, right.weighted_layers)
    ratios = [a.scales().ravel() / b.scales().ravel() for a, b in pairs]
    return np.abs(np.concatenate(ratios) - 1).mean()

print(distance(shared, alone), distance(start, alone))
"""


def test_two_replicas_learn_what_one_learns():
    """Half a batch each; every batch holds all samples, so that their order does not matter."""
    result = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    apart, learned = map(float, result.stdout.split()[-2:])
    assert apart < 1e-3 * learned
