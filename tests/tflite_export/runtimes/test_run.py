"""What `run` says to inputs that a file cannot take, and what it makes of those that it can."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tflite_export
from tests.tflite_export import one_operator as one
from tflite_export.file.writer import write
from tflite_export.graph.structure import Tensor
from tflite_export.packaging.end_types import with_ends

SHAPE = (1, 3, 2)
SCALE, ZERO = 0.25, 7


def addition(dtype: str = "int8") -> bytes:
    """Two inputs `a` and `b` of unequal scales."""
    tensors = [one.activation(name, SHAPE, dtype, SCALE, ZERO) for name in ("a", "b", "sum")]
    return write(one.graph_of("ADD", tensors[:2], tensors[2], {"activation": "NONE"}))


def logistic(dtype: str = "int8") -> bytes:
    """One input `a`."""
    source, output = (Tensor(name, SHAPE, dtype, q) for name, q in ENDS[dtype])
    return write(one.graph_of("LOGISTIC", [source], output))


ENDS = {
    "int8": [("a", one.quantization(SCALE, ZERO)), ("y", one.quantization(2.0**-8, -128))],
    "int16": [("a", one.quantization(2.0**-11)), ("y", one.quantization(2.0**-15))],
}
FLOATS = np.ones((4, 3, 2), np.float32)
ODD = FLOATS.copy()
ODD[2, 1, 1] = np.nan

#: Of a file with two inputs.
TWO = {
    "one array for two inputs": (FLOATS, "received 1 input arrays, the file takes 2"),
    "three arrays": ([FLOATS] * 3, "received 3 input arrays, the file takes 2"),
    "other names": ({"a": FLOATS, "c": FLOATS}, r"named \['a', 'c'\], the file takes \['a', 'b'\]"),
    "a name too few": ({"a": FLOATS}, r"named \['a'\], the file takes"),
    "unequal counts": ([FLOATS, FLOATS[:3]], r"\[4, 3\] samples; need equal, not 0"),
    "no samples": ([FLOATS[:0], FLOATS[:0]], r"\[0, 0\] samples; need equal, not 0"),
    "one of another shape": ([FLOATS, FLOATS[:, :2]], r"'b' takes \(N, 3, 2\), received \(4, 2, 2"),
}
#: Of a file with one.
ONE = {
    "without an axis of samples": (FLOATS[0], r"'a' takes \(N, 3, 2\), received \(3, 2\)"),
    "a scalar": (1.0, r"takes \(N, 3, 2\), received \(\)"),
    "transposed": (FLOATS.transpose(0, 2, 1), r"received \(4, 2, 3\)"),
    "ragged": ([[[[1.0, 2.0], [3.0]]]], "the samples differ in shape"),
    "NaN": (ODD, "'a': sample 2 holds NaN, which no integer stands for"),
    "text": (np.full((1, 3, 2), "x"), "takes int8 or floats, received <U1"),
    "truth": (FLOATS > 0, "takes int8 or floats, received bool"),
    "unsigned": (FLOATS.astype(np.uint16), "takes int8 or floats, received uint16; give floats"),
    "complex": (FLOATS.astype(np.complex64), "takes int8 or floats, received complex64"),
    "objects": (np.full((1, 3, 2), None), "takes int8 or floats, received object"),
    "integers of another type": (np.full((1, 3, 2), 128), "takes int8 or floats, received int64"),
}


@pytest.mark.parametrize("name", TWO)
def test_two_inputs_that_do_not_fit_are_one_sentence(name):
    inputs, message = TWO[name]
    with pytest.raises(ValueError, match=message):
        tflite_export.run(addition(), inputs)


@pytest.mark.parametrize("name", ONE)
def test_an_input_that_does_not_fit_is_one_sentence(name):
    inputs, message = ONE[name]
    with pytest.raises(ValueError, match=message) as found:
        tflite_export.run(logistic(), inputs)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (lambda path: path / "absent.tflite", {}, "no such file"),
        (lambda path: path, {}, "folder"),
        (lambda path: b"", {}, "TensorFlow Lite"),
        (lambda path: b"\0" * 64, {}, "TensorFlow Lite"),
        (lambda path: logistic(), {"runtime": "tflim"}, "did you mean 'tflm'"),
    ],
)
def test_what_is_no_file_or_no_runtime_is_one_sentence(tmp_path, model, options, message):
    with pytest.raises(ValueError, match=message):
        tflite_export.run(model(tmp_path), FLOATS, **options)


@given(kind=st.sampled_from(list(ENDS)), data=st.data())
def test_integers_of_its_type_are_the_files_own(kind, data):
    info = np.iinfo(kind)
    values = data.draw(st.lists(st.integers(info.min, info.max), min_size=6, max_size=6))
    array = np.array(values, kind).reshape(1, 3, 2)
    content = logistic(kind)
    found = tflite_export.run(content, array, runtime="reference")
    assert found.dtype == np.dtype(kind)
    # What they stand for is rounded to the same integers.
    source = ENDS[kind][0][1]
    offset = int(np.ravel(source.zero_point)[0])
    real = (array.astype(np.float64) - offset) * float(source.scale[0])
    output = ENDS[kind][1][1]
    shifted = found.astype(np.int64) - int(np.ravel(output.zero_point)[0])
    np.testing.assert_array_equal(
        tflite_export.run(content, real.tolist(), runtime="reference"),
        (shifted * np.float64(output.scale[0])).astype(np.float32),
    )


@pytest.mark.parametrize("kind", list(ENDS))
@pytest.mark.parametrize("given_type", ["int8", "int16", "int32", "int64", "uint16", "list"])
def test_integers_of_another_type_are_asked_about(kind, given_type):
    """They may be values or the file's own integers: nothing is guessed."""
    array = np.ones(SHAPE, np.int64)
    given = array.tolist() if given_type == "list" else array.astype(given_type)
    if given_type == kind:
        return
    message = rf"'a' takes {kind} or floats.*astype\('float32'\).*astype\('{kind}'\)"
    with pytest.raises(ValueError, match=message):
        tflite_export.run(logistic(kind), given)


@pytest.mark.parametrize("kind", list(ENDS))
def test_pixels_are_values(kind):
    pixels = np.arange(6, dtype=np.uint8).reshape(SHAPE)
    np.testing.assert_array_equal(
        tflite_export.run(logistic(kind), pixels),
        tflite_export.run(logistic(kind), pixels.astype("float32")),
    )


def test_floats_beyond_the_range_saturate():
    largest = (127 - ZERO) * SCALE
    inside, beyond = (np.full(SHAPE, value) for value in (largest, np.inf))
    for runtime in ("reference", "litert"):
        np.testing.assert_array_equal(
            tflite_export.run(logistic(), inside, runtime=runtime),
            tflite_export.run(logistic(), beyond, runtime=runtime),
        )


def test_float_ends_take_numbers_and_nothing_else():
    content = with_ends(logistic(), "android", input_type="float32", output_type="float32")
    counted = tflite_export.run(content, np.ones(SHAPE, np.int64))
    np.testing.assert_array_equal(counted, tflite_export.run(content, np.ones(SHAPE)))
    with pytest.raises(ValueError, match="'a/float32' takes float32, received <U1"):
        tflite_export.run(content, np.full(SHAPE, "x"))
