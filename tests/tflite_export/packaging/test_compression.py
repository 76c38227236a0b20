"""Look-up tables: the same results in fewer bytes, or a refusal."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import pytest

import tflite_export
from tests.tflite_export import one_operator as one
from tests.tflite_export.weighted_layers import SHAPES, layer
from tflite_export.file.reader import parse
from tflite_export.file.writer import write
from tflite_export.packaging import CompressionError, compress, compression
from tflite_export.runtimes.sessions import open_session

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None,
    reason="tflite-micro is not installed (extra 'microcontroller')",
)
#: Metadata in front of a table of weights.
HEADER_BYTES = 16


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 5, 6])
@pytest.mark.parametrize("kind", SHAPES)
def test_weights_take_their_learned_bits_and_compute_the_same(tmp_path, kind, bits, per_channel):
    graph = layer(kind, bits, per_channel=per_channel)
    content = write(graph)
    result = compress(content, tmp_path / "m.tflite")
    found = (tmp_path / "m.tflite").read_bytes()
    assert (result.size_bytes_before, result.size_bytes) == (len(content), len(found))
    (tensor,) = result.tensors
    assert (tensor.name, tensor.index_bits, tensor.container) == ("w", bits, "int8")
    saved = tensor.elements * (8 - bits) / 8
    assert result.size_bytes < len(content) - saved + 1000
    samples = one.random_samples(graph, count=8)
    left, right = (open_session(each, "tflm")(samples)[0] for each in (content, found))
    np.testing.assert_array_equal(left, right)
    # Decoded weights live in the arena.
    assert result.arena_bytes - result.arena_bytes_before > 0.9 * tensor.elements


def test_16_bit_activations(tmp_path):
    graph = layer("CONV_2D", 3, dtype="int16")
    content = write(graph)
    compress(content, tmp_path / "m.tflite")
    samples = one.random_samples(graph, count=8)
    found = open_session((tmp_path / "m.tflite").read_bytes(), "tflm")(samples)[0]
    np.testing.assert_array_equal(open_session(content, "tflm")(samples)[0], found)


def test_three_bits_beat_a_4_bit_container(tmp_path):
    content = write(layer("CONV_2D", 3), {"w": "int4"})
    result = compress(content, tmp_path / "m.tflite")
    assert result.size_bytes < len(content)
    assert result.tensors[0].container == "int4"


def test_four_bits_stay_in_their_container():
    assert compression.candidates(parse(write(layer("CONV_2D", 4), {"w": "int4"}))) == {}
    assert list(compression.candidates(parse(write(layer("CONV_2D", 4)))).values()) == [4]


def test_8_bit_files_lose_the_parameters_that_tflm_does_not_read(tmp_path):
    graph = layer("CONV_2D", 8)
    content = write(graph)
    result = compress(content, tmp_path / "m.tflite")
    assert result.tensors == ()
    # The vector of zero points, 8 bytes a channel, and the scales of the bias, 4 bytes each.
    assert len(content) - result.size_bytes >= 20 * (8 + 4)
    found = (tmp_path / "m.tflite").read_bytes()
    samples = one.random_samples(graph, count=8)
    left, right = (open_session(each, "tflm")(samples)[0] for each in (content, found))
    np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("bits", [3, 8])
def test_what_gains_nothing_is_refused(tmp_path, bits):
    small = tmp_path / "small.tflite"
    compress(write(layer("CONV_2D", bits)), small)
    with pytest.raises(CompressionError, match="train fewer weight bits"):
        compress(small, tmp_path / "smaller.tflite")
    assert list(tmp_path.iterdir()) == [small]


def test_dense_layers_of_one_scale_keep_the_scale_of_their_bias(tmp_path):
    """TFLM refuses them otherwise where the products are coarse beside the output."""
    graph = layer("FULLY_CONNECTED", 3, per_channel=False)
    fine = dataclasses.replace(graph.tensors["y"], quantization=one.quantization(0.01))
    graph = dataclasses.replace(graph, tensors={**graph.tensors, "y": fine})
    result = compress(write(graph), tmp_path / "m.tflite")
    assert result.method == "one table a tensor, unread parameters dropped"


def test_compressed_files_are_for_microcontrollers_only(tmp_path):
    path = tmp_path / "m.tflite"
    compress(write(layer("CONV_2D", 3)), path)
    assert tflite_export.check(path, target="microcontroller").ok
    for target in ("android", "coral", "ethos-u"):
        assert not tflite_export.check(path, target=target).ok
    kinds = [operator.kind for operator in tflite_export.inspect(path).operators]
    assert kinds == ["CUSTOM:TFLM_DECODE", "CONV_2D"]
    with pytest.raises(ValueError, match="LiteRT refuses the file"):
        tflite_export.run(path, np.zeros(SHAPES["CONV_2D"]["x"], "float32"), runtime="litert")


def test_documented_layouts_are_the_way_back(tmp_path, monkeypatch):
    """Should the decoder change, sharing tables fails the proof and costs bytes, not results."""
    monkeypatch.setattr(compression, "_share_tables", lambda content: None)
    result = compress(write(layer("FULLY_CONNECTED", 2)), tmp_path / "m.tflite")
    assert result.method == "one table a channel"


def test_wrong_results_are_never_written(tmp_path, monkeypatch):
    original = compression._compressed

    def tampered(content, chosen, layout):
        compressed = bytearray(original(content, chosen, layout))
        (table,) = compression._decoder_metadata(compressed)
        table[HEADER_BYTES] ^= 1
        return bytes(compressed)

    monkeypatch.setattr(compression, "_compressed", tampered)
    with pytest.raises(CompressionError, match=r"stays: .*other results in TFLM"):
        compress(write(layer("CONV_2D", 3, per_channel=False)), tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


def test_weights_without_scales_are_no_candidates(assets, tmp_path):
    """Files of other tools shrink nevertheless where they hold equal vectors several times."""
    path = assets / "mlperf_tiny" / "ic_float.tflite"
    assert compression.candidates(parse(path.read_bytes())) == {}
    result = compress(path, tmp_path / "m.tflite")
    assert result.tensors == ()
    assert 0.95 * result.size_bytes_before < result.size_bytes < result.size_bytes_before
