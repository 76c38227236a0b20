"""Combinations that runtimes refuse or compute wrongly, with the evidence: forbidden.toml."""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from importlib import resources

from tflite_export.file.stored import StoredModel, StoredOperator
from tflite_export.graph.kinds import WEIGHTS
from tflite_export.targets.capabilities import GRANULARITIES, granularity_of


@dataclasses.dataclass(frozen=True)
class ForbiddenRow:
    """One combination in one runtime.

    Attributes:
        container, granularity: of the weights; None for operators without weights.
        output: type of the output, where it decides.
        rank_above: inputs need more dimensions than this for it to happen; 0: any do.
        outcome: "refused" (an error, nothing is lost) or "garbage" (no error, wrong numbers).
        evidence: what was measured.
    """

    runtime: str
    kind: str
    activations: str
    container: str | None
    granularity: str | None
    output: str | None
    rank_above: int
    outcome: str
    evidence: str


@functools.cache
def forbidden_rows() -> tuple[ForbiddenRow, ...]:
    """All rows; an entry of the file may list several runtimes, kinds and granularities."""
    text = resources.files(__package__).joinpath("forbidden.toml").read_text("utf-8")
    return tuple(
        ForbiddenRow(
            runtime,
            kind,
            entry["activations"],
            entry.get("container"),
            granularity,
            entry.get("output"),
            entry.get("rank_above", 0),
            entry["outcome"],
            entry["evidence"],
        )
        for entry in tomllib.loads(text)["rows"]
        for runtime in entry["runtimes"]
        for kind in entry["kinds"]
        for granularity in _granularities(entry)
    )


def _granularities(entry: dict[str, list[str]]) -> tuple[str | None, ...]:
    if "container" not in entry:
        return (None,)
    return tuple(entry.get("granularities", GRANULARITIES))


def forbidden(
    runtime: str,
    kind: str,
    *,
    activation_dtype: str,
    container: str | None = None,
    per_channel: bool = False,
    output_dtype: str | None = None,
    input_rank: int = 4,
) -> ForbiddenRow | None:
    """The row that says what a runtime does wrong with an operator, or None.

    Args:
        container: type of the weights as stored; None for operators without weights.
        output_dtype: of the output where it differs from `activation_dtype`.
    """
    granularity = granularity_of(per_channel=per_channel) if container else None
    wanted = (runtime, kind, activation_dtype, container, granularity)
    for row in forbidden_rows():
        found = (row.runtime, row.kind, row.activations, row.container, row.granularity)
        fits = row.output in (None, output_dtype) and input_rank > row.rank_above
        if found == wanted and fits:
            return row
    return None


def forbidden_in(operator: StoredOperator, model: StoredModel, runtime: str) -> ForbiddenRow | None:
    """The row about an operator of a file, or None."""
    source, weights = model.source(operator), model.operand(operator, WEIGHTS)
    if source is None or not operator.outputs:
        return None
    return forbidden(
        runtime,
        operator.kind,
        activation_dtype=source.type,
        container=weights.type if weights else None,
        per_channel=weights is not None and weights.per_channel,
        output_dtype=model.tensors[operator.outputs[0]].type,
        input_rank=len(source.shape),
    )


def executes(model: StoredModel, runtime: str) -> bool:
    """Whether a runtime has a right kernel for every operator of a file, as far as is known."""
    return all(forbidden_in(operator, model, runtime) is None for operator in model.operators)
