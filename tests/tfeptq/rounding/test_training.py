"""The training step: its loss, its schedules inside compiled code, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.types.experimental import PolymorphicFunction

from tests.tfeptq import small_models
from tfeptq.config import QuantizationConfig
from tfeptq.pipeline import quantize
from tfeptq.preparation import prepare
from tfeptq.rounding import distillation
from tfeptq.rounding.losses import weighted_square
from tfeptq.rounding.safeguard import Comparison
from tfeptq.rounding.schedule import Schedule
from tfeptq.rounding.training_step import Distillation

CONFIG = QuantizationConfig(weight_bits=3, steps=40, batch_size=8, samples=32)


class Shares(keras.callbacks.Callback):
    """Watches the annealed variables after every step."""

    def __init__(self):
        super().__init__()
        self.floats, self.softs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.floats.append(float(self.model.activation_quantizers[0].float_share.numpy()))
        self.softs.append(float(self.model.weighted_layers[0].soft_share.numpy()))


IS_COMPILED = pytest.mark.parametrize("is_compiled", [False, True])


def compile_whole(patch, is_compiled):
    patch.setattr(distillation, "_gains_from_xla", lambda: is_compiled)


def one_layer() -> tuple[keras.Model, np.ndarray]:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,), name="features")
    model = keras.Model(inputs, keras.layers.Dense(3, name="ends")(inputs))
    return model, np.random.default_rng(0).normal(size=(32, 4)).astype("float32")


class Training(NamedTuple):
    """A training of the residual network, and what was seen of it.

    Attributes:
        before: weights of the float model.
        steps: what was compiled.
    """

    model: keras.Model
    before: list[np.ndarray]
    quantized: Any
    shares: Shares
    steps: list[Distillation]


def train(is_compiled: bool) -> Training:
    made, shares = [], Shares()
    original = Distillation.__init__

    def remember(self, *arguments, **settings):
        original(self, *arguments, **settings)
        made.append(self)

    model = small_models.residual_network()
    before = [array.copy() for array in model.get_weights()]
    with pytest.MonkeyPatch.context() as patch:
        compile_whole(patch, is_compiled)
        patch.setattr(Distillation, "__init__", remember)
        quantized = quantize(model, small_models.images(32), CONFIG, callbacks=[shares])
    return Training(model, before, quantized, shares, made)


#: The training that most tests look at; they change nothing of it.
trained = functools.cache(train)


@IS_COMPILED
def test_the_annealed_shares_move_inside_the_compiled_step(is_compiled):
    shares = trained(is_compiled).shares
    steps = np.arange(CONFIG.steps)
    np.testing.assert_allclose(shares.floats, 1 - steps / CONFIG.steps, atol=1e-6)
    expected = np.clip(1 - steps / (0.9 * CONFIG.steps), 0, 1)
    np.testing.assert_allclose(shares.softs, expected, atol=1e-6)


@IS_COMPILED
def test_nothing_soft_is_left_after_training(is_compiled):
    quantized = trained(is_compiled).quantized
    for layer in quantized.weighted_layers:
        kernel = np.asarray(layer.quantized_kernel())
        grid = layer.integers() * np.asarray(layer.step)
        np.testing.assert_array_equal(kernel, grid.astype("float32"))
    for quantizer in quantized.activation_quantizers:
        assert float(quantizer.float_share.numpy()) == 0.0


def test_training_beats_nearest_rounding():
    model = trained(False).model
    config = dataclasses.replace(CONFIG, rounding="nearest", bias_correction=False)
    nearest = quantize(model, small_models.images(32), config)
    data = small_models.images(64, seed=9)
    expected = model.predict(data, verbose=0)

    def error(other):
        return float(np.square(other.predict(data, verbose=0) - expected).mean())

    found = [error(trained(is_compiled).quantized) for is_compiled in (False, True)]
    assert max(found) < error(nearest)


@IS_COMPILED
def test_same_seed_same_integers(is_compiled):
    runs = trained(is_compiled).quantized, train(is_compiled).quantized
    for left, right in zip(*[run.weighted_layers for run in runs], strict=True):
        np.testing.assert_array_equal(left.integers(), right.integers())
        np.testing.assert_array_equal(left.scales(), right.scales())


def test_steps_compiled_whole_are_those_by_operators():
    """In a network of five layers: with three Adam hides gradients that are a little off."""
    losses = []
    for is_compiled in (False, True):
        training = trained(is_compiled)
        (step,) = training.steps
        assert isinstance(step.gradients, PolymorphicFunction) is is_compiled
        losses.append([row.loss for row in training.quantized.report.training])
    # float32 sums in another order.
    np.testing.assert_allclose(*losses, rtol=2e-6)


def test_nothing_is_compiled_whole_on_a_cpu(monkeypatch):
    for devices in ([], ["GPU:0"]):
        monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind, found=devices: found)
        assert distillation._gains_from_xla() == bool(devices)


@IS_COMPILED
def test_one_compilation_a_model(is_compiled):
    assert [each.traces for each in trained(is_compiled).steps] == [1]


def test_unit_weights_give_the_unweighted_loss():
    error = np.random.default_rng(0).normal(size=(4, 5, 7, 3)).astype("float32")
    expected = np.square(error).sum(axis=-1).mean()
    for shape in ((4, 1), (4, 3)):
        weighted = weighted_square(error, np.ones(shape, "float32"))
        np.testing.assert_allclose(weighted, expected, rtol=1e-5)
    vectors = error[:, 0, 0]
    expected = np.square(vectors).sum(axis=-1).mean()
    np.testing.assert_allclose(
        weighted_square(vectors, np.ones((4, 1), "float32")), expected, rtol=1e-5
    )


def test_weights_by_sample_and_channel():
    generator = np.random.default_rng(1)
    error = generator.normal(size=(4, 5, 7, 3)).astype("float32")
    scores = generator.uniform(size=(4, 3)).astype("float32")
    expected = np.einsum("nhwc,nc->", np.square(error), scores) / 4
    summed = weighted_square(error, scores, sums_positions=True)
    np.testing.assert_allclose(summed, expected, rtol=1e-5)
    np.testing.assert_allclose(weighted_square(error, scores), expected / (5 * 7), rtol=1e-5)


@pytest.fixture(scope="module")
def with_parts(tmp_path_factory):
    """Quantizes by a recipe whose parts are given; scores of the float model are kept."""
    # Nearest rounding would take other thresholds of its own.
    with_all = dataclasses.replace(CONFIG, steps=6, threshold="hmse")
    folder, model, data = (
        tmp_path_factory.mktemp("scores"),
        small_models.short_network(),
        small_models.images(32),
    )

    @functools.cache
    def quantized(**settings):
        config = dataclasses.replace(with_all, **settings)
        return quantize(model, data, config, checkpoint_dir=folder)

    return quantized


@pytest.mark.parametrize(
    "switch",
    [
        "bias_correction",
        "sample_layer_attention",
        "channel_attention",
        "gradual_activations",
        "gradual_rounding",
        "train_scales",
        "train_biases",
    ],
)
def test_each_part_can_be_switched_off(switch, with_parts, monkeypatch):
    def kept_anyway(step, *_, **__):
        step()
        return Comparison(1.0, 0.0)

    # So few steps may lose, and would be taken back.
    monkeypatch.setattr("tfeptq.recipe.kept_if_nearer", kept_anyway)
    off, on = with_parts(**{switch: False}), with_parts()
    if switch == "train_scales":
        start = with_parts(rounding="nearest")
        for left, right in zip(off.weighted_layers, start.weighted_layers, strict=True):
            np.testing.assert_array_equal(left.scales(), right.scales())
    assert any(
        not np.array_equal(left, right)
        for left, right in zip(off.get_weights(), on.get_weights(), strict=True)
    )


def test_schedules_end_where_they_must():
    schedule = Schedule(steps=100)
    assert float(schedule.float_share(0)) == 1.0
    assert float(schedule.float_share(100)) == 0.0
    assert float(schedule.soft_share(90)) == 0.0
    assert float(schedule.beta(20)) == pytest.approx(20.0)
    assert float(schedule.beta(100)) == pytest.approx(2.0)
    steady = Schedule(100, gradual_activations=False, gradual_rounding=False)
    assert float(steady.float_share(0)) == 0.0
    assert float(steady.soft_share(100)) == 1.0


def test_a_training_that_loses_leaves_what_it_started_from():
    model, data = small_models.residual_network(), small_models.images(32)
    config = dataclasses.replace(CONFIG, weight_bits=8, steps=3, learning_rate=1.0)
    quantized = quantize(model, data, config)
    assert any("training ended further" in line for line in quantized.report.warnings)
    nearest = quantize(model, data, dataclasses.replace(config, rounding="nearest"))
    found, expected = (each.predict(data, verbose=0) for each in (quantized, nearest))
    np.testing.assert_array_equal(found, expected)


@IS_COMPILED
def test_the_float_model_is_untouched(is_compiled):
    model, before, *_ = trained(is_compiled)
    for left, right in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_crash_loses_no_finished_step(tmp_path):
    model, data = one_layer()

    class Crash(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 9:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(model, data, CONFIG, callbacks=[Crash()], checkpoint_dir=tmp_path)
    shares = Shares()
    quantize(model, data, CONFIG, callbacks=[shares], checkpoint_dir=tmp_path)
    # Nine epochs of two steps had ended.
    assert len(shares.floats) == CONFIG.steps - 18


@pytest.mark.parametrize("rate", [10.0, 1e30])
def test_training_that_diverges_names_a_layer(rate):
    model, samples = one_layer()
    config = dataclasses.replace(CONFIG, learning_rate=rate, threshold="max")
    with pytest.raises(ValueError, match=r"training diverged in layer .*: take a lower learning"):
        quantize(model, samples, config)


@IS_COMPILED
def test_preparation_is_shared_with_the_student(is_compiled):
    training = trained(is_compiled)
    canonical = {layer.name for layer in prepare(training.model).layers}
    assert {layer.name for layer in training.quantized.weighted_layers} <= canonical


def test_a_model_whose_outputs_are_always_zero_is_trained():
    """No output depends on anything on the samples: shares of attention would be 0 / 0."""
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(3, 3)(inputs)
    dead = keras.layers.Conv2D(2, 1, bias_initializer=keras.initializers.Constant(-50.0))(x)
    model = keras.Model(inputs, keras.layers.GlobalMaxPooling2D()(keras.layers.ReLU()(dead)))
    samples = np.random.default_rng(0).normal(size=(16, 6, 6, 2)).astype("float32")
    config = QuantizationConfig(steps=4, samples=16, batch_size=8)
    quantized = quantize(model, samples, config)
    for layer in quantized.layers:
        assert all(np.isfinite(array).all() for array in layer.get_weights()), layer.name
    assert not quantized.predict(samples, verbose=0).any()


@pytest.mark.parametrize("steps", [1, 19, 20, 21, 25, 50, 399, 2000])
def test_epochs_have_as_many_steps_as_are_asked_for(steps):
    """The last one is filled up."""
    epochs, each = distillation.epochs_of(steps)
    assert epochs <= 20
    assert steps <= epochs * each < steps + each
