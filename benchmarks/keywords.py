"""Spoken words by an LSTM: unrolled over the sequence, as one step that streams, and the runtime's.

    TFEPTQ_ASSETS=... python -m benchmarks.keywords [--words 400] [--rounding optq]

A small LSTM is trained on 600 of the assets' 1000 words (weights are kept in Keras's folder) and
quantized on 200 of them. All scores are of exported files on the same other words. The file of one
step runs in TFLM: 49 steps a word, the states fed back in integers. TFLiteConverter makes one
operator of the LSTM, with weights of 8 bits.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import tfeptq
import tflite_export
from benchmarks.models import ASSETS
from tflite_export.runtimes.latency import latency

UNITS, TRAINED, CALIBRATION = 32, 600, 200
#: States of the step: the outputs are in the order of their names.
STATES = {"carry_out": "carry", "hidden_out": "hidden"}


@dataclasses.dataclass(frozen=True)
class Words:
    """Float features (n, 49, 10) and classes (n,)."""

    features: np.ndarray
    classes: np.ndarray

    def part(self, begin: int, end: int | None = None) -> Words:
        return Words(self.features[begin:end], self.classes[begin:end])


def load() -> Words:
    path = ASSETS / "kws" / "kws01.npz"
    if not path.is_file():
        raise SystemExit(f"no assets at {ASSETS}; set TFEPTQ_ASSETS to their folder")
    with np.load(path) as data:
        values = (data["q"].astype("float32") - data["zero_point"]) * data["scale"]
        labels = data["y"].ravel()
    features = values[..., 0].astype("float32")
    learned = features[:TRAINED]
    # Coefficients differ in size; the device does the same to each.
    mean, deviation = learned.mean(axis=(0, 1)), learned.std(axis=(0, 1))
    return Words((features - mean) / deviation, labels)


def network() -> keras.Model:
    inputs = keras.Input((49, 10), name="frames")
    hidden = keras.layers.LSTM(UNITS, name="lstm")(inputs)
    return keras.Model(inputs, keras.layers.Dense(12, activation="softmax", name="word")(hidden))


def trained(words: Words, folder: Path) -> keras.Model:
    """The float model; trained once, with words that come earlier or later and are louder."""
    keras.utils.set_random_seed(0)
    model, path = network(), folder / "keywords_lstm.weights.h5"
    if path.is_file():
        model.load_weights(path)
        return model
    data = tf.data.Dataset.from_tensor_slices((words.features, words.classes)).shuffle(
        len(words.classes)
    )
    data = data.map(_varied).batch(50).prefetch(2)
    model.compile(keras.optimizers.Adam(5e-3), "sparse_categorical_crossentropy")
    rate = keras.callbacks.LearningRateScheduler(lambda epoch: 5e-3 * 0.97**epoch)
    model.fit(data, epochs=100, verbose=0, callbacks=[rate])
    folder.mkdir(parents=True, exist_ok=True)
    model.save_weights(path)
    return model


def _varied(features: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    shift = tf.random.uniform((), -4, 5, tf.int32)
    moved = tf.roll(features, shift, axis=0) * tf.random.uniform((), 0.85, 1.15)
    return moved + tf.random.normal(tf.shape(features), stddev=0.05), label


def one_step(model: keras.Model) -> keras.Model:
    """The same layers for one frame, with the states as inputs and outputs."""
    frame = keras.Input((10,), name="frame")
    hidden, carry = (keras.Input((UNITS,), name=name) for name in ("hidden", "carry"))
    output, (h, c) = model.get_layer("lstm").cell(frame, [hidden, carry])
    outputs = {"word": model.get_layer("word")(output), "hidden_out": h, "carry_out": c}
    return keras.Model([frame, hidden, carry], outputs)


def convert(weights: Path, samples: np.ndarray, path: Path) -> None:
    """TFLiteConverter's int8. Runs in a process of its own, which it may end."""
    model = network()
    model.load_weights(weights)

    @tf.function(input_signature=[tf.TensorSpec((1, 49, 10), tf.float32)])
    def serve(frames: tf.Tensor) -> tf.Tensor:
        return model(frames, training=False)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function()])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([each[None]] for each in samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    path.write_bytes(converter.convert())


def converted(model: keras.Model, samples: np.ndarray, path: Path) -> bool:
    """Whether TFLiteConverter made a file of the model with one sample a batch."""
    weights = path.with_suffix(".weights.h5")
    model.save_weights(weights)
    process = multiprocessing.get_context("spawn").Process(
        target=convert, args=(weights, samples, path)
    )
    process.start()
    process.join()
    return path.is_file()


def report(
    name: str, scores: Callable[[], np.ndarray], words: Words, plain: np.ndarray, file: Path | None
) -> None:
    began = time.perf_counter()
    found = scores().argmax(axis=-1)
    right = found == words.classes
    error = right.std() / np.sqrt(len(right))
    line = f"{name:34} {right.mean():7.1%} +- {error:.1%}  {np.mean(found == plain):7.1%}"
    if file is not None:
        kinds = [operator.kind for operator in tflite_export.inspect(file).operators]
        line += f"  {file.stat().st_size:8d} {len(kinds):5d}"
        line += f"  {latency(file).minimum:8.3f}"
    print(f"{line}   ({time.perf_counter() - began:.0f} s)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=int, default=400, help="that are scored")
    parser.add_argument("--rounding", default="optq")
    arguments = parser.parse_args()
    words = load()
    learned = words.part(0, TRAINED)
    tested = words.part(TRAINED, TRAINED + arguments.words)
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "tfeptq"
    model = trained(learned, home)
    plain = model.predict(tested.features, verbose=0)
    calibration = learned.features[:CALIBRATION]
    header = ("", "accuracy", "as float", "bytes", "ops", "LiteRT ms")
    print("{:34} {:>15} {:>9} {:>8} {:>6} {:>9}".format(*header))
    report("float", lambda: plain, tested, plain.argmax(-1), None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for bits in (8, 4):
            config = tfeptq.QuantizationConfig(
                weight_bits=bits,
                first_last_bits=None,
                rounding=arguments.rounding,
                target="microcontroller",
                samples=CALIBRATION,
                states=STATES,
            )
            path = folder / f"step{bits}.tflite"
            quantized = tfeptq.quantize(one_step(model), calibration, config)
            tflite_export.export(quantized, path)
            _stream(path, f"one step in TFLM, {bits}-bit weights", tested, plain)
        path = folder / "converter.tflite"
        if converted(model, calibration, path):
            _whole(path, "TFLiteConverter int8", tested, plain)
            _compare_runtimes(path, tested)
        else:
            print("TFLiteConverter int8: its process ended without a file")
        for bits in (8, 4):
            config = tfeptq.QuantizationConfig(
                weight_bits=bits,
                first_last_bits=None,
                rounding=arguments.rounding,
                samples=CALIBRATION,
            )
            path = folder / f"whole{bits}.tflite"
            tflite_export.export(tfeptq.quantize(model, calibration, config), path)
            _whole(path, f"unrolled, {bits}-bit weights", tested, plain)


def _stream(path: Path, name: str, words: Words, plain: np.ndarray) -> None:
    numbers = dict(enumerate(STATES.values()))

    def scores() -> np.ndarray:
        return tflite_export.run_steps(path, words.features, numbers, runtime="tflm")[-1][:, -1]

    report(name, scores, words, plain.argmax(-1), path)


def _whole(path: Path, name: str, words: Words, plain: np.ndarray) -> None:
    report(name, lambda: tflite_export.run(path, words.features), words, plain.argmax(-1), path)


def _compare_runtimes(path: Path, words: Words) -> None:
    """Whether the runtimes' LSTM operators give the same integers."""
    found = {}
    for runtime in ("litert", "litert-reference", "tflite-runtime", "tflm"):
        try:
            found[runtime] = tflite_export.run(path, words.features[:50], runtime=runtime)
        except Exception as error:  # what a runtime refuses is a result
            print(f"the operator in {runtime}: {str(error).splitlines()[0][:120]}")
    first = next(iter(found.values()))
    for runtime, scores in found.items():
        print(f"the operator in {runtime}: {np.mean(scores != first):.1%} of scores differ")


if __name__ == "__main__":
    main()
