"""Wrappers of tensorflow-model-optimization, taken off by itself in a process of its own.

It needs Keras 2, and importing it changes what `tf.keras` is for the whole process.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from tfeptq.foreign.errors import ForeignModelError

#: Environment variable that names a Python which has tensorflow-model-optimization.
TFMOT_PYTHON = "TFMOT_PYTHON"
_PACKAGE = "tensorflow_model_optimization"
_STRIP = """
import sys
import tensorflow_model_optimization as tfmot
import tf_keras
prune, cluster = tfmot.sparsity.keras, tfmot.clustering.keras
with prune.prune_scope(), cluster.cluster_scope():
    model = tf_keras.models.load_model(sys.argv[1], compile=False)
cluster.strip_clustering(prune.strip_pruning(model)).save(sys.argv[2], include_optimizer=False)
"""


class WrappedModelError(ForeignModelError):
    """A layer stands in a wrapper that tensorflow-model-optimization can take off."""


def stripping_python() -> str | None:
    """The Python that takes wrappers off; None where there is none."""
    named = os.environ.get(TFMOT_PYTHON)
    if named:
        return named
    return sys.executable if importlib.util.find_spec(_PACKAGE) else None


def strip(path: Path, stripped: Path) -> None:
    """Writes the model of `path` without its wrappers to `stripped`, an `.h5` file.

    Raises:
        ForeignModelError: tensorflow-model-optimization cannot; with its reason.
    """
    python = stripping_python()
    assert python is not None
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    # Modules of this process are not those of another Python.
    environment.pop("PYTHONPATH", None)
    try:
        done = subprocess.run(
            [python, "-c", _STRIP, str(path.resolve()), str(stripped)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
    except OSError as error:
        raise ForeignModelError(f"{TFMOT_PYTHON}={python} is not a Python: {error}") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"it ends with {done.returncode}"])[-1]
        raise ForeignModelError(
            f"tensorflow-model-optimization of {python} cannot take its wrappers off ({reason}); "
            "save tfmot.sparsity.keras.strip_pruning(model) or "
            "tfmot.clustering.keras.strip_clustering(model) instead"
        )
