"""A quantized model scored with the loss and the metrics of the float model that it comes from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.data.units import bounds_of, doubt_unit

#: Samples of a batch on which scoring is tried.
_TRIED = 32
_UNFIT = "validation_data cannot be scored with the model's loss and metrics"
#: Inputs, labels or None, sample weights or None.
Batch = tuple[Any, Any, Any]


class Validation:
    """Labelled data in every form that `fit` takes them.

    Args:
        data: `(x, y)`, `(x, y, sample weights)`, a `PyDataset`, a `tf.data.Dataset` or an iterable
            of batches; what can be read once only is held in memory.

    Raises:
        ValueError: none of these, or data without an end.
    """

    def __init__(self, data: Any) -> None:
        _require_end(data)
        if isinstance(data, (tuple, list)):
            data = [tuple(data)]
        self._batches = list(data) if isinstance(data, Iterator) else data

    def require_scorable(self, model: keras.Model) -> list[str]:
        """Tries the beginning of the data with the float model itself; names of its scores.

        Raises:
            ValueError: there is none, or the model's loss or metrics cannot take it.
        """
        batch = next(iter(self), None)
        if batch is None:
            raise ValueError("validation_data yields no batch")
        _require_equal_counts(batch)
        beginning: Any = keras.tree.map_structure(_beginning, batch)
        if any(len(array) == 0 for array in keras.tree.flatten(beginning[0])):
            raise ValueError("validation_data holds no sample")
        try:
            scores = _scores(model, [beginning], lambda inputs: model(inputs, training=False))
        except Exception as error:
            # Losses and metrics are the user's own and raise whatever they like.
            without = "it has no labels; pass (x, y)"
            reason = without if batch[1] is None else first_line(error)
            raise ValueError(f"{_UNFIT}: {reason}") from error
        if np.isnan(scores["loss"]) and all(
            np.isfinite(each).all() for each in model.get_weights()
        ):
            raise ValueError(f"{_UNFIT}: the loss is NaN; are there labels out of range?")
        return list(scores)

    def doubt_unit(self, calibration: Sequence[np.ndarray]) -> None:
        """Warns where the first batch of the one input is in another unit than samples of it."""
        batch = next(iter(self), None)
        inputs = [] if batch is None else keras.tree.flatten(batch[0])
        if len(inputs) == len(calibration) == 1:
            doubt_unit(
                np.asarray(inputs[0]),
                bounds_of(calibration[0]),
                what="validation_data: inputs",
                beside="calibration samples",
            )

    def scores(self, model: keras.Model, quantized: keras.Model) -> dict[str, float]:
        """The float model's own loss and metrics, also custom ones, of the quantized outputs."""
        return _scores(model, self, lambda inputs: quantized.predict(inputs, verbose=0))

    def __iter__(self) -> Iterator[Batch]:
        data = self._batches
        if isinstance(data, keras.utils.PyDataset):
            batches: Iterable[Any] = (data[index] for index in range(data.num_batches))
            return map(keras.utils.unpack_x_y_sample_weight, batches)
        return map(keras.utils.unpack_x_y_sample_weight, data)


def first_line(error: BaseException) -> str:
    """What an error of anybody's says, in one line, without the places that TensorFlow marks."""
    said = re.sub(r"\{\{[^{}]*\}\}\s*", "", str(error))
    return (said.strip().splitlines() or [type(error).__name__])[0]


def _require_end(data: Any) -> None:
    if isinstance(data, keras.utils.PyDataset):
        if data.num_batches is None:
            raise ValueError("validation_data is a PyDataset without an end; give it num_batches")
    elif not isinstance(data, Iterable) or isinstance(data, (str, bytes, dict, np.ndarray)):
        raise ValueError(
            f"validation_data is a {type(data).__name__}; pass (x, y), (x, y, sample weights), a "
            "PyDataset or a tf.data.Dataset"
        )
    elif isinstance(data, tf.data.Dataset) and data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("validation_data repeats without an end; end it with take(batches)")


def _require_equal_counts(batch: Batch) -> None:
    """Refuses what is found in the last samples otherwise, and so when training has ended."""
    counts = {
        name: sorted({len(array) for array in keras.tree.flatten(part) if array is not None})
        for name, part in zip(("inputs", "labels", "sample weights"), batch, strict=True)
    }
    if len({count for of_part in counts.values() for count in of_part}) > 1:
        found = ", ".join(f"{name} {counts[name]}" for name in counts if counts[name])
        raise ValueError(f"validation_data holds unequal numbers of samples: {found}")


def _beginning(array: Any) -> Any:
    return None if array is None else array[:_TRIED]


def _scores(
    model: keras.Model, batches: Iterable[Batch], predict: Callable[[Any], Any]
) -> dict[str, float]:
    losses, counts = [], []
    metrics: dict[str, Any] = {}
    model.reset_metrics()
    try:
        for inputs, labels, weights in batches:
            outputs = predict(inputs)
            loss = model.compute_loss(inputs, labels, outputs, weights, training=False)
            metrics = model.compute_metrics(inputs, labels, outputs, weights)
            losses.append(float(loss))
            counts.append(len(keras.tree.flatten(outputs)[0]))
    finally:
        model.reset_metrics()
    scores = {**metrics, "loss": np.average(losses, weights=counts)}
    return {name: float(value) for name, value in scores.items()}
