"""The command line as a user types it."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import tfeptq
import tflite_export
from tests.tfeptq import small_models
from tfeptq.cli import demo
from tfeptq.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    model = small_models.residual_network()
    model.save(folder / "m.keras")
    small_models.chain().save(folder / "chain.keras")
    flat = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    flat.save(folder / "flat.keras")
    images = small_models.images(40)
    labels = model.predict(images, verbose=0).argmax(1)
    np.savez(folder / "data.npz", x=images, y=labels)
    np.savez(folder / "unlabelled.npz", x=images)
    return folder


@pytest.fixture(scope="module")
def quantized(folder):
    arguments = [
        "quantize", str(folder / "m.keras"), "--calibration", str(folder / "data.npz"),
        "--weight-bits", "4", "--steps", "5", "--samples", "32", "--batch-size", "8",
        "--output", str(folder / "m.tflite"), "--save-keras", str(folder / "q.keras"),
        "--validation", str(folder / "data.npz"), "--input-range", "-4", "4",
    ]  # fmt: skip
    assert main(arguments) == 0
    return folder / "m.tflite"


def test_quantize_writes_both_files(folder, quantized):
    widths = tfeptq.load_model(folder / "q.keras").bit_widths
    assert widths["pointwise"] == (4, 8)
    assert quantized.stat().st_size > 1000


def test_a_saved_model_is_scored_and_augmented_too(folder, capsys):
    """It has no layers, and does not tell its ends."""
    tfeptq.load_model(folder / "chain.keras").export(folder / "saved", verbose=False)
    options = [
        "--calibration", str(folder / "data.npz"), "--validation", str(folder / "data.npz"),
        "--output", str(folder / "saved.tflite"), "--rounding", "nearest", "--samples", "64",
        "--random-flip", "horizontal", "--json",
    ]  # fmt: skip
    found = []
    for name in ("chain.keras", "saved"):
        capsys.readouterr()
        assert main(["quantize", str(folder / name), *options]) == 0
        found.append(json.loads(capsys.readouterr().out)["scores"]["float Keras"])
    assert found[0]["value"] == pytest.approx(found[1]["value"])
    np.savez(folder / "small.npz", x=np.zeros((4, 5, 5, 3)), y=np.zeros(4))
    again = ["quantize", str(folder / "saved"), *options, "--validation", str(folder / "small.npz")]
    assert main(again) == 2
    assert "small.npz: inputs has shape (4, 5, 5, 3)" in capsys.readouterr().err


def test_export_writes_another_file_of_what_was_saved(folder, quantized, capsys):
    saved, again, pixels = (str(folder / name) for name in ("q.keras", "b.tflite", "u.tflite"))
    assert main(["export", saved, "--output", again]) == 0
    assert (folder / "b.tflite").read_bytes() == quantized.read_bytes()
    assert "every operator within" in capsys.readouterr().out
    assert main(["export", saved, "--output", pixels, "--input-type", "uint8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["target"] == "android"
    inspection = tflite_export.inspect(pixels)
    assert {t.type for t in inspection.tensors if t.name in inspection.inputs} == {"uint8"}


def test_inspect(quantized, capsys):
    assert main(["inspect", str(quantized)]) == 0
    assert "DEPTHWISE_CONV_2D" in capsys.readouterr().out
    assert main(["inspect", str(quantized), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    stored = {tensor["name"]: tensor["type"] for tensor in content["tensors"]}
    assert stored["pointwise/weights"] == "int4"
    image = next(tensor for tensor in content["tensors"] if tensor["name"] == "image")
    assert image["scale"] == pytest.approx(4 / 127)


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
        "quantize", str(folder / "chain.keras"), "--calibration", str(folder / "data.npz"),
        "--weight-bits", "stem=4,depthwise=2", "--activation-bits", "stem=16,mean=6",
        "--steps", "2", "--samples", "32", "--output", str(output), "--json",
    ]  # fmt: skip
    assert main(arguments) == 0
    # Standard output is one JSON document, though bars and notes were printed on the way.
    found = json.loads(capsys.readouterr().out)
    widths = {layer["name"]: layer["weight_bits"] for layer in found["layers"]}
    assert (widths["stem"], widths["depthwise"], widths["classes"]) == (4, 2, 8)
    activations = {layer["name"]: layer["activation_bits"] for layer in found["layers"]}
    assert (activations["stem"], activations["mean"], activations["classes"]) == (16, 6, 8)
    assert "no runtime of today" in found["notes"][0]
    assert (found["samples"]["ranges"], found["samples"]["bias correction"]) == (32, 32)


BAD = {
    "missing model": (["quantize", "absent.keras"], "no such file"),
    "bad width": (["quantize", "{m}", "--weight-bits", "9"], "weight_bits=9"),
    "no width": (["quantize", "{m}", "--weight-bits", "four"], "neither a width"),
    "unknown layer": (["quantize", "{m}", "--weight-bits", "stemm=4"], "did you mean 'stem'"),
    "unknown activation": (["quantize", "{m}", "--activation-bits", "sun=4"], "did you mean 'sum'"),
    "no such width": (
        ["quantize", "{m}", "--first-last-bits", "few"],
        "nor none",
    ),
    "no steps": (["quantize", "{m}", "--steps", "0"], "steps=0"),
    "no samples": (["quantize", "{m}", "--input-key", "z"], "no array ['z']"),
    "no labels": (["quantize", "{m}", "--validation", "{unlabelled}"], "no labels"),
    "Keras name": (["quantize", "{m}", "--save-keras", "q.h5"], "must end in .keras"),
    "Keras folder": (["quantize", "{m}", "--save-keras", "absent/q.keras"], "does not exist"),
    "no image": (
        ["quantize", "{flat}", "--random-flip", "vertical"],
        "(height, width, channels)",
    ),
    "no part": (["quantize", "{m}", "--random-translation", "2", "0"], "not a part of the size"),
    "coral": (["quantize", "{m}", "--weight-bits", "4", "--target", "coral"], "Edge TPU"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_no_file(folder, capsys, name):
    (command, *rest), message = BAD[name]
    output = folder / "bad.tflite"
    names = {"m": folder / "m.keras", "flat": folder / "flat.keras"}
    names |= {"unlabelled": folder / "unlabelled.npz"}
    rest = [text.format(**names) for text in rest]
    before = set(folder.iterdir())
    common = ["--calibration", str(folder / "data.npz"), "--output", str(output)]
    try:
        code = main([command, *rest, *common, "--samples", "8"])
    except SystemExit as stop:
        code = stop.code
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tfeptq")]
    assert code == 2
    assert len(errors) == 1
    assert message in errors[0]
    assert set(folder.iterdir()) == before


def test_a_refused_export_leaves_what_was_learned(folder, capsys, monkeypatch):
    def refuse(*_, **__):
        raise tflite_export.VerificationError("operator 'stem' differs")

    monkeypatch.setattr(tflite_export, "export", refuse)
    before = set(folder.iterdir())
    arguments = [
        "quantize", str(folder / "chain.keras"), "--calibration", str(folder / "data.npz"),
        "--rounding", "nearest", "--samples", "32", "--output", str(folder / "refused.tflite"),
        "--save-keras", str(folder / "refused.keras"),
    ]  # fmt: skip
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert "operator 'stem' differs" in said.err
    assert "refused.keras holds what was learned" in said.out
    saved = folder / "refused.keras"
    assert set(folder.iterdir()) == before | {saved}
    assert tfeptq.load_model(saved).bit_widths["stem"] == (8, 8)


def test_errors_in_a_new_process_are_one_line_too(folder):
    (folder / "text.keras").write_text("not a model")
    arguments = [
        "quantize", str(folder / "text.keras"), "--calibration", str(folder / "data.npz"),
        "--output", str(folder / "text.tflite"),
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    finished = subprocess.run(
        [sys.executable, "-m", "tfeptq", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (finished.returncode, finished.stdout) == (2, "")
    (line,) = finished.stderr.splitlines()
    assert line.startswith("tfeptq: error: ")
    assert "text.keras" in line


def test_fewer_samples_than_asked_for_are_one_warning(folder, capsys):
    arguments = [
        "quantize", str(folder / "chain.keras"), "--calibration", str(folder / "data.npz"),
        "--rounding", "nearest", "--output", str(folder / "few.tflite"),
    ]  # fmt: skip
    assert main(arguments) == 0
    assert "tfeptq: warning: calibration holds 40 samples" in capsys.readouterr().err
    augmented = ["--random-flip", "horizontal", "--random-translation", "0.25", "0.1"]
    assert main([*arguments, *augmented, "--samples", "100"]) == 0
    assert "warning" not in capsys.readouterr().err


UNITS = [(255.0, "0 to 255", True), (0.01, "0 to 0.01", True), (2.0, "0 to 2", False)]


@pytest.mark.parametrize(("factor", "reach", "is_doubted"), UNITS)
def test_data_in_another_unit_are_doubted(folder, capsys, factor, reach, is_doubted):
    """Dark pictures, and pixels that are brighter than those of the calibration, are not."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 2, (40, 9, 7, 3)) * generator.uniform(0, 1, (40, 9, 7, 3))
    images[0, 0, 0], labels = [0, 1, 1], np.zeros(40)
    paths = [str(folder / name) for name in ("unit.npz", "other.npz", "unit.tflite")]
    np.savez(paths[0], x=images, y=labels)
    np.savez(paths[1], x=images * factor, y=labels)
    options = ["--calibration", paths[0], "--validation", paths[1], "--output", paths[2]]
    settings = ["--rounding", "nearest", "--samples", "40", "--report", str(folder / "u.json")]
    assert main(["quantize", str(folder / "chain.keras"), *options, *settings]) == 0
    sentence = f"other.npz: samples reach from {reach}, those of {paths[0]} from 0 to 1: are both"
    assert (sentence in capsys.readouterr().err) == is_doubted
    report = json.loads((folder / "u.json").read_text())
    assert (sentence in str(report["warnings"])) == is_doubted
    assert main(["evaluate", paths[2], "--data", paths[1]]) == 0
    said = capsys.readouterr().err
    assert (f"other.npz: samples reach from {reach}, input 'image' of the" in said) == is_doubted
    for data in (paths[0], str(folder / "data.npz")):
        assert main(["evaluate", paths[2], "--data", data]) == 0
        assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "other"), [("int8", "int16"), ("uint8", "int8")])
def test_data_of_the_type_of_a_file_are_its_integers(folder, quantized, capsys, kind, other):
    images, labels = (np.load(folder / "data.npz")[name] for name in "xy")
    file = str(folder / f"{kind}.tflite")
    export = ["export", str(folder / "q.keras"), "--output", file]
    assert main([*export, "--input-type", kind, "--output-type", kind]) == 0
    inspection = tflite_export.inspect(file)
    tensor = next(t for t in inspection.tensors if t.name == inspection.inputs[0])
    integers = np.round(images / tensor.scale) + tensor.zero_point
    integers = np.clip(integers, np.iinfo(kind).min, np.iinfo(kind).max)
    np.savez(folder / "integers.npz", x=integers.astype(kind), y=labels)
    # Labels like outputs are compared as numbers, which are no integers of a file.
    values = np.asarray(tflite_export.run(file, images))
    np.savez(folder / "values.npz", x=integers.astype(kind), y=values)
    np.savez(folder / "other.npz", x=integers.astype(other), y=labels)
    found = []
    capsys.readouterr()
    for name in ("data.npz", "integers.npz", "values.npz"):
        assert main(["evaluate", file, "--data", str(folder / name), "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    assert (found[2]["metric"], found[2]["value"]) == ("mean_squared_error", 0.0)
    assert main(["evaluate", file, "--data", str(folder / "other.npz")]) == 2
    assert f"takes {kind} or floats, received {other}" in capsys.readouterr().err


def test_pixels_of_a_file_of_signed_integers_are_values(folder, quantized, capsys):
    pixels, labels = np.arange(40 * 9 * 7 * 3, dtype=np.uint8).reshape(40, 9, 7, 3), np.zeros(40)
    data, found = folder / "pixels.npz", []
    for images in (pixels, pixels.astype("float32")):
        np.savez(data, x=images, y=labels)
        assert main(["evaluate", str(quantized), "--data", str(data), "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]


def test_unreadable_files_are_bad_input(tmp_path, capsys):
    path = tmp_path / "text.tflite"
    path.write_text("this is not a model, whatever its name says")
    for command in (["inspect"], ["check", "--target", "android"]):
        assert main([*command, str(path)]) == 2
        assert "not a TensorFlow Lite file" in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_are_one_line(folder, quantized, tmp_path, capfd, seed):
    """Cut anywhere, and with bytes changed where the file keeps its tables."""
    generator, content = np.random.default_rng(seed), quantized.read_bytes()
    path, data = tmp_path / "damaged.tflite", str(folder / "data.npz")
    for _ in range(25):
        damaged = bytearray(content[: generator.integers(8, 2 * len(content))])
        for position in generator.integers(8, len(damaged), generator.integers(0, 5)):
            damaged[position] = generator.integers(256)
        path.write_bytes(damaged)
        for command in (
            ["inspect"],
            ["check", "--target", "coral"],
            ["check", "--target", "android", "--json"],
            ["evaluate", "--data", data, "--runtime", "reference"],
        ):
            code = main([command[0], str(path), *command[1:]])
            lines = capfd.readouterr().err.splitlines()
            errors = [line for line in lines if line.startswith("tfeptq: error: ")]
            assert (code, len(errors)) in ((0, 0), (1, 0), (2, 1))
            assert "damaged TensorFlow" not in "".join(errors) or str(path) in errors[0]


def test_demo(tmp_path, capsys, monkeypatch):
    path = tmp_path / "digits.tflite"
    # How well the float model has learned is not looked at here.
    monkeypatch.setattr(demo, "trained", functools.partial(demo.trained, epochs=2))
    assert main(["demo", "--steps", "4", "--output", str(path)]) == 0
    printed = capsys.readouterr().out
    assert path.exists()
    for word in ("TFLite file in LiteRT", "pointwise", "distillation", "bit-identical"):
        assert word in printed
