"""Finished steps on disk, so that whoever stops a run loses none of them."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfeptq.checkpoint import sealed
from tfeptq.checkpoint.digest import UndigestibleError, digest
from tfeptq.checkpoint.folder_lock import locked


class Checkpoint:
    """Results by name and by all that they were computed from; without a folder none is kept.

    A result that is torn, or was computed from anything else, is computed again.

    Args:
        folder: exists; nobody else writes there, see `open_checkpoint`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def arrays(
        self, name: str, compute: Callable[..., Mapping[str, np.ndarray]], **inputs: Any
    ) -> dict[str, np.ndarray]:
        """Loads the arrays called `name` of these inputs, or computes and keeps them.

        Args:
            compute: called with `inputs`, and nothing else may enter its result.
        """
        path = self.path(name, **inputs)
        kept = sealed.read(path) if path is not None else None
        if kept is not None:
            return kept
        result = dict(compute(**inputs))
        if path is not None:
            keep(path, result)
        return result

    def path(self, name: str, **inputs: Any) -> Path | None:
        """Of the file for what is computed from `inputs`; None where nothing is kept."""
        if self._folder is None:
            return None
        try:
            key = digest(inputs)
        except UndigestibleError as error:
            warnings.warn(f"checkpoint_dir: {name} is not kept there: {error}", stacklevel=3)
            return None
        return self._folder / f"{name}-{key}.npz"

    def key(self, **inputs: Any) -> str | None:
        """Stands for inputs that many results share; None where nothing is kept."""
        return None if self._folder is None else digest(inputs)

    def only_path(self, name: str, **inputs: Any) -> Path | None:
        """See `path`; what is kept by that name for other inputs is removed: nobody needs it."""
        path = self.path(name, **inputs)
        if path is not None:
            for other in path.parent.glob(f"{name}-*"):
                if not other.name.startswith(path.stem):
                    other.unlink(missing_ok=True)
        return path


@contextlib.contextmanager
def open_checkpoint(checkpoint_dir: str | Path | None) -> Iterator[Checkpoint]:
    """The results in a folder of the user's, for one run at a time.

    Raises:
        ValueError: another run is using the folder, or nothing can be written there.
    """
    if checkpoint_dir is None:
        yield Checkpoint()
        return
    folder = Path(checkpoint_dir)
    with locked(folder, "checkpoint_dir"):
        for partial in folder.glob(f"*{sealed.PARTIAL}"):
            partial.unlink(missing_ok=True)
        yield Checkpoint(folder)


def keep(path: Path, arrays: Mapping[str, np.ndarray]) -> bool:
    """Writes a result if the disk has room for it: a run does not need what it keeps."""
    try:
        sealed.write(path, arrays)
    except OSError as error:
        warnings.warn(
            f"checkpoint_dir: {path} cannot be written ({error.strerror}); the run goes on, and "
            "continues from what is there if it is stopped",
            stacklevel=3,
        )
        return False
    return True


def numbered(arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays by their place."""
    return {str(index): np.asarray(array) for index, array in enumerate(arrays)}
