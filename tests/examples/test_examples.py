"""The examples run as a user runs them."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import tflite_export

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run_example(monkeypatch, capsys):
    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.syspath_prepend(EXAMPLES)
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_quantize_while_training(tmp_path, run_example):
    path = tmp_path / "digits.tflite"
    printed = run_example(
        "quantize_while_training.py", "--output", path, "--epochs", 1, "--steps", 4
    )
    assert "quantized: " in printed
    assert f"{path}: {path.stat().st_size} bytes" in printed


def test_quantize_saved_model(tmp_path, run_example):
    inputs = keras.Input((7, 5, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="narrow")(inputs)
    outputs = keras.layers.Conv2D(9, 3, name="wide")(x)
    keras.Model(inputs, outputs).save(tmp_path / "m.keras")
    samples = np.random.default_rng(0).normal(size=(32, 7, 5, 3)).astype("float32")
    np.savez(tmp_path / "x.npz", x=samples)
    output = tmp_path / "m.tflite"
    run_example(
        "quantize_saved_model.py", tmp_path / "m.keras", tmp_path / "x.npz", output, "--steps", 4
    )
    stored = {tensor.name: tensor.type for tensor in tflite_export.inspect(output).tensors}
    assert (stored["narrow/weights"], stored["wide/weights"]) == ("int8", "int4")


QUICK = ("--epochs", 2)
#: Example -> its arguments, and what it prints.
SMALL = {
    "quickstart": (QUICK, ("float model: ", "file: ", "constants read back equal")),
    "accuracy_target": ((*QUICK, "--samples", 64), ("bits", "file: ")),
    "coral_check": (QUICK, ("no known blocker", "LEAKY_RELU")),
    "transformer": ((*QUICK, "--samples", 64), ("8 bits, nearest: ", "4 bits, optq: ")),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_examples(name, tmp_path, run_example):
    arguments, said = SMALL[name]
    printed = run_example(f"{name}.py", "--output", tmp_path / "m.tflite", *arguments)
    for words in said:
        assert words in printed
    assert (tmp_path / "m.tflite").exists()


def test_microcontroller_budget(tmp_path, run_example):
    pytest.importorskip("tflite_micro", reason="extra 'microcontroller' is missing")
    folder = tmp_path / "firmware"
    printed = run_example("microcontroller_budget.py", "--output", folder, *QUICK, "--samples", 64)
    assert "4 bits" in printed
    assert "AddConv2D" in printed
    assert {"model.h", "model.cc", "ops.h"} < {path.name for path in folder.iterdir()}


def test_streaming(tmp_path, run_example):
    pytest.importorskip("tflite_micro", reason="extra 'microcontroller' is missing")
    path = tmp_path / "step.tflite"
    printed = run_example("streaming.py", "--output", path, *QUICK, "--samples", 64)
    assert f"{path.stat().st_size} bytes" in printed
