"""What a worker does: computes one part, and remembers what the parts of a stage have in common."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfeptq.checkpoint.digest import code_version
from tfeptq.data.shares import Build
from tfeptq.distributed.errors import WorkerError
from tfeptq.distributed.packing import unpacked


@dataclasses.dataclass(frozen=True)
class Stage:
    """Work that many parts have in common.

    Attributes:
        build: see `tfeptq.data.shares.mapped`.
        inputs: its arguments, where they are kept; they are fetched once.
        version: of the programs that the result depends on.
        threads: of TensorFlow in each worker.
    """

    build: Build
    inputs: Mapping[str, Any]
    version: str
    threads: int


@dataclasses.dataclass
class _Memory:
    """Of a worker: the stage that it works for, and the values that this is about."""

    stage: str = ""
    run: Callable[..., Any] | None = None
    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    is_ready: bool = False

    def work(self, key: str, stage: list[Any]) -> Callable[..., Any]:
        """What computes parts of a stage, built once for all that come here."""
        if self.run is None or self.stage != key:
            self.stage, self.run = "", None
            found = _get(stage[0])
            self._get_ready(found)
            self.run = found.build(**self._fetched(found.inputs))
            self.stage = key
        return self.run

    def _fetched(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Values of a stage; those that the stage before had too are there already."""
        kept = self.values
        self.values = {
            ref.hex(): kept[ref.hex()] if ref.hex() in kept else unpacked(_get(ref))
            for ref in inputs.values()
        }
        return {name: self.values[ref.hex()] for name, ref in inputs.items()}

    def _get_ready(self, stage: Stage) -> None:
        if self.is_ready:
            return
        if code_version() != stage.version:
            raise WorkerError(
                f"a worker ({sys.executable}) has another tfeptq, keras, tensorflow or numpy than "
                "this process: install the same versions on every machine, or the results would "
                "differ"
            )
        tf.config.threading.set_intra_op_parallelism_threads(stage.threads)
        tf.config.threading.set_inter_op_parallelism_threads(stage.threads)
        self.is_ready = True


_MEMORY = _Memory()


def compute(key: str, stage: list[Any], item: Any, *common: Any) -> Any:
    """One part of a stage.

    Args:
        key: of the stage, the same for all its parts.
        common: what else the part is computed from, if anything.
        stage: where a `Stage` is kept; in a list, for otherwise Ray would fetch it each time.
    """
    return _MEMORY.work(key, stage)(item, *common)


def _get(ref: Any) -> Any:
    # Whoever asks for workers reads this module, and is told first that Ray is missing.
    import ray

    return ray.get(ref)
