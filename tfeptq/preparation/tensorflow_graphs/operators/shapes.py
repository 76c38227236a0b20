"""What moves values: shapes, slices, joins, borders and sizes of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from tfeptq.preparation.tensorflow_graphs.operators.handler import (
    Handler,
    constant,
    in_plane,
    integers,
)
from tfeptq.preparation.tensorflow_graphs.scope import Scope
from tfeptq.preparation.tensorflow_graphs.values import (
    BATCH,
    Phases,
    Rows,
    UnreadableGraphError,
    per_sample,
    reshaped,
    symbol,
)


def _mixing(operation: tf.Operation) -> UnreadableGraphError:
    return UnreadableGraphError(f"{operation.type} ({operation.name!r}) moves whole samples")


def _inner_axis(operation: tf.Operation, tensor: Any, axis: int) -> int:
    """An axis that is not the samples'."""
    axis %= len(tensor.shape)
    if axis == 0:
        raise _mixing(operation)
    return axis


def _reshape(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    return reshaped(read[0], integers(operation, read[1]))


def _shape(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    if isinstance(read[0], Rows):
        *joined, features = read[0].tensor.shape[1:]
        sizes = [BATCH * math.prod(joined), features]
    else:
        sizes = [BATCH, *read[0].shape[1:]]
    return np.array(sizes, operation.get_attr("out_type").as_numpy_dtype)


def _expand_dims(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    if isinstance(read[0], Phases):
        (axis,), rates = integers(operation, read[1]), read[0].rates
        axis %= len(read[0].tensor.shape) + 1
        expanded = _expand_dims(operation, [read[0].tensor, axis], scope)
        return Phases(expanded, (*rates[: axis - 1], 1, *rates[axis - 1 :]))
    tensor, (axis,) = symbol(read[0]), integers(operation, read[1])
    axis %= len(tensor.shape) + 1
    if axis == 0:
        raise _mixing(operation)
    return ops.expand_dims(tensor, axis)


def _squeeze(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    if isinstance(read[0], Phases):
        tensor, rates = read[0].tensor, read[0].rates
        dropped = {axis % len(tensor.shape) for axis in operation.get_attr("squeeze_dims")}
        kept = tuple(rate for axis, rate in enumerate(rates, start=1) if axis not in dropped)
        return Phases(_squeeze(operation, [tensor], scope), kept)
    tensor = symbol(read[0])
    axes = [axis % len(tensor.shape) for axis in operation.get_attr("squeeze_dims")]
    axes = axes or [axis for axis, size in enumerate(tensor.shape) if axis and size == 1]
    for axis in sorted(axes, reverse=True):
        tensor = ops.squeeze(tensor, _inner_axis(operation, tensor, axis))
    return tensor


def _transpose(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    order = integers(operation, read[1])
    if order[0] != 0:
        raise _mixing(operation)
    return ops.transpose(symbol(read[0]), order)


def _concatenate(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    *parts, axis = read
    parts = [symbol(per_sample(part)) for part in parts]
    return ops.concatenate(parts, _inner_axis(operation, parts[0], int(constant(operation, axis))))


def _split(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    if operation.type == "SplitV":
        tensor, sizes, axis = symbol(read[0]), integers(operation, read[1]), read[2]
        places: Any = [int(end) for end in np.cumsum(sizes)[:-1]]
    else:
        axis, tensor = read[0], symbol(read[1])
        places = operation.get_attr("num_split")
    return list(
        ops.split(
            tensor, places, axis=_inner_axis(operation, tensor, int(constant(operation, axis)))
        )
    )


def _stack(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    parts = [symbol(per_sample(part)) for part in read]
    axis = operation.get_attr("axis") % (len(parts[0].shape) + 1)
    if axis == 0:
        raise _mixing(operation)
    return ops.stack(parts, axis=axis)


def _unstack(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    tensor = symbol(read[0])
    return list(
        ops.unstack(tensor, axis=_inner_axis(operation, tensor, operation.get_attr("axis")))
    )


def _strided_slice(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    parts: list[Any] = []
    bounds = zip(*(integers(operation, value) for value in read[1:4]), strict=True)
    for place, (start, end, step) in enumerate(bounds):
        if _bit(operation, "ellipsis_mask", place):
            parts.append(Ellipsis)
        elif _bit(operation, "new_axis_mask", place):
            parts.append(None)
        elif _bit(operation, "shrink_axis_mask", place):
            parts.append(start)
        else:
            first = None if _bit(operation, "begin_mask", place) else start
            last = None if _bit(operation, "end_mask", place) else end
            parts.append(slice(first, last, step))
    if not _takes_all(parts[0]):
        raise _mixing(operation)
    whole = parts[0] if parts[0] is Ellipsis else slice(None)
    return symbol(read[0])[(whole, *parts[1:])]


def _bit(operation: tf.Operation, mask: str, place: int) -> bool:
    return bool(operation.get_attr(mask) >> place & 1)


def _takes_all(part: Any) -> bool:
    """Whether a slice of the samples' axis takes all of them."""
    if part is Ellipsis:
        return True
    if not isinstance(part, slice):
        return False
    return range(BATCH)[part] == range(BATCH)


def _slice(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    starts, sizes = integers(operation, read[1]), integers(operation, read[2])
    ends = [None if size == -1 else start + size for start, size in zip(starts, sizes, strict=True)]
    parts = [slice(start, end) for start, end in zip(starts, ends, strict=True)]
    if not _takes_all(parts[0]):
        raise _mixing(operation)
    return symbol(read[0])[(slice(None), *parts[1:])]


def _pad(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    pairs = constant(operation, read[1]).reshape(-1, 2)
    if pairs[0].any():
        raise _mixing(operation)
    mode, value = "constant", None
    if operation.type == "MirrorPad":
        mode = operation.get_attr("mode").decode().lower()
    elif operation.type == "PadV2":
        value = float(constant(operation, read[2]))
    widths = [tuple(int(width) for width in pair) for pair in pairs]
    return ops.pad(symbol(read[0]), widths, mode=mode, constant_values=value)


def _reverse(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    tensor = symbol(read[0])
    chosen = [_inner_axis(operation, tensor, axis) for axis in integers(operation, read[1])]
    return ops.flip(tensor, chosen)


def _roll(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    tensor, shifts, axes = symbol(read[0]), integers(operation, read[1]), read[2]
    for shift, axis in zip(shifts, integers(operation, axes), strict=True):
        tensor = ops.roll(tensor, shift, axis=_inner_axis(operation, tensor, axis))
    return tensor


def _tile(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    repeats = integers(operation, read[1])
    if repeats[0] != 1:
        raise _mixing(operation)
    return ops.tile(symbol(read[0]), repeats)


def _broadcast(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    sizes = integers(operation, read[1])
    tensor = symbol(read[0])
    if sizes[0] != BATCH or len(sizes) != len(tensor.shape):
        raise _mixing(operation)
    return ops.tile(tensor, [1, *_repeats(tensor.shape[1:], sizes[1:])])


def _repeats(sizes: Sequence[int], wanted: Sequence[int]) -> list[int]:
    return [new // old for old, new in zip(sizes, wanted, strict=True)]


def _resize(interpolation: str) -> Handler:
    def handler(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
        if operation.get_attr("align_corners") or not operation.get_attr("half_pixel_centers"):
            raise UnreadableGraphError(
                f"{operation.type} ({operation.name!r}) has corners that keras.ops.image.resize "
                "has not"
            )
        size = tuple(integers(operation, read[1]))
        return ops.image.resize(symbol(read[0]), size, interpolation=interpolation)

    return handler


def _patches(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    return ops.image.extract_patches(
        symbol(read[0]),
        in_plane(operation, "ksizes"),
        strides=in_plane(operation, "strides"),
        dilation_rate=in_plane(operation, "rates"),
        padding=operation.get_attr("padding").decode().lower(),
    )


def _depth_to_space(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    tensor, block = symbol(read[0]), operation.get_attr("block_size")
    height, width, channels = tensor.shape[1:]
    parts = ops.reshape(tensor, (-1, height, width, block, block, channels // block**2))
    moved = ops.transpose(parts, (0, 1, 3, 2, 4, 5))
    return ops.reshape(moved, (-1, height * block, width * block, channels // block**2))


def _space_to_depth(operation: tf.Operation, read: list[Any], scope: Scope) -> Any:
    return ops.image.extract_patches(symbol(read[0]), operation.get_attr("block_size"))


HANDLERS: dict[str, Handler] = {
    "BroadcastTo": _broadcast,
    "ConcatV2": _concatenate,
    "DepthToSpace": _depth_to_space,
    "ExpandDims": _expand_dims,
    "ExtractImagePatches": _patches,
    "MirrorPad": _pad,
    "Pack": _stack,
    "Pad": _pad,
    "PadV2": _pad,
    "Reshape": _reshape,
    "ResizeBilinear": _resize("bilinear"),
    "ResizeNearestNeighbor": _resize("nearest"),
    "ReverseV2": _reverse,
    "Roll": _roll,
    "Shape": _shape,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "SplitV": _split,
    "Squeeze": _squeeze,
    "StridedSlice": _strided_slice,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unpack": _unstack,
}
