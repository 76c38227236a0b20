"""Calibration samples of a callback, for every training that it, or a copy of it, sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tfeptq.calibrate.sequences import single_steps
from tfeptq.config import QuantizationConfig
from tfeptq.data.samples import Taken, configured_samples


class Calibration:
    """Data that are read once, for all models with the same inputs.

    Args:
        data: see `tfeptq.quantize`; a generator cannot be read again for a model with others.
    """

    def __init__(self, data: Any) -> None:
        self._data = data
        self._inputs: list[tuple[Any, ...]] = []
        self._taken: Taken | None = None

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
            steps = single_steps(functional, self._data, config)
            self._taken = configured_samples(steps, inputs, config)
            self._inputs = sizes
        return self._taken
