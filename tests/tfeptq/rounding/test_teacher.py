"""The teacher's remembered tensors are those that it computes."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from tests.tfeptq import small_models
from tfeptq.config import QuantizationConfig
from tfeptq.pipeline import quantize
from tfeptq.preparation import prepare
from tfeptq.rounding import teacher
from tfeptq.rounding.batches import batches, sample_order
from tfeptq.rounding.kept_tensors import InFile, InMemory
from tfeptq.rounding.safeguard import Comparison
from tfeptq.rounding.teacher import Teacher

CONFIG = QuantizationConfig(weight_bits=3, steps=12, batch_size=8, samples=27)


def test_remembers_every_sample_also_those_of_a_last_short_batch():
    made = Teacher(prepare(small_models.residual_network()))
    images = small_models.images(27)
    kept = made.remember([images], batch_size=8).rows(tf.range(27))
    for whole, expected in zip(kept, made.tensors([images]), strict=True):
        np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-5)
    assert set(made.named(kept)) == {*made.compared, *made.logits}


def test_beyond_the_limit_remembers_on_disk_what_is_worth_it(monkeypatch, tmp_path):
    monkeypatch.setattr(teacher, "_WORTH_A_BYTE", 0)
    made = Teacher(prepare(small_models.residual_network()))
    images = small_models.images(27)
    in_memory = made.remember([images], batch_size=8)
    on_disk = made.remember([images], batch_size=8, limit=0, folder=tmp_path)
    assert isinstance(in_memory, InMemory)
    assert isinstance(on_disk, InFile)
    order = sample_order(27, 8, 5, seed=0)
    both = [batches([images], [], kept, order) for kept in (in_memory, on_disk)]
    assert both[0].element_spec == both[1].element_spec
    for left, right in zip(*both, strict=True):
        for a, b in zip(tf.nest.flatten(left), tf.nest.flatten(right), strict=True):
            np.testing.assert_array_equal(a, b)
    # The file has no name, and no disk is filled to the brim.
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(teacher, "_ROOM", 1e30)
    assert made.remember([images], batch_size=8, limit=0) is None


def test_remembers_nothing_that_is_computed_sooner_than_it_is_read(monkeypatch):
    monkeypatch.setattr(teacher, "_WORTH_A_BYTE", 1e9)
    made = Teacher(prepare(small_models.residual_network()))
    images = small_models.images(27)
    kept = made.remember([images], batch_size=8).rows(tf.range(27))
    needed = sum(tensor.numpy().nbytes for tensor in kept)
    assert made.remember([images], batch_size=8, limit=needed) is not None
    assert made.remember([images], batch_size=8, limit=needed - 1) is None


def test_training_learns_the_same_with_and_without_memory(monkeypatch):
    model, images = small_models.residual_network(), small_models.images(27)

    def kept_anyway(step, *_, **__):
        step()
        return Comparison(1.0, 0.0)

    # So few steps may lose, and would be taken back.
    monkeypatch.setattr("tfeptq.recipe.kept_if_nearer", kept_anyway)
    kept = quantize(model, images, CONFIG)
    fed = []

    def forget(self, samples, **_):
        fed.append(len(samples[0]))

    monkeypatch.setattr(Teacher, "remember", forget)
    computed = quantize(model, images, CONFIG)
    start = quantize(model, images, dataclasses.replace(CONFIG, rounding="nearest"))
    assert fed == [27]
    for a, b, c in zip(
        kept.weighted_layers, computed.weighted_layers, start.weighted_layers, strict=True
    ):
        np.testing.assert_allclose(a.scales(), b.scales(), rtol=1e-4)
        assert not np.array_equal(a.scales(), c.scales())
