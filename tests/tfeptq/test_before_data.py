"""What needs no data is refused, or said, before any data is touched."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import tfeptq
import tflite_export
from tests.tfeptq import small_models
from tfeptq.before_data import look_ahead, require_ends
from tfeptq.config import QuantizationConfig
from tfeptq.goals import AccuracyTarget, Budget
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import prepare
from tfeptq.selection.outline import outline
from tfeptq.selection.skeleton import peak_activation_bytes, skeleton

SHAPE = (8, 8, 3)


def network(*, head=4, name="net"):
    inputs = keras.Input(SHAPE, name="image")
    x = L.Conv2D(8, 3, activation="relu", name="first")(inputs)
    x = L.Conv2D(8, 3, name="middle")(x)
    x = L.Conv2D(8, 3, name="wide")(x)
    x = L.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(inputs, L.Dense(head, name="head")(x), name=name)


def images(count=16, shape=SHAPE):
    return np.random.default_rng(0).uniform(0, 1, (count, *shape)).astype("float32")


def untouchable():
    """Calibration data that must not be read."""
    raise AssertionError("the data were touched")
    yield


def clipped_and_attended():
    """A ReLU6 that stands alone, slopes, constants, a 16-bit island, a softmax: all but few."""
    inputs = keras.Input((9, 7, 4))
    x = L.Conv2D(8, 3, padding="same", name="a")(inputs)
    y = L.ReLU(6.0)(L.MaxPooling2D()(x))
    y = L.UpSampling2D(2, interpolation="bilinear")(y)
    y = L.PReLU(shared_axes=[1, 2])(L.ZeroPadding2D(((0, 1), (0, 1)))(y))
    x = L.Add()([x, y])
    x = ops.maximum(x, np.linspace(-1, 1, 8, dtype="float32"))
    x = L.Concatenate()([x, L.LeakyReLU(0.1)(L.DepthwiseConv2D(3, padding="same")(x))])
    x = L.Permute((2, 1, 3))(L.Cropping2D(1)(x))
    x = L.Activation("silu")(L.AveragePooling2D(2)(x))
    x = L.Add()([L.Activation("softplus")(x), L.Activation("mish")(x)])
    return keras.Model(inputs, L.Softmax()(L.Dense(3)(L.Flatten()(x))))


NETWORKS = {
    "residual": small_models.residual_network,
    "plain": network,
    "attended": clipped_and_attended,
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("activation_bits", [8, 16])
def test_an_outline_has_the_operators_of_the_whole_graph(name, activation_bits):
    model = prepare(NETWORKS[name]())
    plan = QuantizationPlan.of(model, QuantizationConfig(activation_bits=activation_bits))
    graphs = outline(plan), skeleton(plan)
    found, expected = (
        [
            (
                operator.kind,
                dict(operator.attributes),
                [graph.tensors[tensor].shape for tensor in operator.inputs],
                [graph.tensors[tensor].dtype for tensor in operator.inputs],
                graph.tensors[operator.outputs[0]].shape,
                graph.tensors[operator.outputs[0]].dtype,
            )
            for operator in graph.operators
            if operator.kind != "QUANTIZE"
        ]
        for graph in graphs
    )
    assert found == expected
    assert peak_activation_bytes(graphs[0]) <= peak_activation_bytes(graphs[1])


def looked_ahead(model, config):
    return look_ahead(QuantizationPlan.of(model, config), config)


def candidates(**settings):
    settings.setdefault("weight_bits", (2, 4, 8))
    settings.setdefault("rounding", "nearest")
    return QuantizationConfig(samples=16, **settings)


SMALL = {
    "weight bytes": (Budget(weight_bytes=400), {}, r"weight_bytes=400 .* first 248 at 8 bits"),
    "operations": (Budget(bit_operations=10), {}, "bit_operations=10 .* at 8 bits"),
    "activations": (Budget(activation_bytes=100), {}, r"activation_bytes=100 .* first 288"),
    "all of them": (
        Budget(weight_bytes=10, activation_bytes=10),
        {},
        "cannot be met: .* bytes",
    ),
    "weights of both": (
        Budget(weight_bytes=400),
        {"activation_bits": (8, 16)},
        r"weight_bytes=400 .*the largest parts are first 248 at 8 bits",
    ),
    "activations of both": (
        Budget(activation_bytes=100),
        {"activation_bits": (4, 8)},
        r"activation_bytes=100 .*the largest parts are first_relu 288 at 4 bits, image 192",
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_budgets_that_nothing_meets_are_refused_with_the_least_and_where_it_comes_from(name):
    budget, settings, message = SMALL[name]
    config = candidates(target="ethos-u", budget=budget, **settings)
    with pytest.raises(ValueError, match=message) as refusal:
        tfeptq.quantize(network(), untouchable(), config)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("bits", "ends", "refused"),
    [
        (16, ("uint8", None), "input 'image' is int16 and cannot be uint8"),
        (16, ("float32", "int8"), "output 'head' is int16 and cannot be int8"),
        ({"image": 16}, ("uint8", None), "input 'image' is int16"),
        ({"image": 16}, ("float32", "uint8"), None),
        ((8, 16), ("uint8", "uint8"), None),
        (8, ("uint8", "uint8"), None),
        (16, ("float32", None), None),
    ],
)
def test_ends_that_the_export_would_refuse_are_refused_before(bits, ends, refused):
    config = QuantizationConfig(activation_bits=bits)
    types = dict(zip(("input_type", "output_type"), ends, strict=True))
    if refused is None:
        require_ends(network(), untouchable(), config, **types)
        return
    with pytest.raises(ValueError, match=refused):
        require_ends(network(), untouchable(), config, **types)


@pytest.mark.parametrize("cost", ["weight_bytes", "bit_operations", "activation_bytes"])
@pytest.mark.parametrize("activation_bits", [8, (8, 16)])
def test_the_least_that_is_said_is_the_least(cost, activation_bits):
    model = prepare(network())

    def ask(limit):
        budget = Budget(**{cost: limit})
        looked_ahead(model, candidates(budget=budget, activation_bits=activation_bits))

    with pytest.raises(ValueError, match="cannot be met") as refusal:
        ask(1)
    said = re.search(r"smallest possible is ([\d.e+]+)|met: (\d+) bytes", str(refusal.value))
    least = float(said[1] or said[2])
    ask(least * 1.00001)
    with pytest.raises(ValueError, match="cannot be met"):
        ask(least * 0.99)


def test_a_budget_that_look_up_tables_alone_meet_says_so():
    inputs = keras.Input((24, 24, 8))
    x = L.Conv2D(64, 3, name="large")(L.Conv2D(64, 3, name="first")(inputs))
    model = keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(x)))
    settings = {"weight_bits": (2, 8), "target": "microcontroller", "first_last_bits": None}
    with pytest.raises(ValueError, match=r"compressed=True counts (\d+) bytes") as refusal:
        looked_ahead(prepare(model), candidates(budget=Budget(weight_bytes=16_000), **settings))
    least = int(re.search(r"counts (\d+)", str(refusal.value))[1])
    for limit, compressed in ((least, True), (least - 1, True)):
        budget = Budget(weight_bytes=limit, compressed=compressed)
        config = candidates(budget=budget, **settings)
        if limit == least:
            looked_ahead(prepare(model), config)
        else:
            with pytest.raises(ValueError, match="cannot be met") as refusal:
                looked_ahead(prepare(model), config)
            assert "compressed=True" not in str(refusal.value)


def seven_axes():
    inputs = keras.Input((2, 2, 2, 2, 2, 3))
    x = L.Concatenate()([inputs, inputs])
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))


@pytest.mark.parametrize("target", ["android", "microcontroller"])
def test_ranks_that_a_target_lacks_are_refused_by_the_layer(target):
    with pytest.raises(ValueError, match=r"layer 'concatenate.*CONCATENATION has 7 dimensions"):
        tfeptq.quantize(seven_axes(), untouchable(), QuantizationConfig(target=target))


REFUSED = {
    "a width that is not stored": ({"target": "coral", "weight_bits": 4}, "layer 'middle'"),
    "an unknown layer": ({"weight_bits": {"frist": 4}}, "did you mean 'first'"),
    "an unknown tensor": ({"activation_bits": {"maen": 16}}, "did you mean 'mean'"),
    "operators without 16 bits": ({"target": "coral", "activation_bits": 16}, "8 bits only"),
    "no latency table": (
        {"weight_bits": (2, 8), "budget": Budget(latency_ms=1, latency_table="absent.csv")},
        "absent.csv: no such file",
    ),
    "a metric that fails": (
        {"weight_bits": (2, 8), "accuracy_target": AccuracyTarget(lambda model: 1 / 0)},
        "the metric failed: ZeroDivisionError",
    ),
    "a metric of text": (
        {"weight_bits": (2, 8), "accuracy_target": AccuracyTarget(lambda model: "good")},
        "the metric returned 'good'",
    ),
    "a metric below zero": (
        {"weight_bits": (2, 8), "accuracy_target": AccuracyTarget(lambda model: -1.0)},
        "the metric must be positive",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_no_data_is_refused_before_them(name):
    settings, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        tfeptq.quantize(network(), untouchable(), QuantizationConfig(**settings))


@pytest.mark.parametrize("activation_bits", [8, (8, 16)])
def test_a_frontier_refuses_an_unknown_cost_before_data(activation_bits):
    config = candidates(activation_bits=activation_bits)
    with pytest.raises(ValueError, match="'bytes' is no cost to choose"):
        tfeptq.pareto_frontier(network(), untouchable(), config, cost="bytes")


def test_a_callback_refuses_before_training_begins():
    model = network()
    model.compile("sgd", "mse")
    config = candidates(budget=Budget(weight_bytes=10))
    callback = tfeptq.QuantizationCallback(untouchable(), config)
    with pytest.raises(ValueError, match="the smallest possible is"):
        model.fit(images(), np.zeros((16, 4)), callbacks=[callback], verbose=0)


def enlarged(factor):
    inputs = keras.Input((6, 6, 3), name="image")
    x = L.UpSampling2D(factor, interpolation="bilinear", name="up")(L.Conv2D(4, 3)(inputs))
    return keras.Model(inputs, L.Conv2D(2, 1)(x))


@pytest.mark.filterwarnings("error::UserWarning")
def test_operators_that_vela_leaves_on_the_cpu_are_told_before_training_and_found_in_the_file(
    tmp_path,
):
    config = QuantizationConfig(target="ethos-u", rounding="nearest", samples=16)
    with pytest.warns(UserWarning, match=r"1 known blocker.*RESIZE_BILINEAR \(up\) stays on the"):
        quantized = tfeptq.quantize(enlarged(3), images(shape=(6, 6, 3)), config)
    assert any("RESIZE_BILINEAR (up)" in note for note in quantized.report.warnings)
    result = tflite_export.export(quantized, tmp_path / "m.tflite")
    assert [finding.operator for finding in result.findings] == ["RESIZE_BILINEAR (up)"]
    assert not tflite_export.check(tmp_path / "m.tflite", target="ethos-u").ok
    quiet = tfeptq.quantize(enlarged(2), images(shape=(6, 6, 3)), config)
    assert not any("blocker" in note for note in quiet.report.warnings)


def test_rules_of_coral_are_told_before_training():
    inputs = keras.Input(SHAPE)
    x = L.Conv2D(6, 3, dilation_rate=(1, 2), name="uneven")(inputs)
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))
    with pytest.warns(UserWarning, match=r"CONV_2D \(uneven\) dilations 1 and 2 differ"):
        notes = looked_ahead(prepare(model), QuantizationConfig(target="coral"))
    assert len(notes) == 1


def test_candidates_that_the_target_does_not_store_are_named():
    config = candidates(target="coral", first_last_bits=None, budget=Budget(weight_bytes=10**6))
    with pytest.warns(UserWarning, match=r"does not store 2 and 4 bits in layers 'first', "):
        notes = looked_ahead(prepare(network()), config)
    assert any("and 1 more: they are no candidates there" in note for note in notes)


def test_candidates_that_save_nothing_are_named():
    config = candidates(weight_bits=(2, 3, 4, 8), budget=Budget(weight_bytes=10**6))
    with pytest.warns(UserWarning, match="no more bytes") as told:
        looked_ahead(prepare(network()), config)
    said = [str(found.message) for found in told if found.category is UserWarning]
    assert said == [
        f"weight_bits={bits} of layers 'middle', 'wide' is stored as int4 on target 'android', "
        "where 4 bits take no more bytes"
        for bits in (2, 3)
    ]


@pytest.mark.parametrize(
    ("target", "bits", "message"),
    [
        ("android", 3, "stored as int4 on target 'android', where 4 bits take no more bytes"),
        ("android", 5, "stored as int8 on target 'android', where 8 bits take no more bytes"),
        ("microcontroller", 6, "look-up tables make it smaller"),
        ("android", 4, None),
        ("ethos-u", 3, None),
    ],
)
@pytest.mark.filterwarnings("error::UserWarning")
def test_fixed_widths_that_no_container_holds_are_in_the_report(target, bits, message):
    config = QuantizationConfig(weight_bits=bits, target=target)
    notes = looked_ahead(prepare(network()), config)
    assert len(notes) == (message is not None)
    assert message is None or message in notes[0]


def test_candidates_of_activations_alone_can_have_a_budget():
    config = candidates(weight_bits=8, activation_bits=(8, 16), budget=Budget(activation_bytes=700))
    quantized = tfeptq.quantize(network(), images(), config)
    assert {bits for bits, _ in quantized.bit_widths.values()} == {8, None}
    assert quantized.bit_widths["first"][1] == 8
    assert quantized.bit_widths["head"][1] == 16


@pytest.mark.parametrize("rounding", ["nearest", "optq", "eptq"])
def test_a_model_without_weights_is_quantized_by_its_ranges(rounding, tmp_path):
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, L.MaxPooling2D()(L.ReLU()(inputs)))
    config = QuantizationConfig(rounding=rounding, samples=16, steps=2)
    quantized = tfeptq.quantize(model, images(), config)
    tflite_export.export(quantized, tmp_path / "m.tflite")
    found = tflite_export.run(tmp_path / "m.tflite", images())
    np.testing.assert_allclose(found, model.predict(images(), verbose=0), atol=0.01)


def test_a_model_without_weights_has_no_widths_to_choose():
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, L.ReLU()(inputs))
    with pytest.raises(ValueError, match="no layers with weights to choose widths for"):
        tfeptq.quantize(model, untouchable(), candidates(budget=Budget(weight_bytes=9)))
