"""Options of the command line that are more than argparse's own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tflite_export.near_names import require_known


def add_choice(parser: Any, flag: str, allowed: Sequence[str], **settings: Any) -> None:
    """Like argparse's `choices`, but says which name was probably meant."""

    def known(text: str) -> str:
        try:
            require_known("name", text, allowed)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text

    parser.add_argument(flag, type=known, metavar=f"{{{','.join(allowed)}}}", **settings)


def require_file(path: Path) -> None:
    """Raises ValueError where there is no such file, before anything slow is loaded."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; a file is needed")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
