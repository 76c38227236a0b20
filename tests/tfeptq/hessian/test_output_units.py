"""Every output, and every part of one, has its share in what is learned and measured."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import tfeptq
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.canonical.logits import feature_parts
from tfeptq.hessian.distillation import SelfDistillation
from tfeptq.hessian.label_free import channel_attention, weight_scores
from tfeptq.hessian.output_units import output_units
from tfeptq.preparation import prepare
from tfeptq.rounding import distillation as distillation_module

IMAGES = np.random.default_rng(0).normal(size=(64, 6, 6, 3)).astype("float32")


def detector(*, joins: bool = False, scale: float = 1.0) -> keras.Model:
    """Two heads that share a stem; the boxes are `scale` times as large."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    stem = L.Conv2D(8, 3, activation="relu", name="stem")(inputs)
    boxes = L.Conv2D(4, 1, name="boxes")(stem)
    scores = L.Conv2D(3, 1, name="scores")(stem)
    model = keras.Model(inputs, L.Concatenate()([boxes, scores]) if joins else [boxes, scores])
    layer = model.get_layer("boxes")
    layer.set_weights([scale * array for array in layer.get_weights()])
    return model


@pytest.mark.parametrize("joins", [False, True])
def test_units_are_the_deviations_of_parts(joins):
    model = prepare(detector(joins=joins, scale=300.0))
    units = output_units(model, [IMAGES], count=50)
    outputs = model.predict(IMAGES[:50], verbose=0)
    values = outputs if joins else np.concatenate(outputs, axis=-1)
    variances = values.astype("float64").var(axis=(0, 1, 2))
    expected = np.sqrt(np.repeat([variances[:4].mean(), variances[4:].mean()], [4, 3]))
    np.testing.assert_allclose(np.concatenate(units.deviations), expected, rtol=1e-5)
    assert max(each.max() for each in units.relative) == 1.0
    assert min(each.min() for each in units.weights) == 1.0


def test_one_part_has_no_units():
    inputs = keras.Input((6, 6, 3))
    one = L.Conv2D(5, 1)(inputs)
    for output in (one, L.Softmax()(one), L.Softmax()(L.Concatenate()([one, one]))):
        assert output_units(prepare(keras.Model(inputs, output)), [IMAGES]) is None


def test_parts_are_found_behind_what_moves_them():
    inputs = keras.Input((6, 6, 3))
    left, right = L.Conv2D(4, 1)(inputs), L.Conv2D(2, 1)(inputs)

    def parts(output) -> tuple[int, ...]:
        model = prepare(keras.Model(inputs, output))
        graph = LayerGraph.of(model)
        return feature_parts(graph, graph.shapes(model), graph.outputs[0])

    both = L.Concatenate()([left, right])
    assert parts(both) == (4, 2)
    rows = L.Reshape((-1, 6))(both)
    assert parts(rows) == (4, 2)
    other = L.Reshape((-1, 6))(L.Concatenate()([L.Conv2D(4, 1)(inputs), L.Conv2D(2, 1)(inputs)]))
    assert parts(L.Concatenate(axis=1)([rows, other])) == (4, 2)
    assert parts(L.Concatenate(axis=1)([left, left])) == (4,)
    # Features are no longer where they were.
    assert parts(L.Reshape((-1, 3))(both)) == (3,)
    assert parts(L.Permute((3, 2, 1))(both)) == (6,)


def test_parts_are_looked_for_once_a_tensor():
    """Of forty diamonds there are 2 ** 40 paths."""
    inputs = keras.Input((4, 2, 3))
    x = L.Conv2D(3, 1)(inputs)
    for _ in range(40):
        x = L.Cropping2D(((0, 4), (0, 0)))(L.Concatenate(axis=1)([x, x]))
    model = prepare(keras.Model(inputs, L.Concatenate()([x, x])))
    graph = LayerGraph.of(model)
    assert feature_parts(graph, graph.shapes(model), graph.outputs[0]) == (3, 3)


@pytest.mark.parametrize("joins", [False, True])
def test_scores_do_not_depend_on_the_unit_of_an_output(joins):
    """Boxes in pixels or in widths of the picture: the same training, for the same network."""
    small, large = (prepare(detector(joins=joins, scale=s)) for s in (1.0, 256.0))
    for function in (channel_attention, weight_scores):
        found = [function(model, [IMAGES]) for model in (small, large)]
        if function is weight_scores:
            found = [[scores[n] for n in ("stem", "scores")] for scores in found]
        else:
            found = [[scores[0], scores[2]] for scores in found]
        ratios = [float(np.mean(b) / np.mean(a)) for a, b in zip(*found, strict=True)]
        # In units of the largest part, which is 256 times as large; its square is the ratio.
        assert ratios[0] == pytest.approx(ratios[1], rel=1e-4)
    for index in (0, 1):
        losses = []
        for model in (small, large):
            graph = LayerGraph.of(model)
            distillation = SelfDistillation(model, output_units(model, [IMAGES]))
            tensors = graph.execute([tf.constant(IMAGES)])
            reference = [tensors[key] for key in distillation.keys]
            unit = np.concatenate(output_units(model, [IMAGES]).deviations)
            shift = np.zeros(7, np.float32)
            shift[[0, 5][index]] = 0.1 * unit[[0, 5][index]]
            shifts = np.split(shift, [4]) if not joins else [shift]
            moved = {
                key: value + part
                for key, value, part in zip(distillation.keys, reference, shifts, strict=True)
            }
            losses.append(float(tf.reduce_mean(distillation.divergence(tensors, moved))))
            whitened = distillation.whiten(
                reference,
                [
                    tf.broadcast_to(part, value.shape)
                    for value, part in zip(reference, shifts, strict=True)
                ],
            )
            # Half the squared whitened shift is the divergence.
            square = 0.5 * float(tf.reduce_mean(tf.reduce_sum(whitened**2, axis=1)))
            assert square == pytest.approx(losses[-1], rel=1e-4)
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        assert losses[0] > 1e-3


@pytest.mark.parametrize("joins", [False, True])
def test_each_part_has_its_share_of_the_distillation(joins, monkeypatch):
    """The same share of its deviation costs the same, whatever the unit."""
    made = []
    original = distillation_module.Distillation

    def spy(*arguments, **keywords):
        made.append(original(*arguments, **keywords))
        return made[-1]

    monkeypatch.setattr(distillation_module, "Distillation", spy)
    model = detector(joins=joins, scale=500.0)
    config = tfeptq.QuantizationConfig(weight_bits=4, steps=2, samples=32, batch_size=8)
    tfeptq.quantize(model, IMAGES, config)
    (step,) = made
    keys = step.teacher.logits
    canonical = prepare(model)
    tensors = LayerGraph.of(canonical).execute([tf.constant(IMAGES)])
    unit = np.concatenate(output_units(canonical, [IMAGES]).deviations)
    losses = []
    for channel in (0, 5):
        shift = np.where(np.arange(7) == channel, 0.1 * unit, 0.0).astype("float32")
        parts = [shift] if joins else np.split(shift, [4])
        moved = {key: tensors[key] + part for key, part in zip(keys, parts, strict=True)}
        losses.append(float(step._output_loss(moved, tensors)))
    assert losses[0] == pytest.approx(losses[1], rel=0.3)


def test_the_small_head_learns_beside_a_large_one():
    """At 3 bits, a head of small values is trained as well as beside one of its own size."""
    errors = []
    for scale in (1.0, 1000.0):
        model = detector(scale=scale)
        config = tfeptq.QuantizationConfig(
            weight_bits=3, first_last_bits=None, steps=60, samples=64, batch_size=16
        )
        quantized = tfeptq.quantize(model, IMAGES, config)
        wanted = model.predict(IMAGES, verbose=0)[1]
        found = quantized.predict(IMAGES, verbose=0)[1]
        errors.append(float(np.sqrt(np.mean((wanted - found) ** 2)) / wanted.std()))
    assert errors[1] < 1.15 * errors[0]
