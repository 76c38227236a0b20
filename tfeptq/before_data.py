"""What can be refused, and said, of a request before any data is touched.

The canonical model, the request and the target's tables are enough for widths, ranks, operators and
budgets. What is refused here would be refused after the work otherwise.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import keras

from tfeptq.config import QuantizationConfig
from tfeptq.plan.activations import resolve_activations
from tfeptq.plan.widths import layer_widths
from tfeptq.selection.choice import check_costs, check_widths
from tfeptq.selection.outline import outline
from tfeptq.selection.prices import JointPrices, Prices, prices
from tfeptq.selection.width_notes import by_tables, dropped, unrewarded
from tflite_export.file.reader import parse
from tflite_export.file.writer import write
from tflite_export.graph.structure import IntegerGraph
from tflite_export.targets.checks import static_findings
from tflite_export.targets.containers import plan_storage

#: Targets whose own compiler may leave operators of a right file on the CPU.
_COMPILED = ("coral", "ethos-u")
#: Findings that a sentence lists.
_FINDINGS = 3


def look_ahead(
    model: keras.Model, config: QuantizationConfig, *, cost: str | None = None
) -> tuple[str, ...]:
    """Looks at a request for a canonical model; what the user should know, a sentence each.

    Warns of operators that the target leaves on the CPU and of candidates that are none; widths
    that save nothing are in the notes only, where they are no candidates.

    Args:
        cost: what a frontier is drawn against; limits are not looked at then.

    Raises:
        ValueError: an unknown layer name, a width or operator that the target does not execute, or
            a budget that not even the narrowest candidates meet; names the layers.
    """
    check_widths(model, config)
    plain = _with_one_type(model, config)
    widths = layer_widths(model, plain)
    graph = outline(model, widths, plain)
    left = _left_on_the_cpu(graph, plan_storage(graph, config.target), config.target)
    if not config.has_candidates:
        _warn(left)
        fixed = {name: (bits,) for name, bits in widths.items()}
        return (*left, *unrewarded(model, fixed, plain))
    costs = _checked_costs(model, config, plain, cost)
    of_widths = (
        *dropped(model, costs.candidates, plain),
        *unrewarded(model, costs.candidates, plain),
    )
    _warn((*left, *of_widths))
    return (*left, *of_widths)


def _with_one_type(model: keras.Model, config: QuantizationConfig) -> QuantizationConfig:
    """With 8-bit activations in the place of candidates, resolved."""
    if isinstance(config.activation_bits, tuple):
        config = config.at_activations(8)
    return resolve_activations(model, config)


def _checked_costs(
    model: keras.Model, config: QuantizationConfig, plain: QuantizationConfig, cost: str | None
) -> Prices | JointPrices:
    resolved = config if isinstance(config.activation_bits, tuple) else plain
    found = prices(model, resolved)
    if not found.candidates and isinstance(config.weight_bits, tuple):
        raise ValueError(
            f"weight_bits={config.weight_bits}: model {model.name!r} has no layers with weights to "
            "choose widths for; give one width"
        )
    limits: Mapping[str, float] = {}
    if cost is None:
        limits = config.budget.limits if config.budget is not None else {}
        cost = config.accuracy_target.cost if config.accuracy_target is not None else None
    try:
        check_costs(model, resolved, found, limits=limits, cost=cost)
    except ValueError as error:
        raise ValueError(f"{error}{by_tables(model, found.candidates, plain)}") from error
    return found


def _left_on_the_cpu(
    graph: IntegerGraph, storage: Mapping[str, str], target: str
) -> tuple[str, ...]:
    """A sentence about the operators that the target's own processor does not take, if any."""
    if target not in _COMPILED:
        return ()
    findings = static_findings(parse(write(graph, storage)), target)
    if not findings:
        return ()
    listed = "; ".join(f"{found.operator} {found.rule}" for found in findings[:_FINDINGS])
    rest = len(findings) - _FINDINGS
    more = f"; and {rest} more" if rest > 0 else ""
    return (
        f"target {target!r}: {len(findings)} known blockers, these operators run on the CPU: "
        f"{listed}{more}",
    )


def _warn(notes: Sequence[str]) -> None:
    for note in notes:
        warnings.warn(note, stacklevel=4)
