"""How much the loss is expected to rise when a group of activations gets a width.

By the method that predicts for weights too (`tfeptq.sensitivity.method`), a sum over the group's
quantizers, in the same units: losses of weights and activations add up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfeptq.calibrate.histograms import Histogram
from tfeptq.calibrate.ranges import best_range
from tfeptq.calibrate.read_values import ReadValues
from tfeptq.canonical.layer_graph import Key
from tfeptq.hessian.activations import Grid
from tfeptq.hessian.pairs import Candidate
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.quantized.quantizers import asymmetric_parameters
from tfeptq.sensitivity.method import Facts, Losses, Method


def activation_sensitivity(plan: QuantizationPlan, facts: Facts) -> Losses:
    """Predicted loss of every group at every candidate width, by the method asked for.

    Args:
        facts: of the plan's model.
    """
    grids = activation_grids(plan, facts.scores.histograms)
    losses = Method.asked_for(facts).of_activations(grids)
    result: Losses = {name: dict.fromkeys(g.widths, 0.0) for name, g in plan.groups.items()}
    for (name, bits), loss in losses.items():
        result[plan.group_of(grids[name, bits].keys[0])][bits] += loss
    return result


def activation_grids(
    plan: QuantizationPlan, histograms: Mapping[Key, Histogram]
) -> dict[Candidate, Grid]:
    """(Quantizer name, width) -> what it does, at every candidate width of its group.

    Ranges are those of calibration. Copies in another integer type are left out: they are as wide
    as what they copy, or have 8 bits where their readers do.

    Args:
        histograms: of every tensor of the file.
    """
    ranges = {key: (found.minimum, found.maximum) for key, found in histograms.items()}
    plan = plan.with_ranges(ranges).with_widths(activations=dict.fromkeys(plan.groups, 8))
    read = ReadValues(plan.topology, histograms)
    grids: dict[Candidate, Grid] = {}
    for name, quantizer in {t.quantizer.name: t.quantizer for t in plan.tensors.values()}.items():
        values = read.of_quantizer(quantizer)
        for bits in plan.groups[plan.group_of(quantizer.sources[0])].widths:
            parameters: tuple[Any, int] | None = plan.fixed_parameters(quantizer, bits)
            if parameters is None:
                parameters = asymmetric_parameters(*best_range(values, bits=bits), bits=bits)
            scale, zero_point = parameters
            grids[name, bits] = Grid(quantizer.read, float(scale), int(zero_point), bits)
    return grids
