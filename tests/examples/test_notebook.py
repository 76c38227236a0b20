"""The notebook runs from its first cell to its last."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "tour.ipynb"


def test_the_tour_runs(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not kept"
    done = NotebookClient(
        notebook, timeout=None, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    printed = "".join(
        output.get("text", "") for cell in done.cells for output in cell.get("outputs", [])
    )
    lines = re.findall(r"^(\d bits, \w+): ([\d.]+)%, (-?[\d.]+) dB", printed, re.MULTILINE)
    shares = {name: float(share) for name, share, _ in lines}
    nearness = {name: float(decibels) for name, _, decibels in lines}
    assert shares["8 bits, nearest"] > 90.0
    for name in ("2 bits, nearest", "2 bits, OPTQ"):
        assert nearness["8 bits, nearest"] > nearness[name] > nearness["2 bits, plain"] + 3.0
        assert shares[name] > shares["2 bits, plain"]
    assert "every operator within its kernel's rounding" in printed
    assert (tmp_path / "tour.html").exists()
