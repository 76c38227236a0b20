"""Quantization inside `model.fit`."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

import tflite_export
from tfeptq.arguments import deployed_shape, given_config, require_goal
from tfeptq.before_data import look_ahead
from tfeptq.calibrate.sequences import single_steps
from tfeptq.callbacks.last_callback import Logs, finish_last
from tfeptq.callbacks.validation import Validation, first_line
from tfeptq.config import QuantizationConfig
from tfeptq.data.samples import Taken, configured_samples
from tfeptq.model import QuantizedModel
from tfeptq.pipeline import quantize
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import as_functional, prepare, prove
from tfeptq.settings import whole
from tflite_export.file.atomic import destination, path_of


class QuantizationCallback(keras.callbacks.Callback):
    """Quantizes a copy of the model that `fit` returns; the float model is untouched.

    The work at the end is done after all other callbacks, wherever this one stands: what
    `EarlyStopping` restores is what is exported. Place it before callbacks that read
    `quantized_<metric>` from the logs of an epoch (`ModelCheckpoint`, `EarlyStopping`). Once
    training has begun nothing here ends it: what fails is a warning.

    Args:
        calibration: unlabelled samples, see `tfeptq.quantize`; read once, when training begins.
        config: what to do; the default learns 8-bit weights.
        export_path: where the verified file is written, for `config.target`; None: not at all.
        validation_data: `(x, y)`, `(x, y, sample weights)`, a `PyDataset` or a `tf.data.Dataset` on
            which the quantized model is scored with the model's own loss and metrics; they appear
            as `quantized_<metric>` in the logs and in the history, where the last are those of the
            exported model.
        every_epochs: also score a copy quantized by calibration alone (no training) after every
            so many epochs.

    Attributes:
        quantized: the quantized model, after training.
        result: the `tflite_export.ExportResult`, after training, where a file was asked for.

    Raises:
        ValueError: when training begins, for what could not be quantized when it ends.

    Example:
        >>> callback = tfeptq.QuantizationCallback(samples, config, export_path="trained.tflite")
        >>> history = model.fit(samples, labels, verbose=0, callbacks=[callback])
        >>> callback.result.path.name
        'trained.tflite'
    """

    def __init__(
        self,
        calibration: Any,
        config: QuantizationConfig | None = None,
        *,
        export_path: str | Path | None = None,
        validation_data: Any = None,
        every_epochs: int | None = None,
    ) -> None:
        super().__init__()
        if every_epochs is not None:
            every_epochs = whole("every_epochs", every_epochs, 1)
        if every_epochs is not None and validation_data is None:
            raise ValueError("every_epochs needs validation_data to score on")
        self.config = given_config(config)
        if validation_data is not None and self.config.outputs is not None:
            raise ValueError(
                "validation_data is scored with the loss and metrics of the model's own outputs; "
                f"outputs={self.config.outputs!r} leaves them out: leave one of them out"
            )
        require_goal(self.config)
        self.quantized: QuantizedModel | None = None
        self.result: tflite_export.ExportResult | None = None
        self._calibration = calibration
        self._export_path = None if export_path is None else path_of(export_path)
        self._validation = None if validation_data is None else Validation(validation_data)
        self._every_epochs = every_epochs
        self._taken: Taken | None = None
        self._last_epoch_is_scored = False
        self._ends_last = False

    def on_train_begin(self, logs: Logs = None) -> None:
        self.quantized = self.result = None
        if self._export_path is not None:
            destination(self._export_path)
        shape = deployed_shape(self.model, self._calibration, self.config)
        functional = as_functional(self.model, shape, self.config.outputs)
        canonical = prepare(functional)
        look_ahead(QuantizationPlan.of(canonical, self.config, original=functional), self.config)
        if self._taken is None:
            steps = single_steps(functional, self._calibration, self.config)
            self._taken = configured_samples(steps, canonical.inputs, self.config)
        prove(functional, canonical, self._taken.arrays)
        if self._validation is not None:
            self._validation.require_scorable(self.model)
        self._ends_last = finish_last(self, self._finish)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._last_epoch_is_scored = False
        if self._every_epochs is None or (epoch + 1) % self._every_epochs:
            return
        with _warning_of(f"epoch {epoch + 1} is not scored"):
            scores = self._scores(self._quantize(rounding=self.config.quick_rounding))
            self._last_epoch_is_scored = True
            if logs is not None:
                logs.update(scores)

    def on_train_end(self, logs: Logs = None) -> None:
        if not self._ends_last:
            self._finish(logs)

    def _finish(self, logs: Logs) -> None:
        """Quantizes, writes and scores the model as training leaves it, as far as that goes."""
        path = self._export_path
        unwritten = f"{path} is not written"
        if path is not None and path.exists():
            unwritten += ", what is there is of an earlier run"
        without = "" if path is None else f"; {unwritten}"
        with _warning_of(f"the trained model is not quantized{without}"):
            self.quantized = self._quantize(rounding=self.config.rounding)
        if self.quantized is None:
            return
        if path is not None:
            with _warning_of(unwritten):
                self.result = tflite_export.export(self.quantized, path)
        if self._validation is not None:
            with _warning_of("the quantized model is not scored"):
                scores = self._scores(self.quantized)
                self._add_to_history(scores)
                if logs is not None:
                    logs.update(scores)

    def _quantize(self, *, rounding: str) -> QuantizedModel:
        assert self._taken is not None
        samples = self._taken.arrays
        config = dataclasses.replace(
            self.config, rounding=rounding, samples=len(samples[0]), augmentation=None
        )
        quantized = quantize(self.model, samples, config)
        quantized.report.warnings.extend(self._taken.notes)
        return quantized

    def _scores(self, quantized: QuantizedModel) -> dict[str, float]:
        assert self._validation is not None
        scores = self._validation.scores(self.model, quantized)
        return {f"quantized_{name}": value for name, value in scores.items()}

    def _add_to_history(self, scores: dict[str, float]) -> None:
        """What is known after the last epoch belongs to it; Keras wrote its logs before."""
        history = getattr(self.model, "history", None)
        for name, value in scores.items():
            entries = getattr(history, "history", {}).setdefault(name, [])
            if self._last_epoch_is_scored and entries:
                entries[-1] = value
            else:
                entries.append(value)


@contextlib.contextmanager
def _warning_of(consequence: str) -> Iterator[None]:
    """Training took hours: no error here may cost its result."""
    try:
        yield
    except Exception as error:
        warnings.warn(f"QuantizationCallback: {consequence}: {first_line(error)}", stacklevel=4)
