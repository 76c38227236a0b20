"""The integer network in NumPy: what a file means, independent of any runtime."""

from tflite_export.operators.execution import TOLERANCE, run, run_operator
from tflite_export.operators.work import samples_at_once

__all__ = ["TOLERANCE", "run", "run_operator", "samples_at_once"]
