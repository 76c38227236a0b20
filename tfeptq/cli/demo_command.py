"""`tfeptq demo`: the whole road on data that everybody has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from tfeptq.cli.exit_codes import DONE
from tfeptq.cli.values import number, typed
from tfeptq.config import QuantizationConfig
from tflite_export.file.atomic import destination

_Whole = Annotated[Any, typed(number(int), metavar="N")]


def demo(
    *,
    weight_bits: _Whole = 4,
    steps: _Whole = 300,
    output: Annotated[Path, Parameter(metavar="F.tflite")] = Path("digits.tflite"),
) -> int:
    """Scikit-learn's digits to a 4-bit file, in seconds.

    Args:
        weight_bits: Width of the weights.
        steps: Length of the optimisation.
        output: The file to write.
    """
    QuantizationConfig(weight_bits=weight_bits, steps=steps)
    destination(output, suffix=".tflite")

    from tfeptq.cli.startup import load_tensorflow

    load_tensorflow()
    from tfeptq.cli.demo import run_demo

    run_demo(weight_bits=weight_bits, steps=steps, output=output)
    return DONE
