"""What is said of widths that a target does not store, or stores in as many bytes as wider ones."""

from __future__ import annotations

from collections.abc import Sequence

from tfeptq.goals import Budget
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.selection.costs import least_compressed_bytes, weight_bytes
from tflite_export import targets

#: Layers that a sentence lists by name.
_NAMES = 3
_WIDEST = 8


def dropped(plan: QuantizationPlan) -> list[str]:
    """Sentences about the candidates that the target cannot store, a sentence for equal ones."""
    layers: dict[tuple[int, ...], list[str]] = {}
    for name, asked in plan.asked.items():
        missing = tuple(bits for bits in asked if bits not in plan.candidates[name])
        if missing:
            layers.setdefault(missing, []).append(name)
    return [
        f"weight_bits: target {plan.target!r} does not store {_listed(missing)} bits in "
        f"{named(names)}: they are no candidates there"
        for missing, names in layers.items()
    ]


def unrewarded(plan: QuantizationPlan, budget: Budget | None) -> list[str]:
    """Sentences about candidates that take as many bytes as wider ones do."""
    layers: dict[tuple[int, int, str], list[str]] = {}
    for name, widths in plan.candidates.items():
        for bits in widths:
            held = plan.storage(name, bits)
            size = weight_bytes(plan, held, budget)
            wider = [
                more
                for more in range(bits + 1, _WIDEST + 1)
                if weight_bytes(plan, plan.storage(name, more), budget) <= size
            ]
            if wider:
                layers.setdefault((bits, max(wider), held.container), []).append(name)
    return [
        f"weight_bits={bits} of {named(names)} is stored as {stored} on target {plan.target!r}, "
        f"where {more} bits take no more bytes{_tables(plan.target)}"
        for (bits, more, stored), names in sorted(layers.items())
    ]


def _tables(target: str) -> str:
    if not targets.capabilities(target).reads_tables:
        return ""
    return "; look-up tables make it smaller (Budget(compressed=True), `tfeptq package --compress`)"


def by_tables(plan: QuantizationPlan, budget: Budget | None) -> str:
    """What to add to the refusal of a budget that look-up tables alone can meet, or nothing."""
    reads_tables = targets.capabilities(plan.target).reads_tables
    if not reads_tables or budget is None or budget.compressed:
        return ""
    least = least_compressed_bytes(plan, budget)
    if budget.weight_bytes is None or least > budget.weight_bytes:
        return ""
    return (
        f". With look-up tables it can be met: compressed=True counts {least:g} bytes at least, "
        "which `tfeptq package --compress` writes"
    )


def named(names: Sequence[str]) -> str:
    """Layers, the first of them by name."""
    shown = ", ".join(map(repr, names[:_NAMES]))
    rest = len(names) - _NAMES
    return f"layer {shown}" if len(names) == 1 else f"layers {shown}{_more(rest)}"


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def _listed(widths: Sequence[int]) -> str:
    return " and ".join(filter(None, (", ".join(map(str, widths[:-1])), str(widths[-1]))))
