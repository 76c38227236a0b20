"""Smaller files for TensorFlow Lite Micro, proven bit-identical; they run in TFLM only.

Weights with at most 2^b different integers become b-bit indices into a table, by TFLM's own
compression package; a DECODE operator in front of their consumer expands them into the arena.
Parameters that TFLM does not read are dropped: scales of biases, repeated zero points.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_export.file.atomic import write_atomically
from tflite_export.file.damage import names_damage
from tflite_export.file.ends import checked_shape, element_type, integer_range
from tflite_export.file.packing import CONTAINER_BITS
from tflite_export.file.reader import content_of, parse, stored_operator
from tflite_export.file.stored import StoredModel, StoredTensor
from tflite_export.file.writer import serialize
from tflite_export.graph.kinds import BIAS, WEIGHTS
from tflite_export.runtimes import tflm
from tflite_export.runtimes.isolation import guarded
from tflite_export.runtimes.sessions import RUNTIMES, RuntimeUnavailableError, open_session

#: Widest index that pays: at 7 bits tables and operators cost what the indices save.
WIDEST_INDEX = 6
#: Of one DECODE operator with its tensors and metadata, in bytes: what a tensor must save at least.
DECODE_BYTES = 256
_SAMPLES = 4
#: Byte of a table's metadata that holds the distance between the tables of two channels.
_STRIDE_BYTE = 6


class CompressionError(ValueError):
    """Compression gains nothing, or what it makes computes something else."""


@dataclasses.dataclass(frozen=True)
class CompressedTensor:
    """One tensor of weights.

    Attributes:
        index_bits: of one weight in the compressed file.
        container: type that held it before, e.g. "int8".
        elements: number of weights.
    """

    name: str
    index_bits: int
    container: str
    elements: int


@dataclasses.dataclass(frozen=True)
class CompressionResult:
    """A compressed file, bit-identical in TFLM on every inner tensor.

    Attributes:
        arena_bytes_before, arena_bytes: TFLM's tensor arena; it also holds decoded weights now.
        tensors: what became tables; nothing where only parameters were dropped.
        method: which of the layouts of tables passed the proof, see `_LAYOUTS`.
    """

    path: Path
    size_bytes_before: int
    size_bytes: int
    arena_bytes_before: int
    arena_bytes: int
    tensors: tuple[CompressedTensor, ...]
    method: str


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How tables and parameters are stored.

    Attributes:
        shared_tables: one table for all channels. The decoder takes the number of channels from the
            scales; a distance of zero between their tables makes them share one. Undocumented.
        slim: no parameters that TFLM does not read: scales of biases, repeated zero points.
    """

    name: str
    shared_tables: bool
    slim: bool


#: From the smallest to the one that uses documented behaviour only; the first that is proven wins.
_LAYOUTS = (
    _Layout("one table a tensor, unread parameters dropped", True, True),
    _Layout("one table a tensor", True, False),
    _Layout("one table a channel", False, False),
)


@names_damage
def compress(model: str | Path | bytes, output: str | Path) -> CompressionResult:
    """Compresses the weights of a `.tflite` file for TFLM.

    Args:
        model: path or content; weights may be stored as int8 or int4.
        output: path of the compressed file; it appears only after the proof.

    Raises:
        CompressionError: the file does not shrink, or what shrinks computes something else;
            nothing is written.
        RuntimeUnavailableError: TFLM is not installed.
    """
    if reason := RUNTIMES["tflm"].missing():
        raise RuntimeUnavailableError(f"compression needs TFLM's package: {reason}")
    content = content_of(model)
    stored = parse(content)
    chosen = candidates(stored)
    compressed, layout = _proven(content, stored, chosen)
    before, after = (tflm.arena_bytes(file) for file in (content, compressed))
    path = Path(output)
    write_atomically(path, compressed)
    return CompressionResult(
        path,
        len(content),
        len(compressed),
        before,
        after,
        tuple(_described(stored.tensors[index], bits) for index, bits in chosen.items()),
        layout.name,
    )


def _described(tensor: StoredTensor, bits: int) -> CompressedTensor:
    return CompressedTensor(tensor.name, bits, tensor.type, int(np.prod(tensor.shape)))


def candidates(model: StoredModel) -> dict[int, int]:
    """Tensor index -> index bits, of the weights whose table is expected to pay."""
    found = {operator.operand(WEIGHTS) for operator in model.operators}
    weights = sorted(index for index in found if index is not None)
    widths = {index: index_bits(model.tensors[index]) for index in weights}
    return {index: bits for index, bits in widths.items() if bits is not None}


def index_bits(tensor: StoredTensor) -> int | None:
    """Bits of an index into the tensor's different integers; None where a table does not pay."""
    if tensor.values is None or tensor.scale is None or tensor.type not in ("int8", "int4"):
        return None
    different = np.unique(tensor.values).size
    bits = max((different - 1).bit_length(), 1)
    saved = tensor.values.size * (CONTAINER_BITS[tensor.type] - bits) / 8
    pays = bits <= WIDEST_INDEX and saved > different + DECODE_BYTES
    return bits if pays else None


def _proven(content: bytes, stored: StoredModel, chosen: dict[int, int]) -> tuple[bytes, _Layout]:
    """The compressed file in the first layout that shrinks it and computes the same."""
    inputs = _random_inputs(stored)
    witness = _with_all_activations(content)
    expected = open_session(witness, "tflm")(inputs)
    failures = []
    for layout in _LAYOUTS:
        try:
            compressed = _compressed(content, chosen, layout)
            if len(compressed) >= len(content):
                raise CompressionError(f"{len(compressed)} bytes")
            _check_results(_compressed(witness, chosen, layout), inputs, expected)
            return compressed, layout
        except ValueError as error:
            failures.append(f"{layout.name}: {error}")
    raise CompressionError(
        f"the file of {len(content)} bytes stays: {'; '.join(failures)}. Tables pay for weights "
        f"of 2 to {WIDEST_INDEX} bits in layers of some size: train fewer weight bits"
    )


def _check_results(
    witness: bytes, inputs: Sequence[np.ndarray], expected: Sequence[np.ndarray]
) -> None:
    """Compares a compressed twin with the original in TFLM, tensor by tensor."""
    found = open_session(witness, "tflm")(inputs)
    if not all(np.array_equal(left, right) for left, right in zip(expected, found, strict=True)):
        raise CompressionError("other results in TFLM")


def _random_inputs(stored: StoredModel) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [_random(stored, index, generator) for index in stored.inputs]


def _random(model: StoredModel, index: int, generator: np.random.Generator) -> np.ndarray:
    tensor = model.tensors[index]
    shape, dtype = (_SAMPLES, *checked_shape(tensor)[1:]), element_type(tensor)
    if np.issubdtype(dtype, np.integer):
        low, high = integer_range(model, index)
        return generator.integers(low, high, shape, dtype, endpoint=True)
    return generator.normal(size=shape).astype(dtype)


def _with_all_activations(content: bytes) -> bytes:
    """A twin whose outputs are all activations: a final output alone hides what a ReLU clips."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    subgraph = model.subgraphs[0]
    written = [operator.outputs for operator in subgraph.operators]
    subgraph.outputs = [index for indices in written if indices is not None for index in indices]
    model.signatureDefs = None
    return serialize(model)


def slimmed(content: bytes) -> bytes:
    """A `.tflite` file without the parameters that TFLM does not read."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    _drop_unread_parameters(model)
    return serialize(model)


def _compressed(content: bytes, chosen: dict[int, int], layout: _Layout) -> bytes:
    prepared, per_channel = _prepared(content, chosen, layout)
    if not chosen:
        return prepared
    compressed = bytearray(
        guarded(prepared, "tflm", _look_up_tables, prepared, chosen, per_channel, layout)
    )
    if layout.shared_tables:
        _share_tables(compressed)
    return bytes(compressed)


def _look_up_tables(
    content: bytes, chosen: dict[int, int], per_channel: dict[int, int | None], layout: _Layout
) -> bytes:
    """TFLM's own compressor, in a worker."""
    from tflite_micro.tensorflow.lite.micro import compression
    from tflite_micro.tensorflow.lite.micro.compression import compressor, spec

    builder = compression.SpecBuilder()
    for index, bits in chosen.items():
        axis = None if layout.shared_tables else per_channel[index]
        mode = spec.PerTensor() if axis is None else spec.PerChannel(axis=axis)
        builder.add_tensor(subgraph=0, tensor=index).with_lut(index_bitwidth=bits, mode=mode)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compressed = compression.compress(bytearray(content), builder.build())
    except compressor.CompressionError as error:
        raise CompressionError(str(error)) from error
    return serialize(schema.ModelT.InitFromPackedBuf(compressed, 0))


def _prepared(
    content: bytes, chosen: dict[int, int], layout: _Layout
) -> tuple[bytes, dict[int, int | None]]:
    """The file with the chosen weights as int8, and the channel axis of each, None per tensor."""
    stored = parse(content)
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    tensors = model.subgraphs[0].tensors
    for index in chosen:
        _store_as_int8(model, tensors[index], stored.tensors[index])
    if layout.slim:
        _drop_unread_parameters(model)
    axes = {index: _channel_axis(tensors[index].quantization) for index in chosen}
    return serialize(model), axes


def _channel_axis(quantization: Any) -> int | None:
    if len(quantization.scale) > 1:
        return int(quantization.quantizedDimension)
    # The decoder reads an axis that means nothing for one scale, and refuses some.
    quantization.quantizedDimension = 0
    return None


def _store_as_int8(model: Any, entry: Any, tensor: StoredTensor) -> None:
    """Packed weights cannot be compressed; a buffer of its own keeps other tensors as they are."""
    if tensor.type == "int8":
        return
    assert tensor.values is not None
    buffer = schema.BufferT()
    buffer.data = tensor.values.astype(np.int8).reshape(-1).view(np.uint8)
    model.buffers.append(buffer)
    entry.buffer = len(model.buffers) - 1
    entry.type = schema.TensorType.INT8


def _drop_unread_parameters(model: Any) -> None:
    subgraph = model.subgraphs[0]
    for operator in (stored_operator(each, model) for each in subgraph.operators):
        place, bias = operator.operand(WEIGHTS), operator.operand(BIAS)
        weights = None if place is None else subgraph.tensors[place].quantization
        if weights is None or weights.scale is None or len(weights.scale) == 1:
            # With one scale, TFLM's dense layer compares it with the bias's, and little is gained.
            continue
        if not np.any(weights.zeroPoint):
            weights.zeroPoint = np.zeros(1, np.int64)
        if bias is not None:
            subgraph.tensors[bias].quantization = None


def _share_tables(content: bytearray) -> None:
    """Sets the distance between the tables of two channels to zero, in place."""
    for table in _decoder_metadata(content):
        table[_STRIDE_BYTE] = 0


def _decoder_metadata(content: bytearray) -> Iterator[np.ndarray]:
    """Views (uint8) into a file of what every DECODE operator has beside its indices.

    That is every second of its inputs: a header, then the tables.
    """
    model = schema.Model.GetRootAs(content, 0)
    subgraph = model.Subgraphs(0)
    for number in range(subgraph.OperatorsLength()):
        operator = subgraph.Operators(number)
        if model.OperatorCodes(operator.OpcodeIndex()).CustomCode() != b"TFLM_DECODE":
            continue
        for slot in range(1, operator.InputsLength(), 2):
            yield model.Buffers(subgraph.Tensors(operator.Inputs(slot)).Buffer()).DataAsNumpy()
