"""What several commands print."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tfeptq.report.finite import finite
from tflite_export.targets import capabilities

if TYPE_CHECKING:
    from tflite_export import ExportResult
    from tflite_export.targets.findings import Finding


def print_findings(findings: Sequence[Finding]) -> None:
    """One line a finding, and how many there are."""
    for finding in findings:
        source = f" [{finding.source}]" if finding.source else ""
        print(f"{finding.operator}: {finding.rule}; {finding.advice}{source}")
    count = "1 blocker" if len(findings) == 1 else f"{len(findings)} blockers"
    print(count if findings else "no known blocker")


def show_file(result: ExportResult) -> None:
    """Size and proof of a file, and what its target has against it."""
    print(f"{result.path}: {result.size_bytes} bytes, {result.gzip_bytes} gzipped")
    if result.verification is not None:
        print(result.verification.summary())
    if result.findings or capabilities(result.target).only_own_rules:
        print_findings(result.findings)


def print_json(result: Any) -> None:
    """A dataclass as one JSON document; what is infinite, which JSON does not know, as null."""
    print(json.dumps(finite(dataclasses.asdict(result)), default=os.fspath))
