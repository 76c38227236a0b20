"""`tfeptq compare`: where a quantized model loses, layer by layer."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tfeptq.cli.exit_codes import DONE
from tfeptq.cli.npz import Npz
from tfeptq.cli.results import print_json
from tfeptq.cli.source import source_model
from tfeptq.cli.values import InputKey, Json, Model, require_file
from tfeptq.foreign.files import require_model_file


def compare(
    model: Model,
    quantized: Annotated[
        Path,
        Parameter(help="Its quantized copy, saved by `quantize --save-keras`.", metavar="Q.keras"),
    ],
    /,
    *,
    data: Annotated[Path, Parameter(metavar="X.npz")],
    samples: Annotated[int, Parameter(metavar="N")] = 64,
    restored: Annotated[int, Parameter(metavar="N")] = 16,
    input_key: InputKey = None,
    json: Json = False,
) -> int:
    """Where a quantized model loses, layer by layer, and what more bits would win.

    Args:
        data: Inputs; labels are not needed.
        samples: At most so many are looked at.
        restored: So many layers get more bits, one at a time; 0 for none.
    """
    for path in (model, quantized):
        require_model_file(path)
    require_file(data)
    with contextlib.redirect_stdout(sys.stderr if json else sys.stdout):
        source, copy = source_model(model), source_model(quantized)
        from tfeptq.report.comparison import compare as compared

        inputs = Npz(data, input_key, is_labelled=False).inputs
        # It prints its table itself.
        found = compared(source, copy, inputs, samples=samples, restored=restored)
    if json:
        print_json(found)
    return DONE
