"""A trained Keras model to a 4-bit file for Android, in a minute.

python examples/quickstart.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import digits

import tfeptq
import tflite_export


def main(*, output: Path, epochs: int) -> None:
    x, test_x, _, test_y = digits.data()
    model = digits.classifier(epochs=epochs)

    # Rounded layer by layer; without `rounding` it is learned, which takes longer and gives more.
    config = tfeptq.QuantizationConfig(weight_bits=4, rounding="optq", target="android")
    quantized = tfeptq.quantize(model, x, config)
    result = tflite_export.export(quantized, output)

    probabilities = tflite_export.run(output, test_x)
    print(f"file: {digits.accuracy(probabilities, test_y):.1%}, {result.size_bytes} bytes")
    if result.verification is not None:
        print(result.verification.summary())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("digits.tflite"))
    parser.add_argument("--epochs", type=int, default=20)
    main(**vars(parser.parse_args()))
