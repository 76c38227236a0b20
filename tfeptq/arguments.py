"""Arguments of the public functions, looked at before anything is done with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfeptq.config import InputShape, QuantizationConfig
from tfeptq.data.sample_sizes import sizes_of
from tfeptq.foreign.in_memory import converted
from tfeptq.model import QuantizedModel
from tfeptq.preparation import open_inputs
from tfeptq.preparation.received import is_keras2_model, require_model
from tfeptq.settings import shown


def given_model(model: Any) -> keras.Model:
    """The model, which one of Keras 2 (tf_keras) is turned into.

    Raises:
        ValueError: it is no Keras model, or is quantized already, or this is no plain Python.
    """
    if not tf.executing_eagerly():
        raise ValueError(
            "this runs inside a tf.function or a graph, where weights have no values; call it "
            "from plain Python"
        )
    if is_keras2_model(model):
        model = converted(model)
    require_model(model)
    if isinstance(model, QuantizedModel):
        raise ValueError(
            f"model {model.name!r} is quantized already: pass the float model that it was made of"
        )
    return model


def deployed_shape(
    model: keras.Model, calibration: Any, config: QuantizationConfig
) -> InputShape | None:
    """`config.input_shape`, or the sizes of the samples where the model leaves sizes open."""
    inputs = open_inputs(model) if config.input_shape is None else []
    return sizes_of(calibration, inputs) if inputs else config.input_shape


def given_config(config: Any) -> QuantizationConfig:
    """The configuration, or the default for None.

    Raises:
        ValueError: it is something else, such as a dict of settings.
    """
    if config is None:
        return QuantizationConfig()
    if not isinstance(config, QuantizationConfig):
        raise ValueError(
            f"config={shown(config)} must be a tfeptq.QuantizationConfig: "
            "for example tfeptq.QuantizationConfig(weight_bits=4)"
        )
    return config


def require_goal(config: QuantizationConfig) -> None:
    """Raises ValueError for candidates among which nothing chooses."""
    bounded = config.budget is not None and bool(config.budget.limits)
    if config.has_candidates and not bounded and config.accuracy_target is None:
        raise ValueError(
            f"weight_bits={config.weight_bits}, activation_bits={config.activation_bits} give "
            "candidates, but nothing says which to take: "
            "add budget=tfeptq.Budget(weight_bytes=...) or "
            "accuracy_target=tfeptq.AccuracyTarget(metric)"
        )


def check_callbacks(callbacks: Any) -> None:
    """Raises ValueError for anything but a list of Keras callbacks, or None."""
    if callbacks is None:
        return
    if not isinstance(callbacks, Sequence) or isinstance(callbacks, (str, bytes)):
        raise ValueError(f"callbacks={shown(callbacks)} must be a list of Keras callbacks, or None")
    for index, callback in enumerate(callbacks):
        if not isinstance(callback, keras.callbacks.Callback):
            raise ValueError(f"callbacks[{index}]={shown(callback)} must be a Keras callback")
        if getattr(callback, "takes_float_models", False):
            raise ValueError(
                f"callbacks[{index}] is a {type(callback).__name__}, which quantizes what a "
                "training leaves: give it to fit of the float model, model.fit(callbacks=[...])"
            )
