"""What can be refused, and said, of a request before any data is touched.

The canonical model, the request and the target's tables are enough for widths, ranks, operators and
budgets. What is refused here would be refused after the work otherwise.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tfeptq.arguments import deployed_shape
from tfeptq.config import QuantizationConfig
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import as_functional, prepare
from tfeptq.selection.outline import outline
from tfeptq.selection.prepare import check_costs
from tfeptq.selection.prices import prices
from tfeptq.selection.width_notes import by_tables, dropped, unrewarded
from tflite_export import targets
from tflite_export.file.reader import parse
from tflite_export.file.writer import write
from tflite_export.graph.structure import IntegerGraph
from tflite_export.packaging.end_types import require_convertible
from tflite_export.targets.checks import static_findings
from tflite_export.targets.containers import plan_storage

#: Findings that a sentence lists.
_FINDINGS = 3


@dataclasses.dataclass(frozen=True)
class PlannedRequest:
    """A request that nothing speaks against, as far as that can be told without data.

    Attributes:
        functional: the float model, with the sizes and the outputs that were asked for.
        plan: of its canonical form.
        notes: what the user should know, a sentence each.
    """

    functional: keras.Model
    plan: QuantizationPlan
    notes: tuple[str, ...]


def plan_request(
    model: keras.Model, calibration: Any, config: QuantizationConfig, *, cost: str | None = None
) -> PlannedRequest:
    """Prepares a model, plans its quantization and looks ahead, see `look_ahead`.

    Args:
        calibration: asked for nothing but the sizes of its samples, where the model leaves sizes
            open.
        cost: what a frontier is drawn against.

    Raises:
        ValueError: see `look_ahead`, or a model that cannot be prepared.
    """
    functional, plan = _planned(model, calibration, config)
    return PlannedRequest(functional, plan, look_ahead(plan, config, cost=cost))


def require_ends(
    model: keras.Model,
    calibration: Any,
    config: QuantizationConfig,
    *,
    input_type: str | None,
    output_type: str | None,
) -> None:
    """Refuses types of a file's ends that its export would refuse after the work.

    Candidates of activation widths leave open which type an end will have.

    Args:
        calibration: see `plan_request`.
        input_type, output_type: see `tflite_export.export`.

    Raises:
        ValueError: an end of 16 bits as bytes, or a model that cannot be prepared.
    """
    # Every other type of end suits every width.
    if not {"int8", "uint8"} & {input_type, output_type} or isinstance(
        config.activation_bits, tuple
    ):
        return
    _, plan = _planned(model, calibration, config)
    require_convertible(outline(plan), input_type, output_type)


def _planned(
    model: keras.Model, calibration: Any, config: QuantizationConfig
) -> tuple[keras.Model, QuantizationPlan]:
    """The float model as it is deployed, and the plan of its canonical form."""
    shape = deployed_shape(model, calibration, config)
    functional = as_functional(model, shape, config.outputs)
    return functional, QuantizationPlan.of(prepare(functional, config), config, original=functional)


def look_ahead(
    plan: QuantizationPlan, config: QuantizationConfig, *, cost: str | None = None
) -> tuple[str, ...]:
    """Looks at the plan of a request; what the user should know, a sentence each.

    Warns of operators that the target leaves on the CPU and of candidates that are none; widths
    that save nothing are in the notes only, where they are no candidates.

    Args:
        cost: what a frontier is drawn against; limits are not looked at then.

    Raises:
        ValueError: a width or operator that the target does not execute, or a budget that not even
            the narrowest candidates meet; names the layers.
    """
    graph = outline(plan)
    left = _left_on_the_cpu(graph, plan_storage(graph, plan.target), plan.target)
    if not config.has_candidates:
        _warn(left)
        return (*left, *unrewarded(plan, config.budget))
    _check_costs(plan, config, cost)
    of_widths = (*dropped(plan), *unrewarded(plan, config.budget))
    _warn((*left, *of_widths))
    return (*left, *of_widths)


def _check_costs(plan: QuantizationPlan, config: QuantizationConfig, cost: str | None) -> None:
    program = prices(plan, config.budget)
    if not plan.candidates and isinstance(config.weight_bits, tuple):
        raise ValueError(
            f"weight_bits={config.weight_bits}: model {plan.model.name!r} has no layers with "
            "weights to choose widths for; give one width"
        )
    limits: Mapping[str, float] = {}
    if cost is None:
        limits = config.budget.limits if config.budget is not None else {}
        cost = config.accuracy_target.cost if config.accuracy_target is not None else None
    try:
        check_costs(plan, program, limits=limits, cost=cost)
    except ValueError as error:
        raise ValueError(f"{error}{by_tables(plan, config.budget)}") from error


def _left_on_the_cpu(
    graph: IntegerGraph, storage: Mapping[str, str], target: str
) -> tuple[str, ...]:
    """A sentence about the operators that the target's own processor does not take, if any."""
    if not targets.capabilities(target).compiler:
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
        warnings.warn(note, stacklevel=5)
