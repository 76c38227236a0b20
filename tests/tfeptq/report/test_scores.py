"""What counts as right, and how sure one can be of it."""

from __future__ import annotations

import numpy as np
import pytest

from tfeptq.report.scores import score

CLASSES = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.0, 0.1, 0.9], [0.2, 0.3, 0.5]])


@pytest.mark.parametrize("labels", [[1, 0, 2, 0], [[1], [0], [2], [0]], np.eye(3)[[1, 0, 2, 0]]])
def test_accuracy_of_classes(labels):
    found = score(CLASSES, np.array(labels))
    assert (found.metric, found.value, found.samples) == ("accuracy", 0.75, 4)
    assert found.error == pytest.approx(np.std([1, 1, 1, 0], ddof=1) / 2)
    assert str(found) == "75.0 % +- 25.0"


def test_one_column_is_a_class_above_one_half():
    found = score(np.array([[0.9], [0.2], [0.6], [0.4]]), np.array([1, 0, 0, 0]))
    assert (found.metric, found.value) == ("accuracy", 0.75)


@pytest.mark.parametrize("labels", [[3.5, 2.0], [3, 2], [[3], [2]]])
def test_other_numbers_are_compared_as_numbers(labels):
    found = score(np.array([[4.0], [0.0]]), np.array(labels))
    assert found.metric == "mean_squared_error"
    squares = (np.array([4.0, 0.0]) - np.ravel(labels)) ** 2
    assert found.value == pytest.approx(squares.mean())


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        (CLASSES, [1, 0, 2], "3 labels for 4 samples"),
        (CLASSES, [1, 0, 2, 3], "labels 0 to 3 do not fit 3 classes"),
        (CLASSES, [0.5, 0.1, 0.2, 0.3], r"shape \(4,\) do not fit outputs of \(4, 3\)"),
        ([CLASSES, CLASSES], [1, 0, 2, 0], "has 2 outputs"),
    ],
)
def test_labels_that_do_not_fit_are_refused(outputs, labels, message):
    with pytest.raises(ValueError, match=message):
        score(outputs, np.array(labels))
