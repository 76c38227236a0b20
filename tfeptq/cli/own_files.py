"""A command does not write over what it reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path


def require_kept(inputs: Iterable[Path | None], outputs: Mapping[str, Path | None]) -> None:
    """Refuses outputs that are an input, by whatever name, before any work.

    Args:
        inputs: what the command reads; None where it was not given.
        outputs: option -> what it has the command write.

    Raises:
        ValueError: names the option and the file that would be lost.
    """
    read = [path for path in inputs if path is not None and path.exists()]
    for option, path in outputs.items():
        if path is not None and path.exists() and any(path.samefile(each) for each in read):
            raise ValueError(
                f"{option}: {path} is a file that this command reads, and it would be lost; give "
                "another name or folder"
            )
