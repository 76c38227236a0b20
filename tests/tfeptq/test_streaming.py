"""A model that is one step: its file runs step by step, with the state fed back in integers."""

from __future__ import annotations

import os

import keras
import numpy as np
import pytest
from keras import layers as L

import tfeptq
import tflite_export
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import prepare
from tflite_export.runtimes.sessions import TFLITE_RUNTIME_PYTHON

STEPS, F, U = 50, 3, 5


def lstm_step() -> tuple[keras.Model, keras.Model]:
    """One step, and the whole sequence, of the same weights."""
    frame, hidden, carry = keras.Input((F,), name="frame"), *_states("hidden", "carry")
    cell, head = L.LSTMCell(U, name="cell"), L.Dense(2, name="head")
    output, (h, c) = cell(frame, [hidden, carry])
    outputs = {"scores": head(output), "h": h, "c": c}
    step = keras.Model([frame, hidden, carry], outputs)
    sequence = keras.Input((STEPS, F))
    whole = L.RNN(cell, return_sequences=True)(sequence)
    return step, keras.Model(sequence, L.TimeDistributed(head)(whole))


def _step_of_one_state(cell: keras.Layer) -> tuple[keras.Model, keras.Model]:
    frame, (hidden,) = keras.Input((F,), name="frame"), _states("hidden")
    head = L.Dense(2, name="head")
    output, _ = cell(frame, hidden)
    step = keras.Model([frame, hidden], {"scores": head(output), "h": output})
    sequence = keras.Input((STEPS, F))
    whole = L.RNN(cell, return_sequences=True)(sequence)
    return step, keras.Model(sequence, L.TimeDistributed(head)(whole))


def gru_step() -> tuple[keras.Model, keras.Model]:
    return _step_of_one_state(L.GRUCell(U, name="cell"))


def simple_step() -> tuple[keras.Model, keras.Model]:
    """Its state is a tanh, whose scale the kernel fixes."""
    return _step_of_one_state(L.SimpleRNNCell(U, name="cell"))


def convolution_step() -> tuple[keras.Model, keras.Model]:
    """Three frames of the past in a ring, two of which go on."""
    frame, ring = keras.Input((1, F), name="frame"), keras.Input((2, F), name="ring")
    convolution = L.Conv1D(4, 3, activation="relu", name="convolution")
    head = L.Dense(2, name="head")
    frames = L.Concatenate(axis=1)([ring, frame])
    scores = head(L.Flatten()(convolution(frames)))
    step = keras.Model([frame, ring], {"scores": scores, "r": frames[:, 1:]})
    sequence = keras.Input((STEPS, F))
    found = convolution(L.ZeroPadding1D((2, 0))(sequence))
    return step, keras.Model(sequence, head(found))


def _states(*names: str) -> list:
    return [keras.Input((U,), name=name) for name in names]


CASES = {
    "lstm": (lstm_step, {"h": "hidden", "c": "carry"}),
    "gru": (gru_step, {"h": "hidden"}),
    "simple": (simple_step, {"h": "hidden"}),
    "convolution": (convolution_step, {"r": "ring"}),
}


def sequences(count: int) -> np.ndarray:
    draw = np.random.default_rng(3)
    return np.cumsum(draw.normal(size=(count, STEPS, F)), axis=1).astype("float32") / 4


def frames_of(name: str, values: np.ndarray) -> np.ndarray:
    return values[:, :, None] if name == "convolution" else values


def config(states, **settings) -> tfeptq.QuantizationConfig:
    settings = {"rounding": "nearest", "samples": 64, "target": "microcontroller", **settings}
    return tfeptq.QuantizationConfig(states=states, **settings)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Name -> (path of the step's file, whole float model), made once."""
    made = {}

    def one(name: str):
        if name not in made:
            keras.utils.set_random_seed(5)
            build, states = CASES[name]
            step, whole = build()
            quantized = tfeptq.quantize(step, frames_of(name, sequences(8)), config(states))
            path = tmp_path_factory.mktemp(name) / "step.tflite"
            tflite_export.export(quantized, path)
            made[name] = path, whole, quantized
        return made[name]

    return one


def numbers(states) -> dict[int, str]:
    """The outputs of a dictionary are in the order of its keys."""
    return {sorted(["scores", *states]).index(output): name for output, name in states.items()}


@pytest.mark.parametrize("runtime", ["tflm", "litert", "litert-reference", "tflite-runtime"])
@pytest.mark.parametrize("name", CASES)
def test_fifty_steps_are_those_of_the_float_sequence(exported, name, runtime):
    if runtime == "tflite-runtime" and not os.environ.get(TFLITE_RUNTIME_PYTHON):
        pytest.skip(f"set {TFLITE_RUNTIME_PYTHON} to a Python that has tflite-runtime 2.14")
    if runtime == "tflm":
        pytest.importorskip("tflite_micro", reason="extra 'microcontroller' is missing")
    path, whole, _ = exported(name)
    values = sequences(2)
    states = numbers(CASES[name][1])
    found = tflite_export.run_steps(path, frames_of(name, values), states, runtime=runtime)[-1]
    expected = np.asarray(whole(values))
    error = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
    assert found.shape == expected.shape
    # Noise of 8 bits that fifty steps do not add up.
    assert error < 0.1
    late = np.sqrt(np.mean((found - expected)[:, 25:] ** 2) / np.mean(expected**2))
    assert late < 0.1


@pytest.mark.parametrize("name", CASES)
def test_a_step_computes_what_its_integer_reference_does(exported, name):
    path, _, _ = exported(name)
    codes = np.random.default_rng(1).integers(
        -128, 128, (2, 9, *frames_of(name, sequences(1)).shape[2:])
    )
    states = numbers(CASES[name][1])
    expected, found, on_a_board = (
        tflite_export.run_steps(path, codes.astype("int8"), states, runtime=runtime)
        for runtime in ("reference", "litert-reference", "tflm")
    )
    for reference, left, right in zip(expected, found, on_a_board, strict=True):
        np.testing.assert_array_equal(left, reference)
        # TFLM's dense layers round twice: one step now and then, which the state carries on.
        steps = np.abs(right.astype(int) - reference)
        assert steps.max() <= 4
        assert np.mean(steps > 0) < 0.1


@pytest.mark.parametrize("name", CASES)
def test_a_state_has_one_quantizer_as_input_and_output(exported, name):
    path, _, quantized = exported(name)
    found = tflite_export.inspect(path)
    tensors = {tensor.name: tensor for tensor in found.tensors}
    for number, state in numbers(CASES[name][1]).items():
        made, read = tensors[found.outputs[number]], tensors[state]
        assert (made.scale, made.zero_point, made.type) == (read.scale, read.zero_point, read.type)
    assert len(quantized.activation_quantizers) == len(set(quantized.activation_quantizers))


def test_states_of_sixteen_bits_stay_so(tmp_path):
    step, whole = lstm_step()
    settings = config({"h": "hidden", "c": "carry"}, activation_bits=16)
    quantized = tfeptq.quantize(step, sequences(8), settings)
    tflite_export.export(quantized, tmp_path / "m.tflite")
    values = sequences(2)
    found = tflite_export.run_steps(tmp_path / "m.tflite", values, {0: "carry", 1: "hidden"})[-1]
    expected = np.asarray(whole(values))
    # Of 8-bit weights alone.
    assert np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)) < 0.03


def test_training_keeps_one_scale(tmp_path):
    step, _ = gru_step()
    settings = config({"h": "hidden"}, rounding="eptq", steps=20, weight_bits=4)
    quantized = tfeptq.quantize(step, sequences(8), settings)
    tflite_export.export(quantized, tmp_path / "m.tflite")
    found = tflite_export.run_steps(tmp_path / "m.tflite", sequences(1), {0: "hidden"})
    assert [array.shape for array in found] == [(1, STEPS, U), (1, STEPS, 2)]


def test_states_that_go_through_each_other():
    """A shift register: the second state is what the first one was."""
    frame = keras.Input((F,), name="frame")
    first, second = keras.Input((F,), name="first"), keras.Input((F,), name="second")
    scores = L.Dense(2)(L.Concatenate()([frame, first, second]))
    model = keras.Model([frame, first, second], [scores, frame, first])
    canonical = prepare(model)
    plan = QuantizationPlan.of(canonical, config({1: "first", 2: "second"}), original=model)
    slots = {plan.tensors[(name, 0)].quantizer.name for name in ("frame", "first", "second")}
    assert len(slots) == 1


def test_calibration_runs_the_sequence():
    """A state that only running finds: a sum, which leaves the range of one step."""
    frame, total = keras.Input((1,), name="frame"), keras.Input((1,), name="total")
    added = L.Add(name="added")([frame, total])
    model = keras.Model([frame, total], {"out": L.Dense(1)(added), "sum": added})
    quantized = tfeptq.quantize(model, np.ones((4, 20, 1), "float32"), config({"sum": "total"}))
    (quantizer,) = [q for q in quantized.activation_quantizers if q.name.startswith("added")]
    scale, zero_point = quantizer.parameters()
    assert (127 - zero_point) * scale == pytest.approx(20.0, rel=0.02)


def test_recorded_states_are_taken_as_they_are():
    step, _ = gru_step()
    draw = np.random.default_rng(0)
    rows = {"frame": draw.normal(size=(64, F)), "hidden": draw.uniform(-1, 1, (64, U))}
    quantized = tfeptq.quantize(step, rows, config({"h": "hidden"}))
    assert quantized.report.samples["ranges"] == 64


@pytest.mark.parametrize(
    ("states", "match"),
    [
        ({"h": "hiden"}, "hidden"),
        ({"x": "hidden"}, "no output has the name or number 'x'"),
        ({7: "hidden"}, "no output has the name or number 7"),
        ({"scores": "hidden"}, "make them equal"),
        ({"h": "hidden", 0: "hidden"}, "may stand there once"),
    ],
)
def test_states_that_there_are_not(states, match):
    step, _ = gru_step()
    with pytest.raises(ValueError, match=match):
        tfeptq.quantize(step, sequences(2), config(states))


def test_a_file_without_states_is_not_run_in_steps(tmp_path):
    step, _ = lstm_step()
    draw = np.random.default_rng(0)
    rows = [draw.normal(size=(64, size)).astype("float32") for size in (F, U, U)]
    quantized = tfeptq.quantize(step, rows, config(None))
    tflite_export.export(quantized, tmp_path / "m.tflite")
    with pytest.raises(ValueError, match="the one is not the other"):
        tflite_export.run_steps(tmp_path / "m.tflite", sequences(1), {0: "carry", 1: "hidden"})
