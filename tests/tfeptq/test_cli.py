"""The command line as a user types it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import small_models

import tfeptq
from tfeptq.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    model = small_models.residual_network()
    model.save(folder / "m.keras")
    images = small_models.images(40)
    labels = model.predict(images, verbose=0).argmax(1)
    np.savez(folder / "data.npz", x=images, y=labels)
    return folder


@pytest.fixture(scope="module")
def quantized(folder):
    arguments = [
        "quantize", str(folder / "m.keras"), "--calibration", str(folder / "data.npz"),
        "--weight-bits", "4", "--steps", "5", "--samples", "32", "--batch-size", "8",
        "--output", str(folder / "m.tflite"), "--save-keras", str(folder / "q.keras"),
        "--validation", str(folder / "data.npz"),
    ]  # fmt: skip
    assert main(arguments) == 0
    return folder / "m.tflite"


def test_quantize_writes_both_files(folder, quantized):
    widths = tfeptq.load_model(folder / "q.keras").bit_widths
    assert widths["pointwise"] == (4, 8)
    assert quantized.stat().st_size > 1000


def test_inspect(quantized, capsys):
    assert main(["inspect", str(quantized)]) == 0
    assert "DEPTHWISE_CONV_2D" in capsys.readouterr().out
    assert main(["inspect", str(quantized), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    stored = {tensor["name"]: tensor["type"] for tensor in content["tensors"]}
    assert stored["pointwise/weights"] == "int4"


@pytest.mark.parametrize("runtime", ["litert", "litert-reference", "reference"])
def test_evaluate(folder, quantized, capsys, runtime):
    arguments = ["evaluate", str(quantized), "--data", str(folder / "data.npz"), "--json"]
    assert main([*arguments, "--runtime", runtime]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metric"] == "accuracy"
    assert found["samples"] == 40
    assert found["value"] > 0.5
    assert found["error"] > 0 or found["value"] == 1.0


def test_check_answers_with_its_exit_code(quantized, capsys):
    assert main(["check", str(quantized), "--target", "android"]) == 0
    assert "no known blocker" in capsys.readouterr().out
    assert main(["check", str(quantized), "--target", "coral"]) == 1
    assert "int4" in capsys.readouterr().out


def test_widths_by_layer_as_json(folder, capsys):
    output = folder / "by_layer.tflite"
    arguments = [
        "quantize", str(folder / "m.keras"), "--calibration", str(folder / "data.npz"),
        "--weight-bits", "stem=4,pointwise=2", "--rounding", "nearest", "--samples", "32",
        "--output", str(output), "--json",
    ]  # fmt: skip
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    widths = {layer["name"]: layer["weight_bits"] for layer in found["layers"]}
    assert (widths["stem"], widths["pointwise"], widths["classes"]) == (4, 2, 8)


BAD = {
    "missing model": (["quantize", "absent.keras"], "no such file"),
    "bad width": (["quantize", "{m}", "--weight-bits", "9"], "weight_bits=9"),
    "no width": (["quantize", "{m}", "--weight-bits", "four"], "neither a width"),
    "unknown layer": (["quantize", "{m}", "--weight-bits", "stemm=4"], "did you mean 'stem'"),
    "coral": (["quantize", "{m}", "--weight-bits", "4", "--target", "coral"], "Edge TPU"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_no_file(folder, capsys, name):
    (command, *rest), message = BAD[name]
    output = folder / "bad.tflite"
    rest = [text.replace("{m}", str(folder / "m.keras")) for text in rest]
    common = ["--calibration", str(folder / "data.npz"), "--output", str(output)]
    try:
        code = main([command, *rest, *common, "--samples", "8"])
    except SystemExit as stop:
        code = stop.code
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tfeptq")]
    assert code == 2
    assert len(errors) == 1
    assert message in errors[0]
    assert not output.exists()


def test_unreadable_files_are_bad_input(tmp_path, capsys):
    path = tmp_path / "text.tflite"
    path.write_text("this is not a model, whatever its name says")
    for command in (["inspect"], ["check", "--target", "android"]):
        assert main([*command, str(path)]) == 2
        assert "not a TensorFlow Lite file" in capsys.readouterr().err


def test_demo(tmp_path, capsys):
    path = tmp_path / "digits.tflite"
    assert main(["demo", "--steps", "20", "--output", str(path)]) == 0
    printed = capsys.readouterr().out
    assert path.exists()
    for word in ("TFLite file in LiteRT", "pointwise", "distillation", "bit-identical"):
        assert word in printed
