"""Widths of weights and activations chosen together: groups, costs, budgets, whole jobs."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from keras import layers as L

import tfeptq
import tflite_export
from tests.tfeptq import small_models
from tfeptq.cli.main import main
from tfeptq.hessian.float_scores import FloatScores
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import prepare
from tfeptq.selection.choice import prepare_choice
from tfeptq.selection.joint_costs import activations, weights
from tfeptq.selection.search import hold_accuracy
from tfeptq.selection.skeleton import file_bytes, peak_activation_bytes, skeleton
from tflite_export.graph.kinds import is_weighted

IMAGES = small_models.images(32)


def configuration(**settings):
    common = {
        "weight_bits": (2, 4, 8),
        "activation_bits": (4, 8, 16),
        "target": "ethos-u",
        "rounding": "nearest",
        "sensitivity": "label_free",
        "samples": 32,
    }
    return tfeptq.QuantizationConfig(**{**common, **settings})


def chosen(model, config):
    return prepare_choice(QuantizationPlan.of(model, config), [IMAGES], config)


@pytest.fixture(scope="module")
def model():
    return prepare(small_models.residual_network())


@pytest.fixture(scope="module")
def choice(model):
    return chosen(model, configuration())


@pytest.fixture(scope="module")
def ranges(model):
    return FloatScores(model, [IMAGES], 0).ranges


def widths_of(of_weights, of_groups):
    """Widths as the choice keys them."""
    names = ("stem", "depthwise", "pointwise", "skip", "classes")
    layers = {weights(name): of_weights.get(name, 8) for name in names}
    return layers | {activations(name): bits for name, bits in of_groups.items()}


def test_additions_and_concatenations_tie_what_they_read(model):
    groups = QuantizationPlan.of(model, configuration()).groups
    assert {name: set(group.layers) for name, group in groups.items()} == {
        "image": {"image"},
        "stem_relu": {"stem", "stem_relu", "pointwise", "sum", "sum_relu", "skip", "joined"},
        "depthwise_relu6": {"depthwise", "depthwise_relu6"},
        "mean": {"mean"},
        "classes": {"classes", "classes_softmax"},
    }


def test_ends_and_fixed_codes_keep_eight_bits_and_targets_their_operators(model):
    groups = QuantizationPlan.of(model, configuration()).groups
    assert groups["mean"].widths == groups["stem_relu"].widths == (4, 8, 16)
    assert groups["image"].widths == groups["classes"].widths == (8, 16)
    narrow = QuantizationPlan.of(model, configuration(activation_bits=(4, 6))).groups
    assert narrow["image"].widths == (8,)
    assert narrow["depthwise_relu6"].widths == (4, 6)
    coral = QuantizationPlan.of(model, configuration(target="coral")).groups
    assert coral["stem_relu"].widths == (4, 8)
    with pytest.raises(ValueError, match=r"layer 'sum', activation_bits=16"):
        QuantizationPlan.of(model, configuration(target="coral", activation_bits=(16,)))


def test_widths_are_checked_before_any_work(model):
    QuantizationPlan.of(model, configuration())
    QuantizationPlan.of(model, configuration(activation_bits={"mean": 4}))
    with pytest.raises(ValueError, match="layer 'sum', activation_bits=16"):
        QuantizationPlan.of(model, configuration(target="coral", activation_bits=(16,)))
    with pytest.raises(ValueError, match="layer 'depthwise', weight_bits=4"):
        QuantizationPlan.of(model, configuration(target="coral", weight_bits=(2, 4)))


MIXES = (
    {"image": 8, "stem_relu": 8, "depthwise_relu6": 8, "mean": 8, "classes": 8},
    {"image": 16, "stem_relu": 8, "depthwise_relu6": 16, "mean": 4, "classes": 16},
    {"image": 8, "stem_relu": 16, "depthwise_relu6": 8, "mean": 16, "classes": 8},
    {"image": 8, "stem_relu": 4, "depthwise_relu6": 4, "mean": 4, "classes": 8},
)


@pytest.mark.parametrize("mix", MIXES)
def test_costs_are_those_of_the_integer_graph(model, choice, ranges, mix):
    widths = widths_of({"pointwise": 2, "skip": 4}, mix)
    point = choice.point(widths)
    config = choice.configured(configuration(), widths)
    graph = skeleton(QuantizationPlan.of(model, config, ranges))
    assert point.costs["activation_bytes"] == peak_activation_bytes(graph)
    assert point.file_bytes == pytest.approx(file_bytes(graph, "ethos-u"), rel=0.03)
    bits = {
        operator.layer: graph.tensors[operator.inputs[0]].bits
        for operator in graph.operators
        if is_weighted(operator.kind)
    }
    multiplications = {
        "stem": 9 * 7 * 8 * 27,
        "depthwise": 9 * 7 * 8 * 9,
        "pointwise": 9 * 7 * 8 * 8,
        "skip": 4 * 3 * 4 * 32,
        "classes": 5 * 12,
    }
    expected = sum(
        count * config.weight_bits[name] * bits[name] for name, count in multiplications.items()
    )
    assert point.costs["bit_operations"] == expected


@pytest.mark.parametrize("method", ["label_free", "hawq_v2", "inter_layer"])
def test_fewer_bits_lose_more(model, method):
    config = configuration(sensitivity=method, weight_bits=8)
    found = chosen(model, config)
    same = dict.fromkeys(("image", "stem_relu", "depthwise_relu6", "mean", "classes"), 8)
    for name in same:
        allowed = QuantizationPlan.of(model, config).groups[name].widths
        losses = [found.point(widths_of({}, {**same, name: bits})).loss for bits in allowed]
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < losses[0]


def test_a_bound_of_activation_bytes_is_met_by_the_graph(model, choice, ranges):
    free = choice.point(choice.within({"weight_bytes": 1e9}))
    assert set(free.activation_widths.values()) == {16}
    limit = 0.7 * free.costs["activation_bytes"]
    config = choice.configured(configuration(), choice.within({"activation_bytes": limit}))
    assert set(config.activation_bits.values()) >= {8, 16}
    assert peak_activation_bytes(skeleton(QuantizationPlan.of(model, config, ranges))) <= limit


def test_several_bounds_at_once_and_one_that_cannot_be_met(choice):
    limits = {"weight_bytes": 800, "activation_bytes": 2600, "bit_operations": 1.1e6}
    point = choice.point(choice.within(limits))
    assert all(point.costs[name] <= limit for name, limit in limits.items())
    with pytest.raises(
        ValueError, match="activation_bytes=99 cannot be met: the smallest possible"
    ):
        choice.within({"weight_bytes": 800, "activation_bytes": 99})


@pytest.mark.parametrize("cost", ["bit_operations", "activation_bytes"])
def test_frontiers_fall(choice, cost):
    points = choice.frontier(cost)
    costs, losses = [p.costs[cost] for p in points], [p.loss for p in points]
    assert costs == sorted(costs)
    assert losses == sorted(losses, reverse=True)
    assert len(points) > 1


def test_what_is_chosen_is_learned_and_written(tmp_path, model):
    keras.utils.set_random_seed(0)
    budget = tfeptq.Budget(bit_operations=1_000_000, weight_bytes=900)
    config = configuration(activation_bits=(4, 6, 8), budget=budget)
    quantized = tfeptq.quantize(small_models.residual_network(), IMAGES, config)
    widths = quantized.bit_widths
    assert {bits for _, bits in widths.values()} > {8}
    point = quantized.choice.point_of(widths)
    assert point.costs["bit_operations"] <= 1_000_000
    result = tflite_export.export(quantized, tmp_path / "m.tflite", target="ethos-u")
    assert result.size_bytes == pytest.approx(point.file_bytes, rel=0.03)
    written = {layer.name: layer.activation_bits for layer in result.layers}
    assert written["depthwise"] == point.activation_widths["depthwise"]


def test_an_accuracy_target_lowers_the_cost_that_is_asked_for(choice):
    def metric(subject):
        """1 of the float model; configurations lose by every narrow width."""
        if subject == "float":
            return 1.0
        widths = [*subject.weight_bits.values(), *subject.activation_bits.values()]
        return 1.0 - 0.02 * sum(bits < 8 for bits in widths)

    target = tfeptq.AccuracyTarget(metric, 0.9, cost="bit_operations")
    config = configuration(accuracy_target=target)
    found, report = hold_accuracy("float", choice, config, lambda fixed, is_final: fixed)
    assert report.comparison.holds
    assert metric(found) >= 0.9
    assert found.accuracy_target is None
    widths = {name: (bits, found.activation_bits[name]) for name, bits in found.weight_bits.items()}
    widths = {name: (None, found.activation_bits[name]) for name in MIXES[0]} | widths
    cost = choice.point_of(widths).costs["bit_operations"]
    cheaper = [p for p in choice.frontier("bit_operations") if p.costs["bit_operations"] < cost]
    assert cheaper
    cheapest = choice.configured(config, choice.pareto("bit_operations").widths(len(cheaper) - 1))
    assert metric(cheapest) < 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ordered_widths": True}, "ordered_widths orders weights"),
        (
            {"accuracy_target": tfeptq.AccuracyTarget(np.mean, search="layers")},
            "search='layers'",
        ),
        ({"budget": tfeptq.Budget(latency_ms=1.0, latency_table="t.csv")}, "8-bit activations"),
    ],
)
def test_what_does_not_go_with_activations_is_refused_at_once(model, settings, message):
    with pytest.raises(ValueError, match=message):
        chosen(model, configuration(**settings))


def test_candidates_of_activations_on_the_command_line(tmp_path, capsys):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((9, 7, 3))
    x = L.Conv2D(4, 3, activation="relu", name="one")(inputs)
    x = L.Conv2D(5, 2, activation="relu", name="two")(x)
    keras.Model(inputs, L.Dense(5)(L.Flatten()(x))).save(tmp_path / "m.keras")
    np.savez(tmp_path / "x.npz", x=IMAGES)
    common = [str(tmp_path / "m.keras"), "--calibration", str(tmp_path / "x.npz")]
    common += ["--activation-bits", "4,8", "--sensitivity", "label_free", "--samples", "32"]
    assert main(["frontier", *common, "--cost", "bit_operations", "--json"]) == 0
    points = json.loads(capsys.readouterr().out)
    assert points[0]["activation_widths"]["one"] == 4
    assert points[-1]["activation_widths"]["one"] == 8
    output = ["--output", str(tmp_path / "m.tflite"), "--rounding", "nearest"]
    assert main(["quantize", *common, *output]) == 2
    assert "add --max-weight-bytes" in capsys.readouterr().err
