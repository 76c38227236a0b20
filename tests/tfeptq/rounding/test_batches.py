"""What the steps of the distillation are fed."""

import numpy as np
import pytest
import tensorflow as tf

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


def test_files_hold_more_tensors_than_one_call_of_the_system_reads():
    tensors = [np.full((COUNT, index % 3), index, np.float32) for index in range(2500)]
    kept = InFile([tensor.shape for tensor in tensors], None)
    for begin in range(0, COUNT, BATCH):
        kept.write(begin, [tensor[begin : begin + BATCH] + begin for tensor in tensors])
    found = kept.rows(tf.constant([6, 0, 5, 6]))
    for tensor, rows in zip(tensors, found, strict=True):
        added = np.array([6, 0, 3, 6], np.float32)[:, None]
        np.testing.assert_array_equal(rows, tensor[:4] + added)


def test_a_file_that_is_too_short_is_no_answer():
    kept = InFile([(COUNT, 2), (COUNT, 3)], None)
    kept.write(0, [np.ones((2, 2), np.float32), np.ones((2, 3), np.float32)])
    with pytest.raises(OSError, match="ends within sample 4"):
        kept.rows(tf.constant([1, 4]))


def test_tensorflow_does_not_tune_it():
    """Its tuner ran beside the steps and went on for half a minute behind the last."""
    fed = batches([np.zeros((COUNT, 1))], [], None, sample_order(COUNT, BATCH, STEPS, seed=0))
    assert fed.options().autotune.enabled is False
