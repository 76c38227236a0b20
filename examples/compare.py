"""Where a model loses at 2 bits, layer by layer, and what more bits for one layer win.

python examples/compare.py
"""

from __future__ import annotations

import argparse

import digits

import tfeptq
from tfeptq.report.tables import show_comparison


def main(*, epochs: int) -> None:
    x, test_x, _, _ = digits.data()
    model = digits.classifier(epochs=epochs)
    config = tfeptq.QuantizationConfig(weight_bits=2, rounding="nearest", target="android")
    quantized = tfeptq.quantize(model, x, config)

    found = tfeptq.compare(model, quantized, test_x)
    show_comparison(found)
    best = found.restorations[0]
    print(f"{best.way} in {best.layer!r} alone: {best.won:+.1f} dB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    main(**vars(parser.parse_args()))
