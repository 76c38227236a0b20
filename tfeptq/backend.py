"""Keras must run on TensorFlow: so do the training step, XLA and the witnesses of the files."""

from __future__ import annotations

import os
import sys


def require_tensorflow() -> None:
    """Raises RuntimeError where Keras was told, or has begun, to run on something else."""
    keras = sys.modules.get("keras")
    config = getattr(keras, "config", None)
    backend = os.environ.get("KERAS_BACKEND") if config is None else config.backend()
    if backend not in (None, "", "tensorflow"):
        raise RuntimeError(
            f"Keras runs on {backend!r} here, and tfeptq needs 'tensorflow': set "
            "KERAS_BACKEND=tensorflow before Keras is imported; models saved under any backend "
            "load there"
        )
