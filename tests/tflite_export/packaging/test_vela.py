"""Vela's report on files that it takes, leaves on the CPU, or dies of."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from tests.tflite_export import one_operator as one
from tests.tflite_export.weighted_layers import layer
from tflite_export.file.writer import write
from tflite_export.packaging import vela_report
from tflite_export.runtimes.sessions import RuntimeUnavailableError

HAS_VELA = importlib.util.find_spec("ethosu") is not None
needs_vela = pytest.mark.skipif(not HAS_VELA, reason="Vela is not installed (extra 'ethos-u')")


@needs_vela
def test_fewer_levels_shrink_flash_and_all_operators_reach_the_npu(tmp_path):
    compiled = tmp_path / "m.tflite"
    wide = vela_report(write(layer("CONV_2D", 8)), output=compiled)
    narrow = vela_report(write(layer("CONV_2D", 3)))
    assert wide.ok
    assert narrow.ok
    assert wide.compiled_bytes == compiled.stat().st_size
    elements = 20 * 3 * 2 * 24
    assert wide.weight_bytes_before == narrow.weight_bytes_before == elements
    assert narrow.weight_bytes < 0.6 * wide.weight_bytes
    assert narrow.flash_bytes < wide.flash_bytes
    assert wide.macs == elements * 6 * 7
    assert wide.npu_cycles <= wide.cycles
    assert wide.inference_seconds == pytest.approx(wide.cycles / 500e6, rel=0.01)
    assert wide.sram_bytes > 0
    assert any("memory mode" in line for line in wide.assumptions)


@needs_vela
def test_memory_and_system_are_the_users_choice():
    chosen = vela_report(
        write(layer("CONV_2D", 8)),
        accelerator="ethos-u65-256",
        config="Arm/vela.ini",
        system_config="Ethos_U65_Embedded",
        memory_mode="Sram_Only",
    )
    assert (chosen.system_config, chosen.memory_mode) == ("Ethos_U65_Embedded", "Sram_Only")
    assert not any("memory mode" in line for line in chosen.assumptions)


@needs_vela
def test_operators_left_on_the_cpu_are_named_with_the_reason():
    source = one.activation("x", (1, 4, 5, 6), "int8", 0.1, 3)
    output = one.activation("pooled", (1, 4, 5, 1), "int8", 0.1, 3)
    graph = one.graph_of("MEAN", [source], output, {"axes": (3,), "keep_dims": True})
    report = vela_report(write(graph))
    assert not report.ok
    assert report.inference_seconds is None
    (finding,) = report.cpu_operators
    assert finding.operator == "MEAN (pooled)"
    assert "depth" in finding.rule
    assert "Vela" in finding.source


@needs_vela
@pytest.mark.parametrize(("container", "bits"), [("int4", 4), ("int2", 2)])
def test_packed_weights_kill_vela_which_is_why_ethos_u_excludes_them(container, bits):
    with pytest.raises(ValueError, match="Vela does not compile the file"):
        vela_report(write(layer("FULLY_CONNECTED", bits), {"w": container}))


def test_unknown_accelerators_are_refused():
    with pytest.raises(ValueError, match=r"ethos-u99.*allowed are ethos-u55-32"):
        vela_report(write(layer("CONV_2D", 8)), accelerator="ethos-u99")


def test_a_missing_vela_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeUnavailableError, match="extra 'ethos-u'"):
        vela_report(write(layer("CONV_2D", 8)))


def test_layers_of_these_tests_use_their_bits():
    assert np.unique(layer("CONV_2D", 3).tensors["w"].data).size == 7
