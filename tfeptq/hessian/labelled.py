"""The Hessian of the loss that a model was trained with, on labelled calibration samples."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

#: Samples on which two losses are told apart.
_PROBES = 32
#: Values of outputs that labels are checked against at a time.
_CHECKED_VALUES = 2**24


@dataclasses.dataclass(frozen=True)
class LabelledLoss:
    """The loss of a compiled model, as the traces of HAWQ-V2 take it.

    Attributes:
        model: compiled with a loss, of one output.
        labels: one of each calibration sample, (N, ...).

    Raises:
        ValueError: the model was not compiled with a loss, or has several outputs.
    """

    model: keras.Model
    labels: np.ndarray

    def __post_init__(self) -> None:
        if getattr(self.model, "loss", None) is None:
            raise ValueError(
                f"labels need a loss: model {self.model.name!r} is not compiled with one; call "
                "model.compile(loss=...)"
            )
        if len(self.model.outputs) > 1:
            raise ValueError(
                f"labels need a model of one output, {self.model.name!r} has "
                f"{len(self.model.outputs)}; without labels every model can be taken"
            )
        self._check()

    def _check(self) -> None:
        """The loss of all labels on outputs that know nothing: what fails here fails later too."""
        shape = tuple(self.model.outputs[0].shape[1:])
        where = f"labels of shape {self.labels.shape} do not fit the loss {self.name!r}"
        if not len(self.labels):
            raise ValueError("labels hold nothing: one label a calibration sample is needed")
        ignores = getattr(self.model.loss, "ignore_class", None) is not None
        is_class = "sparse" in self.name and np.size(self.labels) == len(self.labels)
        if is_class and not ignores:
            # On some devices a class that does not exist is no error, but NaN.
            low, high = self.labels.min(), self.labels.max()
            if low < 0 or high >= shape[-1] or np.any(self.labels % 1):
                raise ValueError(
                    f"{where}: classes are whole numbers from 0 to {shape[-1] - 1}, received "
                    f"{low:g} to {high:g}"
                )
        step = max(1, _CHECKED_VALUES // int(np.prod(shape)))
        outputs = tf.fill((min(step, len(self.labels)), *shape), 0.5)
        for begin in range(0, len(self.labels), step):
            labels = self.labels[begin : begin + step]
            try:
                loss = float(self([outputs[: len(labels)]], tf.constant(labels)))
            except Exception as error:
                # Losses, custom ones among them, fail with whatever they run into.
                reason = " ".join(str(error).split())
                raise ValueError(f"{where} for outputs {shape}: {reason:.160}") from error
            if not np.isfinite(loss):
                raise ValueError(f"{where}: it is {loss:g} for them")

    def of(self, labels: np.ndarray | None) -> LabelledLoss:
        """The same loss with other labels."""
        assert labels is not None
        return dataclasses.replace(self, labels=labels)

    @property
    def name(self) -> str:
        """Of the loss, as Keras calls it."""
        loss = self.model.loss
        return str(getattr(loss, "name", getattr(loss, "__name__", loss)))

    @property
    def digest_parts(self) -> tuple[np.ndarray, ...]:
        """What results depend on beside the model and the samples, see `tfeptq.checkpoint.digest`.

        The loss is told by its values on fixed outputs: Keras leaves settings such as Huber's delta
        out of `get_config`.
        """
        labels = self.labels[:_PROBES]
        shape = (len(labels), *self.model.outputs[0].shape[1:])
        probe = np.random.default_rng(0).uniform(0.01, 0.99, shape).astype(np.float32)
        values = [self([tf.constant(scale * probe)], tf.constant(labels)) for scale in (1.0, 10.0)]
        name = np.frombuffer(self.name.encode(), np.uint8)
        return self.labels, name, np.array(values, np.float32)

    def __call__(self, outputs: list[Any], labels: Any) -> tf.Tensor:
        """Mean loss of a batch, from the outputs of the canonical model."""
        return self.model.compute_loss(y=labels, y_pred=outputs[0], training=False)
