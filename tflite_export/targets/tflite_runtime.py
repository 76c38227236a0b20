"""What is known to keep a file from running in tflite-runtime 2.14, the last of its name.

A static rule from measured facts; where that runtime is installed, running the file says more.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from importlib import resources

from tflite_export.file.stored import StoredModel, StoredOperator
from tflite_export.runtimes.old_runtime import NAME
from tflite_export.targets.forbidden import forbidden_in


@functools.cache
def newest_versions() -> Mapping[str, int]:
    """Operator -> newest version that tflite-runtime 2.14 registers."""
    text = resources.files(__package__).joinpath("tflite_runtime.toml").read_text("utf-8")
    return tomllib.loads(text)["newest_versions"]


def obstacles(model: StoredModel) -> tuple[str, ...]:
    """Why the file fails in tflite-runtime 2.14, one sentence an operator; empty: none known."""
    found = (_obstacle(operator, model) for operator in model.operators)
    return tuple(sentence for sentence in found if sentence is not None)


def _obstacle(operator: StoredOperator, model: StoredModel) -> str | None:
    where = model.where(operator)
    newest = newest_versions().get(operator.kind)
    if newest is not None and operator.version > newest:
        return f"{where}: version {operator.version}, the newest it knows is {newest}"
    row = forbidden_in(operator, model, NAME)
    return None if row is None else f"{where}: {row.outcome}, {row.evidence}"
