"""What several commands print."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tflite_export.targets.findings import Finding


def print_findings(findings: Sequence[Finding]) -> None:
    """One line a finding, and how many there are."""
    for finding in findings:
        source = f" [{finding.source}]" if finding.source else ""
        print(f"{finding.operator}: {finding.rule}; {finding.advice}{source}")
    print(f"{len(findings)} blockers" if findings else "no known blocker")


def print_json(result: Any) -> None:
    """A dataclass as one JSON document; what is infinite, which JSON does not know, as null."""
    print(json.dumps(_finite(dataclasses.asdict(result)), default=os.fspath))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
