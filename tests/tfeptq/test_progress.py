"""Bars: only for what takes long, one at a time, and gone when the work ends in any way."""

from __future__ import annotations

import gc

import keras
import numpy as np
import pytest

from tfeptq import progress as progress_module
from tfeptq.progress import Bar, StepProgress, Stopwatch, check_verbose, progress, shown


@pytest.fixture
def impatient(monkeypatch):
    """Every loop takes too long after its first item."""
    monkeypatch.setattr(progress_module, "PATIENCE", -1.0)


def test_what_is_quick_is_silent(monkeypatch, capsys):
    monkeypatch.setattr(progress_module, "PATIENCE", np.inf)
    assert list(progress(range(5), "counting")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().out == ""


def test_what_takes_long_says_what_and_how_much(impatient, capsys):
    assert list(progress("abc", "spelling")) == ["a", "b", "c"]
    (line,) = capsys.readouterr().out.strip().splitlines()
    assert "spelling" in line
    assert "3/3" in line


def test_a_bar_within_another_is_silent(impatient, capsys):
    for _ in progress(range(3), "outer"):
        assert list(progress(range(4), "inner")) == [0, 1, 2, 3]
    printed = capsys.readouterr().out
    # The first round comes before the outer bar does.
    assert printed.count("outer") == 1
    assert printed.count("inner") <= 1
    list(progress(range(2), "next"))
    assert "next" in capsys.readouterr().out


def test_an_error_ends_the_bar(impatient, capsys):
    def work():
        for item in progress(range(9), "failing"):
            if item == 4:
                raise KeyError(item)

    with pytest.raises(KeyError):
        work()
    gc.collect()
    assert "4/9" in capsys.readouterr().out
    assert Bar("next", 1)._is_shown


def fitted(*callbacks: keras.callbacks.Callback) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    bar = StepProgress(6, "training")
    model.fit(
        np.ones((12, 2)),
        np.zeros(12),
        batch_size=6,
        epochs=3,
        verbose=0,
        callbacks=[bar, *callbacks],
    )


def test_a_fit_has_one_bar_over_its_epochs(capsys):
    fitted()
    (line,) = capsys.readouterr().out.strip().splitlines()
    assert "training" in line
    assert "6/6" in line
    assert "loss" in line


def interrupt(epoch, logs=None):
    if epoch == 1:
        raise KeyboardInterrupt


def test_an_interrupted_fit_leaves_no_bar_behind(capsys):
    with pytest.raises(KeyboardInterrupt):
        fitted(keras.callbacks.LambdaCallback(on_epoch_begin=interrupt))
    gc.collect()
    assert "2/6" in capsys.readouterr().out
    assert Bar("next", 1)._is_shown


@pytest.mark.parametrize(("verbose", "lines"), [(0, 0), (1, 1), (2, 1)])
def test_as_much_is_said_as_was_asked_for(verbose, lines, impatient, capsys):
    with shown(verbose):
        list(progress(range(3), "counting"))
        with shown("auto"), Stopwatch()("calibrate"):
            pass
    printed = capsys.readouterr().out
    assert len(printed.strip().splitlines()) == lines
    assert ("counting" in printed) == (verbose == 1)
    assert ("calibrate: 0.0 s" in printed) == (verbose == 2)


@pytest.mark.parametrize("verbose", [-1, 3, "loud", None, 0.5])
def test_what_keras_would_not_take_is_refused(verbose):
    with pytest.raises(ValueError, match=r"verbose must be 'auto', 0 \(silent\)"):
        check_verbose(verbose)


def test_the_time_of_compiling_is_not_expected_again(monkeypatch):
    bar = Bar("training", 100)
    bar.update(0, "compiling")
    bar.restart(1)
    task = bar._live.tasks[0]
    assert (task.completed, task.elapsed < 1.0, task.time_remaining) == (1, True, None)
    bar.stop()
