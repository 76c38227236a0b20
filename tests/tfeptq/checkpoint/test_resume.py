"""A run that is stopped, whenever and however, gives the integers of one that was not."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import ClassVar

import keras
import numpy as np
import pytest

import tfeptq
import tflite_export
from tfeptq.checkpoint import sealed
from tfeptq.rounding import distillation as training

ROOT = Path(__file__).parents[3]
CONFIG = tfeptq.QuantizationConfig(
    weight_bits=3, steps=40, batch_size=12, samples=40, threshold="max", bias_correction=False
)


class Batches(keras.callbacks.Callback):
    """Counts steps and epochs, and may stop the run as Ctrl-C does."""

    def __init__(self, dies_at: int | None = None):
        super().__init__()
        self.dies_at, self.seen, self.epochs = dies_at, 0, []

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        if self.seen == self.dies_at:
            raise KeyboardInterrupt
        self.seen += 1


def two_inputs() -> keras.Model:
    """Several inputs and a shared layer."""
    keras.utils.set_random_seed(0)
    inputs = [keras.Input((6,), name=name) for name in ("left", "right")]
    shared = keras.layers.Dense(4, "relu", name="shared")
    x = keras.layers.Concatenate(name="joined")([shared(each) for each in inputs])
    return keras.Model(inputs, keras.layers.Dense(3, name="ends")(x), name="two")


def depthwise() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3, 4, 2), name="image")
    x = keras.layers.DepthwiseConv2D(2, activation="relu", name="depthwise")(inputs)
    x = keras.layers.Flatten(name="flat")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="ends")(x), name="small")


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=shape).astype("float32")


MODELS = {
    "by XLA": (two_inputs, (draw(40, 6), 2 * draw(40, 6))),
    "by operators": (depthwise, draw(40, 3, 4, 2)),
}


def compile_whole(patch: pytest.MonkeyPatch, name: str) -> None:
    """As on a GPU."""
    patch.setattr(training, "_gains_from_xla", lambda: name == "by XLA")


def file_bytes(quantized: tfeptq.QuantizedModel, folder: Path) -> bytes:
    path = folder / "m.tflite"
    tflite_export.export(quantized, path, target="android")
    return path.read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Model -> bytes of the file of a run without a folder that nothing stopped."""
    found = {}
    for name, (build, samples) in MODELS.items():
        with pytest.MonkeyPatch.context() as patch:
            compile_whole(patch, name)
            quantized = tfeptq.quantize(build(), samples, CONFIG)
        found[name] = file_bytes(quantized, tmp_path_factory.mktemp("whole"))
    return found


@pytest.fixture(scope="module")
def folder_of_25_steps(tmp_path_factory):
    """Of a run that was stopped then: epochs have two steps."""
    folder = tmp_path_factory.mktemp("stopped")
    build, samples = MODELS["by operators"]
    with pytest.raises(KeyboardInterrupt):
        tfeptq.quantize(build(), samples, CONFIG, callbacks=[Batches(25)], checkpoint_dir=folder)
    return folder


@pytest.fixture
def stopped(folder_of_25_steps, tmp_path):
    return Path(shutil.copytree(folder_of_25_steps, tmp_path / "stopped"))


@pytest.mark.parametrize(("name", "dies_at"), [("by operators", (1, 2, 17)), ("by XLA", (9,))])
def test_the_file_is_the_same_wherever_the_run_was_stopped(
    name, dies_at, uninterrupted, tmp_path, monkeypatch
):
    """Each run dies after so many steps of its own; two steps are an epoch."""
    made = []
    attach = tfeptq.QuantizedModel.attach
    monkeypatch.setattr(
        tfeptq.QuantizedModel, "attach", lambda self, d: (made.append(d), attach(self, d))
    )
    compile_whole(monkeypatch, name)
    build, samples = MODELS[name]
    done = 0
    for steps in dies_at:
        with pytest.raises(KeyboardInterrupt):
            tfeptq.quantize(
                build(), samples, CONFIG, callbacks=[Batches(steps)], checkpoint_dir=tmp_path
            )
        done += steps - steps % 2
    rest = Batches()
    quantized = tfeptq.quantize(build(), samples, CONFIG, callbacks=[rest], checkpoint_dir=tmp_path)
    assert file_bytes(quantized, tmp_path) == uninterrupted[name]
    assert rest.seen == CONFIG.steps - done
    assert rest.epochs == list(range(done // 2, 20))
    assert {distillation.traces for distillation in made if distillation} <= {0, 1}


def test_a_finished_training_is_not_repeated(uninterrupted, tmp_path):
    build, samples = MODELS["by operators"]
    for expected in (CONFIG.steps, 0):
        seen = Batches()
        quantized = tfeptq.quantize(
            build(), samples, CONFIG, callbacks=[seen], checkpoint_dir=tmp_path
        )
        assert seen.seen == expected
        assert file_bytes(quantized, tmp_path) == uninterrupted["by operators"]
    # One generation is left of it.
    assert len(list(tmp_path.glob("training-*"))) == 1


class Interferes(keras.callbacks.Callback):
    def __init__(self, stops_at: int | None):
        super().__init__()
        self.stops_at = stops_at

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == self.stops_at

    def on_train_end(self, logs=None):
        if self.stops_at is None:
            layer = self.model.weighted_layers[0]
            layer.bias_offset.assign(layer.bias_offset + 1.0)


@pytest.mark.parametrize("stops_at", [3, None])
def test_what_callbacks_made_of_a_training_is_not_taken_for_its_result(stops_at, tmp_path):
    build, samples = MODELS["by operators"]
    tfeptq.quantize(
        build(), samples, CONFIG, callbacks=[Interferes(stops_at)], checkpoint_dir=tmp_path
    )
    again = Batches(dies_at=0)
    with pytest.raises(KeyboardInterrupt):
        tfeptq.quantize(build(), samples, CONFIG, callbacks=[again], checkpoint_dir=tmp_path)
    assert again.epochs == [0]


class RecordedBar:
    """What bars were told, by their titles."""

    told: ClassVar[list[tuple[str, int]]] = []

    def __init__(self, title, total):
        self._title = title

    def restart(self, done):
        pass

    def update(self, done, words=""):
        self.told.append((self._title, done))

    def stop(self):
        """Nothing was shown."""


def test_a_torn_backup_falls_back_to_the_one_before(uninterrupted, stopped, monkeypatch):
    build, samples = MODELS["by operators"]
    by_step = {int(sealed.read(path)["step"]): path for path in stopped.glob("training-*")}
    assert sorted(by_step) == [22, 24]
    by_step[24].write_bytes(by_step[24].read_bytes()[: by_step[24].stat().st_size // 2])
    rest = Batches(10)
    monkeypatch.setattr("tfeptq.progress.Bar", RecordedBar)
    RecordedBar.told.clear()
    with pytest.raises(KeyboardInterrupt):
        tfeptq.quantize(build(), samples, CONFIG, callbacks=[rest], checkpoint_dir=stopped)
    assert rest.epochs[0] == 11
    # The bar starts where the run was stopped.
    assert [done for title, done in RecordedBar.told if title == "distillation"][:2] == [22, 23]
    for path in by_step.values():
        path.write_bytes(b"torn")
    rest = Batches()
    quantized = tfeptq.quantize(build(), samples, CONFIG, callbacks=[rest], checkpoint_dir=stopped)
    assert rest.seen == CONFIG.steps
    assert file_bytes(quantized, stopped) == uninterrupted["by operators"]


def test_a_full_disk_costs_the_backup_and_not_the_run(uninterrupted, stopped, monkeypatch):
    build, samples = MODELS["by operators"]
    kept = {path.name: path.read_bytes() for path in stopped.glob("*.npz")}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sealed.os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left"):
        quantized = tfeptq.quantize(build(), samples, CONFIG, checkpoint_dir=stopped)
    assert file_bytes(quantized, stopped) == uninterrupted["by operators"]
    assert {path.name: path.read_bytes() for path in stopped.glob("*.npz*")} == kept


#: A process that the kernel kills while it writes a backup.
_KILLED = textwrap.dedent("""
    import os, signal, sys
    import keras, tfeptq
    from tests.tfeptq.checkpoint import test_resume
    from tfeptq.checkpoint import sealed

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    class Dies(test_resume.Batches):
        def on_train_batch_begin(self, batch, logs=None):
            super().on_train_batch_begin(batch, logs)
            if self.seen == 4:
                # The file is there in part, and has no name yet.
                sealed.os.fsync = die

    build, samples = test_resume.MODELS["by operators"]
    tfeptq.quantize(
        build(), samples, test_resume.CONFIG, callbacks=[Dies()], checkpoint_dir=sys.argv[1]
    )
""")


def test_a_process_that_was_killed_behind_one_that_was_stopped(uninterrupted, stopped):
    build, samples = MODELS["by operators"]
    command = [sys.executable, "-c", _KILLED, str(stopped)]
    died = subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    assert len(list(stopped.glob(f"*{sealed.PARTIAL}"))) == 1
    rest = Batches()
    quantized = tfeptq.quantize(build(), samples, CONFIG, callbacks=[rest], checkpoint_dir=stopped)
    # 24 steps of this process, and two of the other, whose next backup was its end.
    assert rest.seen == CONFIG.steps - 26
    assert file_bytes(quantized, stopped) == uninterrupted["by operators"]
    assert not list(stopped.glob(f"*{sealed.PARTIAL}"))


@pytest.mark.parametrize(("count", "batch"), [(40, 12), (5, 12), (7, 1)])
def test_the_order_of_samples_depends_on_seed_and_step_alone(count, batch):
    order = training.sample_order(count, batch, 50, seed=3)
    size = min(count, batch)
    assert order.shape == (50, size)
    np.testing.assert_array_equal(training.sample_order(count, batch, 20, seed=3), order[:20])
    assert not np.array_equal(training.sample_order(count, batch, 50, seed=4), order)
    passes = order.reshape(-1)[: 50 * size // count * count].reshape(-1, count)
    np.testing.assert_array_equal(np.sort(passes), np.broadcast_to(np.arange(count), passes.shape))
    assert count == 1 or not np.array_equal(passes[0], passes[1])


@pytest.fixture(scope="module")
def scored():
    """A metric: whether a sample keeps the class that the float model gives it."""
    data = draw(60, 3, 4, 2)
    classes = np.asarray(depthwise()(data)).argmax(1)
    return lambda model: (np.asarray(model(data)).argmax(1) == classes).astype(float)


def test_evaluations_of_an_accuracy_search_are_not_repeated(scored, tmp_path, monkeypatch):
    build, samples = MODELS["by operators"]
    target = tfeptq.AccuracyTarget(scored, relative=0.9, search_steps=2)
    config = dataclasses.replace(
        CONFIG,
        weight_bits=(2, 8),
        first_last_bits=None,
        sensitivity="label_free",
        accuracy_target=target,
    )
    first = tfeptq.quantize(build(), samples, config, checkpoint_dir=tmp_path)
    assert first.accuracy_search.evaluations > 1
    assert len(list(tmp_path.glob("evaluation-*"))) == first.accuracy_search.evaluations
    # The trainings behind them are needed no more, but for the last.
    assert len(list(tmp_path.glob("search-*"))) == 1
    trained, distil = [], training.distil
    monkeypatch.setattr("tfeptq.recipe.distil", lambda *a: (trained.append(a), distil(*a))[1])
    second = tfeptq.quantize(build(), samples, config, checkpoint_dir=tmp_path)
    # The whole recipe alone, whose training was kept.
    assert len(trained) == 1 + first.accuracy_search.steps_back
    assert second.bit_widths == first.bit_widths
    assert file_bytes(second, tmp_path) == file_bytes(first, tmp_path)
    assert second.accuracy_search == first.accuracy_search


def test_an_evaluation_is_measured_again_for_another_metric(scored, tmp_path):
    metrics = [lambda model, offset=offset: scored(model) * offset for offset in (1.0, 0.5)]
    build, samples = MODELS["by operators"]
    for count, metric in enumerate(metrics, 1):
        config = dataclasses.replace(
            CONFIG,
            weight_bits=(4, 8),
            rounding="nearest",
            sensitivity="label_free",
            accuracy_target=tfeptq.AccuracyTarget(metric, relative=0.5),
        )
        tfeptq.quantize(build(), samples, config, checkpoint_dir=tmp_path)
        kept = [sealed.read(path)["values"] for path in tmp_path.glob("evaluation-*")]
        assert len({float(values.max()) for values in kept}) == count


def test_nothing_that_takes_long_is_computed_twice(tmp_path, monkeypatch):
    """Ranges, scores, errors and moves of a choice, and OPTQ."""
    config = dataclasses.replace(
        CONFIG,
        weight_bits=(2, 4, 8),
        first_last_bits=None,
        rounding="optq",
        threshold="hmse",
        bias_correction=True,
        budget=tfeptq.Budget(weight_bytes=90),
        measured_moves=4,
    )
    build, samples = MODELS["by operators"]
    first = tfeptq.quantize(build(), samples, config, checkpoint_dir=tmp_path)
    assert list(tmp_path.glob("divergence-*"))
    for work in (
        "hessian.float_scores.calibration_histograms",
        "hessian.float_scores.weight_scores",
        "sensitivity.rounding_errors.weight_errors",
        "sensitivity.inter_layer.pair_terms",
        "selection.prepare.MeasuredDivergence.__call__",
        "recipe.round_layer_by_layer",
    ):
        monkeypatch.setattr(f"tfeptq.{work}", None)
    second = tfeptq.quantize(build(), samples, config, checkpoint_dir=tmp_path)
    assert second.report == first.report
    assert "layer by layer" in first.report.samples
    for left, right in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
