"""Quantization inside `model.fit`."""

from __future__ import annotations

import copy
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfeptq
import tflite_export
from tests.tfeptq import small_models

CONFIG = tfeptq.QuantizationConfig(weight_bits=4, steps=5, samples=32, batch_size=8)
NEAREST = tfeptq.QuantizationConfig(rounding="nearest", samples=32)


@pytest.fixture
def data():
    labels = np.random.default_rng(0).integers(0, small_models.K, 32)
    return small_models.images(32), labels


def compiled() -> keras.Model:
    model = small_models.short_network()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def test_end_of_training_writes_a_file_and_logs_the_models_own_metric(tmp_path, data):
    path = tmp_path / "m.tflite"
    callback = tfeptq.QuantizationCallback(data[0], CONFIG, export_path=path, validation_data=data)
    model = compiled()
    history = model.fit(*data, epochs=2, verbose=0, callbacks=[callback]).history
    weights, moments = model.get_weights(), [v.numpy() for v in model.optimizer.variables]
    accuracy = history["quantized_accuracy"][-1]
    found = callback.quantized.predict(data[0], verbose=0).argmax(1)
    assert accuracy == pytest.approx(np.mean(found == data[1]), abs=1e-6)
    assert "quantized_loss" in history
    assert callback.result.path == path
    assert tflite_export.inspect(path).size_bytes == callback.result.size_bytes
    # The float model goes on as if nothing had happened.
    twin = compiled()
    twin.fit(*data, epochs=2, verbose=0)
    expected = twin.get_weights() + [variable.numpy() for variable in twin.optimizer.variables]
    for left, right in zip(weights + moments, expected, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-6)


def absolute(labels, outputs):
    return keras.ops.mean(keras.ops.abs(outputs - labels), axis=-1)


def test_custom_losses_and_metrics_of_several_outputs(data):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(data[0].shape[1:])
    outputs = [keras.layers.Conv2D(2, 3, name=name)(inputs) for name in ("left", "right")]
    model = keras.Model(inputs, outputs)
    model.compile("sgd", loss=[absolute, "mse"], metrics=[[absolute], ["mae"]])
    labels = [np.zeros((32, 7, 5, 2), "float32")] * 2
    callback = tfeptq.QuantizationCallback(
        data[0], NEAREST, validation_data=(data[0], labels), every_epochs=1
    )
    history = model.fit(data[0], labels, epochs=1, verbose=0, callbacks=[callback]).history
    left, right = callback.quantized.predict(data[0], verbose=0)
    assert history["quantized_left_absolute"] == [pytest.approx(np.abs(left).mean(), rel=1e-5)]
    expected = np.abs(left).mean() + np.square(right).mean()
    assert history["quantized_loss"] == [pytest.approx(expected, rel=1e-5)]


def test_validation_in_batches_scores_as_validation_in_one_piece(data):
    batches = tf.data.Dataset.from_tensor_slices(data).batch(12)
    callbacks = [
        tfeptq.QuantizationCallback(data[0], NEAREST, validation_data=validation)
        for validation in (data, batches)
    ]
    history = compiled().fit(*data, verbose=0, callbacks=callbacks).history
    for name in ("quantized_accuracy", "quantized_loss"):
        whole, in_batches = history[name]
        # float32 sums in batches of other sizes.
        assert whole == pytest.approx(in_batches, rel=1e-6)


def test_calibration_from_a_generator_serves_every_so_many_epochs_and_the_end():
    model, *data = tiny()
    callback = tfeptq.QuantizationCallback(
        iter([data[0]]), NEAREST, validation_data=data, every_epochs=2
    )
    logs = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, log: logs.append(dict(log)))
    history = model.fit(*data, epochs=5, verbose=0, callbacks=[callback, watch]).history
    assert ["quantized_accuracy" in log for log in logs] == [False, True, False, True, False]
    assert len(history["quantized_accuracy"]) == 2
    assert len(history["final_quantized_accuracy"]) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"every_epochs": 0}, "at least 1"), ({"every_epochs": 1}, "needs validation_data")],
)
def test_bad_settings_are_refused_before_training(data, settings, message):
    with pytest.raises(ValueError, match=message):
        tfeptq.QuantizationCallback(data[0], CONFIG, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"config": tfeptq.QuantizationConfig(weight_bits={"stemm": 4})}, "did you mean 'stem'"),
        ({"export_path": "absent/m.tflite"}, "folder .* does not exist"),
        ({"calibration": np.full((4, 9, 7, 3), np.nan)}, "holds NaN"),
    ],
)
def test_what_cannot_end_well_does_not_begin(data, settings, message):
    callback = tfeptq.QuantizationCallback(**{"calibration": data[0], **settings})
    model = compiled()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        model.fit(*data, verbose=0, callbacks=[callback])
    for left, right in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_stream_without_a_length_is_read_once_and_the_report_says_so():
    model, *data = tiny()

    def batches():
        generator = np.random.default_rng(0)
        while True:
            yield generator.permutation(data[0])[:5]

    callback = tfeptq.QuantizationCallback(batches(), NEAREST)
    model.fit(*data, epochs=1, verbose=0, callbacks=[callback])
    report = callback.quantized.report
    assert report.samples["ranges"] == 32
    assert "32 samples were chosen among the first 515" in report.warnings[0]


def tiny() -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """A compiled model that takes no time, with samples and labels."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), name="features")
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="ends")(inputs))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    generator = np.random.default_rng(0)
    features = generator.normal(size=(32, 6)).astype("float32")
    return model, features, generator.integers(0, 3, 32)


class Restores(keras.callbacks.Callback):
    """Changes the weights when training has ended, as EarlyStopping and SwapEMAWeights do."""

    def on_train_end(self, logs=None):
        self.model.get_layer("ends").bias.assign([3.0, 1.0, 2.0])


def in_a_list(callbacks, model):
    return keras.callbacks.CallbackList(callbacks, add_history=True, model=model)


ORDERS = {
    "first": lambda own, other, model: [own, other],
    "last": lambda own, other, model: [other, own],
    "own history first": lambda own, other, model: [keras.callbacks.History(), own, other],
    "own history last": lambda own, other, model: [own, other, keras.callbacks.History()],
    "nested": lambda own, other, model: [[own], (other,)],
    "a list": lambda own, other, model: in_a_list([own, other], model),
    "a copy": lambda own, other, model: copy.deepcopy([own, other]),
}


#: One that is trained again and again, which Keras compiles once.
trained_before = functools.cache(tiny)


@pytest.mark.parametrize("order", ORDERS)
def test_what_is_quantized_is_what_fit_leaves_wherever_the_callback_stands(order):
    model, features, labels = trained_before()
    model.get_layer("ends").bias.assign([0.0, 0.0, 0.0])
    own = tfeptq.QuantizationCallback(features, NEAREST)
    callbacks = ORDERS[order](own, Restores(), model)
    if order == "a copy":
        own = callbacks[0]
    model.fit(features, labels, verbose=0, callbacks=callbacks)
    np.testing.assert_allclose(shipped_bias(own), [3.0, 1.0, 2.0], atol=0.02)


def shipped_bias(callback) -> np.ndarray:
    return callback.quantized.get_layer("ends").layer.bias.numpy()


def test_a_list_that_serves_several_fits_and_two_callbacks():
    model, features, labels = tiny()
    both = [tfeptq.QuantizationCallback(features, NEAREST) for _ in range(2)]
    callbacks = in_a_list(both, model)
    for _ in range(2):
        callbacks.callbacks.append(Restores())
        callbacks.set_model(model)
        model.fit(features, labels, verbose=0, callbacks=callbacks)
        for each in both:
            np.testing.assert_allclose(shipped_bias(each), [3.0, 1.0, 2.0], atol=0.02)
    # One helper each, however often it serves.
    assert len(callbacks.callbacks) == 2 + 1 + 2 + 2


def test_a_loop_that_calls_the_callback_by_hand():
    model, features, labels = tiny()
    callback = tfeptq.QuantizationCallback(features, NEAREST, validation_data=(features, labels))
    callback.set_model(model)
    callback.on_train_begin()
    logs = {}
    callback.on_train_end(logs)
    assert callback.quantized is not None
    assert 0.0 <= logs["quantized_accuracy"] <= 1.0


def test_early_stopping_exports_the_best_epoch_with_its_score(tmp_path):
    path = tmp_path / "m.tflite"
    model, features, labels = tiny()
    callback = tfeptq.QuantizationCallback(
        features,
        NEAREST,
        export_path=path,
        validation_data=(features, labels),
        every_epochs=1,
    )
    stopping = keras.callbacks.EarlyStopping(
        monitor="quantized_accuracy", mode="max", patience=2, restore_best_weights=True
    )
    # Large enough to get worse soon.
    model.optimizer.learning_rate = 100.0
    fitted = model.fit(
        features, labels, batch_size=8, epochs=9, verbose=0, callbacks=[callback, stopping]
    )
    scores = fitted.history["quantized_accuracy"]
    assert len(scores) == len(fitted.history["loss"]) < 9
    (final,) = fitted.history["final_quantized_accuracy"]
    assert final == pytest.approx(stopping.best)
    assert final == pytest.approx(max(scores))
    assert final > scores[-1]
    answers = tflite_export.run(path, features).argmax(1)
    assert np.mean(answers == labels) == pytest.approx(final)
    expected = tfeptq.quantize(model, features, NEAREST)
    for left, right in zip(callback.quantized.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def fails_after(calls: int):
    """A metric of the user's that breaks after so many batches."""
    done = []

    def metric(labels, outputs):
        if not isinstance(outputs, keras.KerasTensor) and tf.executing_eagerly():
            done.append(1)
            if len(done) > calls:
                raise RuntimeError("no such file\nand more")
        return keras.ops.mean(outputs, axis=-1)

    return metric


def test_a_score_that_fails_at_the_end_costs_no_file(tmp_path):
    model, features, labels = tiny()
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=[fails_after(1)])
    path = tmp_path / "m.tflite"
    callback = tfeptq.QuantizationCallback(
        features, NEAREST, export_path=path, validation_data=(features, labels)
    )
    with pytest.warns(UserWarning, match="is not scored: no such file$"):
        history = model.fit(features, labels, verbose=0, callbacks=[callback]).history
    assert callback.result.path == path
    assert path.exists()
    assert "quantized_loss" not in history


class Diverges(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.get_layer("ends").bias.assign([0.0, np.nan, 0.0])


def test_training_that_diverged_returns_and_says_which_layer(tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(b"older")
    model, features, labels = tiny()
    callback = tfeptq.QuantizationCallback(
        features, NEAREST, export_path=path, validation_data=(features, labels), every_epochs=1
    )
    with pytest.warns(UserWarning, match="QuantizationCallback") as caught:
        history = model.fit(features, labels, verbose=0, callbacks=[Diverges(), callback]).history
    told = [str(each.message) for each in caught if "QuantizationCallback" in str(each.message)]
    assert "epoch 1 is not scored" in told[0]
    assert "is not quantized; " in told[1]
    assert "of an earlier run: " in told[1]
    assert all("'ends'" in sentence for sentence in told)
    assert path.read_bytes() == b"older"
    assert callback.quantized is callback.result is None
    assert list(history) == ["accuracy", "loss"]


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (lambda x, y: (x[:, :4], y), "cannot be scored"),
        (lambda x, y: (x, np.stack([y, y], 1)), "cannot be scored"),
        (
            lambda x, y: (x, y + 100),
            r"cannot be scored with .*: [^{}]*Label values: 100|: the loss",
        ),
        (lambda x, y: (x,), "cannot be scored .* it has no labels"),
        (
            lambda x, y: (x.repeat(2, 0), y.repeat(2)[:-1]),
            r"unequal numbers of samples: inputs \[64\], labels \[63\]",
        ),
        (lambda x, y: (x, y, y[:30]), r"labels \[32\], sample weights \[30\]"),
        (lambda x, y: iter([(x, y[:31]), (x, y)]), r"inputs \[32\], labels \[31\]"),
        (lambda x, y: (x[:0], y[:0]), "holds no sample"),
        (lambda x, y: iter(()), "yields no batch"),
        (lambda x, y: tf.data.Dataset.from_tensors((x, y)).take(0), "yields no batch"),
        (lambda x, y: tf.data.Dataset.from_tensors((x, y)).repeat(), "without an end"),
        (lambda x, y: x, "is a ndarray"),
    ],
)
def test_validation_data_that_cannot_be_scored_are_refused_before_training(validation, message):
    model, features, labels = tiny()
    before = model.get_weights()
    given = validation(features, labels)

    def fit():
        callback = tfeptq.QuantizationCallback(features, NEAREST, validation_data=given)
        model.fit(features, labels, verbose=0, callbacks=[callback])

    with pytest.raises(ValueError, match=message):
        fit()
    for left, right in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_validation_data_in_another_unit_are_doubted_before_training():
    model, features, labels = tiny()
    data = (features * 255, labels)
    callback = tfeptq.QuantizationCallback(features, NEAREST, validation_data=data)
    callback.set_model(model)
    with pytest.warns(UserWarning, match="validation_data: inputs reach .*, calibration samples"):
        callback.on_train_begin()


class Subclassed(keras.Model):
    """One that its first training step builds."""

    def __init__(self):
        super().__init__()
        self.hidden, self.ends = keras.layers.Dense(7, "relu"), keras.layers.Dense(3)

    def call(self, inputs):
        return self.ends(self.hidden(inputs))


LATE = {
    "sequential": lambda: keras.Sequential([keras.layers.Dense(7, "relu"), keras.layers.Dense(3)]),
    "subclassed": Subclassed,
    "open size": lambda: keras.Sequential(
        [keras.Input((None, 4)), keras.layers.Conv1D(3, 2), keras.layers.GlobalMaxPooling1D()]
    ),
}


@pytest.mark.parametrize("in_batches", [False, True])
@pytest.mark.parametrize("name", LATE)
def test_models_that_training_builds_and_sizes_that_samples_tell(name, in_batches):
    shape = (24, 6, 4) if name == "open size" else (24, 4)
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    y = np.zeros((24, 3), "float32")
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(9)
    model = LATE[name]()
    model.compile("sgd", "mse")
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=24)
    callback = tfeptq.QuantizationCallback(batches if in_batches else x, config)
    model.fit(x, y, verbose=0, callbacks=[callback])
    found, expected = callback.quantized.predict(x, verbose=0), model.predict(x, verbose=0)
    assert np.square(found - expected).mean() < 1e-3 * expected.var()


def test_samples_that_an_unbuilt_model_does_not_take_are_refused():
    model = Subclassed()
    model.compile("sgd", "mse")
    callback = tfeptq.QuantizationCallback(np.array(["a", "b"]), NEAREST)
    with pytest.raises(ValueError, match="cannot be called on a calibration sample"):
        model.fit(np.zeros((8, 4)), np.zeros((8, 3)), verbose=0, callbacks=[callback])


def test_validation_batches_that_can_be_read_once_serve_epochs_and_the_end():
    model, features, labels = tiny()
    batches = [(features[:20], labels[:20]), (features[20:], labels[20:])]
    callbacks = [
        tfeptq.QuantizationCallback(
            features, NEAREST, validation_data=iter(batches), every_epochs=1
        ),
        tfeptq.QuantizationCallback(features, NEAREST, validation_data=(features, labels)),
    ]
    history = model.fit(features, labels, verbose=0, callbacks=callbacks).history
    of_epoch, expected = history["quantized_loss"]
    found = [of_epoch, *history["final_quantized_loss"]]
    # float32 sums in batches of other sizes.
    np.testing.assert_allclose(found, [expected] * 3, rtol=1e-6)
