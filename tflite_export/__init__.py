"""Fully integer TensorFlow Lite files with a width of its own for every layer, verified.

Depends on neither TensorFlow nor Keras.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tflite_export.exporter import ExportResult, export
    from tflite_export.file.inspection import Inspection, inspect
    from tflite_export.graph.structure import IntegerGraph
    from tflite_export.read_back import VerificationError
    from tflite_export.runtimes.sessions import run
    from tflite_export.runtimes.streams import run_steps
    from tflite_export.targets.checks import CheckResult, check
    from tflite_export.verify import Verification

_HOMES = {
    "CheckResult": "targets.checks",
    "ExportResult": "exporter",
    "Inspection": "file.inspection",
    "IntegerGraph": "graph.structure",
    "Verification": "verify",
    "VerificationError": "read_back",
    "check": "targets.checks",
    "export": "exporter",
    "inspect": "file.inspection",
    "run": "runtimes.sessions",
    "run_steps": "runtimes.streams",
}

__all__ = [
    "CheckResult",
    "ExportResult",
    "Inspection",
    "IntegerGraph",
    "Verification",
    "VerificationError",
    "check",
    "export",
    "inspect",
    "run",
    "run_steps",
]


def __getattr__(name: str) -> Any:
    """Loads public names on first use, so that the package imports at once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
