"""Environments of their own for tools whose dependencies are not ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def python_with(environment: Path, *packages: str) -> Path:
    """The interpreter of an environment, which is made, with packages, if it is not there."""
    python = environment / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
    return python
