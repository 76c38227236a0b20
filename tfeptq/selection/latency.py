"""Times of layers by width, measured on this computer or estimated by Vela, without any data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import keras

from tfeptq.canonical.integer_types import activation_dtype
from tfeptq.config import QuantizationConfig
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.progress import progress
from tfeptq.selection.latency_table import LatencyTable
from tfeptq.selection.skeleton import rounded
from tflite_export.graph.structure import IntegerGraph
from tflite_export.targets.operator_latency import OperatorTime, Stopwatch

#: A width of activations for each type of kernels.
_WIDTHS = {"int8": 8, "int16": 16}


def measure_latencies(
    model: keras.Model,
    config: QuantizationConfig,
    *,
    times: Callable[[IntegerGraph], Iterable[OperatorTime]] | None = None,
) -> LatencyTable:
    """Times of every layer at every candidate width, without any data.

    Every layer keeps its time whatever the widths of the others: one graph a candidate width is
    enough, in which every layer that can has it. With candidates of activations of both integer
    types one graph a type as well; copies from one type to the other are in no table.

    Args:
        model: canonical float model.
        config: candidates and target.
        times: of the operators of one graph; by default measured in LiteRT on this computer.
            `tflite_export.packaging.vela.vela_times` reads Vela's estimates.
    """
    times, plan = times or Stopwatch(config.target), QuantizationPlan.of(model, config)
    if not any(16 in group.widths for group in plan.groups.values()):
        weighted, layers = _measured(plan, {}, times)
        return LatencyTable(weighted, sum(layers.values()))
    by_type = {}
    for dtype, bits in _WIDTHS.items():
        able = {name: bits if bits in group.widths else 8 for name, group in plan.groups.items()}
        weighted, layers = _measured(plan, able, times)
        by_type[dtype] = LatencyTable(weighted, 0.0, layers)
    return LatencyTable({}, by_type=by_type)


def _measured(
    plan: QuantizationPlan,
    activations: Mapping[str, int],
    times: Callable[[IntegerGraph], Iterable[OperatorTime]],
) -> tuple[dict[tuple[str, int], float], dict[str, float]]:
    """Times of layers by width, and of operators without weights by what they are named after.

    Args:
        activations: group name -> width, where those of the plan will not do.
    """
    candidates = {name: _storable(plan, name, activations) for name in plan.candidates}
    weighted: dict[tuple[str, int], float] = {}
    layers: dict[str, float] = {}
    for bits in progress(sorted({b for widths in candidates.values() for b in widths}), "latency"):
        widths = {name: bits if bits in has else max(has) for name, has in candidates.items()}
        sums: dict[str, float] = {}
        layers = {}
        for entry in times(rounded(plan.with_widths(weights=widths, activations=activations))):
            of = sums if entry.layer in candidates else layers
            of[entry.layer] = of.get(entry.layer, 0.0) + entry.milliseconds
        weighted |= {(name, bits): sums[name] for name, has in candidates.items() if bits in has}
    return weighted, layers


def _storable(plan: QuantizationPlan, name: str, activations: Mapping[str, int]) -> tuple[int, ...]:
    """Candidates that a layer's kernel can have in its type."""
    written = activations.get(plan.group_of_layer(name), plan.activation_bits[name])
    return plan.storable(name, activation_dtype(written))
