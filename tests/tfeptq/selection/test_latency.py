"""Measured latencies: every layer at every width, and tables that predict whole files."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util

import pytest

from tests.tfeptq import small_models
from tfeptq.cli.main import main
from tfeptq.config import QuantizationConfig
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import prepare
from tfeptq.selection.latency import measure_latencies
from tfeptq.selection.latency_table import LatencyTable, read_latencies, write_latencies
from tfeptq.selection.skeleton import rounded
from tflite_export.file.writer import write
from tflite_export.packaging import vela_report
from tflite_export.packaging.vela import vela_times
from tflite_export.targets.containers import plan_storage
from tflite_export.targets.operator_latency import OperatorTime, Stopwatch

NAMES = ("stem", "depthwise", "pointwise", "skip", "classes")
HAS_VELA = importlib.util.find_spec("ethosu") is not None
needs_vela = pytest.mark.skipif(not HAS_VELA, reason="Vela is not installed (extra 'ethos-u')")


@pytest.fixture(scope="module")
def model():
    return prepare(small_models.residual_network())


def configuration(target, widths=(4, 8)):
    return QuantizationConfig(weight_bits=widths, target=target)


def test_layers_get_the_times_of_graphs_at_their_width(model):
    def times(graph):
        """Milliseconds: bits of the weights; one for everything else."""
        for operator in graph.operators:
            has_weights = operator.kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
            bits = graph.tensors[operator.inputs[1]].bits if has_weights else 1
            yield OperatorTime(operator.layer, operator.kind, bits)

    table = measure_latencies(model, configuration("android", (2, 4, 8)), times=times)
    expected = {(name, 8): 8 for name in NAMES}
    expected |= {(name, bits): bits for name in NAMES[1:4] for bits in (2, 4)}
    assert table.weighted == expected
    # Addition, pooling, concatenation with what it requantizes, mean and softmax.
    assert table.others >= 5


def test_tables_survive_their_file(tmp_path):
    table = LatencyTable({("a", 2): 0.25, ("a", 8): 1.5, ("CONV_2D", 4): 3e-5}, 0.125)
    write_latencies(table, tmp_path / "t.csv")
    assert read_latencies(tmp_path / "t.csv") == table


def test_both_integer_types_are_measured_and_told_apart(model, tmp_path):
    def times(graph):
        """Milliseconds: bits of the weights, or one; doubled in int16."""
        for operator in graph.operators:
            has_weights = operator.kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
            bits = graph.tensors[operator.inputs[1]].bits if has_weights else 1
            factor = 2 if graph.tensors[operator.outputs[0]].dtype == "int16" else 1
            yield OperatorTime(operator.layer, operator.kind, bits * factor)

    config = QuantizationConfig(weight_bits=(4, 8), activation_bits=(4, 8, 16))
    table = measure_latencies(model, config, times=times)
    assert list(table.by_type) == ["int8", "int16"]
    narrow, wide = table.of_type("int8", is_one=False), table.of_type("int16", is_one=False)
    assert narrow.weighted == {**dict.fromkeys(narrow.weighted, 8), **_fours(4)}
    assert wide.weighted == {entry: 2 * entry[1] for entry in narrow.weighted}
    assert wide.layers["sum"] == 2 * narrow.layers["sum"] == 2
    write_latencies(table, tmp_path / "t.csv")
    assert read_latencies(tmp_path / "t.csv").by_type == table.by_type
    alone = measure_latencies(
        model, dataclasses.replace(config, activation_bits=(4, 8)), times=times
    )
    assert not alone.by_type
    assert alone.weighted == narrow.weighted


def _fours(value):
    return {(name, 4): value for name in NAMES[1:4]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("operator,bits,ms,activations\na,4,1,int9", "line 2: activations='int9' must be int8"),
        ("operator,bits,ms,activations\na,x,1,int8", "line 2"),
    ],
)
def test_types_that_there_are_none_of(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_latencies(tmp_path / "t.csv")


def test_equal_operators_are_timed_once_and_containers_tell_them_apart(model, monkeypatch):
    timed = []
    monkeypatch.setattr(
        Stopwatch, "_timed", lambda self, content: float(len(timed.append(content) or timed))
    )
    stopwatch = Stopwatch("android")
    plan = QuantizationPlan.of(model, configuration("android"))

    def times(bits):
        return stopwatch(rounded(plan.with_widths(weights=dict.fromkeys(NAMES, bits))))

    wide, same = times(8), times(8)
    assert wide == same
    assert len(timed) == len(wide)
    narrow = times(4)
    # All but the depthwise layer have int4 weights now; 3 bits sit in the same containers.
    assert len(timed) == len(wide) + 4
    assert times(3) == narrow
    assert len(timed) == len(wide) + 4
    depthwise = [[each for each in found if each.layer == "depthwise"] for found in (narrow, wide)]
    assert depthwise[0] == depthwise[1] != []


@needs_vela
def test_velas_estimates_of_layers_add_up_to_those_of_mixed_files(model):
    config = configuration("ethos-u", (2, 8))
    table = measure_latencies(model, config, times=functools.partial(vela_times, target="ethos-u"))
    widths = dict(zip(NAMES, (8, 2, 8, 2, 8), strict=True))
    graph = rounded(QuantizationPlan.of(model, config).with_widths(weights=widths))
    report = vela_report(write(graph, plan_storage(graph, "ethos-u")))
    predicted = sum(table.weighted[entry] for entry in widths.items()) + table.others
    assert predicted == pytest.approx(1000 * report.inference_seconds, rel=0.02)
    assert sum(report.tensor_cycles.values()) == report.cycles


def test_both_types_are_measured_from_the_command_line(tmp_path, capsys, monkeypatch):
    small_models.residual_network().save(tmp_path / "m.keras")
    monkeypatch.setattr(Stopwatch, "_timed", lambda self, content: 0.5)
    common = ["latency", str(tmp_path / "m.keras"), "--output", str(tmp_path / "t.csv")]
    assert main([*common, "--weight-bits", "4", "--activation-bits", "8,16"]) == 0
    assert "in int16 kernels" in capsys.readouterr().out
    found = read_latencies(tmp_path / "t.csv")
    assert set(found.by_type) == {"int8", "int16"}
    assert found.by_type["int16"].layers["sum"] == 0.5


def test_a_table_is_measured_and_used_from_the_command_line(tmp_path, capsys):
    small_models.residual_network().save(tmp_path / "m.keras")
    table = tmp_path / "t.csv"
    assert (
        main(["latency", str(tmp_path / "m.keras"), "--weight-bits", "4", "--output", str(table)])
        == 0
    )
    assert "pointwise" in capsys.readouterr().out
    found = read_latencies(table)
    assert set(found.weighted) == {(name, bits) for name in NAMES for bits in (4, 8)}
    assert all(0 < ms < 100 for ms in found.weighted.values())
    assert 0 < found.others < 100
    missing = ["latency", str(tmp_path / "m.keras"), "--output", str(tmp_path / "no" / "t.csv")]
    assert main(missing) == 2
    assert "does not exist" in capsys.readouterr().err
