"""Where a report may be written: asked before anything slow is loaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tflite_export.file.atomic import destination

_LIBRARIES = ("jinja2", "plotly", "networkx")


def check_destination(path: str | Path) -> Path:
    """The path of a report that can be written.

    Raises:
        ValueError: neither .html nor .json, a folder, or a place where nothing can be written.
        RuntimeError: a page, and the libraries of the extra `report` are missing.
    """
    path = destination(path)
    if path.suffix not in (".html", ".json"):
        raise ValueError(f"{path}: a report's name must end in .html or .json")
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if path.suffix == ".html" and missing:
        raise RuntimeError(
            f"a report needs {' and '.join(missing)}: install the extra 'report', "
            "pip install '.[report]', or give a name that ends in .json"
        )
    return path
