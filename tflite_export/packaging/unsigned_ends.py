"""A file with uint8 ends: what feeds pixels as bytes, and refuses int8, can use it.

A QUANTIZE at the input takes pixels p as (p - mean) / std, one at the output makes scores unsigned;
both are integer operators, and everything between them stays as it is.
"""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_export.file.damage import names_damage
from tflite_export.file.reader import parse
from tflite_export.file.stored import StoredModel, StoredTensor
from tflite_export.file.writer import serialize
from tflite_export.operators.rescaling import QUANTIZE
from tflite_export.packaging.end_operators import OFFSET, add_code, add_tensor, conversion
from tflite_export.runtimes.isolation import guarded
from tflite_export.runtimes.sessions import open_session
from tflite_export.targets.forbidden import executes

_SAMPLES = 4
_BRIGHTEST = 255
#: Of normalized pixels so much lies in the input's range, and of that range so much has pixels.
_LEAST_KEPT, _LEAST_FILLED = 1 / 4, 1 / 16
#: What proves the file: exact kernels, or where these lack an operator, the others.
_RUNTIMES = ("litert-reference", "litert")


@names_damage
def with_unsigned_ends(content: bytes, *, mean: float, std: float) -> bytes:
    """The same network for uint8 pixels, with uint8 outputs; proven on random pixels.

    Args:
        content: a file with one int8 input and one int8 output, both quantized.
        mean, std: what the model was trained on is (pixel - mean) / std, pixels in 0..255. The
            mean is rounded, because a zero point is an integer.

    Raises:
        ValueError: other ends, a mean outside of 0..255, normalized pixels in another unit than
            the input has, or the new file computes something else.
    """
    stored = parse(content)
    require_signed_ends(stored)
    _require_pixels(stored.tensors[stored.inputs[0]], mean, std)
    unsigned = _unsigned(content, stored, float(np.float32(1.0 / std)), round(mean))
    runtime = next(name for name in _RUNTIMES if executes(stored, name))
    guarded(unsigned, runtime, _compare, content, unsigned, mean, std, runtime)
    return unsigned


def require_signed_ends(model: StoredModel) -> None:
    """Raises ValueError for a file without one int8 input and one int8 output."""
    if (len(model.inputs), len(model.outputs)) != (1, 1):
        raise ValueError(
            f"the file has {len(model.inputs)} inputs and {len(model.outputs)} outputs, need one "
            "of each"
        )
    for role, index in (("input", model.inputs[0]), ("output", model.outputs[0])):
        tensor = model.tensors[index]
        if tensor.type != "int8" or tensor.scale is None:
            raise ValueError(f"{role} {tensor.name!r} is {tensor.type}, need quantized int8")


def _require_pixels(image: StoredTensor, mean: float, std: float) -> None:
    """Refuses normalized pixels most of which the file would clip, or take for one value."""
    if not 0 <= mean <= 255 or not std > 0:
        raise ValueError(
            f"mean={mean:g}, std={std:g}: need 0 to 255 and more than 0, in units of pixels"
        )
    assert image.scale is not None
    low, high = ((code - image.offset) * float(image.scale[0]) for code in (-128, 127))
    first, last = ((pixel - mean) / std for pixel in (0, _BRIGHTEST))
    common = max(min(high, last) - max(low, first), 0.0)
    if common < _LEAST_KEPT * (last - first) or common < _LEAST_FILLED * (high - low):
        fitting = _BRIGHTEST / (high - low)
        raise ValueError(
            f"mean={mean:g}, std={std:g} make {first:.4g} to {last:.4g} of pixels, and input "
            f"{image.name!r} reaches from {low:.4g} to {high:.4g}: give those that the model was "
            f"trained with; mean={max(-low * fitting, 0.0):.3g}, std={fitting:.3g} fill the input"
        )


def _unsigned(content: bytes, stored: StoredModel, scale: float, zero_point: int) -> bytes:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    subgraph = model.subgraphs[0]
    (given,), (made,) = stored.inputs, stored.outputs
    pixels = add_tensor(
        subgraph, stored.tensors[given], "uint8", scale=scale, zero_point=zero_point
    )
    scores = stored.tensors[made]
    assert scores.scale is not None
    unsigned = add_tensor(
        subgraph,
        scores,
        "uint8",
        scale=float(scores.scale[0]),
        zero_point=scores.offset + OFFSET,
    )
    code = add_code(model, QUANTIZE.name, version=QUANTIZE.version("int8"))
    options = str(QUANTIZE.options)
    subgraph.operators = [
        conversion(code, pixels, given, options=options),
        *subgraph.operators,
        conversion(code, made, unsigned, options=options),
    ]
    subgraph.inputs, subgraph.outputs = [pixels], [unsigned]
    for signature in model.signatureDefs or ():
        for entry, tensor in ((signature.inputs, pixels), (signature.outputs, unsigned)):
            entry[0].tensorIndex = tensor
    return serialize(model)


def _compare(content: bytes, unsigned: bytes, mean: float, std: float, runtime: str) -> None:
    """Runs both files on the same pictures; the scores must be the same integers.

    The new file says itself which int8 picture its first operator makes of pixels: it must be at
    most one step from the picture that the old file would be given.
    """
    stored = parse(content)
    image = stored.tensors[stored.inputs[0]]
    assert image.scale is not None
    shape = (_SAMPLES, *image.shape[1:])
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    (picture,) = open_session(_first_operator_only(unsigned), runtime)([pixels])
    real = (pixels.astype(np.float64) - round(mean)) / std
    expected = np.clip(np.round(real / image.scale[0]) + image.offset, -128, 127)
    if np.abs(picture - expected).max() > 1:
        raise ValueError("the file's first operator does not normalize pixels as asked")
    (scores,) = open_session(unsigned, runtime)([pixels])
    (signed,) = open_session(content, runtime)([picture])
    if not np.array_equal(scores.astype(np.int16) - OFFSET, signed):
        raise ValueError("the file computes something else between its unsigned ends")


def _first_operator_only(content: bytes) -> bytes:
    """The file up to its first operator."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    subgraph = model.subgraphs[0]
    subgraph.operators = subgraph.operators[:1]
    subgraph.outputs = list(subgraph.operators[0].outputs)
    model.signatureDefs = []
    return serialize(model)
