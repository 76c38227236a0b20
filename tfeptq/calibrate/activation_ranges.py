"""Ranges of all activation quantizers, from what the float model's tensors were seen to be."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tfeptq.calibrate.dead_tensors import Neighbours
from tfeptq.calibrate.flat_ends import useful_magnitudes
from tfeptq.calibrate.histograms import Histogram
from tfeptq.calibrate.ranges import best_range
from tfeptq.calibrate.read_values import ReadValues
from tfeptq.calibrate.steep_results import narrow_steep_results
from tfeptq.canonical.layer_graph import Key
from tfeptq.model import QuantizedModel
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.quantized.written import Written

#: Largest values of tensors in units that people mean; others are told.
_USUAL_SIZES = (1e-5, 1e5)


def set_activation_ranges(
    quantized: QuantizedModel, plan: QuantizationPlan, histograms: Mapping[Key, Histogram]
) -> None:
    """Gives every quantizer that has no fixed parameters the range of what it quantizes.

    Args:
        quantized: wrapped by `plan`; is told what looks wrong in its report.
        histograms: of the plan's tensors.
    """
    magnitudes = {key: max(-h.minimum, h.maximum) for key, h in histograms.items()}
    neighbours = Neighbours(plan.graph, magnitudes)
    planned = plan.quantizers
    written = Written.of(quantized)
    bounds = useful_magnitudes(written)
    read = ReadValues(plan.topology, histograms)
    least: dict[str, float] = {}
    for quantizer in quantized.activation_quantizers:
        if quantizer.fixed is not None:
            continue
        keys = planned[quantizer.name].sources
        values = read.of_quantizer(planned[quantizer.name])
        least[quantizer.name] = values.minimum
        # Arrays of the model are what they are: samples change nothing in them.
        computed = [key for key in keys if not plan.topology.is_constant(key)]
        zeros = dict.fromkeys(key[0] for key in computed if magnitudes[key] == 0.0)
        quantized.report.add_warnings(map(_zero_warning, zeros))
        if values.minimum == values.maximum == 0.0:
            quantizer.set_range(*neighbours.range(keys))
            continue
        low, high = best_range(values, bits=quantizer.bits)
        useful = bounds.get(quantizer, np.inf)
        quantizer.set_range(max(low, -useful), min(high, useful))
        size = max(-values.minimum, values.maximum)
        if computed and not _USUAL_SIZES[0] <= size <= _USUAL_SIZES[1]:
            quantized.report.add_warnings(
                [
                    f"layer {computed[0][0]!r}: its largest value on the calibration samples is "
                    f"{size:.3g}; its scale is chosen for that, check that the units are meant"
                ]
            )
    alone = {name for name, found in planned.items() if len(found.sources) == 1}
    narrow_steep_results(written, alone, least)


def _zero_warning(layer: str) -> str:
    return (
        f"layer {layer!r}: zero in all calibration samples, so that its scale had to be taken from "
        "its neighbours; give samples that use it, or remove it"
    )
