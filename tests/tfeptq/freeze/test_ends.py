"""Constants, unread inputs and repeated outputs as the file has them."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import tfeptq
import tflite_export
from tflite_export.file.reader import parse

H, W, C = 5, 4, 3
RUNTIMES = {"android": "litert", "microcontroller": "tflm"}


def drawn(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def quickly(model: keras.Model, samples: list[np.ndarray], **settings) -> tfeptq.QuantizedModel:
    quick = {"rounding": "nearest", "threshold": "max", "bias_correction": False}
    config = tfeptq.QuantizationConfig(**quick, samples=len(samples[0]), **settings)
    return tfeptq.quantize(model, samples, config)


def in_a_file(
    model: keras.Model, samples: list[np.ndarray], path: Path, **settings
) -> list[np.ndarray]:
    """Outputs of the exported file; checks them against the float model's."""
    quantized = quickly(model, samples, **settings)
    config = quantized.quantization_config
    tflite_export.export(quantized, path, target=config.target)
    floats = [array.astype("float32") for array in samples]
    found = tflite_export.run(path, floats, runtime=RUNTIMES[config.target])
    found = found if isinstance(found, list) else [found]
    given = samples if len(samples) > 1 else samples[0]
    wanted = keras.tree.flatten(model.predict(given, batch_size=1, verbose=0))
    assert len(found) == len(wanted)
    for left, right in zip(wanted, found, strict=True):
        assert left.shape == right.shape
        assert np.abs(left - right).max() < 0.04 * np.abs(left).max()
    return found


MERGED = {
    "add": lambda x, c: L.Add()([x, c]),
    "constant minus": lambda x, c: ops.subtract(c, x),
    "multiply by a row": lambda x, c: ops.multiply(x, c[:, :1]),
    "maximum": lambda x, c: L.Maximum()([x, c]),
    "average": lambda x, c: L.Average()([x, c]),
    "concatenate": lambda x, c: ops.concatenate([c, x, c], axis=-1),
}


@pytest.mark.parametrize(
    ("name", "bits"), [*((name, 8) for name in MERGED), ("constant minus", 16), ("concatenate", 16)]
)
def test_constants_are_operands_of_the_file(name, bits, tmp_path):
    inputs = keras.Input(batch_shape=(1, H, W, C))
    keras.utils.set_random_seed(0)
    merged = MERGED[name](L.Conv2D(C, 1)(inputs), ops.convert_to_tensor(drawn((1, H, W, C), 7)))
    model = keras.Model(inputs, L.Conv2D(2, 1)(merged))
    target = "microcontroller" if bits == 8 else "android"
    in_a_file(model, [drawn((32, H, W, C), 1)], tmp_path / "m", target=target, activation_bits=bits)


def test_a_constant_is_written_in_the_type_of_each_reader(tmp_path):
    inputs = keras.Input((H, W, C), name="x")
    array = ops.ones_like(inputs) * drawn((H, W, C), 3)
    wide = L.Add(name="wide")([inputs, array])
    narrow = L.Multiply(name="narrow")([L.Conv2D(C, 1)(inputs), array])
    model = keras.Model(inputs, [wide, narrow])
    widths = {"wide": 16, "x": 16}
    graph = quickly(model, [drawn((16, H, W, C), 1)], activation_bits=widths).freeze()
    constants = [
        graph.tensors[name].dtype
        for operator in graph.operators
        for name in operator.inputs
        if operator.kind in ("ADD", "MUL") and graph.tensors[name].is_constant
    ]
    assert sorted(constants) == ["int16", "int8"]
    assert [o.kind for o in graph.operators].count("QUANTIZE") == 1


@pytest.mark.parametrize("target", RUNTIMES)
@pytest.mark.parametrize("place", [0, 1])
def test_an_input_that_nothing_reads_stays_one_of_the_file(target, place, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = [keras.Input((H, W, C), name="image"), keras.Input((6,), name="not read")]
    outputs = L.Dense(4)(L.Flatten()(inputs[0]))
    samples = [drawn((32, H, W, C), 1), drawn((32, 6), 2)]
    if place:
        inputs, samples = inputs[::-1], samples[::-1]
    model = keras.Model(inputs, outputs)
    in_a_file(model, samples, tmp_path / "m.tflite", target=target)
    found = parse((tmp_path / "m.tflite").read_bytes())
    assert list(found.input_names) == [tensor.name for tensor in inputs]


def test_widths_of_an_input_that_nothing_reads():
    inputs = [keras.Input((3,), name="a"), keras.Input((2,), name="b")]
    model = keras.Model(inputs, L.Dense(2, name="d")(inputs[0]))
    widths = quickly(model, [drawn((8, 3)), drawn((8, 2))]).bit_widths
    assert widths == {"a": (None, 8), "b": (None, 8), "d": (8, 8)}


@pytest.mark.parametrize("shape", [(0,), (3, 0), ()], ids=str)
def test_inputs_without_values_are_refused_in_one_sentence(shape):
    inputs = [keras.Input((3,), name="a"), keras.Input(shape, name="empty")]
    model = keras.Model(inputs, L.Dense(2)(inputs[0]))
    with pytest.raises(ValueError, match=r"^input 'empty' has shape"):
        tfeptq.quantize(model, [drawn((8, 3)), drawn((8, *shape))])


@pytest.mark.parametrize("dtype", ["string", "complex64"])
def test_an_input_of_no_real_numbers_is_refused_in_one_sentence(dtype):
    inputs = [keras.Input((3,), name="a"), keras.Input((1,), name="odd", dtype=dtype)]
    model = keras.Model(inputs, L.Dense(2)(inputs[0]))
    with pytest.raises(ValueError, match=rf"^input 'odd' is of type {dtype}"):
        tfeptq.quantize(model, [drawn((8, 3)), np.array([["word"]] * 8)])


def test_a_sparse_input_is_refused_in_one_sentence():
    inputs = keras.Input((3,), name="odd", sparse=True)
    with pytest.raises(ValueError, match=r"^input 'odd' is a sparse tensor"):
        tfeptq.quantize(keras.Model(inputs, L.Dense(2)(inputs)), drawn((8, 3)))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_inputs_of_integers_become_numbers_of_the_file(dtype, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3, 4), dtype=dtype)
    model = keras.Model(inputs, L.Dense(2)(L.Rescaling(0.5, -0.5)(inputs)))
    samples = np.random.default_rng(0).integers(0, 2, (16, 3, 4))
    in_a_file(model, [samples.astype(dtype)], tmp_path / "m.tflite", target="android")


@pytest.mark.parametrize("target", RUNTIMES)
def test_any_name_of_an_input(target, tmp_path):
    keras.utils.set_random_seed(0)
    names = ["an image", "größe:0", "日本\n"]
    inputs = [keras.Input((5,), name=name) for name in names]
    model = keras.Model(inputs, L.Dense(4)(L.Concatenate()(inputs)))
    in_a_file(model, [drawn((32, 5), seed) for seed in range(3)], tmp_path / "m", target=target)
    assert list(parse((tmp_path / "m").read_bytes()).input_names) == names


def test_names_that_tensorflow_cannot_compile():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,), name="_x")
    x = L.Dense(4, activation="relu", name="_first")(inputs)
    x = L.Dense(4, name="schön 1")(L.BatchNormalization(name="-norm")(x))
    model = keras.Model(inputs, L.Dense(2, name="50 % off")(L.ReLU(name="schön_1")(x)))
    config = tfeptq.QuantizationConfig(
        rounding="nearest", samples=32, weight_bits={"schön 1": 4}, activation_bits={"_first": 16}
    )
    samples = drawn((32, 5))
    quantized = tfeptq.quantize(model, samples, config)
    assert quantized.bit_widths["_first"] == (8, 16)
    assert quantized.bit_widths["sch_n_1"] == (4, 8)
    wanted, found = np.asarray(model(samples)), quantized.predict(samples, verbose=0)
    assert np.abs(wanted - found).max() < 0.2 * np.abs(wanted).max()


def test_the_same_output_twice_and_an_input_as_output(tmp_path):
    inputs = keras.Input((5,), name="x")
    y = L.Dense(3, name="y")(inputs)
    model = keras.Model(inputs, [y, inputs, y])
    in_a_file(model, [drawn((32, 5))], tmp_path / "m.tflite", target="android")
    found = parse((tmp_path / "m.tflite").read_bytes())
    assert list(found.output_names) == ["y", "x", "y_1"]


def test_outputs_of_a_dictionary_are_scored_by_their_names(tmp_path):
    inputs = keras.Input((5,), name="x")
    outputs = {"b": L.Dense(2, name="one")(inputs), "a": L.Dense(3, name="two")(inputs)}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", loss={"b": "mse", "a": "mae"})
    samples = drawn((32, 5))
    labels = {"b": drawn((32, 2), 1), "a": drawn((32, 3), 2)}
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=32, threshold="max")
    path = tmp_path / "m.tflite"
    callback = tfeptq.QuantizationCallback(
        samples, config, export_path=path, validation_data=(samples, labels)
    )
    history = model.fit(samples, labels, callbacks=[callback], verbose=0).history
    wanted = model.evaluate(samples, labels, verbose=0, return_dict=True)["loss"]
    assert abs(history["quantized_loss"][-1] - wanted) < 0.02 * wanted
    made = callback.quantized.predict(samples, verbose=0)
    assert {name: array.shape for name, array in made.items()} == {"a": (32, 3), "b": (32, 2)}
    # The file's outputs are in Keras's order, that of the sorted names.
    assert [array.shape for array in tflite_export.run(path, samples)] == [(32, 3), (32, 2)]
