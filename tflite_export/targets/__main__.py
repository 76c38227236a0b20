"""`python -m tflite_export.targets` prints what each target executes, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from tflite_export.graph.kinds import kind_of
from tflite_export.targets.capabilities import TARGETS, capabilities
from tflite_export.targets.forbidden import ForbiddenRow, forbidden_rows


def matrix() -> str:
    """What is allowed by target, what runtimes fail at by measurement, what vendors rule out."""
    return "\n\n".join(
        (
            "# What each target executes",
            "What is not in this table is refused; every row is tested in every runtime that it "
            "promises.",
            allowed(),
            "## Refused because measured",
            _table(
                ("operator", "activations", "weights", "runtimes", "outcome", "evidence"),
                _forbidden_rows(),
            ),
            "## Refused because the vendor or the vendor's tool says so",
            _table(("target", "what", "reason"), _excluded_rows()),
            "## To know",
            _table(("target", "operator", "remark"), _remark_rows()),
        )
    )


def allowed() -> str:
    """What each target executes: one row an operator, activation type and weight type."""
    return _table(
        ("operator", "activations", "weights", "version", *TARGETS),
        [*_weighted_rows(), *_weightless_rows()],
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _weighted_rows() -> list[tuple[str, ...]]:
    granted: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for target in TARGETS:
        for row in capabilities(target).weights:
            key = (row.kind, row.activations, row.container)
            granted.setdefault(key, {}).setdefault(target, []).append(row.granularity)
    return [
        (
            *key,
            _version(key[0], key[1]),
            *(_granularity(targets.get(target, [])) for target in TARGETS),
        )
        for key, targets in sorted(granted.items())
    ]


def _granularity(granularities: Sequence[str]) -> str:
    if len(granularities) == 2:
        return "yes"
    return granularities[0].replace("_", " ") if granularities else "no"


def _weightless_rows() -> list[tuple[str, ...]]:
    kinds = sorted({kind for target in TARGETS for kind in capabilities(target).operators})
    return [
        (
            kind,
            dtype,
            "",
            _version(kind, dtype),
            *("yes" if _takes(target, kind, dtype) else "no" for target in TARGETS),
        )
        for kind in kinds
        for dtype in ("int8", "int16")
    ]


def _version(kind: str, dtype: str) -> str:
    """Operator version that files carry; dense layers that keep dimensions carry one more."""
    return str(kind_of(kind).version(dtype))


def _takes(target: str, kind: str, dtype: str) -> bool:
    return dtype in capabilities(target).operators.get(kind, ())


def _forbidden_rows() -> list[tuple[str, ...]]:
    """One line for all runtimes and granularities with the same outcome."""
    merged: dict[tuple[str, ...], dict[str, None]] = {}
    granularities: dict[tuple[str, ...], dict[str, None]] = {}
    for row in forbidden_rows():
        key = (row.kind, _activations(row), row.container or "", row.outcome, row.evidence)
        merged.setdefault(key, {})[row.runtime] = None
        granularities.setdefault(key, {})[row.granularity or ""] = None
    return [
        (
            kind,
            activations,
            _weights(container, tuple(granularities[kind, activations, container, *rest])),
            ", ".join(runtimes),
            *rest,
        )
        for (kind, activations, container, *rest), runtimes in sorted(merged.items())
    ]


def _activations(row: ForbiddenRow) -> str:
    return f"{row.activations} to {row.output}" if row.output else row.activations


def _weights(container: str, granularities: Sequence[str]) -> str:
    if not container or len(granularities) == 2:
        return container
    return f"{container} {_granularity(granularities)}"


def _excluded_rows() -> list[tuple[str, ...]]:
    return [
        (target, what, reason)
        for target in TARGETS
        for what, reason in capabilities(target).excluded.items()
    ]


def _remark_rows() -> list[tuple[str, ...]]:
    rows = [
        (target, f"{row.kind} {row.container} under {row.activations}", row.remark)
        for target in TARGETS
        for row in capabilities(target).weights
        if row.remark and row.granularity == capabilities(target).weights[0].granularity
    ]
    remarks = [
        (target, kind, remark)
        for target in TARGETS
        for kind, remark in capabilities(target).remarks.items()
    ]
    return [*dict.fromkeys(rows), *remarks]


if __name__ == "__main__":
    print(matrix())
