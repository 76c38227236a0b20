"""The examples run as a user runs them."""

from __future__ import annotations

import functools
import importlib
import runpy
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import tflite_export

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def classifier():
    """That of `digits`, by its settings: the examples that quantize it leave it as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        return functools.cache(importlib.import_module("digits").classifier)


@pytest.fixture
def run_example(monkeypatch, capsys, classifier):
    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.syspath_prepend(EXAMPLES)
        # Trained once for all; `quickstart` shows that it can be.
        if name != "quickstart.py":
            monkeypatch.setattr("digits.classifier", classifier)
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


#: Recipes are those of both: one example runs them all, the other two of them.
FEW = ("int8, nearest", "4-bit weights, OPTQ")
DENSE = {
    "segment_digits.py": (("--depth", 1, "--width", 4), 7),
    "detect_digits.py": (("--only", *FEW), 4),
}


@pytest.mark.parametrize("name", DENSE)
def test_dense_prediction(name, run_example):
    """A tiny setting: every recipe gives a verified file with a score, the 4-bit ones smaller."""
    options, count = DENSE[name]
    sizes = ["--width", 2, "--canvas-count", 64, "--epochs", 1, "--steps", 2, "--samples", 16]
    lines = run_example(name, *sizes, *options).splitlines()
    names = [line[:34].strip() for line in lines[1:]]
    assert names[:2] == ["float", "int8, nearest"]
    assert names[-1] == "TFLiteConverter int8"
    assert len(names) == count
    size = {
        n: int(line.split()[-2].replace(",", ""))
        for n, line in zip(names[1:], lines[2:], strict=True)
    }
    assert size["4-bit weights, OPTQ"] < size["int8, nearest"] < size["TFLiteConverter int8"]


def test_overlap_and_precision_are_their_definitions(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    detect = runpy.run_path(str(EXAMPLES / "detect_digits.py"))
    segment = runpy.run_path(str(EXAMPLES / "segment_digits.py"))
    box = np.array([0.0, 0.0, 2.0, 2.0, 3.0])
    assert detect["overlap"](box, np.array([1.0, 0.0, 3.0, 2.0, 3.0])) == pytest.approx(1 / 3)
    assert detect["overlap"](box, box + 5) == 0.0
    # Of two boxes of a digit one is found, after a box where there is nothing: 1/2 of the area / 2.
    truth = [np.stack([box, np.array([8.0, 8.0, 9.0, 9.0, 3.0])])]
    wrong, right = np.array([20.0, 20.0, 21.0, 21.0, 3.0, 0.9]), np.array([*box, 0.8])
    found = [np.stack([wrong, right])]
    assert detect["mean_average_precision"](found, truth) == pytest.approx(0.25)
    assert detect["mean_average_precision"]([right[None]], [box[None]]) == 1.0
    # Decoding undoes what targets are made of.
    data = detect["canvases"](6, side=48, zooms=(1.0, 2.5), seed=3)
    wanted = detect["targets"](data)
    heads, start = [], 0
    for cells in (12, 6):
        part = wanted[:, start : start + cells**2].reshape(6, cells, cells, 14)
        heads += [part[..., :4], 100.0 * (part[..., 4:] - 0.5)]
        start += cells**2
    decoded = detect["detections"](heads)
    assert detect["mean_average_precision"](decoded, data.boxes) == pytest.approx(1.0)
    classes = np.array([[0, 0, 1, 1]])
    assert segment["mean_iou"](np.array([[0, 1, 1, 1]]), classes) == pytest.approx(
        (1 / 2 + 2 / 3) / 2
    )


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
    "accuracy_target": (
        (*QUICK, "--samples", 64, "--weight-bits", 4, 8),
        ("bits", "file: "),
    ),
    "coral_check": (QUICK, ("no known blocker", "ELU is not available")),
    "custom_layer": (QUICK, ("float model: ", "file: ")),
    "transformer": (
        (*QUICK, "--blocks", 1, "--samples", 64),
        ("8 bits, nearest: ", "4 bits, optq: "),
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_examples(name, tmp_path, run_example):
    arguments, said = SMALL[name]
    printed = run_example(f"{name}.py", "--output", tmp_path / "m.tflite", *arguments)
    for words in said:
        assert words in printed
    assert (tmp_path / "m.tflite").exists()


def test_compare(run_example):
    printed = run_example("compare.py", *QUICK)
    assert "It breaks first in layer " in printed
    assert " alone: +" in printed.splitlines()[-1]


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
