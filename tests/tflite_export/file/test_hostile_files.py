"""Files that were made to fail: every reader and runtime answers, or says in our words why not."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tflite_export
from tests.tflite_export.file.test_foreign_files import changed
from tests.tflite_export.random_operators import BUILDERS, random_graph
from tflite_export.file.as_graph import to_graph
from tflite_export.file.reader import parse
from tflite_export.file.writer import serialize, write
from tflite_export.graph.validation import validated
from tflite_export.packaging import compress, memory_budget
from tflite_export.runtimes import isolation, reference
from tflite_export.runtimes.sessions import RUNTIMES, RuntimeUnavailableError

NATIVE = [name for name in ("litert", "litert-reference", "tflm") if not RUNTIMES[name].missing()]


@pytest.fixture(autouse=True, scope="module")
def strict_limits():
    """What runs for long or takes much is an error like others; whether it does is no matter."""
    limits = isolation.TIMEOUT_SECONDS, isolation.MEMORY_BYTES
    isolation.TIMEOUT_SECONDS, isolation.MEMORY_BYTES = 3.0, 1 << 28
    yield
    isolation.TIMEOUT_SECONDS, isolation.MEMORY_BYTES = limits


def operator(kind: str, change) -> bytes:
    """A file of one operator whose tables are changed by `change(subgraph, operator, model)`."""

    def apply(model):
        change(model.subgraphs[0], model.subgraphs[0].operators[0], model)

    return changed(write(random_graph(kind, "int8", 1)), apply)


def no_outputs(graph, op, model):
    op.outputs = []


def no_inputs(graph, op, model):
    op.inputs = []


def scalar_input(graph, op, model):
    graph.tensors[graph.inputs[0]].shape = []


def other_options(graph, op, model):
    op.builtinOptionsType, op.builtinOptions = (
        schema.BuiltinOptions.AddOptions,
        schema.AddOptionsT(),
    )


def no_zero_point(graph, op, model):
    graph.tensors[graph.inputs[0]].quantization.zeroPoint = None


def wide_padding(graph, op, model):
    """Far more than the output declares."""
    buffer = model.buffers[graph.tensors[op.inputs[1]].buffer]
    amounts = np.frombuffer(bytes(buffer.data), np.int32).copy()
    amounts[4] = 2**26
    buffer.data = amounts.view(np.uint8)


def wide_size(graph, op, model):
    buffer = model.buffers[graph.tensors[op.inputs[1]].buffer]
    buffer.data = np.array([8000, 8000], np.int32).view(np.uint8)


#: What breaks -> (file, what is said by the integer reference, or None where it answers).
CASES = {
    "dense layer without outputs": (operator("FULLY_CONNECTED", no_outputs), "needs at least"),
    "transpose without outputs": (operator("TRANSPOSE", no_outputs), "needs at least"),
    "pool without inputs": (operator("MAX_POOL_2D", no_inputs), "needs at least"),
    "slope without inputs": (operator("LEAKY_RELU", no_inputs), "needs at least"),
    "mean of a scalar": (operator("MEAN", scalar_input), "need batch 1"),
    "mean with options of add": (operator("MEAN", other_options), "its options are AddOptions"),
    "no zero point": (operator("ADD", no_zero_point), None),
    "scalar input": (operator("LOGISTIC", scalar_input), "need batch 1"),
    "padding beyond the output": (operator("PAD", wide_padding), "its shapes do not fit"),
    "size beyond the output": (operator("RESIZE_BILINEAR", wide_size), "its shapes do not fit"),
}


def inputs_for(content: bytes) -> list[np.ndarray]:
    try:
        model = parse(content)
        return [
            np.zeros((1, *model.tensors[index].shape[1:]), np.float32) for index in model.inputs
        ]
    except (ValueError, MemoryError):
        return [np.zeros((1, 4), np.float32)]


def everything(content: bytes, path) -> None:
    """All that reads files of others; only errors in our words leave it."""
    path.write_bytes(content)
    inputs = inputs_for(content)
    actions = [
        lambda: tflite_export.inspect(path).table(),
        *(
            lambda t=target: tflite_export.check(path, target=t)
            for target in ("android", "coral", "ethos-u", "microcontroller")
        ),
        lambda: validated(to_graph(parse(content))),
        lambda: tflite_export.run(path, inputs, runtime="reference"),
        *(lambda r=name: tflite_export.run(path, inputs, runtime=r) for name in NATIVE),
        lambda: compress(path, path.with_suffix(".small")),
        lambda: memory_budget(path),
    ]
    for action in actions:
        with contextlib.suppress(ValueError, RuntimeUnavailableError):
            action()


@pytest.mark.parametrize("name", CASES)
def test_known_failures(tmp_path, name):
    content, said = CASES[name]
    everything(content, tmp_path / "m.tflite")
    if said is None:
        tflite_export.run(content, inputs_for(content), runtime="reference")
    else:
        with pytest.raises(ValueError, match=said):
            tflite_export.run(content, inputs_for(content), runtime="reference")


def test_nothing_is_allocated_for_shapes_that_do_not_fit(monkeypatch):
    """The operator is refused before its kernel is called."""
    monkeypatch.setattr(reference, "run_operator", lambda *a: pytest.fail("computed"))
    content = CASES["padding beyond the output"][0]
    with pytest.raises(ValueError, match="its shapes do not fit"):
        tflite_export.run(content, inputs_for(content), runtime="reference")


HUGE = (-1, 0, 3, 77, 2**20, 2**27, 2**31 - 1)


def _mutate(draw, model) -> None:
    """Changes one field of a model to something that no converter writes."""
    graph = model.subgraphs[0]
    op = draw(st.sampled_from(graph.operators))
    tensor = draw(st.sampled_from(graph.tensors))
    value = draw(st.sampled_from(HUGE))
    kind = draw(st.integers(0, 13))
    if kind == 0:
        op.inputs = [value, *list(op.inputs)[1:]]
    elif kind == 1:
        op.inputs = list(op.inputs)[:-1]
    elif kind == 2:
        op.outputs = draw(st.sampled_from([[], [value], list(op.inputs)[:1]]))
    elif kind == 3:
        op.opcodeIndex = min(max(value, 0), 2**31 - 1)
    elif kind == 4:
        graph.inputs = draw(st.sampled_from([[], [value], list(op.outputs)]))
    elif kind == 5:
        tensor.buffer = max(value, 0)
    elif kind == 6:
        shape = list(tensor.shape) or [1]
        shape[draw(st.integers(0, len(shape) - 1))] = value
        tensor.shape = draw(st.sampled_from([shape, [], [1, *shape]]))
    elif kind == 7 and tensor.quantization is not None:
        scales = draw(st.sampled_from([[], [0.0], [np.nan], [np.inf], [-1.0], [0.1, 0.2]]))
        tensor.quantization.scale = np.array(scales, np.float32)
    elif kind == 8 and tensor.quantization is not None:
        points = draw(st.sampled_from([[], [1, 2], [2**40], [-300]]))
        tensor.quantization.zeroPoint = np.array(points, np.int64)
    elif kind == 9:
        tensor.type = draw(st.integers(0, 25))
    elif kind == 10:
        code = draw(st.integers(0, 160))
        model.operatorCodes[0].builtinCode = code
        model.operatorCodes[0].deprecatedBuiltinCode = min(code, 127)
    elif kind == 11:
        buffer = model.buffers[draw(st.integers(0, len(model.buffers) - 1))]
        if buffer.data is not None:
            buffer.data = np.asarray(buffer.data, np.uint8)[: draw(st.integers(0, 8))]
    elif kind == 12:
        buffer = model.buffers[draw(st.integers(0, len(model.buffers) - 1))]
        if buffer.data is not None and len(buffer.data) % 4 == 0:
            buffer.data = (
                np.full(len(buffer.data) // 4, value, np.int64).astype(np.int32).view("u1")
            )
    else:
        other_options(graph, op, model)


@settings(max_examples=25)
@given(kind=st.sampled_from(sorted(BUILDERS)), seed=st.integers(0, 10**6), data=st.data())
def test_changed_files_give_errors_in_our_words_or_answers(tmp_path_factory, kind, seed, data):
    model = schema.ModelT.InitFromPackedBuf(write(random_graph(kind, "int8", seed)), 0)
    for _ in range(data.draw(st.integers(1, 2))):
        _mutate(data.draw, model)
    try:
        content = serialize(model)
    except Exception:
        assume(False)
    everything(content, tmp_path_factory.getbasetemp() / "changed.tflite")
