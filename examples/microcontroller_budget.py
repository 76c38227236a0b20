"""Widths for a budget of flash, and C++ sources for TensorFlow Lite Micro.

python examples/microcontroller_budget.py        (extra 'microcontroller')
"""

from __future__ import annotations

import argparse
from pathlib import Path

import digits

import tfeptq
import tflite_export
from tflite_export.packaging import write_c_source


def main(*, output: Path, epochs: int, samples: int, weight_bytes: int) -> None:
    x, test_x, _, test_y = digits.data()
    model = digits.classifier(epochs=epochs)

    config = tfeptq.QuantizationConfig(
        weight_bits=(4, 8),
        target="microcontroller",
        rounding="optq",
        samples=samples,
        budget=tfeptq.Budget(weight_bytes=weight_bytes),
    )
    quantized = tfeptq.quantize(model, x, config)
    output.mkdir(exist_ok=True)
    file = output / "digits.tflite"
    tflite_export.export(quantized, file)

    for name, (bits, _) in quantized.bit_widths.items():
        if bits is not None:
            print(f"{name}: {bits} bits")
    probabilities = tflite_export.run(file, test_x, runtime="tflm")
    print(f"file in TFLM: {digits.accuracy(probabilities, test_y):.1%}")

    source = write_c_source(file, output)
    print(f"{source.folder}: {', '.join(path.name for path in source.files)}")
    print(f"flash {source.flash_bytes} bytes, tensor arena {source.arena_bytes} bytes")
    print(f"operators: {', '.join(source.operators)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("firmware"))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--weight-bytes", type=int, default=9000)
    main(**vars(parser.parse_args()))
