"""Results as lines of JSON: one row each, kept as soon as it is measured."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def record(row: Any, path: Path, *, is_printed: bool = True) -> None:
    """Adds a row, a dataclass or a dictionary, to a file of rows."""
    line = json.dumps(dataclasses.asdict(row) if dataclasses.is_dataclass(row) else row)  # type: ignore[arg-type]
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    if is_printed:
        print(line, flush=True)


def in_a_process(module: str, case: str, *, seconds: float) -> dict[str, Any]:
    """The last row that `python -m module --one case` prints, or how it ended without one.

    What a benchmark prints before it does something that may end the process counts where that
    happens.
    """
    command = [sys.executable, "-m", module, "--one", case]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"crash": f"does not end in {seconds:g} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        return {"crash": done.returncode, "end": done.stderr[-1500:]}
    return json.loads(lines[-1])
