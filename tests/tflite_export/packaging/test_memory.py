"""Flash and RAM of a file, part by part."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import tflite_export
from tests.tflite_export.weighted_layers import convolution, layer
from tflite_export.file.writer import write
from tflite_export.packaging import compress, memory_budget
from tflite_export.runtimes import tflm
from tflite_export.runtimes.sessions import RuntimeUnavailableError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="extra 'microcontroller' is missing"
)


@pytest.mark.parametrize(("bits", "container"), [(8, "int8"), (4, "int4")])
def test_every_byte_of_flash_belongs_to_one_part(bits, container):
    graph = convolution(bits)
    content = write(graph, {"w": container})
    memory = memory_budget(content)
    weights, bias = graph.tensors["w"], graph.tensors["b"]
    assert memory.weights == -(-weights.data.size * bits // 8)
    assert memory.biases == bias.data.nbytes
    # Scales of weights and bias, one each of input and output; zero points of weights and bias
    # are one vector.
    assert memory.parameters == (2 * bias.data.size + 2) * 4 + (bias.data.size + 2) * 8
    assert memory.flash == len(content)
    assert memory.structure > 0


def test_ram_is_what_is_reused_and_what_stays():
    content = write(convolution(8))
    memory = memory_budget(content)
    activations = 6 * 7 * 3 + 4 * 6 * 5
    assert memory.arena.reused >= activations
    assert memory.arena.persistent > 0
    assert memory.arena.total == tflm.arena_bytes(content)


def test_tables_shrink_the_weights_and_grow_the_arena(tmp_path):
    content = write(layer("FULLY_CONNECTED", 2))
    packed = compress(content, tmp_path / "m.tflite")
    before, after = memory_budget(content), memory_budget(packed.path)
    assert after.weights < 0.5 * before.weights
    assert after.biases == before.biases
    assert after.parameters < before.parameters
    assert after.arena.total == packed.arena_bytes > before.arena.total


def test_a_missing_tflm_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeUnavailableError, match="extra 'microcontroller'"):
        memory_budget(write(convolution(8)))


def test_a_compressed_file_is_no_android_file(tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(write(layer("CONV_2D", 8)))
    assert tflite_export.check(path, target="android").ok
    compress(path, path)
    result = tflite_export.check(path, target="android")
    assert any("which LiteRT refuses" in finding.rule for finding in result.findings)
    with pytest.raises(ValueError, match="LiteRT refuses the file"):
        tflite_export.run(path, np.zeros((1, 6, 7, 24), "float32"))
