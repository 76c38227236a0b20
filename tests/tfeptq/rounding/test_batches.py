"""What the steps of the distillation are fed."""

import numpy as np

from tfeptq.rounding.batches import batches, sample_order
from tfeptq.rounding.kept_tensors import InFile, InMemory

COUNT, BATCH, STEPS = 7, 3, 5


def test_samples_scores_and_remembered_tensors_of_a_step_belong_together():
    samples = [np.arange(COUNT, dtype=np.float32)[:, None], 10.0 + np.arange(COUNT)]
    attention = [20.0 + np.arange(COUNT)]
    order = sample_order(COUNT, BATCH, STEPS, seed=0)
    for kept in (InMemory([(COUNT, 2, 3)]), InFile([(COUNT, 2, 3)], None)):
        tensors = np.arange(COUNT * 6, dtype=np.float32).reshape(COUNT, 2, 3)
        kept.write(0, [tensors])
        fed = list(batches(samples, attention, kept, order))
        assert len(fed) == STEPS
        for ((first, second), (scores,), (remembered,)), numbers in zip(fed, order, strict=True):
            np.testing.assert_array_equal(first[:, 0], numbers)
            np.testing.assert_array_equal(second, 10.0 + numbers)
            np.testing.assert_array_equal(scores, 20.0 + numbers)
            np.testing.assert_array_equal(remembered, tensors[numbers])


def test_tensorflow_does_not_tune_it():
    """Its tuner ran beside the steps and went on for half a minute behind the last."""
    fed = batches([np.zeros((COUNT, 1))], [], None, sample_order(COUNT, BATCH, STEPS, seed=0))
    assert fed.options().autotune.enabled is False
