"""`python -m tflite_export.targets` prints what each target executes, as Markdown."""

from __future__ import annotations

from tflite_export.targets.capabilities import TARGETS, capabilities

_HEADER = ("operator", "activations", "weights", *TARGETS)


def matrix() -> str:
    """Operators by targets, one Markdown row for each combination that some target executes."""
    rows = [_HEADER, tuple("---" for _ in _HEADER), *_weighted_rows(), *_weightless_rows()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _weighted_rows() -> list[tuple[str, ...]]:
    granted: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for target in TARGETS:
        for row in capabilities(target).weights:
            key = (row.kind, row.activations, row.container)
            granted.setdefault(key, {}).setdefault(target, []).append(row.granularity)
    return [
        (*key, *(_granularity(targets.get(target, [])) for target in TARGETS))
        for key, targets in sorted(granted.items())
    ]


def _granularity(granularities: list[str]) -> str:
    if len(granularities) == 2:
        return "yes"
    return granularities[0].replace("_", " ") if granularities else "no"


def _weightless_rows() -> list[tuple[str, ...]]:
    kinds = sorted({kind for target in TARGETS for kind in capabilities(target).operators})
    return [
        (kind, dtype, "", *("yes" if _takes(target, kind, dtype) else "no" for target in TARGETS))
        for kind in kinds
        for dtype in ("int8", "int16")
    ]


def _takes(target: str, kind: str, dtype: str) -> bool:
    return dtype in capabilities(target).operators.get(kind, ())


if __name__ == "__main__":
    print(matrix())
