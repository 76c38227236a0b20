"""Calibration samples of a callback, for every training that it, or a copy of it, sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.calibrate.sequences import single_steps
from tfeptq.callbacks.validation import first_line
from tfeptq.config import QuantizationConfig
from tfeptq.data.sample_sizes import first_batch
from tfeptq.data.samples import Taken, configured_samples


class Calibration:
    """Data that are read once, for all models with the same inputs.

    Attributes:
        data: see `tfeptq.quantize`; a generator cannot be read again for a model with others.
    """

    def __init__(self, data: Any) -> None:
        self.data = data
        self._inputs: list[tuple[Any, ...]] = []
        self._taken: Taken | None = None

    def build(self, model: keras.Model) -> None:
        """Gives a model that its first training step would build its weights, by a sample.

        Raises:
            ValueError: the model cannot be called on it.
        """
        batch = None if model.built else first_batch(self.data, 1)
        if batch is None:
            return
        try:
            sample = keras.tree.map_structure(lambda array: np.asarray(array)[:1], batch)
            model(sample, training=False)
        except Exception as error:
            # What a model of the user's raises is the user's own.
            raise ValueError(
                f"model {model.name!r} cannot be called on a calibration sample: "
                f"{first_line(error)}; call it on one before fit"
            ) from error

    def taken(
        self, functional: keras.Model, inputs: Sequence[Any], config: QuantizationConfig
    ) -> Taken:
        """The samples that a configuration takes.

        Args:
            functional: the float model.
            inputs: of the canonical one.
        """
        # The one input of a model may be called anything.
        names = [tensor.name for tensor in inputs] if len(inputs) > 1 else [""]
        sizes = [(name, *tensor.shape) for name, tensor in zip(names, inputs, strict=True)]
        if self._taken is None or self._inputs != sizes:
            steps = single_steps(functional, self.data, config)
            self._taken = configured_samples(steps, inputs, config)
            self._inputs = sizes
        return self._taken
