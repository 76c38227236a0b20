"""The smallest file that keeps 99 % of the float model's accuracy; widths are found by layer.

python examples/accuracy_target.py
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import digits
import keras

import tfeptq
import tflite_export
from tflite_export.packaging import compress


def main(*, output: Path, epochs: int, samples: int, weight_bits: Sequence[int]) -> None:
    x, test_x, y, test_y = digits.data()
    model = digits.classifier(epochs=epochs)

    # Images that calibration does not see: the test images are for the end only.
    held_x, held_y = x[-400:], y[-400:]

    def metric(candidate: keras.Model) -> float:
        return digits.accuracy(candidate.predict(held_x, verbose=0), held_y)

    config = tfeptq.QuantizationConfig(
        weight_bits=tuple(weight_bits),
        target="microcontroller",
        rounding="optq",
        samples=samples,
        accuracy_target=tfeptq.AccuracyTarget(metric, relative=0.99),
        # Without look-up tables 2 and 3 bits are stored as 4.
        budget=tfeptq.Budget(compressed=True),
    )
    quantized = tfeptq.quantize(model, x[:-400], config)
    result = tflite_export.export(quantized, output)

    for layer in result.layers:
        if layer.weight_bits is not None:
            print(f"{layer.name}: {layer.weight_bits} bits")
    probabilities = tflite_export.run(output, test_x)
    print(f"file: {digits.accuracy(probabilities, test_y):.1%}, {result.size_bytes} bytes")
    if importlib.util.find_spec("tflite_micro") is not None:
        packed = compress(output, output.with_suffix(".lut.tflite"))
        print(f"with look-up tables, the same integers in TFLM: {packed.size_bytes} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("digits.tflite"))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--weight-bits", type=int, nargs="+", default=(2, 3, 4, 8))
    main(**vars(parser.parse_args()))
