"""A file for the Coral Edge TPU, and what would keep operators off it.

python examples/coral_check.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import digits
import keras

import tfeptq
import tflite_export


def main(*, output: Path, epochs: int) -> None:
    x, _, _, _ = digits.data()
    model = digits.classifier(epochs=epochs)
    config = tfeptq.QuantizationConfig(weight_bits=8, rounding="nearest", target="coral")

    # Pixels come as bytes from a camera.
    tflite_export.export(tfeptq.quantize(model, x, config), output, input_type="uint8")
    found = tflite_export.check(output, target="coral")
    print("no known blocker" if found.ok else found.findings)

    # An operator that the Edge TPU lacks is refused before any work, by the layer's name.
    curved = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.ELU(name="curved")])
    try:
        tfeptq.quantize(curved, x, config)
    except ValueError as error:
        print(error)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("digits.tflite"))
    parser.add_argument("--epochs", type=int, default=20)
    main(**vars(parser.parse_args()))
