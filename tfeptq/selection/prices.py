"""What every candidate width costs: exactly by the ranges of activations, at least without them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from tfeptq.goals import Budget
from tfeptq.host_latency import latency_file
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.selection.costs import TABLE_SAVINGS, is_compressed, latencies, operations, storage
from tfeptq.selection.factor import Factor, activations, constant, tabled
from tfeptq.selection.latency_table import read_latencies
from tfeptq.selection.memory import Memory, fixed_memory
from tfeptq.selection.outline import outline
from tfeptq.selection.program import Program
from tfeptq.selection.skeleton import file_bytes, skeleton
from tfeptq.selection.variables import Variables, planned
from tflite_export.graph.structure import IntegerGraph


def prices(plan: QuantizationPlan, budget: Budget | None) -> Program:
    """The program of a plan's candidates, where every choice loses nothing.

    Without ranges, before any data: what widths cost at least, quickly, and nothing about the size
    of the file.

    Args:
        budget: how weights are counted, and the times of layers; limits are not looked at.

    Raises:
        ValueError: a latency table that cannot be read or lacks a layer.
    """
    variables, knows_ranges = Variables(plan), plan.ranges is not None
    factors = [*storage(plan, variables, budget), *operations(plan, variables)]
    if budget is not None and budget.latency_table is not None:
        table = read_latencies(latency_file(budget.latency_table, plan.target))
        factors += latencies(plan, variables, table)
    if plan.chooses_activations:
        factors += Memory(plan, variables).factors()
        factors += _clamps(plan, variables) if knows_ranges else ()
        graph = None
    else:
        graph = skeleton(plan) if knows_ranges else outline(plan)
        factors += fixed_memory(graph)
    program = _without_losses(variables, factors)
    if not knows_ranges:
        return program
    return _without_losses(variables, [*factors, _frame(plan, budget, program, graph)])


def _without_losses(variables: Variables, factors: Iterable[Factor]) -> Program:
    """Of what is chosen: factors are reduced by fixed activations."""
    free = {v: widths for v, widths in variables.widths.items() if v not in variables.fixed}
    flat = {variable: dict.fromkeys(widths, 0.0) for variable, widths in free.items()}
    return Program(flat, [factor.given(variables.fixed) for factor in factors])


def _frame(
    plan: QuantizationPlan, budget: Budget | None, program: Program, graph: IntegerGraph | None
) -> Factor:
    """What a file holds beside what the factors count.

    Args:
        graph: of the widest choice, where somebody has it.
    """
    widest = program.widest()
    counted = program.cost(widest, "file_bytes") + program.cost(widest, TABLE_SAVINGS)
    graph = graph or skeleton(planned(plan, widest))
    size = file_bytes(graph, plan.target, slim=is_compressed(budget))
    return constant({"file_bytes": size - counted}, "operators and names")


def _clamps(plan: QuantizationPlan, variables: Variables) -> Iterator[Factor]:
    """File bytes of the operators that keep results below 8 bits within their codes.

    Which kernels need one depends on their graph: it is made with every group at its narrowest.
    """
    narrowest = {name: min(group.widths) for name, group in plan.groups.items()}
    if min(narrowest.values()) >= 8:
        return
    wide = {name: max(bits, 8) for name, bits in narrowest.items()}
    narrow = plan.with_widths(activations=narrowest)
    clamped, plain = skeleton(narrow), skeleton(plan.with_widths(activations=wide))
    counts = _operators_by_layer(clamped) - _operators_by_layer(plain)
    extra = file_bytes(clamped, plan.target) - file_bytes(plain, plan.target)
    # Requantizations in front of concatenations are named after their quantizers.
    copies = {tensor.quantizer.name: plan.group_of(key) for key, tensor in narrow.tensors.items()}
    for name, group in plan.groups.items():
        members = [*group.layers, *(copy for copy, owner in copies.items() if owner == name)]
        share = extra * sum(counts[member] for member in members) / max(counts.total(), 1)

        def costs(bits: int, share: float = share) -> Mapping[str, float]:
            return {"file_bytes": share if bits < 8 else 0.0}

        yield tabled([activations(name)], variables.widths, costs)


def _operators_by_layer(graph: IntegerGraph) -> Counter[str]:
    return Counter(operator.layer for operator in graph.operators)
