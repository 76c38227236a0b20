"""`tfeptq export`: another file of a model that is quantized already."""

from __future__ import annotations

import contextlib
import dataclasses
import json as json_text
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tfeptq.cli.ends import EndType
from tfeptq.cli.exit_codes import DONE
from tfeptq.cli.own_files import require_kept
from tfeptq.cli.results import show_file
from tfeptq.cli.source import source_model
from tfeptq.cli.values import Json
from tfeptq.foreign.files import require_model_file
from tflite_export.file.atomic import destination


def export(
    quantized: Annotated[
        Path,
        Parameter(help="A quantized model, saved by `quantize --save-keras`.", metavar="Q.keras"),
    ],
    /,
    *,
    output: Annotated[Path, Parameter(metavar="F.tflite")],
    input_type: EndType = None,
    output_type: EndType = None,
    json: Json = False,
) -> int:
    """Write the file of a quantized Keras model once more, with other ends for example.

    Args:
        output: The file to write, for the target that the model was quantized for.
    """
    require_model_file(quantized)
    destination(output, suffix=".tflite")
    require_kept((quantized,), {"--output": output})
    with contextlib.redirect_stdout(sys.stderr if json else sys.stdout):
        model = source_model(quantized)
        from tfeptq.model import QuantizedModel

        if not isinstance(model, QuantizedModel):
            raise ValueError(
                f"{quantized} is a float model: `tfeptq quantize` makes the quantized one, and "
                "writes its file"
            )
        import tflite_export

        result = tflite_export.export(model, output, input_type=input_type, output_type=output_type)
    if json:
        print(
            json_text.dumps(
                {
                    "path": str(result.path),
                    "size_bytes": result.size_bytes,
                    "gzip_bytes": result.gzip_bytes,
                    "target": result.target,
                    "findings": [dataclasses.asdict(finding) for finding in result.findings],
                }
            )
        )
    else:
        show_file(result)
    return DONE
