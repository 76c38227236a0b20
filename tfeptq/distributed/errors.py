"""What ends a run that others work for."""

from __future__ import annotations


class WorkerError(RuntimeError):
    """Workers ended again and again, cannot be reached, or are of another kind than this process.

    It is no fault of the model or the samples: finished steps are in `checkpoint_dir`, and the same
    call goes on from there.
    """
