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
from tfeptq.selection.choice import Choice
from tfeptq.selection.factor import activations, weights
from tfeptq.selection.memory import STEP
from tfeptq.selection.prepare import prepare_choice
from tfeptq.selection.prices import prices
from tfeptq.selection.program import Program
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


@pytest.mark.parametrize("width", [8, 16])
def test_places_in_tables_of_functions_are_counted(width):
    """Two tables read the same places, which are eight times an int8 tensor while they are made."""
    inputs = keras.Input(IMAGES.shape[1:], name="image")
    features = keras.layers.Conv2D(4, 3, name="features")(inputs)
    curves = [keras.layers.Activation(kind, name=kind)(features) for kind in ("softplus", "mish")]
    scores = keras.layers.GlobalAveragePooling2D(name="mean")(keras.layers.Add(name="sum")(curves))
    config = configuration(target="android", activation_bits=(8, 16))
    model = prepare(keras.Model(inputs, scores), config)
    choice = chosen(model, config)
    names = QuantizationPlan.of(model, config).groups
    widths = {weights("features"): 8} | {activations(name): width for name in names}
    fixed = choice.configured(config, widths)
    found = FloatScores(model, [IMAGES], 0).ranges
    graph = skeleton(QuantizationPlan.of(model, fixed, found))
    costs = choice.point(widths).costs
    assert costs["activation_bytes"] == peak_activation_bytes(graph)


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


@pytest.mark.parametrize("budget", [None, tfeptq.Budget(compressed=True)])
@pytest.mark.parametrize(("bits", "mix"), [(8, MIXES[0]), (4, MIXES[3])])
def test_fixed_activations_cost_what_they_do_where_they_are_chosen(
    model, ranges, bits, mix, budget
):
    target = "microcontroller" if budget else "ethos-u"
    fixed, chosen = (
        prices(
            QuantizationPlan.of(model, configuration(activation_bits=given, target=target), ranges),
            budget,
        )
        for given in (bits, (4, 8, 16))
    )
    widths = widths_of({"pointwise": 2, "skip": 4}, mix)
    of_weights = {variable: b for variable, b in widths.items() if variable[0] == "weights"}
    left, right = fixed.costs(of_weights), chosen.costs(widths)
    for name in ("weight_bytes", "bit_operations"):
        assert left[name] == right[name] > 0
    assert left["file_bytes"] == pytest.approx(right["file_bytes"], rel=0.03)
    peaks = (max(costs[n] for n in costs if n.startswith(STEP)) for costs in (left, right))
    assert next(peaks) == next(peaks)
    assert not {name for kind, name in fixed.losses if kind == "activations"}
    assert all(len(factor.variables) <= 1 for factor in fixed.factors)


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
    budget = tfeptq.Budget(bit_operations=1_000_000, weight_bytes=400)
    config = configuration(activation_bits=(4, 6, 8), budget=budget, measured_moves=4)
    quantized = tfeptq.quantize(small_models.chain(), IMAGES, config)
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
    found, report = hold_accuracy(
        "float", choice, config, lambda widths, *_: choice.configured(config, widths)
    )
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


def test_weights_follow_the_order_of_their_traces_and_activations_are_free():
    limit = 700_000
    budget = tfeptq.Budget(bit_operations=limit)
    settings = {"ordered_widths": True, "sensitivity": "hawq_v2", "first_last_bits": None}
    config = configuration(activation_bits=(4, 8), budget=budget, **settings)
    quantized = tfeptq.quantize(small_models.residual_network(), IMAGES, config)
    widths, order = quantized.bit_widths, quantized.choice.program.order
    bits = [widths[name][0] for _, name in order]
    assert len(bits) == 5
    assert bits == sorted(bits)
    assert {bits for _, bits in widths.values()} == {4, 8}
    point = quantized.choice.point_of(widths)
    assert point.costs["bit_operations"] <= limit
    free = Choice(Program(quantized.choice.program.losses, quantized.choice.program.factors))
    assert free.program.loss(free.within({"bit_operations": limit})) <= point.loss


def test_layers_and_activations_are_narrowed_by_one_search():
    model = small_models.chain()
    goal = {"search": "layers", "cost": "bit_operations", "relative": 0.85}
    target = tfeptq.AccuracyTarget(small_models.Agreement(model), **goal)
    config = configuration(activation_bits=(4, 8), accuracy_target=target)
    quantized = tfeptq.quantize(model, IMAGES, config)
    assert quantized.accuracy_search.comparison.holds
    assert target.metric(quantized).mean() >= 0.85
    widths = quantized.bit_widths
    assert min(bits for bits, _ in widths.values() if bits) < 8
    assert min(bits for _, bits in widths.values()) == 4
    found = quantized.choice.point_of(widths).costs["bit_operations"]
    widest = quantized.choice.program.widest()
    assert found < quantized.choice.point(widest).costs["bit_operations"]


def test_measured_moves_round_activations_as_well():
    """Without the measurement a choice with rounded activations would look like any other."""
    # All of eight bits are 1.16 million.
    limits, model = {"bit_operations": 1_000_000}, prepare(small_models.chain())
    plain, moved = (
        chosen(model, configuration(activation_bits=(4, 8), measured_moves=moves))
        for moves in (0, 6)
    )
    before, after = plain.within(limits), moved.within(limits)
    assert plain.measure is None
    assert moved.measure(after) <= moved.measure(before)
    assert moved.point(after).costs["bit_operations"] <= 1_000_000
    narrow = {v: 4 if v == activations("stem_relu") else bits for v, bits in before.items()}
    wide = {**narrow, activations("stem_relu"): 8}
    assert moved.measure(narrow) > moved.measure(wide)
    budget = tfeptq.Budget(**limits)
    config = configuration(activation_bits=(4, 8), measured_moves=6, budget=budget)
    quantized = tfeptq.quantize(small_models.chain(), IMAGES, config)
    found, expected = quantized.choice.point_of(quantized.bit_widths), moved.point(after)
    assert (found.widths, found.activation_widths) == (expected.widths, expected.activation_widths)
    assert quantized.report.samples["measured moves"] == 32


def test_labels_weigh_activations_by_the_loss_that_the_model_was_compiled_with():
    model = small_models.chain()
    model.compile(loss="mean_squared_error")
    settings = {"weight_bits": 8, "activation_bits": (4, 8), "sensitivity": "hawq_v2"}
    budget = tfeptq.Budget(bit_operations=1_100_000)
    config = configuration(**settings, budget=budget, measured_moves=2)
    labels = np.eye(5)[np.random.default_rng(0).integers(0, 5, 32)]
    plain, labelled = (
        tfeptq.quantize(model, IMAGES, config, labels=given) for given in (None, labels)
    )
    assert "mean_squared_error with labels" in labelled.choice.source
    narrow = {
        name: [q.choice.program.losses[activations(name)][4] for q in (plain, labelled)]
        for name in ("stem_relu", "depthwise_relu6", "mean")
    }
    # Squares of probabilities bend far less than their divergence.
    assert all(0.0 < after < before for before, after in narrow.values())
    point = labelled.choice.point_of(labelled.bit_widths)
    assert point.costs["bit_operations"] <= 1_100_000


def test_moves_are_asked_for_where_activations_have_candidates():
    assert configuration().moves == 0
    assert configuration(activation_bits=8).moves == 32
    assert configuration(activation_bits=8, ordered_widths=True).moves == 0
    assert configuration(measured_moves=3, ordered_widths=True).moves == 3


ROWS = [
    f"{name},{bits},{bits * factor / 8},{dtype}"
    for name in ("stem", "depthwise", "pointwise", "skip", "classes")
    for bits in (2, 4, 8)
    for dtype, factor in (("int8", 1), ("int16", 3))
]
ROWS += ["sum,,0.5,int8", "sum,,1.5,int16", "mean,,0.25,int8", "mean,,0.75,int16", "rest,,1,"]


def latency_budget(tmp_path, header="operator,bits,ms,activations", rows=ROWS, **limits):
    path = tmp_path / "ms.csv"
    path.write_text("\n".join([header, *rows]))
    return tfeptq.Budget(latency_table=str(path), **limits)


def test_a_layer_takes_the_time_of_the_type_in_which_it_computes(tmp_path):
    budget = latency_budget(tmp_path, latency_ms=9.0)
    config = configuration(target="android", budget=budget, measured_moves=0)
    quantized = tfeptq.quantize(small_models.residual_network(), IMAGES, config)
    widths = quantized.bit_widths
    wide = {name: bits == 16 for name, (_, bits) in widths.items()}
    assert set(wide.values()) == {True, False}
    names = ("stem", "depthwise", "pointwise", "skip", "classes")
    expected = sum(widths[name][0] / 8 * (3 if wide[name] else 1) for name in names)
    expected += 0.5 * (3 if wide["sum"] else 1) + 0.25 * (3 if wide["mean"] else 1) + 1.0
    found = quantized.choice.point_of(widths).costs["latency_ms"]
    assert found == pytest.approx(expected)
    assert found <= 9.0


def test_times_of_one_type_serve_candidates_of_one_and_are_refused_for_both(model, tmp_path):
    rows = [row.rpartition(",")[0] for row in ROWS if not row.endswith("int16")]
    budget = latency_budget(tmp_path, "operator,bits,ms", rows, latency_ms=5.0)
    narrow = configuration(budget=budget, activation_bits=(4, 8))
    choice = chosen(model, narrow)
    assert choice.point(choice.within(budget.limits)).costs["latency_ms"] <= 5.0
    with pytest.raises(ValueError, match=r"no times of int16 kernels.*--activation-bits 8,16"):
        tfeptq.quantize(small_models.residual_network(), None, configuration(budget=budget))


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


def test_a_layer_that_has_int8_kernels_only_keeps_them_among_wider_candidates():
    inputs = keras.Input((9, 5))
    wide = keras.layers.Dense(6, name="wide")(inputs)
    curved = keras.layers.Activation("hard_silu", name="curved")(wide)
    model = keras.Model(inputs, keras.layers.Dense(3, name="last")(curved))
    data = np.random.default_rng(0).normal(size=(32, 9, 5)).astype("float32")
    config = tfeptq.QuantizationConfig(
        rounding="nearest",
        activation_bits=(8, 16),
        sensitivity="label_free",
        budget=tfeptq.Budget(activation_bytes=100_000),
    )
    widths = tfeptq.quantize(model, data, config).bit_widths
    assert widths["curved"][1] == 8
    assert widths["wide"][1] == widths["last"][1] == 16
