"""What is known of every operator of a file, and what to try where most is lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tflite_export import ExportResult, inspect
from tflite_export.exporter import LayerReport
from tflite_export.file.inspection import TensorInfo
from tflite_export.verify import OperatorDifference

if TYPE_CHECKING:
    from tfeptq.model import QuantizedModel
    from tfeptq.report.quality import Quality

#: dB that a layer loses before advice is given, and that are small whatever was lost.
_LOST, _NEAR = 6.0, 35.0
_QUANTIZED = ("int8", "uint8", "int16")


@dataclasses.dataclass(frozen=True)
class LayerFacts:
    """One operator.

    Attributes:
        weight_bits, stored_as, weight_bytes: None where it has no weights.
        threshold: largest magnitude that its weights can have, over all channels.
        low, high: range of its output.
        sqnr, cosine: of its output beside the float model's; None: it was not compared.
        lost: dB that its output is further from float than the furthest of its inputs.
        sensitivity: predicted rise of the loss at its width, where widths were chosen.
        verdicts: runtime -> how near it was to the integer reference.
        advice: what to try; empty where little is lost.
    """

    name: str
    operator: str
    weight_bits: int | None
    stored_as: str | None
    activation_bits: int
    weight_bytes: int | None
    threshold: float | None
    low: float | None
    high: float | None
    sqnr: float | None
    cosine: float | None
    lost: float | None
    sensitivity: float | None
    verdicts: dict[str, str]
    advice: str


def layer_facts(quantized: QuantizedModel, result: ExportResult) -> list[LayerFacts]:
    """Of every operator, those first that lose most."""
    tensors = {tensor.name: tensor for tensor in inspect(result.path).tensors}
    thresholds = {
        layer.name: float(np.max(layer.weight_grid.threshold))
        for layer in quantized.weighted_layers
    }
    losses = _losses(quantized)
    verdicts = _verdicts(result)
    facts = [
        _facts(
            layer,
            quantized.report.quality,
            thresholds,
            tensors.get(layer.name),
            losses,
            {runtime: of_runtime[index] for runtime, of_runtime in verdicts.items()},
        )
        for index, layer in enumerate(result.layers)
    ]
    return sorted(facts, key=lambda each: -(each.lost or 0.0))


def _facts(
    layer: LayerReport,
    quality: Quality | None,
    thresholds: Mapping[str, float],
    tensor: TensorInfo | None,
    losses: Mapping[str, float],
    verdicts: dict[str, str],
) -> LayerFacts:
    has_weights = layer.weight_bits is not None
    low, high = _range(tensor)
    sqnr = quality.layers.get(layer.name) if quality else None
    lost = quality.lost.get(layer.name) if quality else None
    return LayerFacts(
        layer.name,
        layer.kind,
        layer.weight_bits,
        layer.container,
        layer.activation_bits,
        layer.weight_bytes if has_weights else None,
        thresholds.get(layer.name) if has_weights else None,
        low,
        high,
        sqnr,
        quality.cosines.get(layer.name) if quality else None,
        lost,
        losses.get(layer.name) if has_weights else None,
        verdicts,
        _advice(layer, sqnr, lost),
    )


def _losses(quantized: QuantizedModel) -> dict[str, float]:
    choice = quantized.report.choice
    if choice is None:
        return {}
    widths = quantized.bit_widths
    return {
        name: of_widths[bits]
        for name, of_widths in choice.sensitivity.losses.items()
        if (bits := widths[name][0]) in of_widths
    }


def _range(tensor: TensorInfo | None) -> tuple[float | None, float | None]:
    """Of what a tensor of one scale can hold."""
    if tensor is None or tensor.scales != 1 or tensor.type not in _QUANTIZED:
        return None, None
    assert tensor.scale is not None
    codes, zero_point = np.iinfo(tensor.type), tensor.zero_point or 0
    return tensor.scale * (codes.min - zero_point), tensor.scale * (codes.max - zero_point)


def _advice(layer: LayerReport, sqnr: float | None, lost: float | None) -> str:
    if sqnr is None or lost is None or lost < _LOST or sqnr > _NEAR or not np.isfinite(sqnr):
        return ""
    if layer.weight_bits is not None and layer.weight_bits < 8:
        return "more weight bits here, rounding by OPTQ or EPTQ, or more steps"
    if layer.activation_bits < 16:
        return "16 activation bits here and in its neighbours, or more calibration samples"
    return "look at its inputs: features in unequal units, or values that calibration never saw"


def _verdicts(result: ExportResult) -> dict[str, list[str]]:
    reports = result.verification.runtimes if result.verification else ()
    return {
        report.runtime: [_verdict(difference) for difference in report.operators]
        for report in reports
        if not report.skipped
    }


def _verdict(difference: OperatorDifference) -> str:
    if difference.maximum == 0:
        return "identical"
    return f"{difference.maximum} LSB at most, {difference.mean:.2g} on average"
