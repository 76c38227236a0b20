"""How the distillation changes over its run: annealing, regularization, learning rate."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
from keras import ops

from tfeptq.config import QuantizationConfig


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How the recipe changes over the `steps` of a run; every method takes a step tensor.

    Attributes:
        gradual_activations, gradual_rounding: switch the annealing off when False.
    """

    steps: int
    gradual_activations: bool = True
    gradual_rounding: bool = True

    def _progress(self, step: Any, end: float) -> Any:
        return ops.clip(ops.cast(step, "float32") / max(end * self.steps, 1.0), 0.0, 1.0)

    def float_share(self, step: Any) -> Any:
        """p of gradual activation quantization: 1 to 0, linear."""
        share = 1.0 - self._progress(step, 1.0)
        return share if self.gradual_activations else ops.zeros_like(share)

    def soft_share(self, step: Any) -> Any:
        """Share of soft rounding: 1 to 0 at 90 % of the run, linear."""
        share = 1.0 - self._progress(step, 0.9)
        return share if self.gradual_rounding else ops.ones_like(share)

    def beta(self, step: Any) -> Any:
        """Exponent of the rounding regularizer: 20 for 20 % of the run, then linear to 2."""
        warm = 0.2
        rest = (self._progress(step, 1.0) - warm) / (1.0 - warm)
        return 20.0 - 18.0 * ops.clip(rest, 0.0, 1.0)


def adam(config: QuantizationConfig) -> keras.optimizers.Optimizer:
    """Adam; its learning rate rises for 2 % of the run and falls to 0 by a cosine."""
    warmup = max(config.steps // 50, 1)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(config.steps - warmup, 1), warmup_target=config.learning_rate, warmup_steps=warmup
    )
    return keras.optimizers.Adam(schedule)
