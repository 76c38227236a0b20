"""`tfeptq inspect`, `evaluate` and `check`: what is done with a file that exists."""

from __future__ import annotations

import dataclasses
import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tfeptq.cli.exit_codes import DONE, NO
from tfeptq.cli.npz import Npz, names_file
from tfeptq.cli.results import print_findings, print_json
from tfeptq.cli.values import File, InputKey, Json, LabelKey, Target, one_of, require_file

if TYPE_CHECKING:
    from tflite_export.file.stored import StoredModel

_RUNTIMES = ("litert", "litert-reference", "tflite-runtime", "tflm", "reference")


def inspect(file: File, /, *, json: Json = False) -> int:
    """Operators, tensors, widths and bytes of a file."""
    import tflite_export

    inspection = tflite_export.inspect(file)
    print(json_text.dumps(inspection.as_dict()) if json else inspection.table())
    return DONE


def evaluate(
    file: File,
    /,
    *,
    data: Annotated[Path, Parameter(metavar="X.npz")],
    runtime: Annotated[str, one_of(_RUNTIMES, "What executes the file:")] = "litert",
    input_key: InputKey = None,
    label_key: LabelKey = None,
    json: Json = False,
) -> int:
    """Score a file on labelled data.

    Args:
        data: Inputs and labels. Integers of the type that the file takes are its own; uint8 pixels
            of an int8 or int16 file are values, as floats are.
    """
    import tflite_export
    from tfeptq.data.units import warn_of_another_unit
    from tfeptq.report.scores import score
    from tflite_export.file.reader import stored_model

    require_file(data)
    stored = stored_model(file)
    inputs, labels = Npz(data, input_key, label_key).arrays
    warn_of_another_unit(inputs, stored, what=f"{data}: samples")
    outputs = tflite_export.run(file, inputs, runtime=runtime)
    with names_file(data):
        value = score(_real(outputs, stored), labels)
    if json:
        print(json_text.dumps({"runtime": runtime, **dataclasses.asdict(value)}))
    else:
        print(f"{value.metric}: {value} on {value.samples} samples in {runtime}")
    return DONE


def _real(outputs: Any, stored: StoredModel) -> Any:
    """Real values of what a file returns, which are its own integers where it was given such."""
    from tflite_export.file.ends import dequantized

    if isinstance(outputs, list):
        return outputs
    return dequantized(outputs, stored.tensors[stored.outputs[0]])


def check(file: File, /, *, target: Target, json: Json = False) -> int:
    """Known blockers of a file on a target; exit code 1 if there are any."""
    import tflite_export

    result = tflite_export.check(file, target=target)
    if json:
        print_json(result)
    else:
        print_findings(result.findings)
    return DONE if result.ok else NO
