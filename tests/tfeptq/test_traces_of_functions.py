"""How often TensorFlow functions are traced: each once, and not more of them for a deeper model."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import tfeptq
from tfeptq.config import QuantizationConfig
from tfeptq.goals import Budget
from tfeptq.pipeline import quantize

CASES: dict[str, dict[str, Any]] = {
    "nearest": {"rounding": "nearest"},
    "optq": {"rounding": "optq"},
    "inter_layer": {
        "rounding": "optq",
        "weight_bits": (2, 4, 8),
        "first_last_bits": None,
        "measured_moves": 2,
    },
    "hawq_v2": {
        "rounding": "nearest",
        "sensitivity": "hawq_v2",
        "weight_bits": (4, 8),
        "first_last_bits": None,
        "measured_moves": 0,
    },
}


@pytest.fixture
def made(monkeypatch) -> list[Any]:
    """Functions that are made by `tf.function` while the test lasts."""
    found: list[Any] = []
    original = tf.function

    def function(func: Callable[..., Any] | None = None, **settings: Any) -> Any:
        if func is None:
            return lambda given: function(given, **settings)
        compiled = original(func, **settings)
        found.append(compiled)
        return compiled

    monkeypatch.setattr(tf, "function", function)
    return found


def _traces(made: list[Any], depth: int, settings: dict[str, Any]) -> int:
    made.clear()
    inputs = x = keras.Input((6, 6, 2))
    for index in range(depth):
        x = L.Conv2D(3, 3, padding="same", activation="relu", name=f"conv{index}")(x)
    model = keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling2D()(x)))
    settings = {"weight_bits": 4, **settings}
    if isinstance(settings["weight_bits"], tuple):
        settings["budget"] = Budget(weight_bytes=model.count_params())
    # Batches of the last samples reach back, and no other shape is traced.
    data = np.random.default_rng(0).normal(size=(50, 6, 6, 2)).astype("float32")
    quantize(model, data, QuantizationConfig(samples=50, **settings))
    counts = [function.experimental_get_tracing_count() for function in made]
    assert max(counts, default=0) <= 1
    return sum(counts)


@pytest.mark.parametrize("case", CASES)
def test_each_function_is_traced_once_and_a_deeper_model_has_no_more(made, case):
    # Of three weighted layers one has neither the first's nor the last's eight bits.
    shallow = _traces(made, 2, CASES[case])
    assert _traces(made, 5, CASES[case]) == shallow


def test_bias_correction_and_ranges_trace_nothing(made):
    # To trace an unrolled recurrent network takes longer than to run it.
    settings = {"rounding": "nearest", "threshold": "mse"}
    assert _traces(made, 2, settings) == 0


def test_tensorflow_rewrites_none_of_our_functions():
    """Autograph reads and compiles the source of a function, and of all that it calls.

    Nothing here needs that, and it takes longer than many of the traces. A user's model may.
    """
    runs_models_of_users = {"sequences.py"}
    package = Path(tfeptq.__file__).parent
    calls = [
        (path.name, node)
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "tf.function"
    ]
    assert len(calls) > 10
    for name, call in calls:
        if name in runs_models_of_users:
            continue
        settings = {each.arg: ast.unparse(each.value) for each in call.keywords}
        assert settings.get("autograph") == "False", f"{name}: {ast.unparse(call)}"
