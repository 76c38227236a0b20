"""Natural mistakes: one sentence of ours says what was received and what is allowed, at once.

None of them reads samples to the end, trains or leaves a file.
"""

from __future__ import annotations

import functools
import pathlib
import re
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import tfeptq
import tflite_export
from tfeptq import AccuracyTarget, Budget, QuantizationCallback, quantize
from tfeptq import QuantizationConfig as Config
from tfeptq.cli.main import main

SHAPE = (6, 6, 3)
IMAGES = np.random.default_rng(0).uniform(0, 1, (8, *SHAPE)).astype("float32")
NEAREST = Config(rounding="nearest", samples=8)


def network():
    inputs = keras.Input(SHAPE, name="image")
    x = L.Conv2D(4, 3, activation="relu", name="first")(inputs)
    x = L.GlobalAveragePooling2D()(L.Conv2D(4, 3, name="middle")(x))
    return keras.Model(inputs, L.Dense(4, name="head")(x), name="net")


def compiled(loss="sparse_categorical_crossentropy"):
    model = network()
    model.compile("sgd", loss)
    return model


def two_inputs():
    inputs = [keras.Input((4,), name="a"), keras.Input((4,), name="b")]
    return keras.Model(inputs, L.Dense(2)(L.Concatenate()(inputs)))


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def fitted(callback):
    model = compiled("mse")
    model.fit(IMAGES, np.zeros((8, 4)), callbacks=[callback], verbose=0)


def labels_for(labels, model=None):
    config = Config(
        weight_bits=(4, 8),
        sensitivity="hawq_v2",
        rounding="nearest",
        samples=8,
        budget=Budget(weight_bytes=10**6),
    )
    return quantize(model or compiled(), IMAGES, config, labels=labels)


def of(**settings):
    settings.setdefault("rounding", "nearest")
    return quantize(network(), IMAGES, Config(samples=8, **settings))


def metric(result):
    return of(weight_bits=(4, 8), accuracy_target=AccuracyTarget(lambda model: result))


@functools.cache
def quantized():
    return quantize(network(), IMAGES, NEAREST)


@functools.cache
def content():
    """Of a file that is right."""
    with tempfile.TemporaryDirectory() as folder:
        return tflite_export.export(quantized(), f"{folder}/m.tflite").path.read_bytes()


@functools.cache
def exported():
    """What the export of that said."""
    with tempfile.TemporaryDirectory() as folder:
        return tflite_export.export(quantized(), f"{folder}/m.tflite", verify=False)


@functools.cache
def quantized_otherwise():
    model = keras.Sequential([keras.Input(SHAPE), L.Conv2D(2, 3, name="other"), L.Flatten()])
    return quantize(model, IMAGES, NEAREST)


def tokens():
    inputs = keras.Input((5,), name="tokens")
    x = L.GlobalAveragePooling1D()(L.Embedding(10, 4, name="words")(inputs))
    return keras.Model(inputs, L.Dense(3)(x))


def numbers(*values):
    return quantize(tokens(), np.resize(values, (8, 5)), NEAREST)


class Unregistered(keras.layers.Layer):
    """Of the user's own, which nobody told Keras of."""


class Odd(keras.layers.Layer):
    """Is registered with functions that return something else."""

    def call(self, inputs):
        return inputs * 2


def decomposed(returned):
    tfeptq.register_layer(Odd, lambda layer, x: returned)
    inputs = keras.Input((4,))
    made = keras.Model(inputs, L.Dense(2)(Odd()(inputs)))
    return quantize(made, IMAGES[:, 0, 0, [0, 0, 1, 2]], NEAREST)


def monitored(monitor, *, every_epochs=None, stands="behind"):
    own = QuantizationCallback(
        IMAGES, NEAREST, validation_data=(IMAGES, np.zeros((8, 4))), every_epochs=every_epochs
    )
    other = keras.callbacks.EarlyStopping(monitor, mode="min")
    callbacks = [own, other] if stands == "behind" else [other, own]
    compiled("mse").fit(IMAGES, np.zeros((8, 4)), callbacks=callbacks, verbose=0)


MODELS = {
    "in a graph": (
        tf.function(lambda: quantize(network(), IMAGES, NEAREST), autograph=False),
        "inside a tf.function or a graph",
    ),
    "path": (lambda: quantize("m.keras", IMAGES), r"received str: .*load_model\('m.keras'\)"),
    "path object": (lambda: quantize(pathlib.Path("m.h5"), IMAGES), "load the file with"),
    "nothing": (lambda: quantize(None, IMAGES), "received NoneType"),
    "layer": (lambda: quantize(L.Dense(3), IMAGES), r"received Dense: .*keras\.Sequential"),
    "class": (lambda: quantize(Subclassed, IMAGES), "received the class Subclassed"),
    "samples first": (lambda: quantize(IMAGES, network()), "ndarray: the model comes first"),
    "function": (lambda: quantize(lambda x: x, IMAGES), "received function"),
    "not built": (
        lambda: quantize(keras.Sequential([L.Dense(3)]), IMAGES),
        "never built.*call it once on a sample",
    ),
    "subclassed": (lambda: quantize(Subclassed(), IMAGES), "never built.*or give input_shape="),
    "file": (lambda: quantize(b"TFL3", IMAGES), "received bytes"),
}
ARGUMENTS = {
    "config of settings": (lambda: quantize(network(), IMAGES, {"weight_bits": 4}), "config={'we"),
    "config of nothing": (lambda: quantize(network(), IMAGES, {}), r"config=\{\} must be a tfeptq"),
    "config of bits": (lambda: quantize(network(), IMAGES, 4), "config=4 must be"),
    "config class": (lambda: quantize(network(), IMAGES, Config), "must be a tfeptq.Quantiz"),
    "one callback": (
        lambda: quantize(network(), IMAGES, callbacks=keras.callbacks.History()),
        "must be a list of Keras callbacks",
    ),
    "callback name": (lambda: quantize(network(), IMAGES, callbacks="tb"), "callbacks='tb' must"),
    "callback class": (
        lambda: quantize(network(), IMAGES, callbacks=[keras.callbacks.History]),
        r"callbacks\[0\]=",
    ),
    "callback that quantizes": (
        lambda: quantize(network(), IMAGES, callbacks=[QuantizationCallback(IMAGES)]),
        "give it to fit of the float model",
    ),
    "checkpoint number": (
        lambda: quantize(network(), IMAGES, checkpoint_dir=3),
        "checkpoint_dir=3 must be the path of a folder",
    ),
    "checkpoint file": (
        lambda: quantize(network(), IMAGES, checkpoint_dir=__file__),
        r"checkpoint_dir: .*test_mistakes\.py is a file",
    ),
    "checkpoint below a file": (
        lambda: quantize(network(), IMAGES, checkpoint_dir=f"{__file__}/runs"),
        "is a file; a folder is needed",
    ),
    "checkpoint nowhere": (
        lambda: quantize(network(), IMAGES, checkpoint_dir="/proc/runs"),
        "nothing can be written there",
    ),
    "no goal": (lambda: of(weight_bits=(2, 4)), "nothing says which to take"),
    "frontier of one width": (
        lambda: tfeptq.pareto_frontier(network(), IMAGES, NEAREST),
        "leaves nothing to choose",
    ),
    "frontier of nothing": (
        lambda: tfeptq.pareto_frontier(network(), IMAGES, None),
        "leaves nothing to choose",
    ),
    "frontier of a path": (
        lambda: tfeptq.pareto_frontier("m.keras", IMAGES, Config(weight_bits=(2, 4))),
        "received str",
    ),
    "frontier cost": (
        lambda: tfeptq.pareto_frontier(network(), IMAGES, Config(weight_bits=(2, 4)), cost="size"),
        "'size' is no cost to choose by",
    ),
}
EDGE_TPU = "=16 of 'image' on target 'coral': the Edge TPU stores and computes 8 bits only: set "
REQUESTS = {
    "unknown layer": (lambda: of(weight_bits={"frist": 4}), "did you mean 'first'"),
    "unknown tensor": (lambda: of(activation_bits={"haed": 8}), "did you mean 'head'"),
    "4 bits on coral": (lambda: of(weight_bits=4, target="coral"), "layer 'middle'.*received 4"),
    "16 bits on coral": (lambda: of(activation_bits=16, target="coral"), EDGE_TPU),
    "16 bits of an input": (lambda: of(activation_bits={"image": 16}, target="coral"), EDGE_TPU),
    "small budget": (
        lambda: of(weight_bits=(2, 8), budget=Budget(weight_bytes=10)),
        "the smallest possible is .*first",
    ),
    "small memory": (
        lambda: of(weight_bits=(2, 8), budget=Budget(activation_bytes=10)),
        "bytes of activations are alive at once",
    ),
    "no latency table": (
        lambda: of(weight_bits=(2, 8), budget=Budget(latency_ms=1, latency_table="no.csv")),
        "latency table no.csv: no such file",
    ),
    "unknown output": (lambda: of(outputs=["haed"]), "did you mean 'head'"),
    "decomposed into nothing": (lambda: decomposed(None), "returns .*NoneType.* has 1 outputs"),
    "decomposed into two": (lambda: decomposed([1.0, 2.0]), "return as many tensors"),
    "row that there is not": (
        lambda: numbers(1, 10),
        "'tokens' holds 10; layer 'words' takes whole numbers from 0 to 9",
    ),
    "row before the first": (lambda: numbers(1, -1), "'tokens' holds -1"),
    "part of a row": (lambda: numbers(1, 1.5), "'tokens' holds 1.5"),
    "metric of text": (lambda: metric("good"), "the metric returned 'good'"),
    "metric of nothing": (lambda: metric(None), "the metric returned None"),
    "metric of NaN": (lambda: metric(float("nan")), "the metric returned nan"),
    "metric below zero": (lambda: metric(-1.0), "must be positive, higher is better"),
    "metric that fails": (
        lambda: of(weight_bits=(4, 8), accuracy_target=AccuracyTarget(lambda: 1.0)),
        "the metric failed: TypeError",
    ),
    "labels for nothing": (
        lambda: quantize(network(), IMAGES, NEAREST, labels=np.zeros(8)),
        "labels are taken by sensitivity='hawq_v2' alone",
    ),
    "labels out of range": (lambda: labels_for(np.full(8, 4)), "from 0 to 3, received 4 to 4"),
    "labels below zero": (lambda: labels_for(np.full(8, -1)), "received -1 to -1"),
    "labels of words": (lambda: labels_for(["cat"] * 8), "labels.* dtype <U3"),
    "labels of NaN": (lambda: labels_for(np.full(8, np.nan)), "labels hold NaN"),
    "too few labels": (lambda: labels_for(np.zeros(7)), "8 samples and 7 labels"),
    "labels without a loss": (lambda: labels_for(np.zeros(8), network()), "call model.compile"),
}
DATA = {
    "nothing": (lambda: None, "calibration is a NoneType"),
    "path": (lambda: "x.npz", "calibration is the path 'x.npz'"),
    "number": (lambda: 5, "calibration is a int"),
    "function": (lambda: lambda: IMAGES, "calibration is a function"),
    "model": (network, "calibration is a Functional"),
    "one sample": (lambda: IMAGES[0], r"axis in front, array\[None\]"),
    "channels first": (lambda: IMAGES.transpose(0, 3, 1, 2), "numpy.moveaxis"),
    "flat": (lambda: IMAGES.reshape(8, -1), r"array\.reshape\(\(-1, 6, 6, 3\)\)"),
    "grey": (lambda: IMAGES[..., :1], r"has shape \(8, 6, 6, 1\); expected"),
    "unequal": (lambda: [IMAGES[0], IMAGES[0, :3]], "2 unequal parts"),
    "complex": (lambda: IMAGES.astype(complex), "dtype complex128"),
    "objects": (lambda: IMAGES.astype(object), "dtype object"),
    "text": (lambda: IMAGES.astype(str), "numbers are needed"),
    "NaN": (lambda: np.where(IMAGES > 0.5, np.nan, IMAGES), "holds NaN"),
    "beyond float32": (lambda: IMAGES.astype("float64") * 1e39, "float32 ends at"),
    "none": (lambda: IMAGES[:0], "is empty"),
    "no list": (list, r"shape \(0,\); expected"),
    "masked": (lambda: np.ma.masked_array(IMAGES, IMAGES > 0.5), "masked values"),
    "symbolic": (lambda: keras.Input(SHAPE), "no array of numbers"),
    "not batched": (lambda: tf.data.Dataset.from_tensor_slices(IMAGES), r"dataset\.batch"),
    "named otherwise": (lambda: {"x": IMAGES, "y": [0]}, r"pass \{'image': array\}, or the array"),
    "dictionaries": (lambda: [{"image": row} for row in IMAGES], "it holds dictionaries"),
    "set": (lambda: {1.0, 2.0}, "calibration is a set"),
    "lists of unequal length": (lambda: [[1.0], [1.0, 2.0]], "pad_sequences"),
    "no batches": (lambda: tf.data.Dataset.from_tensor_slices(IMAGES[:0]).batch(2), "no batch"),
    "batches of nothing": (lambda: (None for _ in range(2)), "dtype object"),
    "ragged": (lambda: tf.ragged.constant([[1.0], [1.0, 2.0]]), "RaggedTensor"),
}
OF_TWO = {
    "one array": (np.zeros((8, 4)), r"one array, the model takes the inputs \['a', 'b'\]"),
    "three arrays": ([np.zeros((8, 4))] * 3, "holds 3 arrays"),
    "unequal counts": ([np.zeros((8, 4)), np.zeros((7, 4))], r"unequal numbers .*\[7, 8\]"),
    "another name": ({"a": np.zeros((8, 4)), "c": np.zeros((8, 4))}, r"lacks the inputs \['b'\]"),
}
FILES = {
    "over a Keras model": (
        lambda: tflite_export.export(quantized(), "m.keras"),
        r"\.keras is for Keras models; the name of a TensorFlow Lite file ends in \.tflite",
    ),
    "over a device": (lambda: tflite_export.export(quantized(), "/dev/null"), "is a device"),
    "floats on coral": (
        lambda: tflite_export.export(quantized(), "m.tflite", target="coral", input_type="float32"),
        "on 'coral' floats would be",
    ),
    "Keras's own export": (
        lambda: quantized().export("m.tflite"),
        r"written by tflite_export\.export\(quantized, 'm.tflite'\)",
    ),
    "Keras's own export of LiteRT": (
        lambda: quantized().export("m", format="litert"),
        "model.export is Keras's",
    ),
    "samples of another shape": (
        lambda: tflite_export.export(quantized(), "m.tflite", samples=IMAGES[:, :5]),
        r"need \(N, 6, 6, 3\)",
    ),
    "inspect a content": (
        lambda: tflite_export.inspect(content()),
        r"a content of \d+ bytes is not the path",
    ),
    "run one sample": (
        lambda: tflite_export.run(content(), IMAGES[0]),
        r"needs an axis in front, array\[None\]",
    ),
    "report of a float model": (
        lambda: tfeptq.write_report("r.json", network(), None),
        "quantized=.* must be what tfeptq.quantize returned",
    ),
    "report without a file": (
        lambda: tfeptq.write_report("r.json", quantized(), "m.tflite"),
        r"must be what tflite_export\.export\(quantized, path\) returned",
    ),
    "report of another file": (
        lambda: tfeptq.write_report("r.json", of(weight_bits={"middle": 4}), exported()),
        r"layer 'middle' has the widths \(4, 8\) and is \(8, 8\) there; pass what",
    ),
    "report of another model's file": (
        lambda: tfeptq.write_report("r.json", quantized_otherwise(), exported()),
        "layer 'other' has .* and is not there",
    ),
    "compare with another": (
        lambda: tfeptq.compare(keras.Sequential([keras.Input((4,)), L.Dense(2)]), quantized(), 0),
        "not a model and its own quantized copy",
    ),
    "float model": (lambda: tflite_export.export(network(), "m.tflite"), "quantize it first"),
    "no model": (lambda: tflite_export.export(None, "m.tflite"), "received a NoneType"),
    "path of a model": (lambda: tflite_export.export("m.keras", "m.tflite"), "received a str"),
    "load nothing": (lambda: tfeptq.load_model("absent.keras"), "absent.keras: no such file"),
    "load a number": (lambda: tfeptq.load_model(3), "3 is not the path of a file"),
    "check nothing": (lambda: tflite_export.check("no.tflite", target="coral"), "no such file"),
    "check a typo": (
        lambda: tflite_export.check("no.tflite", target="edgetpu"),
        "did you mean 'coral'",
    ),
    "check a list": (
        lambda: tflite_export.check("no.tflite", target=["coral"]),
        r"target \['coral'\] is unknown",
    ),
    "inspect nothing": (lambda: tflite_export.inspect("no.tflite"), "no such file"),
    "inspect a number": (lambda: tflite_export.inspect(3), "3 is not the path of a file"),
    "run nothing": (lambda: tflite_export.run("no.tflite", IMAGES), "no such file"),
    "run a typo": (
        lambda: tflite_export.run("no.tflite", IMAGES, runtime="tflite"),
        "runtime 'tflite' is unknown.*did you mean 'litert'",
    ),
}
CALLBACKS = {
    "reader in front": (
        lambda: monitored("quantized_loss", every_epochs=1, stands="in front"),
        "EarlyStopping monitors 'quantized_loss' after every epoch: put it behind",
    ),
    "no scores of epochs": (lambda: monitored("quantized_loss"), "every_epochs=1, which writes"),
    "score of the end": (
        lambda: monitored("final_quantized_loss", every_epochs=1),
        "let it monitor 'quantized_loss'",
    ),
    "over a Keras model": (
        lambda: fitted(QuantizationCallback(IMAGES, export_path="m.h5")),
        "is for Keras models",
    ),
    "config": (lambda: QuantizationCallback(IMAGES, {"weight_bits": 4}), "must be a tfeptq"),
    "no goal": (lambda: QuantizationCallback(IMAGES, Config(weight_bits=(2, 4))), "which to take"),
    "part of an epoch": (
        lambda: QuantizationCallback(IMAGES, every_epochs=1.5, validation_data=(1, 2)),
        "every_epochs=1.5 must be a whole number",
    ),
    "nothing to score on": (lambda: QuantizationCallback(IMAGES, every_epochs=1), "needs valid"),
    "path of a number": (lambda: QuantizationCallback(IMAGES, export_path=3), "not the path"),
    "folder": (lambda: fitted(QuantizationCallback(IMAGES, export_path=".")), "is a folder"),
    "long name": (
        lambda: fitted(QuantizationCallback(IMAGES, export_path="x" * 300 + ".tflite")),
        "x': no file can have this name: File name too long",
    ),
    "no name": (
        lambda: fitted(QuantizationCallback(IMAGES, export_path="a\0b.tflite")),
        "no file can have this name: .*null",
    ),
    "no folder": (
        lambda: fitted(QuantizationCallback(IMAGES, export_path="no/m.tflite")),
        "the folder no does not exist",
    ),
    "bad samples": (lambda: fitted(QuantizationCallback("x.npz")), "is the path 'x.npz'"),
}
TABLES = (MODELS, ARGUMENTS, REQUESTS, FILES, CALLBACKS)
ALL = {
    f"{index} {name}": entry for index, table in enumerate(TABLES) for name, entry in table.items()
}
ALL |= {
    f"data {name}": ((lambda make=make: quantize(network(), make(), NEAREST)), message)
    for name, (make, message) in DATA.items()
}
ALL |= {
    f"two inputs {name}": ((lambda data=data: quantize(two_inputs(), data, NEAREST)), message)
    for name, (data, message) in OF_TWO.items()
}


@pytest.mark.parametrize("name", ALL)
def test_a_mistake_is_answered_in_one_sentence(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    mistake, message = ALL[name]
    with pytest.raises(ValueError, match=message) as refusal:
        mistake()
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400
    assert not list(tmp_path.iterdir())


NAMES = {
    "steps": (lambda: Config(epochs=3), "no setting 'epochs'; did you mean 'steps'"),
    "bits": (lambda: Config(bits=4), "did you mean 'weight_bits'"),
    "nothing near": (lambda: Config(xyz=4), "there are weight_bits, activation_bits"),
    "budget": (lambda: Budget(flash=10**5), "did you mean 'weight_bytes'"),
    "accuracy": (lambda: AccuracyTarget(len, realtive=0.9), "did you mean 'relative'"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_that_there_is_not_is_answered_with_the_one_that_was_meant(name):
    mistake, message = NAMES[name]
    with pytest.raises(TypeError, match=message):
        mistake()


def behind(first, samples, *, nested=False):
    """A network that begins with a layer, quantized on samples."""
    rest = [L.Conv2D(2, 3, name="conv"), L.Flatten(), L.Dense(2)]
    begins = [keras.Sequential([L.RandomFlip(), first])] if nested else [first]
    return quantize(keras.Sequential([keras.Input(SHAPE), *begins, *rest]), samples, NEAREST)


def adapted():
    layer = L.Normalization(name="unit")
    layer.adapt(IMAGES * 255)
    return layer


def with_one(value):
    """Samples of which one holds this value."""
    images = IMAGES.copy()
    images[3, 1, 2, 0] = value
    return images


DIM = np.reshape([1.0] * 7 + [1e-4], (8, 1, 1, 1)).astype("float32")
PIXELS = L.Rescaling(1 / 255, name="pixels")
DOUBTS = {
    "zeros": (lambda: quantize(network(), IMAGES * 0, NEAREST), "all 8 calibration samples are eq"),
    "one image": (
        lambda: quantize(network(), IMAGES[:1].repeat(8, 0), NEAREST),
        "are equal: were they loaded",
    ),
    "0 to 1 for 0 to 255": (lambda: behind(PIXELS, IMAGES), "'pixels'.* leaves a range of 0.0039"),
    "the same in a model": (lambda: behind(PIXELS, IMAGES, nested=True), "'pixels'"),
    "-1 to 1 for 0 to 255": (
        lambda: behind(L.Rescaling(1 / 127.5, -1), IMAGES * 2 - 1),
        "as the model was trained on",
    ),
    "16 bits for 8": (lambda: behind(PIXELS, IMAGES * 65535), "leaves a range of 257"),
    "another unit than adapted to": (lambda: behind(adapted(), IMAGES), "behind layer 'unit'"),
    "one broken": (
        lambda: quantize(network(), with_one(1e6), NEAREST),
        "input '.*': 1 of 8 calibration samples reach 1e[+]06, the others",
    ),
}
#: What looks similar and is right.
SOUND = {
    "pixels": lambda: behind(PIXELS, IMAGES * 255),
    "dark pixels": lambda: behind(PIXELS, IMAGES * 40),
    "nested": lambda: behind(PIXELS, IMAGES * 255, nested=True),
    "no pixels": lambda: behind(L.Rescaling(0.1), IMAGES / 2),
    "adapted": lambda: behind(adapted(), IMAGES * 255),
    "few": lambda: behind(adapted(), IMAGES[:2] * 255),
    "one loud": lambda: quantize(network(), with_one(50.0), NEAREST),
    "one quiet": lambda: quantize(
        network(), np.concatenate([IMAGES[:7], IMAGES[7:] / 1e4]), NEAREST
    ),
}


@pytest.mark.parametrize("name", DOUBTS)
def test_samples_that_are_hardly_meant_are_doubted(name):
    make, message = DOUBTS[name]
    with pytest.warns(UserWarning, match=message):
        made = make()
    assert any(re.search(message, each) for each in made.report.warnings)


@pytest.mark.parametrize("name", SOUND)
def test_samples_that_are_right_are_not_doubted(name, recwarn):
    SOUND[name]()
    said = [str(each.message) for each in recwarn]
    assert not [each for each in said if "calibration samples" in each and "were asked" not in each]


def test_unsigned_bytes_are_pixels_for_files_of_signed_integers():
    pixels = np.arange(6 * 6 * 3, dtype=np.uint8).reshape(1, *SHAPE)
    found, expected = (tflite_export.run(content(), x) for x in (pixels, pixels.astype("float32")))
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files that are right, and some that are not."""
    path = tmp_path_factory.mktemp("mistakes")
    network().save(path / "m.keras")
    two_inputs().save(path / "two.keras")
    np.savez(path / "x.npz", x=IMAGES, y=np.arange(8) % 4)
    np.savez(path / "high.npz", x=IMAGES, y=np.full(8, 7))
    np.savez(path / "words.npz", x=IMAGES, y=np.array(["cat"] * 8))
    np.savez(path / "few.npz", x=IMAGES, y=np.zeros(7))
    np.savez(path / "none.npz", x=IMAGES[:0], y=np.zeros(0))
    np.savez(path / "nan.npz", x=IMAGES * np.nan, y=np.zeros(8))
    np.savez(path / "nan_label.npz", x=IMAGES, y=np.full(8, np.nan))
    np.savez(path / "small.npz", x=IMAGES[:, :5], y=np.zeros(8))
    np.savez(path / "bare.npz", x=IMAGES)
    np.save(path / "x.npy", IMAGES)
    keras.Sequential([keras.Input((4,)), Unregistered()]).save(path / "own.keras")
    keras.Sequential([keras.Input(SHAPE), L.RandomFlip()]).save(path / "a.keras")
    (path / "twice.yaml").write_text("steps: 7\nsteps: 8\n")
    (path / "s.json").write_text('{"steps": 7}')
    (path / "text.txt").write_text("hello")
    (path / "hello.keras").write_text("hello")
    whole = (path / "m.keras").read_bytes()
    (path / "cut.keras").write_bytes(whole[: len(whole) // 2])
    middle = whole.index(b"model.weights.h5") + 400
    (path / "bad.keras").write_bytes(whole[:middle] + b"!" + whole[middle + 1 :])
    (path / "empty.keras").touch()
    network().save(path / "hdf5.h5")
    (path / "hdf5.h5").rename(path / "hdf5.keras")
    (path / "cut.npz").write_bytes((path / "x.npz").read_bytes()[:900])
    np.savez(path / "objects.npz", x=np.array([{}, None], object))
    (path / "latin.txt").write_text("caf\xe9\n", "latin-1")
    (path / "t.csv").write_text("operator,bits\nfirst,8\n")
    return path


QUANTIZE = "quantize m.keras --calibration x.npz --output m.tflite --samples 8 --rounding nearest"
CHOICE = f"{QUANTIZE} --weight-bits 2,4,8"
LABELLED = f"{CHOICE} --max-weight-bytes 9999 --sensitivity hawq_v2"
CLASSES = "--trace-loss sparse_categorical_crossentropy"
COMMANDS = {
    "quantize own.keras --calibration x.npz --output m.tflite": "needs 'Unregistered', which Keras",
    "quantize m.keras --calibration m.keras --output m.tflite": "archive of something else",
    "quantize m.keras --calibration x.npz": "--output is missing, or has no value; `tfeptq quanti",
    f"{QUANTIZE} --report": "--report is missing, or has no value",
    "evaluate m.keras --data x.npz": "not a TensorFlow Lite file .an archive, as .keras and .npz",
    f"{QUANTIZE} --target edgetpu": "did you mean 'coral'",
    f"{QUANTIZE} --target esp32": "did you mean 'microcontroller'",
    f"{QUANTIZE} --target ethos": "did you mean 'ethos-u'",
    f"{QUANTIZE} --rounding gptq": "did you mean 'optq'",
    f"{QUANTIZE} --threshold best": "allowed are output, hmse, mse, max",
    f"{QUANTIZE} --weight-bits four": "neither a width",
    f"{QUANTIZE} --weight-bits 4.5": "neither a width",
    f"{QUANTIZE} --weight-bits 9": "weight_bits=9 is not a width",
    f"{QUANTIZE} --weight-bits frist=4": "did you mean 'first'",
    f"{QUANTIZE} --activation-bits 3": "activation_bits=3",
    f"{QUANTIZE} --activation-bits haed=16": "did you mean 'head'",
    f"{QUANTIZE} --activation-bits 16 --input-type uint8": "input 'image' is int16 and cannot",
    f"{QUANTIZE} --activation-bits head=16 --output-type uint8 --save-keras q.keras": (
        "output 'head' is int16 and cannot"
    ),
    f"{QUANTIZE} --weight-bits first=4,first=8": "--weight-bits: 'first' is named twice",
    f"{QUANTIZE} --activation-bits first=4,head=8,first=4": "'first' is named twice",
    f"{QUANTIZE} --stage-samples quality=4,quality=8": "'quality' is named twice",
    f"{QUANTIZE} --states a=b,a=c": "'a' is named twice",
    f"{QUANTIZE} --input-shape image=6,6,3;image=6,6,3": "'image' is named twice",
    f"{QUANTIZE} --config twice.yaml": "twice.yaml .*'steps' is given twice.*line 2",
    f"{QUANTIZE} --input-range 0": "--input-range takes 2 values, received 1: 0",
    f"{QUANTIZE} --random-translation 0.5": "--random-translation takes 2 values, received 1: 0.5",
    f"{QUANTIZE} --first-last-bits x": "neither a whole number nor none",
    f"{QUANTIZE} --weight-bits 4 --target coral": "layer 'middle'",
    f"{QUANTIZE} --steps 1.5": "--steps: '1.5' is no whole number",
    f"{QUANTIZE} --steps 0": "steps=0 must be a whole number",
    f"{QUANTIZE} --samples -1": "samples=-1",
    f"{QUANTIZE} --seed -1": "seed=-1",
    f"{QUANTIZE} --resume text.txt": "--resume: .*text.txt is a file",
    f"{QUANTIZE} --validation absent.npz": "absent.npz: no such file",
    f"{QUANTIZE} --validation bare.npz": "bare.npz: no labels",
    f"{QUANTIZE} --validation words.npz": "words.npz: labels has dtype",
    f"{QUANTIZE} --validation few.npz": r"few.npz: inputs of shape \(8, 6, 6, 3\) and labels of",
    f"{QUANTIZE} --validation none.npz": "at least one",
    f"{QUANTIZE} --validation nan.npz": "nan.npz: inputs hold NaN",
    f"{QUANTIZE} --validation nan_label.npz": "nan_label.npz: labels hold NaN",
    f"{QUANTIZE} --validation small.npz": r"small.npz: inputs has shape \(8, 5, 6, 3\)",
    f"{QUANTIZE} --validation high.npz": "high.npz: labels 7 to 7 do not fit 4 classes",
    f"{QUANTIZE} --save-keras ./m.keras": "--save-keras: m.keras is a file that this command reads",
    f"{QUANTIZE} --save-keras a.keras --augmentation a.keras": "a.keras is a file that this",
    f"{QUANTIZE} --config s.json --report s.json": "--report: s.json is a file that this command",
    "latency m.keras --output m.keras": "must end in .csv",
    f"{QUANTIZE} --save-keras m.h5": "must end in .keras",
    f"{QUANTIZE} --report no/r.html": "the folder no does not exist",
    f"{CHOICE} --max-weight-bytes 10": "the smallest possible is",
    f"{CHOICE} --max-weight-bytes 60k": "'60k' is neither a whole number nor none",
    f"{CHOICE} --max-weight-bytes -5": "weight_bytes=-5",
    f"{CHOICE} --max-latency-ms nan --latency-table t.csv": "latency_ms=nan",
    f"{CHOICE} --max-latency-ms 1 --target ethos-u": "latency_ms needs the times",
    f"{CHOICE} --max-latency-ms 1 --latency-table t.csv": "no column",
    f"{CHOICE} --max-latency-ms 1 --latency-table no.csv": "no.csv: no such file",
    f"{CHOICE} --compressed --max-weight-bytes 99": "target 'microcontroller' only",
    CHOICE: "add --max-weight-bytes or --min-accuracy",
    f"{CHOICE} --min-accuracy 0.99": "needs labelled data",
    f"{CHOICE} --min-accuracy 99 --validation x.npz": "relative=99 must lie in",
    f"{CHOICE} --min-accuracy nan --validation x.npz": "relative=nan",
    f"{CHOICE} --min-accuracy 1 --validation x.npz --search-steps -1": "search_steps=-1",
    f"{CHOICE} --min-accuracy 1 --validation x.npz --minimize size": "cost='size' is unknown",
    f"{LABELLED} --trace-loss huger": "--trace-loss 'huger' is no loss of Keras",
    f"{LABELLED} {CLASSES} --calibration high.npz": "classes are whole numbers from 0 to 3",
    "quantize absent.keras --calibration x.npz --output m.tflite": "absent.keras: no such file",
    "quantize . --calibration x.npz --output m.tflite": "is a directory without a SavedModel",
    "quantize text.txt --calibration x.npz --output m.tflite": (
        "text.txt: no Keras model has the ending '.txt'; pass a file that ends in .keras, .h5"
    ),
    "quantize x.npz --calibration x.npz --output m.tflite": "x.npz is data, not a model; pass the",
    "quantize cut.keras --calibration x.npz --output m.tflite": "cut.keras: .* it is cut off: save",
    "quantize bad.keras --calibration x.npz --output m.tflite": "it is damaged, in .*: save or",
    "quantize empty.keras --calibration x.npz --output m.tflite": "it is empty: save or copy",
    "quantize hello.keras --calibration x.npz --output m.tflite": "it is no .keras archive",
    "quantize hdf5.keras --calibration x.npz --output m.tflite": "a name that ends in .h5",
    "quantize m.keras --calibration cut.npz --output m.tflite": "cut.npz: not .* or a damaged one",
    "quantize m.keras --calibration empty.keras --output m.tflite": "not an .npz file but empty",
    "quantize m.keras --calibration objects.npz --output m.tflite": "objects, which are never load",
    "export text.txt --output m.tflite": "no Keras model has the ending '.txt'",
    "compare m.keras x.npz --data x.npz": "x.npz is data, not a model",
    f"{CHOICE} --max-latency-ms 1 --latency-table latin.txt": r"latin.txt: no text .*0xe9 at 3",
    "quantize two.keras --calibration x.npz --output m.tflite": "the model takes the inputs",
    "quantize m.keras --calibration x.npy --output m.tflite": "one bare array",
    "quantize m.keras --calibration text.txt --output m.tflite": "not an .npz file",
    "quantize m.keras --calibration small.npz --output m.tflite": r"has shape \(8, 5, 6, 3\)",
    "quantize m.keras --calibration x.npz --output m.bin": "must end in .tflite",
    "quantize m.keras --calibration x.npz --output no/m.tflite": "the folder no does not exist",
    "quantize m.keras --calibration x.npz --output m.tflite --input-key z": r"no array \['z'\]",
    "quantize m.keras --output m.tflite": "--calibration is missing",
    "frontier m.keras --calibration x.npz": "leaves nothing to choose",
    "frontier m.keras --calibration x.npz --weight-bits 2,8 --cost size": "name 'size' is unknown",
    "export m.keras --output m.tflite": "m.keras is a float model: `tfeptq quantize` makes",
    "export m.keras --output m2.keras": "must end in .tflite",
    "evaluate absent.tflite --data x.npz": "absent.tflite: no such file",
    "evaluate m.tflite --data x.npz --runtime tflite": "did you mean 'litert'",
    "inspect text.txt": "not a TensorFlow Lite file",
    "check text.txt --target coral": "not a TensorFlow Lite file",
    "check m.tflite --target tpu": "did you mean 'coral'",
    "package text.txt --target microcontroller --output text.txt": "is a file; a folder",
    "latency absent.keras --output t2.csv": "absent.keras: no such file",
    "latency m.keras --output no/t.csv": "the folder no does not exist",
    "latency m.keras --output t2.csv --weight-bits x": "is not WIDTH,WIDTH",
    "quantise m.keras": 'Did you mean "quantize"',
    "quantize m.keras x.npz --calibration x.npz --output m.tflite": "unexpected arguments: x.npz",
    f"{QUANTIZE} --stepps 3": "Did you mean --steps",
    f"{CHOICE} --max-weight-bytes 9999 --search-steps 3": "--min-accuracy says which",
    f"{QUANTIZE} --input-shape 6x6": "neither SIZE,SIZE",
    f"{QUANTIZE} --input-shape imgae=6,6,3": "imgae",
    f"{QUANTIZE} --random-flip up": "allowed are horizontal",
    f"{QUANTIZE} --augmentation no.keras": "no.keras: no such file",
    f"{QUANTIZE} --augmentation m.keras --random-flip vertical": "leave out --random-flip",
    "": "a command is needed: demo, quantize",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistake_on_the_command_line_is_one_line_and_exit_code_2(
    command, folder, monkeypatch, capsys
):
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    try:
        code = main(command.split())
    except SystemExit as end:
        code = end.code
    assert code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("tfeptq: error: ")
    assert re.search(COMMANDS[command], lines[0])
    assert sorted(folder.iterdir()) == before
