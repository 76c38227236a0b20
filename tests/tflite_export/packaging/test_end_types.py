"""Files whose ends are bytes without a sign, or floats."""

from __future__ import annotations

import numpy as np
import pytest

import tflite_export
from tests.tflite_export import one_operator as one
from tests.tflite_export.weighted_layers import convolution
from tflite_export.graph.structure import Tensor

TARGETS = ("android", "coral", "ethos-u", "microcontroller")


def samples() -> np.ndarray:
    return np.random.default_rng(0).integers(-128, 128, (5, 6, 7, 3)).astype(np.int8)


def types(path) -> tuple[list[str], list[str]]:
    found = tflite_export.inspect(path)
    kinds = {tensor.name: tensor.type for tensor in found.tensors}
    ends = (found.operators[0].inputs[:1], found.operators[-1].outputs)
    return tuple([kinds[name] for name in names] for names in ends)


@pytest.mark.parametrize("target", TARGETS)
def test_bytes_without_a_sign_mean_the_same(tmp_path, target):
    graph = convolution(8)
    tflite_export.export(graph, tmp_path / "signed", target=target)
    result = tflite_export.export(
        graph, tmp_path / "bytes", target=target, input_type="uint8", output_type="uint8"
    )
    assert result.findings == ()
    assert types(result.path) == (["uint8"], ["uint8"])
    assert tflite_export.check(result.path, target=target).ok
    pixels = (samples().astype(np.int16) + 128).astype(np.uint8)
    runtime = "tflm" if target == "microcontroller" else "litert-reference"
    expected = tflite_export.run(tmp_path / "signed", samples(), runtime=runtime)
    found = tflite_export.run(result.path, pixels, runtime=runtime)
    np.testing.assert_array_equal(found.astype(np.int16) - 128, expected)
    # Floats in, floats out, as with the file's own integers.
    floats = np.random.default_rng(1).normal(0, 2, (5, 6, 7, 3)).astype("float32")
    np.testing.assert_array_equal(
        tflite_export.run(result.path, floats, runtime=runtime),
        tflite_export.run(tmp_path / "signed", floats, runtime=runtime),
    )


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_android_takes_floats(tmp_path, dtype):
    graph = one.graph_of(
        "RELU",
        [one.activation("x", (1, 3, 5, 2), dtype, 0.01)],
        one.activation("y", (1, 3, 5, 2), dtype, 0.01),
    )
    result = tflite_export.export(
        graph, tmp_path / "m", target="android", input_type="float32", output_type="float32"
    )
    assert types(result.path) == (["float32"], ["float32"])
    assert tflite_export.check(result.path, target="android").ok
    floats = np.random.default_rng(1).uniform(-1, 1, (5, 3, 5, 2)).astype("float32")
    found = tflite_export.run(result.path, floats)
    np.testing.assert_allclose(found, np.maximum(np.round(floats * 100), 0) / 100, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS[1:])
def test_other_targets_refuse_floats_before_any_work(tmp_path, target):
    with pytest.raises(ValueError, match="input_type='float32' is for target 'android' only"):
        tflite_export.export(convolution(8), tmp_path / "m", target=target, input_type="float32")
    assert not (tmp_path / "m").exists()


def test_signed_ends_are_as_they_are(tmp_path):
    graph = convolution()
    for name, kind in (("a", None), ("b", "int8")):
        tflite_export.export(graph, tmp_path / name, target="android", input_type=kind)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_unknown_types_and_sixteen_bits_as_bytes_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="input_type='int4' is unknown"):
        tflite_export.export(convolution(), tmp_path / "m", target="android", input_type="int4")
    graph = one.graph_of(
        "RELU",
        [one.activation("x", (1, 3, 5, 2), "int16", 0.01)],
        one.activation("y", (1, 3, 5, 2), "int16", 0.01),
    )
    # Before the verification, which takes long.
    monkeypatch.setattr("tflite_export.verify.verify", None)
    with pytest.raises(ValueError, match="output 'y' is int16 and cannot be uint8"):
        tflite_export.export(graph, tmp_path / "m", target="android", output_type="uint8")


def test_numbers_of_places_stay_as_they_are(tmp_path):
    places = one.quantization(1.0)
    graph = one.graph_of(
        "ARG_MAX",
        [one.activation("x", (1, 3, 5, 2), "int8", 0.01)],
        Tensor("y", (1, 3, 5), "int32", places, bits=32),
        {"axis": (3,)},
    )
    path = tmp_path / "m.tflite"
    ends = {"input_type": "uint8", "output_type": "uint8"}
    tflite_export.export(graph, path, target="android", **ends)
    assert types(path) == (["uint8"], ["int32"])
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 2)).astype(np.uint8)
    found = tflite_export.run(path, pixels, runtime="litert-reference")
    np.testing.assert_array_equal(found, pixels.argmax(axis=3))
