"""The types of a file's ends on the command line."""

from __future__ import annotations

from typing import Annotated, TypedDict

from tfeptq.cli.values import one_of

_ENDS = ("int8", "uint8", "float32")

EndType = Annotated[
    str | None,
    one_of(_ENDS, "Type of this end of the file, int8 by default; float32 for android only:"),
]


class Ends(TypedDict):
    """Arguments of `tflite_export.export`."""

    input_type: str | None
    output_type: str | None
