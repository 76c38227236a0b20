"""The float model of a command, loaded without chatter, and the loss that its traces are of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    import keras

TraceLoss = Annotated[
    str | None,
    Parameter(
        metavar="LOSS",
        help="With --sensitivity hawq_v2: take the traces of this Keras loss, with the labels of "
        "the calibration data, for example sparse_categorical_crossentropy.",
    ),
]


def source_model(path: Path, trace_loss: str | None = None) -> keras.Model:
    """The model of a file, compiled if a loss is given."""
    from tfeptq.cli.startup import load_tensorflow

    load_tensorflow()
    from tfeptq.loading import load_model

    model = load_model(path)
    if trace_loss:
        model.compile(loss=_loss(trace_loss))
    return model


def _loss(name: str) -> Any:
    import keras

    try:
        return keras.losses.get(name)
    except ValueError as error:
        raise ValueError(
            f"--trace-loss {name!r} is no loss of Keras; for example "
            "sparse_categorical_crossentropy or mean_squared_error"
        ) from error
