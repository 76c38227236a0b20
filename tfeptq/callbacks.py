"""Quantization inside `model.fit`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

import tflite_export
from tfeptq.arguments import given_config
from tfeptq.config import QuantizationConfig
from tfeptq.data import Taken, configured_samples
from tfeptq.graph import prepare, prove
from tfeptq.model import QuantizedModel
from tfeptq.pipeline import quantize
from tfeptq.precision.choice import check_widths
from tfeptq.settings import whole
from tflite_export.files import destination, path_of


class QuantizationCallback(keras.callbacks.Callback):
    """Quantizes a copy of the model at the end of training; the float model is untouched.

    Place it before callbacks that read `quantized_<metric>` from the logs (`ModelCheckpoint`,
    `EarlyStopping`), and after those that change the weights at the end of training.

    Args:
        calibration: unlabelled samples, see `tfeptq.quantize`; read once, when training begins.
        config: what to do; the default learns 8-bit weights.
        export_path: where the verified file is written, for `config.target`; None: not at all.
        validation_data: `(x, y)`, `(x, y, sample weights)`, a `PyDataset` or a `tf.data.Dataset` on
            which the quantized model is scored with the model's own loss and metrics; they appear
            as `quantized_<metric>` in the logs and in the history.
        every_epochs: also score a copy quantized by calibration alone (no training) after every
            so many epochs.

    Attributes:
        quantized: the quantized model, after training.
        result: the `tflite_export.ExportResult`, after training, where a file was asked for.

    Raises:
        ValueError: when training begins, for what could not be quantized when it ends.
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
        self.quantized: QuantizedModel | None = None
        self.result: tflite_export.ExportResult | None = None
        self._calibration = calibration
        self._export_path = None if export_path is None else path_of(export_path)
        self._validation_data = validation_data
        self._every_epochs = every_epochs
        self._taken: Taken | None = None
        self._last_epoch_is_scored = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._export_path is not None:
            destination(self._export_path)
        canonical = prepare(self.model)
        check_widths(canonical, self.config)
        if self._taken is None:
            self._taken = configured_samples(self._calibration, canonical.inputs, self.config)
        prove(self.model, canonical, self._taken.arrays)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._last_epoch_is_scored = (
            self._every_epochs is not None and (epoch + 1) % self._every_epochs == 0
        )
        if self._last_epoch_is_scored:
            scores = self._scores(self._quantize(rounding=self.config.quick_rounding))
            if logs is not None:
                logs.update(scores)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.quantized = self._quantize(rounding=self.config.rounding)
        if self._validation_data is not None:
            scores = self._scores(self.quantized)
            if logs is not None:
                logs.update(scores)
            self._add_to_history(scores)
        if self._export_path is not None:
            self.result = tflite_export.export(self.quantized, self._export_path)

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
        """The float model's own loss and metrics, also custom ones, of the quantized outputs."""
        losses, counts = [], []
        metrics: dict[str, Any] = {}
        self.model.reset_metrics()
        for inputs, labels, weights in self._validation_batches():
            outputs = quantized.predict(inputs, verbose=0)
            loss = self.model.compute_loss(inputs, labels, outputs, weights, training=False)
            metrics = self.model.compute_metrics(inputs, labels, outputs, weights)
            losses.append(float(loss))
            counts.append(len(keras.tree.flatten(outputs)[0]))
        self.model.reset_metrics()
        scores = {**metrics, "loss": np.average(losses, weights=counts)}
        return {f"quantized_{name}": float(value) for name, value in scores.items()}

    def _validation_batches(self) -> Iterator[tuple[Any, Any, Any]]:
        data = self._validation_data
        if isinstance(data, (tuple, list)):
            yield keras.utils.unpack_x_y_sample_weight(tuple(data))
            return
        if isinstance(data, keras.utils.PyDataset):
            data = (data[index] for index in range(data.num_batches))
        for batch in data:
            yield keras.utils.unpack_x_y_sample_weight(batch)

    def _add_to_history(self, scores: dict[str, float]) -> None:
        """What is known after the last epoch belongs to it; Keras wrote its logs before."""
        history = getattr(self.model, "history", None)
        for name, value in scores.items():
            entries = getattr(history, "history", {}).setdefault(name, [])
            if self._last_epoch_is_scored and entries:
                entries[-1] = value
            else:
                entries.append(value)
