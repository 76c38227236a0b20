"""Predicted costs against written files, closed forms and hand-made graphs."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L

import tfeptq
import tflite_export
from tests.tfeptq import small_models
from tfeptq.config import QuantizationConfig
from tfeptq.goals import Budget
from tfeptq.hessian.float_scores import FloatScores
from tfeptq.host_latency import HOST, latency_file
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import prepare
from tfeptq.selection.costs import layer_multiplications
from tfeptq.selection.factor import weights
from tfeptq.selection.latency_table import read_latencies
from tfeptq.selection.prices import prices
from tfeptq.selection.skeleton import peak_activation_bytes
from tflite_export.graph.structure import IntegerGraph, Operator, Quantization, Tensor
from tflite_export.packaging.compression import compress

WIDTHS = (2, 3, 4, 8)


def costs_of(model, samples=None, **settings):
    """The costs of a float model's candidates; with samples those of its files as well."""
    config, canonical = QuantizationConfig(weight_bits=WIDTHS, **settings), prepare(model)
    ranges = None if samples is None else FloatScores(canonical, [samples], 0).ranges
    return prices(QuantizationPlan.of(canonical, config, ranges), config.budget)


def table_of(program, cost):
    """Layer name -> width of its weights -> cost."""
    table = {}
    for factor in program.factors:
        for combination, costs in factor.costs.items():
            if combination and cost in costs:
                table.setdefault(factor.named, {})[combination[0]] = costs[cost]
    return table


def cost(program, widths, name):
    return program.cost({weights(layer): bits for layer, bits in widths.items()}, name)


@pytest.mark.parametrize("target", ["android", "ethos-u", "microcontroller"])
def test_predicted_file_size_is_within_three_percent(tmp_path, target):
    model = small_models.residual_network()
    costs = costs_of(model, small_models.images(32), target=target)
    names = [name for _, name in costs.losses]
    generator = np.random.default_rng(0)
    widths = {name: int(generator.choice(WIDTHS)) for name in names} | {"stem": 8, "classes": 8}
    config = QuantizationConfig(weight_bits=widths, target=target, rounding="nearest", samples=32)
    quantized = tfeptq.quantize(model, small_models.images(32), config)
    result = tflite_export.export(quantized, tmp_path / "m.tflite", target=target, verify=False)
    assert cost(costs, widths, "file_bytes") == pytest.approx(result.size_bytes, rel=0.03)


def test_weight_bytes_are_those_of_the_container():
    table = table_of(costs_of(small_models.residual_network()), "weight_bytes")
    # 1x1 convolution of 8 channels to 8: 64 weights, 8 scales of 4 bytes; 2 and 3 bits in int4.
    assert table["pointwise"] == {2: 64, 3: 64, 4: 64, 8: 96}


def test_an_entropy_coding_compiler_stores_the_learned_width():
    table = table_of(costs_of(small_models.residual_network(), target="ethos-u"), "weight_bytes")
    assert table["pointwise"] == {2: 32 + 16, 3: 32 + 24, 4: 32 + 32, 8: 32 + 64}


def test_predicted_size_of_compressed_files_is_within_three_percent(tmp_path):
    pytest.importorskip("tflite_micro")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((9, 7, 3))
    x = L.Conv2D(48, 3, activation="relu", name="wide")(L.Conv2D(32, 1, name="first")(inputs))
    x = L.DepthwiseConv2D((2, 3), name="depthwise")(x)
    x = L.GlobalAveragePooling2D()(L.Conv2D(24, 1, name="next")(x))
    model = keras.Model(inputs, L.Dense(5, name="last")(x))
    budget = Budget(weight_bytes=10**6, compressed=True)
    costs = costs_of(model, small_models.images(32), target="microcontroller", budget=budget)
    settings = {"target": "microcontroller", "rounding": "nearest", "samples": 32}
    for wide, depthwise, following in ((8, 8, 8), (2, 4, 3), (3, 2, 4)):
        widths = {"wide": wide, "depthwise": depthwise, "next": following, "first": 8, "last": 8}
        config = QuantizationConfig(weight_bits=widths, **settings)
        quantized = tfeptq.quantize(model, small_models.images(32), config)
        tflite_export.export(quantized, tmp_path / "m", target="microcontroller", verify=False)
        found = compress(tmp_path / "m", tmp_path / "c").size_bytes
        assert cost(costs, widths, "file_bytes") == pytest.approx(found, rel=0.03), widths


def test_first_and_last_layers_have_one_candidate():
    table = table_of(costs_of(small_models.residual_network()), "weight_bytes")
    assert list(table["stem"]) == list(table["classes"]) == [8]
    free = costs_of(small_models.residual_network(), first_last_bits=None)
    assert list(free.losses[weights("stem")]) == list(WIDTHS)


def test_candidates_that_the_target_cannot_store_are_left_out_or_refused():
    model = prepare(small_models.residual_network())
    coral = QuantizationConfig(weight_bits=WIDTHS, target="coral")
    assert set(QuantizationPlan.of(model, coral).candidates.values()) == {(8,)}
    with pytest.raises(ValueError, match=r"layer 'depthwise', weight_bits=4.*Edge TPU"):
        QuantizationPlan.of(model, QuantizationConfig(weight_bits=(2, 4), target="coral"))


def test_multiplications_of_every_layer_kind_and_of_shared_layers():
    inputs = keras.Input((9, 7, 3))
    shared = L.Conv2D(3, (3, 2), padding="same", name="shared")
    x = shared(shared(inputs))
    x = L.DepthwiseConv2D((2, 3), depth_multiplier=2, strides=2, name="depthwise")(x)
    x = L.Dense(5, name="dense")(L.Flatten()(x))
    plan = QuantizationPlan.of(prepare(keras.Model(inputs, x)), QuantizationConfig())
    found = layer_multiplications(plan)
    assert found == {
        "shared": 2 * 9 * 7 * 3 * (3 * 2 * 3),
        "depthwise": 4 * 3 * 6 * (2 * 3),
        "dense": 4 * 3 * 6 * 5,
    }


def test_bit_operations_multiply_both_widths():
    costs = costs_of(small_models.residual_network())
    multiplications = 9 * 7 * 8 * 8
    assert table_of(costs, "bit_operations")["pointwise"][3] == multiplications * 3 * 8


def test_peak_activations_hold_what_is_still_to_be_read():
    def tensor(name, size):
        return Tensor(name, (1, size), "int8", Quantization(np.float32([1.0])))

    sizes = {"in": 10, "a": 30, "b": 5, "out": 30}
    operators = (
        Operator("RELU", ("in",), ("a",), "a"),
        Operator("RELU", ("a",), ("b",), "b"),
        Operator("ADD", ("a", "b"), ("out",), "out", {"activation": "NONE"}),
    )
    graph = IntegerGraph(
        "g",
        {name: tensor(name, size) for name, size in sizes.items()},
        operators,
        (("in", "in"),),
        (("out", "out"),),
    )
    # The addition: a and b are read, out is written; the input is dead.
    assert peak_activation_bytes(graph) == 30 + 5 + 30


def latencies(tmp_path, text):
    path = tmp_path / "ms.csv"
    path.write_text(text)
    return Budget(latency_ms=1.0, latency_table=str(path))


def test_latency_by_layer_name_or_by_kind_on_top_of_what_has_no_weights(tmp_path):
    rows = [f"{kind},{bits},{bits}" for kind in KINDS for bits in WIDTHS]
    text = "\n".join(["operator,bits,ms", *rows, "pointwise,3,0.25", "pool,,0.5", "sum,,0.125"])
    costs = costs_of(small_models.residual_network(), budget=latencies(tmp_path, text))
    table = table_of(costs, "latency_ms")
    assert table["pointwise"][3] == 0.25
    assert table["pointwise"][4] == pytest.approx(4 * 9 * 7 * 64 / 1e6)
    widths = {name: max(entries) for name, entries in table.items()}
    layers = sum(table[name][bits] for name, bits in widths.items())
    assert cost(costs, widths, "latency_ms") == pytest.approx(layers + 0.625)


def test_the_table_of_the_package_knows_every_kind_and_width():
    table = read_latencies(latency_file(HOST, "android"))
    for dtype in ("int8", "int16"):
        of_type = table.of_type(dtype, is_one=False)
        for kind in (*KINDS, "TRANSPOSE_CONV"):
            for bits in range(2, 9):
                assert of_type.layer("any", kind=kind, bits=bits, multiplications=1000) > 0


def test_a_bound_in_milliseconds_leads_away_from_packed_convolutions():
    """The package's table: at 4 bits convolutions leave XNNPACK and dense layers do not."""
    model = small_models.residual_network()
    times = table_of(
        costs_of(model, budget=Budget(latency_ms=9.0), first_last_bits=None), "latency_ms"
    )
    assert times["stem"][4] > 2 * times["stem"][8]
    assert times["classes"][4] < 2 * times["classes"][8]


KINDS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("operator,ms\na,1", r"no column \['bits'\]"),
        ("operator,bits,ms\nCONV_2D,8,fast", "line 2"),
        ("operator,bits,ms\nCONV_2D,8,-1", "must be a time"),
        ("operator,bits,ms\nCONV_2D,8,1", "no row for layer 'depthwise' at 2 bits"),
    ],
)
def test_bad_latency_tables(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        costs_of(small_models.residual_network(), budget=latencies(tmp_path, text))
