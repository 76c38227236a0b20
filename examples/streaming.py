"""An LSTM that reads digits row by row, one step a call, its state fed back in integers.

python examples/streaming.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import digits
import keras

import tfeptq
import tflite_export

UNITS = 32
#: Output of a step -> the input that it becomes in the next one.
STATES = {"hidden_out": "hidden", "carry_out": "carry"}


def reader() -> keras.Model:
    layers = keras.layers
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1), name="image")
    rows = layers.Reshape((8, 8))(layers.Rescaling(1 / 16)(image))
    hidden = layers.LSTM(UNITS, name="lstm")(rows)
    return keras.Model(image, layers.Dense(10, activation="softmax", name="digit")(hidden))


def one_step(model: keras.Model) -> keras.Model:
    """The trained layers for one row, with the states as inputs and outputs."""
    row = keras.Input((8,), name="row")
    hidden, carry = (keras.Input((UNITS,), name=name) for name in ("hidden", "carry"))
    scaled = keras.layers.Rescaling(1 / 16)(row)
    output, (h, c) = model.get_layer("lstm").cell(scaled, [hidden, carry])
    digit = model.get_layer("digit")(output)
    return keras.Model([row, hidden, carry], {"carry_out": c, "digit": digit, "hidden_out": h})


def main(*, output: Path, epochs: int, samples: int) -> None:
    x, test_x, _, test_y = digits.data()
    model = digits.trained(reader(), epochs=epochs)
    config = tfeptq.QuantizationConfig(
        rounding="optq", target="microcontroller", samples=samples, states=STATES
    )
    # Calibration runs through the rows of every image, as the device will.
    quantized = tfeptq.quantize(one_step(model), x[..., 0], config)
    result = tflite_export.export(quantized, output)
    # Outputs of a dictionary are in the order of its keys.
    _, scores, _ = tflite_export.run_steps(
        output, test_x[..., 0], {0: "carry", 2: "hidden"}, runtime="tflm"
    )
    found = digits.accuracy(scores[:, -1], test_y)
    print(f"file of one step, 8 steps in TFLM: {found:.1%}, {result.size_bytes} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("step.tflite"))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--samples", type=int, default=512)
    main(**vars(parser.parse_args()))
