"""Quantization inside `model.fit`."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

import tflite_export
from tfeptq.arguments import given_config, require_goal
from tfeptq.before_data import plan_request
from tfeptq.callbacks.best_epoch import BestEpoch
from tfeptq.callbacks.calibration import Calibration
from tfeptq.callbacks.last_callback import Logs, finish_last, standing_with
from tfeptq.callbacks.validation import Validation, first_line
from tfeptq.config import QuantizationConfig
from tfeptq.data.samples import Taken
from tfeptq.model import QuantizedModel
from tfeptq.pipeline import quantize
from tfeptq.preparation import prove
from tfeptq.progress import Verbosity, check_verbose
from tfeptq.settings import member, whole
from tflite_export.file.atomic import path_of, tflite_destination

#: What names of scores begin with: of epochs, by calibration alone, and of what is exported.
EPOCH, FINAL = "quantized", "final_quantized"


class QuantizationCallback(keras.callbacks.Callback):
    """Quantizes a copy of the model that `fit` returns; the float model is untouched.

    The work at the end is done after all other callbacks, wherever this one stands: what
    `EarlyStopping` restores is what is exported. Place it before callbacks that read
    `quantized_<metric>` from the logs of an epoch (`ModelCheckpoint`, `EarlyStopping`). Once
    training has begun nothing here ends it: what fails is a warning.

    Scores of epochs and of the end come from different recipes and have names of their own:
    `quantized_<metric>` is a copy quantized by calibration alone, `final_quantized_<metric>` the
    model that is exported. Without scores of epochs `quantized_<metric>` is that too.

    Args:
        calibration: unlabelled samples, see `tfeptq.quantize`; read once, when training begins.
        config: what to do; the default learns 8-bit weights.
        export_path: where the verified file is written, for `config.target`; None: not at all.
        validation_data: `(x, y)`, `(x, y, sample weights)`, a `PyDataset` or a `tf.data.Dataset` on
            which the quantized model is scored with the model's own loss and metrics, in the logs
            and in the history.
        every_epochs: also score a copy quantized by calibration alone (no training) after every
            so many epochs; 1 with `save_best`.
        save_best: name of a score of epochs, such as "quantized_accuracy": the file, and
            `quantized`, are of the epoch where it is best. The file is written whenever an epoch is
            the best so far; at the end its weights go through the whole recipe, whose result is
            taken unless it scores worse. The float model keeps the weights that training left.
        mode: "max" or "min", what is best; "auto" goes by the name of the score.
        verbose: what quantizations say, see `tfeptq.quantize`.

    Attributes:
        quantized: the quantized model, after training.
        result: the `tflite_export.ExportResult`, after training, where a file was asked for.

    Raises:
        ValueError: when training begins, for what could not be quantized when it ends, and for
            callbacks that monitor scores which are not written before they look.

    Example:
        >>> callback = tfeptq.QuantizationCallback(samples, config, export_path="trained.tflite")
        >>> history = model.fit(samples, labels, verbose=0, callbacks=[callback])
        >>> callback.result.path.name
        'trained.tflite'
    """

    #: It has no place among callbacks of the distillation.
    takes_float_models = True

    def __init__(
        self,
        calibration: Any,
        config: QuantizationConfig | None = None,
        *,
        export_path: str | Path | None = None,
        validation_data: Any = None,
        every_epochs: int | None = None,
        save_best: str | None = None,
        mode: str = "auto",
        verbose: Verbosity = "auto",
    ) -> None:
        super().__init__()
        check_verbose(verbose)
        if every_epochs is not None:
            every_epochs = whole("every_epochs", every_epochs, 1)
        if (every_epochs is not None or save_best is not None) and validation_data is None:
            name = "save_best" if save_best is not None else "every_epochs"
            raise ValueError(f"{name} needs validation_data to score on")
        self.config = given_config(config)
        if validation_data is not None and self.config.outputs is not None:
            raise ValueError(
                "validation_data is scored with the loss and metrics of the model's own outputs; "
                f"outputs={self.config.outputs!r} leaves them out: leave one of them out"
            )
        require_goal(self.config)
        self.quantized: QuantizedModel | None = None
        self.result: tflite_export.ExportResult | None = None
        self._calibration = Calibration(calibration)
        self._export_path = None if export_path is None else path_of(export_path)
        self._validation = None if validation_data is None else Validation(validation_data)
        self._best = None if save_best is None else BestEpoch(save_best, mode)
        self._every_epochs = 1 if save_best is not None and every_epochs is None else every_epochs
        self._taken: Taken | None = None
        self._ends_last = False
        self._verbose = verbose

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantizationCallback:
        """A copy for another training, as tuners make them; data are shared, and read once."""
        copied = copy.copy(self)
        memo[id(self)] = copied
        if self._best is not None:
            copied._best = BestEpoch(self._best.monitored, self._best.mode)
        return copied

    def on_train_begin(self, logs: Logs = None) -> None:
        self.quantized = self.result = None
        if self._export_path is not None:
            tflite_destination(self._export_path)
        self._calibration.build(self.model)
        request = plan_request(self.model, self._calibration.data, self.config)
        functional, canonical = request.functional, request.plan.model
        self._taken = self._calibration.taken(functional, canonical.inputs, self.config)
        prove(functional, canonical, self._taken.arrays)
        if self._validation is not None:
            names = self._validation.require_scorable(self.model)
            self._validation.doubt_unit(self._taken.arrays)
            if self._best is not None:
                self._best.forget()
                member("save_best", self._best.monitored, [f"{EPOCH}_{name}" for name in names])
        self._require_order()
        self._ends_last = finish_last(self, self._finish)

    def _require_order(self) -> None:
        """Refuses callbacks that would look for a score where there is none."""
        has_scores = False
        for other in standing_with(self):
            if isinstance(other, QuantizationCallback):
                has_scores |= other._every_epochs is not None
                continue
            monitored, name = getattr(other, "monitor", None), type(other).__name__
            if not isinstance(monitored, str):
                continue
            if monitored.startswith(f"{FINAL}_"):
                raise ValueError(
                    f"{name} monitors {monitored!r}, which there is once, after training: let it "
                    f"monitor {monitored.replace(FINAL, EPOCH, 1)!r}, with every_epochs=1 here"
                )
            if monitored.startswith(f"{EPOCH}_") and not has_scores:
                raise ValueError(
                    f"{name} monitors {monitored!r} after every epoch: put it behind a "
                    "QuantizationCallback with validation_data= and every_epochs=1, which writes "
                    "that score"
                )

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self._every_epochs is None or (epoch + 1) % self._every_epochs:
            return
        with _warning_of(f"epoch {epoch + 1} is not scored"):
            quantized = self._quantize(rounding=self.config.quick_rounding)
            scores = self._scores(quantized, EPOCH)
            if logs is not None:
                logs.update(scores)
            best = self._best
            if best is not None and best.offer(epoch + 1, scores, self.model, quantized):
                with _warning_of(f"the file of epoch {epoch + 1} is not written"):
                    self._export(quantized)

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
            self.quantized = self._final()
        if self.quantized is None:
            return
        with _warning_of(unwritten):
            self._export(self.quantized)
        if self._validation is not None:
            with _warning_of("the quantized model is not scored"):
                self._log(self.quantized, logs)

    def _final(self) -> QuantizedModel:
        """What is exported: by the whole recipe, unless the best epoch's copy is better."""
        best = self._best
        if best is None or best.quantized is None:
            return self._quantize(rounding=self.config.rounding)
        with _warning_of(f"the copy of epoch {best.epoch} by calibration alone is taken"):
            with best.weights_in(self.model):
                learned = self._quantize(rounding=self.config.rounding)
            score = self._scores(learned, EPOCH)[best.monitored]
            if score == best.score or best.improves(score):
                return learned
            best.quantized.report.warnings.append(
                f"after the whole recipe epoch {best.epoch} has {best.monitored} {score:.4g}, by "
                f"calibration alone {best.score:.4g}: that is exported"
            )
        return best.quantized

    def _export(self, quantized: QuantizedModel) -> None:
        if self._export_path is not None:
            self.result = tflite_export.export(quantized, self._export_path)

    def _log(self, quantized: QuantizedModel, logs: Logs) -> None:
        """The scores of the end; Keras wrote its last logs before."""
        scores = self._scores(quantized, FINAL)
        if self._every_epochs is None:
            scores |= {name.removeprefix("final_"): value for name, value in scores.items()}
        history = getattr(getattr(self.model, "history", None), "history", {})
        for name, value in scores.items():
            history.setdefault(name, []).append(value)
        if logs is not None:
            logs.update(scores)

    def _quantize(self, *, rounding: str) -> QuantizedModel:
        assert self._taken is not None
        samples = self._taken.arrays
        config = dataclasses.replace(
            self.config, rounding=rounding, samples=len(samples[0]), augmentation=None
        )
        quantized = quantize(self.model, samples, config, verbose=self._verbose)
        quantized.report.warnings.extend(self._taken.notes)
        return quantized

    def _scores(self, quantized: QuantizedModel, kind: str) -> dict[str, float]:
        assert self._validation is not None
        scores = self._validation.scores(self.model, quantized)
        return {f"{kind}_{name}": value for name, value in scores.items()}


@contextlib.contextmanager
def _warning_of(consequence: str) -> Iterator[None]:
    """Training took hours: no error here may cost its result."""
    try:
        yield
    except Exception as error:
        warnings.warn(f"QuantizationCallback: {consequence}: {first_line(error)}", stacklevel=4)
