"""inspect, check and run on files that others made, and on damaged ones."""

from __future__ import annotations

import contextlib
import importlib.util

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tflite_export
from tests.tflite_export.random_operators import random_graph
from tests.tflite_export.weighted_layers import convolution
from tflite_export.file.writer import serialize, write

FILES = (
    "ad_float",
    "ad_int8",
    "ic_float",
    "ic_int8",
    "kws_float",
    "kws_int8",
    "sww_int8",
    "vww_float",
)


@pytest.mark.parametrize("name", FILES)
def test_files_of_others(assets, name):
    path = assets / "mlperf_tiny" / f"{name}.tflite"
    inspection = tflite_export.inspect(path)
    assert inspection.operators
    assert inspection.size_bytes == path.stat().st_size
    assert str(path) in inspection.table()
    result = tflite_export.check(path, target="android")
    assert result.ok == name.endswith("int8")
    shape = inspection.tensors[
        [t.name for t in inspection.tensors].index(inspection.inputs[0])
    ].shape
    inputs = np.random.default_rng(0).normal(size=(2, *shape[1:])).astype("float32")
    outputs = tflite_export.run(path, inputs)
    assert np.all(np.isfinite(outputs))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_give_one_clear_error_or_an_answer(tmp_path, data):
    content = bytearray(write(convolution(), {"w": "int4"}))
    path = tmp_path / "damaged.tflite"
    start = data.draw(st.integers(8, len(content) - 1))
    for offset, value in enumerate(data.draw(st.binary(min_size=1, max_size=8))):
        if start + offset < len(content):
            content[start + offset] = value
    cut = data.draw(st.integers(start, len(content)))
    path.write_bytes(bytes(content[:cut]))
    for action in (tflite_export.inspect, lambda p: tflite_export.check(p, target="coral")):
        with contextlib.suppress(ValueError):
            action(path)


@pytest.mark.parametrize("inputs", [np.zeros((2, 6, 7, 4)), np.zeros((0, 6, 7, 3)), [], {"z": 1}])
def test_inputs_that_do_not_fit_are_refused(tmp_path, inputs):
    path = tmp_path / "m.tflite"
    path.write_bytes(write(convolution(), {"w": "int4"}))
    with pytest.raises(ValueError, match=r"input|samples"):
        tflite_export.run(path, inputs)


def test_unknown_runtimes_and_targets_are_named():
    content = write(convolution(), {"w": "int4"})
    with pytest.raises(ValueError, match="allowed are litert, litert-reference"):
        tflite_export.run(content, np.zeros((1, 6, 7, 3), "float32"), runtime="abacus")


@pytest.mark.parametrize("runtime", ["litert", "litert-reference", "reference"])
def test_integers_in_integers_out_and_floats_in_floats_out(runtime):
    content = write(convolution(), {"w": "int4"})
    integers = np.random.default_rng(0).integers(-128, 128, (3, 6, 7, 3)).astype(np.int8)
    coded = tflite_export.run(content, integers, runtime=runtime)
    real = tflite_export.run(content, ((integers - 3.0) * 0.04).astype("float32"), runtime=runtime)
    assert coded.dtype == np.int8
    np.testing.assert_allclose(real, (coded.astype("float32") + 128) * np.float32(0.05), rtol=1e-5)


def changed(content: bytes, change) -> bytes:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    change(model)
    return serialize(model)


def killer(kind: str) -> bytes:
    """A file of one operator without the operand that its kernels read unasked."""

    def change(model):
        code = getattr(schema.BuiltinOperator, kind)
        model.operatorCodes[0].builtinCode = model.operatorCodes[0].deprecatedBuiltinCode = code
        model.operatorCodes[0].version = 1

    return changed(write(random_graph("LOGISTIC", "int8", 0)), change)


@pytest.mark.parametrize(("runtime", "kind"), [("litert", "STRIDED_SLICE"), ("tflm", "ARG_MAX")])
def test_a_file_that_kills_its_runtime_does_not_kill_us(runtime, kind):
    if runtime == "tflm" and importlib.util.find_spec("tflite_micro") is None:
        pytest.skip("extra 'microcontroller' is missing")
    # What such kernels read is left to chance: now and then they survive it.
    with contextlib.suppress(ValueError):
        tflite_export.run(killer(kind), np.zeros((1, 5, 4, 1), "float32"), runtime=runtime)


DAMAGES = {
    "names tensor 77 of 4": lambda graph: setattr(graph.operators[0], "inputs", [0, 77, 2]),
    "is tensor 9 of 4": lambda graph: setattr(graph, "outputs", [9]),
    "which nothing has written": lambda graph: setattr(graph, "inputs", [3]),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_damage_is_named(message):
    content = changed(write(convolution(8)), lambda model: DAMAGES[message](model.subgraphs[0]))
    with pytest.raises(ValueError, match=message):
        tflite_export.run(content, np.zeros((1, 4, 6, 5), np.int8), runtime="reference")
