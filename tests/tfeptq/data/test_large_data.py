"""A data set that is larger than the memory which the process may have."""

from __future__ import annotations

import subprocess
import sys

#: Bytes of private memory that the process may have, and more of them in its data.
SCRIPT = """
import resource
import keras, numpy as np
import tensorflow as tf
import tfeptq

keras.utils.set_random_seed(0)
inputs = keras.Input((128, 128, 3))
x = keras.layers.Conv2D(4, 3, strides=4, activation="relu")(inputs)
model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
model(np.zeros((1, 128, 128, 3), "float32"))
with open("/proc/self/status") as status:
    held = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
# Beside arrays it counts the stacks of XLA's compiling threads.
limit = held + 700 * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
batch = np.random.default_rng(0).normal(size=(64, 128, 128, 3)).astype("float32")
count = -(-(limit + 2**26) // batch.nbytes)

class Batches:
    def __len__(self):
        return count
    def __iter__(self):
        for _ in range(count):
            batch[:, 0, 0, 0] += 1.0
            yield batch.copy()

try:
    np.zeros(limit, np.uint8)
    raise SystemExit("the limit does not hold")
except MemoryError:
    pass
config = tfeptq.QuantizationConfig(weight_bits=4, rounding="optq", samples=64)
quantized = tfeptq.quantize(model, Batches(), config)
assert count * batch.nbytes > limit, (count, limit)
print("quantized", quantized.report.samples["ranges"])
"""


def test_a_data_set_larger_than_the_memory_limit_is_quantized():
    found = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]
    assert "quantized 64" in found.stdout
