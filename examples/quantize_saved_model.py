"""Quantize a saved Keras model for a microcontroller, with widths by layer, and look at the file.

python examples/quantize_saved_model.py model.keras samples.npz model.tflite
"""

from __future__ import annotations

import argparse
from pathlib import Path

import tfeptq
import tflite_export
from tfeptq.data.samples import load_npz

TARGET = "microcontroller"


def main(*, model: Path, samples: Path, output: Path, steps: int) -> tflite_export.ExportResult:
    float_model = tfeptq.load_model(model)
    inputs, _ = load_npz(samples)

    # The widest layer gets 4 bits, the others keep 8.
    canonical = tfeptq.prepare(float_model)
    widest = max(canonical.layers, key=lambda layer: layer.count_params())
    config = tfeptq.QuantizationConfig(weight_bits={widest.name: 4}, target=TARGET, steps=steps)

    quantized = tfeptq.quantize(float_model, inputs, config)
    result = tflite_export.export(quantized, output, samples=inputs[:8])
    print(tflite_export.inspect(output).table())
    if result.verification is not None:
        print(result.verification.summary())
    for finding in tflite_export.check(output, target=TARGET).findings:
        print(f"{finding.operator}: {finding.rule}; {finding.advice}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("samples", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    main(**vars(parser.parse_args()))
