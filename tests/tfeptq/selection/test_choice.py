"""Whole jobs with candidates: sensitivities, budgets, frontier, accuracy target."""

from __future__ import annotations

import dataclasses
import re

import keras
import numpy as np
import pytest
from keras import layers as L

import tfeptq
import tflite_export
from tests.tfeptq import small_models
from tests.tfeptq.selection.programs import separable
from tfeptq.hessian import float_scores
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import prepare
from tfeptq.selection.choice import Choice
from tfeptq.selection.factor import weights
from tfeptq.selection.prepare import labelled_loss, prepare_choice
from tfeptq.selection.search import hold_accuracy, searched

CANDIDATES = {
    "weight_bits": (2, 3, 4, 8),
    "target": "ethos-u",
    "rounding": "nearest",
    "samples": 32,
}
METHODS = ("label_free", "hawq_v2", "inter_layer")


def configuration(**settings):
    return tfeptq.QuantizationConfig(**{**CANDIDATES, **settings})


def chosen(canonical, samples, config):
    return prepare_choice(QuantizationPlan.of(canonical, config), samples, config)


@pytest.fixture(scope="module")
def model():
    return small_models.residual_network()


@pytest.fixture(scope="module", params=METHODS)
def choice(request, model):
    config = configuration(sensitivity=request.param)
    return chosen(prepare(model), [small_models.images(32)], config)


def test_fewer_bits_lose_more(choice):
    for layer, losses in choice.sensitivity.losses.items():
        values = [losses[bits] for bits in sorted(losses)]
        assert values == sorted(values, reverse=True), layer
        assert values[-1] > 0.0


def test_the_frontier_runs_from_all_narrow_to_all_wide(choice):
    points = choice.frontier("weight_bytes")
    assert set(points[0].widths.values()) == {2, 8}
    assert set(points[-1].widths.values()) == {8}
    costs = [point.costs["weight_bytes"] for point in points]
    losses = [point.loss for point in points]
    assert costs == sorted(costs)
    assert losses == sorted(losses, reverse=True)
    assert list(points[0].widths) == list(choice.sensitivity.losses)


def test_predictions_say_what_they_rest_on(choice):
    method, _, source = choice.source.partition(": ")
    assert method == choice.sensitivity.method
    assert method == "label_free" or re.search(r"standard error .* at most \d+%", source)


def test_an_unknown_cost_is_refused(choice):
    with pytest.raises(ValueError, match="'latency_ms' is no cost to choose by"):
        choice.frontier("latency_ms")


def test_the_activation_budget_is_checked(choice):
    with pytest.raises(ValueError, match="activation_bytes=10 cannot be met"):
        choice.within({"activation_bytes": 10})
    widest = choice.within({"activation_bytes": 1e9})
    assert set(widest.values()) == {8}


def test_the_ordering_rule_gives_flatter_layers_no_more_bits(model):
    config = configuration(sensitivity="hawq_v2", ordered_widths=True)
    choice = chosen(prepare(model), [small_models.images(32)], config)
    free = [name for _, name in choice.program.order]
    for point in choice.frontier("weight_bytes"):
        bits = [point.widths[name] for name in free]
        assert bits == sorted(bits)


def test_the_augmented_score_adds_half_of_every_positive_pair_term(model):
    config = configuration(sensitivity="inter_layer", weight_bits=(2, 4))
    found = chosen(prepare(model), [small_models.images(32)], config).sensitivity
    matrix = found.pairs.terms
    np.testing.assert_allclose(matrix, matrix.T)
    assert np.linalg.eigvalsh(matrix).min() > -1e-6 * matrix.max()
    name, bits = candidate = ("pointwise", 2)
    own = found.candidates.index(candidate)
    same_width = [
        index
        for index, (layer, width) in enumerate(found.candidates)
        if layer != name and width in (bits, 8)
    ]
    expected = matrix[own, own] / 2 + np.maximum(matrix[own, same_width], 0).sum() / 2
    assert found.losses[name][bits] == pytest.approx(expected)


def test_a_budget_is_met_and_the_file_carries_the_widths(tmp_path, model):
    points = tfeptq.pareto_frontier(model, small_models.images(32), configuration())
    middle = points[len(points) // 2]
    budget = tfeptq.Budget(weight_bytes=int(middle.costs["weight_bytes"]))
    config = configuration(budget=budget, rounding="optq", measured_moves=0)
    quantized = tfeptq.quantize(model, small_models.images(32), config)
    chosen = {name: bits for name, (bits, _) in quantized.bit_widths.items() if bits}
    assert chosen == middle.widths
    assert len(set(chosen.values())) > 1
    result = tflite_export.export(quantized, tmp_path / "m.tflite", target="ethos-u")
    assert {layer.name: layer.weight_bits for layer in result.layers if layer.weight_bits} == chosen
    assert middle.file_bytes == pytest.approx(result.size_bytes, rel=0.03)


def test_measured_moves_never_make_a_choice_worse(model):
    canonical, samples = prepare(model), [small_models.images(32)]
    plain, moved = (
        chosen(canonical, samples, configuration(measured_moves=moves)) for moves in (0, 6)
    )
    limit = {"weight_bytes": 810}
    before, after = plain.within(limit), moved.within(limit)
    assert moved.measure(after) <= moved.measure(before)
    assert moved.point(after).costs["weight_bytes"] <= 810
    uniform = {v: 8 if v[1] in ("stem", "classes") else 4 for v in before}
    assert moved.point(uniform).costs["weight_bytes"] <= 810
    assert moved.measure(after) <= moved.measure(uniform)


@pytest.mark.parametrize(("rounding", "moves"), [("nearest", 32), ("eptq", 0)])
def test_what_is_not_trained_is_measured(rounding, moves):
    canonical, samples = prepare(small_models.chain()), [small_models.images(32)]
    config = configuration(rounding=rounding, sensitivity="label_free")
    assert chosen(canonical, samples, config).moves == moves
    config = dataclasses.replace(config, measured_moves=5)
    assert chosen(canonical, samples, config).moves == 5


def test_candidates_without_a_goal_and_a_frontier_without_candidates_are_refused(model):
    with pytest.raises(ValueError, match="nothing says which to take"):
        tfeptq.quantize(model, small_models.images(32), configuration())
    with pytest.raises(ValueError, match="leaves nothing to choose"):
        tfeptq.pareto_frontier(model, small_models.images(32), configuration(weight_bits=4))


def test_sensitivities_are_kept_for_every_budget(tmp_path, monkeypatch):
    model = small_models.chain()
    config = configuration(sensitivity="hawq_v2")
    first = tfeptq.pareto_frontier(model, small_models.images(32), config, checkpoint_dir=tmp_path)
    monkeypatch.setattr("tfeptq.sensitivity.hawq_v2.average_traces", None)
    config = dataclasses.replace(config, budget=tfeptq.Budget(weight_bytes=9), steps=7)
    second = tfeptq.pareto_frontier(model, small_models.images(32), config, checkpoint_dir=tmp_path)
    assert first == second


def labelled(model, loss):
    """A copy that is compiled, with images and one class an image."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.compile(loss=loss)
    images = small_models.images(40)
    return copy, images, np.random.default_rng(7).integers(0, copy.output_shape[-1], 40)


def test_labels_choose_by_the_loss_that_the_model_was_compiled_with(tmp_path):
    model = small_models.chain()
    config = configuration(sensitivity="hawq_v2", first_last_bits=None)
    found = {}
    for loss in ("sparse_categorical_crossentropy", "mean_squared_error"):
        copy, images, labels = labelled(model, loss)
        if loss == "mean_squared_error":
            labels = np.eye(copy.output_shape[-1])[labels]
        found[loss] = tfeptq.pareto_frontier(
            copy, images, config, labels=labels, checkpoint_dir=tmp_path
        )
    plain = tfeptq.pareto_frontier(copy, images, config, checkpoint_dir=tmp_path)
    losses = [points[0].loss for points in (plain, *found.values())]
    assert len({round(loss, 6) for loss in losses}) == 3
    budget = tfeptq.Budget(weight_bytes=int(plain[0].costs["weight_bytes"]) + 60)
    config = dataclasses.replace(config, budget=budget, measured_moves=0)
    quantized = tfeptq.quantize(copy, images, config, labels=labels)
    assert "mean_squared_error with labels" in quantized.choice.source
    used = quantized.report.samples
    assert (used["rounding errors"], used["Hessian traces"], used["ranges"]) == (32, 32, 32)


@pytest.mark.parametrize(
    ("settings", "count", "message"),
    [
        ({"sensitivity": "label_free"}, 40, "sensitivity='hawq_v2' alone"),
        ({"sensitivity": "hawq_v2", "weight_bits": 4}, 40, "leaves nothing to choose"),
        ({"sensitivity": "hawq_v2"}, 39, "holds 40 samples and 39 labels"),
    ],
)
def test_labels_that_nothing_takes_are_refused(model, settings, count, message):
    copy, images, labels = labelled(model, "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=message):
        tfeptq.pareto_frontier(copy, images, configuration(**settings), labels=labels[:count])


def test_too_few_labels_of_batches_are_refused(model):
    copy, images, labels = labelled(model, "sparse_categorical_crossentropy")
    batches = (images[start : start + 8] for start in range(0, 40, 8))
    config = configuration(sensitivity="hawq_v2")
    with pytest.raises(ValueError, match="holds 40 samples and 9 labels"):
        tfeptq.pareto_frontier(copy, batches, config, labels=labels[:9])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full(40, 9), "classes are whole numbers from 0 to 4, received 9 to 9"),
        (np.full(40, -1), "received -1 to -1"),
        (np.full(40, 0.5), "whole numbers"),
        (np.zeros((40, 7)), r"labels of shape \(40, 7\) do not fit the loss 'sparse_categorical"),
        (np.zeros((0,)), "labels hold nothing"),
        (np.full(40, np.nan), "labels hold NaN"),
        ([[1], [1, 2]] * 20, "a list of parts of unequal shapes"),
    ],
)
def test_labels_that_do_not_fit_the_loss_are_refused_before_any_work(model, labels, message):
    copy, _, _ = labelled(model, "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=message) as refusal:
        labelled_loss(copy, labels, configuration(sensitivity="hawq_v2"))
    assert "\n" not in str(refusal.value)


def test_classes_that_the_loss_ignores_are_no_mistake(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    copy, _, labels = labelled(model, loss)
    labels = np.where(np.arange(len(labels)) < 5, -1, labels)
    assert labelled_loss(copy, labels, configuration(sensitivity="hawq_v2")) is not None


def test_labels_without_a_compiled_loss_are_refused(model):
    config = configuration(sensitivity="hawq_v2")
    with pytest.raises(ValueError, match="is not compiled with one"):
        tfeptq.pareto_frontier(model, small_models.images(40), config, labels=np.zeros(40))


def test_a_shared_layer_is_one_choice():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((9, 7, 3))
    shared = L.Conv2D(3, 3, padding="same", name="shared")
    model = keras.Model(inputs, shared(shared(L.Conv2D(3, 1, name="first")(inputs))))
    config = configuration(first_last_bits=None, budget=tfeptq.Budget(weight_bytes=90))
    widths = tfeptq.quantize(model, small_models.images(32), config).bit_widths
    assert widths["shared"][0] in (3, 4)
    assert [name for name, (bits, _) in widths.items() if bits] == ["first", "shared"]


@pytest.mark.parametrize("search", ["frontier", "layers"])
def test_an_accuracy_target_is_held_by_fewer_bytes(search):
    model = small_models.chain()
    target = tfeptq.AccuracyTarget(small_models.Agreement(model), relative=0.9, search=search)
    config = configuration(accuracy_target=target, first_last_bits=None)
    quantized = tfeptq.quantize(model, small_models.images(32), config)
    report = quantized.accuracy_search
    assert report.comparison.holds
    assert report.comparison.score >= 0.9
    assert target.metric(quantized).mean() == pytest.approx(report.comparison.score)
    assert report.evaluations >= 3
    assert min(bits for bits, _ in quantized.bit_widths.values() if bits) < 8


def test_a_search_scores_the_float_model_once(monkeypatch):
    model = small_models.chain()
    calls = []
    attention = float_scores.channel_attention
    monkeypatch.setattr(
        float_scores,
        "channel_attention",
        lambda *args, **settings: calls.append(1) or attention(*args, **settings),
    )
    target = tfeptq.AccuracyTarget(small_models.Agreement(model), relative=0.8, search_steps=1)
    settings = {"weight_bits": (4, 8), "rounding": "eptq", "steps": 2}
    config = configuration(accuracy_target=target, sensitivity="label_free", **settings)
    quantized = tfeptq.quantize(model, small_models.images(32), config)
    assert quantized.accuracy_search.evaluations >= 2
    assert len(calls) == 1


def test_an_accuracy_target_out_of_reach_is_refused():
    model = small_models.chain()
    target = tfeptq.AccuracyTarget(small_models.Agreement(model), relative=1.0)
    config = configuration(weight_bits=(2,), first_last_bits=None, accuracy_target=target)
    with pytest.raises(ValueError, match="cannot be reached: even the best"):
        tfeptq.quantize(model, small_models.images(32), config)


def searched_by_steps_back(**settings):
    """Widths of eight layers whose sum promises to hold from 25 on, and holds from 40 on."""
    names = "abcdefgh"
    losses = {
        name: {2: 9.0 + i, 3: 3.0 + i, 4: 1.0 + i / 9, 8: 0.0} for i, name in enumerate(names)
    }
    sizes = {"weight_bytes": {name: {2: 2, 3: 3, 4: 4, 8: 8} for name in names}}
    choice = Choice(separable(losses, sizes))

    def metric(subject):
        if subject == "float":
            return 1.0
        config, is_final = subject
        return float(sum(config.weight_bits.values()) >= (40 if is_final else 25))

    config = configuration(accuracy_target=tfeptq.AccuracyTarget(metric), **settings)

    def learn(widths, recipe, is_final):
        return choice.configured(recipe, widths), is_final

    (found, _), report = hold_accuracy("float", choice, config, learn)
    return sum(found.weight_bits.values()), report


def test_widths_that_miss_after_the_whole_recipe_make_way_for_wider_ones():
    with pytest.warns(UserWarning, match="misses it: trying wider ones"):
        found, report = searched_by_steps_back()
    assert 40 <= found <= 42
    assert report.comparison.holds
    assert report.steps_back >= 2


@pytest.mark.filterwarnings("ignore:widths that promised")
def test_steps_back_stay_within_a_budget():
    # Steps that double would go past it.
    found, report = searched_by_steps_back(budget=tfeptq.Budget(weight_bytes=41))
    assert 40 <= found <= 41
    assert report.comparison.holds
    for limit in (39, 20):
        with pytest.raises(ValueError, match=f"weight_bytes={limit} and the accuracy target excl"):
            searched_by_steps_back(budget=tfeptq.Budget(weight_bytes=limit))


class Content:
    """A judge that any widths please."""

    def holds(self, widths):
        return True


@pytest.mark.parametrize("search", ["frontier", "layers"])
def test_the_search_makes_small_what_is_asked_for(search):
    # Three bits are the fastest, two the smallest.
    milliseconds = {2: 2.0, 3: 1.0, 8: 3.0}
    names = ("a", "b")
    tables = {
        "weight_bytes": {name: {2: 2, 3: 3, 8: 8} for name in names},
        "latency_ms": dict.fromkeys(names, milliseconds),
    }
    losses = {name: {2: 1.0, 3: 0.5, 8: 0.1} for name in names}
    choice = Choice(separable(losses, tables))
    for cost, bits in (("weight_bytes", 2), ("latency_ms", 3)):
        target = tfeptq.AccuracyTarget(max, search=search, cost=cost)
        found = searched(choice, target, Content().holds).widths(0)
        assert found == {weights(name): bits for name in names}
