"""`tfeptq package` from the outside."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

from tfeptq.cli.main import main
from tflite_export import check
from tflite_export.file.writer import write
from tflite_export.graph.structure import IntegerGraph, Operator, Quantization, Tensor
from tflite_export.graph.validation import validated

needs_tflm = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="extra 'microcontroller' is missing"
)
needs_vela = pytest.mark.skipif(
    importlib.util.find_spec("ethosu") is None, reason="extra 'ethos-u' is missing"
)


@pytest.fixture
def file(tmp_path):
    """A dense layer of 3-bit weights."""
    scale = Quantization(np.array([0.05], np.float32))
    bias_scale = Quantization(scale.scale * scale.scale)
    weights = np.random.default_rng(0).integers(-3, 4, (20, 300)).astype(np.int8)
    tensors = {
        "x": Tensor("x", (1, 300), "int8", scale),
        "w": Tensor("w", weights.shape, "int8", scale, weights, 3),
        "b": Tensor("b", (20,), "int32", bias_scale, np.zeros(20, np.int32), 32),
        "y": Tensor("y", (1, 20), "int8", scale),
    }
    attributes = {"keep_num_dims": False, "activation": "NONE"}
    operator = Operator("FULLY_CONNECTED", ("x", "w", "b"), ("y",), "dense", attributes)
    graph = validated(IntegerGraph("test", tensors, (operator,), (("x", "x"),), (("y", "y"),)))
    path = tmp_path / "m.tflite"
    path.write_bytes(write(graph))
    return path


@needs_tflm
@pytest.mark.parametrize("compress", [False, True])
def test_sources_for_a_board(file, tmp_path, capsys, compress):
    folder = tmp_path / "board"
    options = ["--compress"] if compress else []
    arguments = ["package", str(file), "--target", "microcontroller", "--output", str(folder)]
    assert main([*arguments, *options, "--json"]) == 0
    package = json.loads(capsys.readouterr().out)
    assert {"model.h", "model.cc", "ops.h", "README.md"} <= {f.name for f in folder.iterdir()}
    assert ("AddDecode" in package["operators"]) == compress
    assert (package["flash_bytes"] < file.stat().st_size) == compress
    assert main([*arguments, *options]) == 0
    printed = capsys.readouterr().out
    assert f"arena of {package['arena_bytes']} bytes" in printed
    assert f"flash: {package['flash_bytes']} bytes: weights" in printed
    assert (f"flash {file.stat().st_size} to {package['flash_bytes']} bytes" in printed) == compress


@pytest.mark.parametrize(
    ("target", "own", "name"),
    [
        (["microcontroller", "--compress"], "file", "model.tflite"),
        (["ethos-u"], "file", "m_vela.tflite"),
        (["coral", "--labels", "app/m_classifier.labels.txt"], "labels", "m_classifier.labels.txt"),
    ],
)
def test_a_file_that_is_read_is_not_written_over(
    file, tmp_path, monkeypatch, capsys, target, own, name
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app").mkdir()
    read = tmp_path / "app" / name
    if own == "labels":
        read.write_text("ant\nbee\n")
    else:
        # One file by two names.
        read.hardlink_to(file)
    before = {path: path.read_bytes() for path in (file, read)}
    assert main(["package", "m.tflite", "--target", *target, "--output", "app"]) == 2
    assert f"--output: app/{name} is a file that this command reads" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def test_coral_has_nothing_to_package(file, capsys):
    assert main(["package", str(file), "--target", "coral"]) == 2
    assert "tfeptq check --target coral" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("coral", ["--compress"], "--compress is for --target microcontroller, received"),
        ("android", ["--memory-mode", "Sram_Only"], "--memory-mode is for --target ethos-u"),
        ("microcontroller", ["--labels", "l.txt"], "--labels is for --target android or coral"),
        ("ethos-u", ["--mean", "7"], "--mean is for --target android or coral"),
        ("android", ["--output", "app"], "nothing without --labels, which --output would be for"),
        ("coral", ["--mean", "7", "--std", "2"], "which --mean and --std would be for"),
    ],
)
def test_options_that_a_target_would_ignore_are_refused(
    file, tmp_path, monkeypatch, capsys, target, options, message
):
    monkeypatch.chdir(tmp_path)
    assert main(["package", str(file), "--target", target, *options]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [file]


BAD_LABELS = {
    "ant\nbee\n": "2 labels for an output of (1, 3)",
    "ant\n\ncat": "label 2 of 3 is empty: every class",
    "ant\nbee\nant\n": "labels 1 and 3 are both 'ant'",
    "ant\nbee\ncaf\xe9": "no text in UTF-8 (byte 0xe9",
}


@pytest.mark.parametrize("target", ["android", "coral"])
def test_labels_make_an_image_classifier(tmp_path, capsys, target):
    if target == "android":
        pytest.importorskip("mediapipe", reason="extra 'metadata' is missing")
    scale = Quantization(np.array([0.5], np.float32))
    tensors = {
        "x": Tensor("x", (1, 4, 5, 3), "int8", scale),
        "y": Tensor("y", (1, 3), "int8", scale),
    }
    attributes = {"axes": (1, 2), "keep_dims": False}
    operator = Operator("MEAN", ("x",), ("y",), "mean", attributes)
    graph = validated(IntegerGraph("test", tensors, (operator,), (("x", "x"),), (("y", "y"),)))
    file, labels, folder = (tmp_path / name for name in ("m.tflite", "l.txt", "app"))
    file.write_bytes(write(graph))
    arguments = ["package", str(file), "--target", target, "--labels", str(labels)]
    for text, message in BAD_LABELS.items():
        labels.write_bytes(text.encode("latin-1"))
        assert main([*arguments, "--output", str(folder)]) == 2
        assert f"{labels}: {message}" in capsys.readouterr().err
    labels.write_text("ant\nbee\ncat\n\n")
    assert main([*arguments, "--output", str(folder)]) == 2
    assert "input 'x' reaches from -64 to 63.5" in capsys.readouterr().err
    assert not list(folder.iterdir())
    assert main([*arguments, "--output", str(folder), "--std", "2"]) == 0
    assert "uint8 pixels in, 3 labels" in capsys.readouterr().out
    made = folder / "m_classifier.tflite"
    assert check(made, target=target).findings == ()
    beside = sorted(path.name for path in folder.iterdir() if path != made)
    assert beside == {"android": [], "coral": ["m_classifier.labels.txt"]}[target]
    assert all((folder / name).read_text() == "ant\nbee\ncat\n" for name in beside)


def test_a_board_needs_a_folder(file, capsys):
    assert main(["package", str(file), "--target", "microcontroller"]) == 2
    assert "give --output DIR" in capsys.readouterr().err


@needs_vela
def test_vela_says_what_fits(file, tmp_path, capsys):
    arguments = ["package", str(file), "--target", "ethos-u", "--output", str(tmp_path / "npu")]
    assert main(arguments) == 0
    assert "all operators run on the NPU" in capsys.readouterr().out
    assert (tmp_path / "npu" / "m_vela.tflite").is_file()
    assert main([*arguments, "--accelerator", "ethos-u1"]) == 2
    assert "allowed are ethos-u55-32" in capsys.readouterr().err


def test_android_is_reported(file, capsys):
    assert main(["package", str(file), "--target", "android"]) == 0
    printed = capsys.readouterr().out
    assert "XNNPACK takes 1 of 1 operators" in printed
    assert "tflite-runtime 2.14: no known obstacle" in printed


def test_labels_that_do_not_fit_are_one_line(file, tmp_path, capsys):
    labels = tmp_path / "labels.txt"
    labels.write_text("ant\nbee\n")
    arguments = ["package", str(file), "--target", "android", "--labels", str(labels)]
    assert main(arguments) == 2
    assert "give --output DIR" in capsys.readouterr().err
    assert main([*arguments, "--output", str(tmp_path / "app")]) == 2
    error = capsys.readouterr().err
    assert "extra 'metadata'" in error or "need pictures (1, H, W, 3)" in error
    assert list((tmp_path / "app").iterdir()) == []
