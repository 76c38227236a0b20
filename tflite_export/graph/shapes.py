"""The shape that every operator makes of its inputs' shapes, before anything is computed.

A graph whose declared shapes are these needs the memory that it declares, and no more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tflite_export.graph.structure import Operator, Tensor

Shape = tuple[int, ...]


class _MismatchError(ValueError):
    """Shapes or attributes that do not fit each other; the message lacks the operator's name."""


def check_shapes(operator: Operator, inputs: Sequence[Tensor], output: Tensor) -> None:
    """Compares the declared shape of an operator's output with what it makes of its inputs.

    Raises:
        ValueError: what does not fit, naming the operator and its layer.
    """
    try:
        for tensor in (*inputs, output):
            _require(all(size >= 1 for size in tensor.shape), f"{tensor.name!r} is {tensor.shape}")
        made = _SHAPES[operator.kind](operator.attributes, [tensor.shape for tensor in inputs])
        _require(
            made == output.shape, f"makes {made} of its inputs, {output.name!r} is {output.shape}"
        )
    except (_MismatchError, TypeError) as error:
        raise ValueError(
            f"operator {operator.kind} of layer {operator.layer!r}: its shapes do not fit: {error}"
        ) from error


def multiplications(operator: Operator, inputs: Sequence[Tensor], output: Tensor) -> int:
    """Of one sample; for pooling, elements read."""
    attributes, made = operator.attributes, math.prod(output.shape)
    if operator.kind in ("CONV_2D", "FULLY_CONNECTED"):
        return made * math.prod(inputs[1].shape[1:])
    if operator.kind == "DEPTHWISE_CONV_2D":
        return made * math.prod(inputs[1].shape[1:3])
    if "filter_h" in attributes:
        return made * attributes["filter_h"] * attributes["filter_w"]
    return max(made, *(math.prod(tensor.shape) for tensor in inputs))


def padded_elements(operator: Operator, inputs: Sequence[Tensor]) -> int:
    """Elements of an operator's image with the padding that its windows need."""
    windows = _windows(operator.attributes, [tensor.shape for tensor in inputs])
    if windows is None:
        return 0
    batch, *sizes, channels = inputs[0].shape
    padded = 1
    for size, (window, stride) in zip(sizes, windows, strict=True):
        outputs = -(-size // stride)
        padded *= max(size, (outputs - 1) * stride + window)
    return batch * padded * channels


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise _MismatchError(problem)


def _integers(values: Any, count: int | None, what: str, *, least: int = 0) -> list[int]:
    """A list of `count` integers that are not below `least`."""
    found = [int(value) for value in values]
    _require(count is None or len(found) == count, f"{what} is {tuple(values)}, need {count}")
    _require(all(value >= least for value in found), f"{what} is {tuple(found)}")
    return found


def _axis(axis: int, rank: int) -> int:
    _require(-rank <= axis < rank, f"axis {axis} of {rank}")
    return axis % rank


def _positive(attributes: Any, *names: str) -> list[int]:
    return [_integers([attributes[name]], 1, name, least=1)[0] for name in names]


def _windows(attributes: Any, shapes: Sequence[Shape]) -> list[tuple[int, int]] | None:
    """(size with dilation, stride) of an operator's windows in both directions."""
    if "stride_h" not in attributes:
        return None
    strides = _positive(attributes, "stride_h", "stride_w")
    if "filter_h" in attributes:
        return list(zip(_positive(attributes, "filter_h", "filter_w"), strides, strict=True))
    dilations = _positive(attributes, "dilation_h", "dilation_w")
    return [
        ((size - 1) * dilation + 1, stride)
        for size, dilation, stride in zip(shapes[1][1:3], dilations, strides, strict=True)
    ]


def _image(attributes: Any, shapes: Sequence[Shape], channels: int) -> Shape:
    """Output of an operator with windows."""
    windows = _windows(attributes, shapes)
    assert windows is not None
    sizes = []
    for size, (window, stride) in zip(shapes[0][1:3], windows, strict=True):
        room = size if attributes["padding"] == "SAME" else size - window + 1
        _require(room >= 1, f"a window of {window} in an image of {size}")
        sizes.append(-(-room // stride))
    return (shapes[0][0], *sizes, channels)


def _rank(shape: Shape, rank: int) -> None:
    _require(len(shape) == rank, f"{shape} has {len(shape)} dimensions, need {rank}")


def _convolution(attributes: Any, shapes: Sequence[Shape]) -> Shape:
    image, weights, bias = shapes
    _rank(image, 4)
    _rank(weights, 4)
    _require(weights[3] == image[3], f"weights {weights} on an image {image}")
    _require(bias == weights[:1], f"a bias {bias} of weights {weights}")
    return _image(attributes, shapes, weights[0])


def _depthwise(attributes: Any, shapes: Sequence[Shape]) -> Shape:
    image, weights, bias = shapes
    _rank(image, 4)
    _rank(weights, 4)
    (multiplier,) = _positive(attributes, "depth_multiplier")
    _require(
        weights[0] == 1 and weights[3] == image[3] * multiplier,
        f"weights {weights} on an image {image}, {multiplier} a channel",
    )
    _require(bias == weights[3:], f"a bias {bias} of weights {weights}")
    return _image(attributes, shapes, weights[3])


def _dense(attributes: Any, shapes: Sequence[Shape]) -> Shape:
    given, weights, *bias = shapes
    _rank(weights, 2)
    units, depth = weights
    _require(not bias or bias[0] == (units,), f"a bias {bias} of weights {weights}")
    if attributes["keep_num_dims"]:
        _require(given[-1:] == (depth,), f"weights {weights} on {given}")
        return (*given[:-1], units)
    _require(len(given) > 0 and math.prod(given[1:]) % depth == 0, f"weights {weights} on {given}")
    return (math.prod(given) // depth, units)


def _pool(attributes: Any, shapes: Sequence[Shape]) -> Shape:
    _rank(shapes[0], 4)
    return _image(attributes, shapes, shapes[0][3])


def _broadcast(attributes: Any, shapes: Sequence[Shape]) -> Shape:
    try:
        return tuple(int(size) for size in np.broadcast_shapes(*shapes))
    except ValueError as error:
        raise _MismatchError(f"{shapes[0]} and {shapes[1]} do not broadcast") from error


def _same(attributes: Any, shapes: Sequence[Shape]) -> Shape:
    return shapes[0]


def _softmax(attributes: Any, shapes: Sequence[Shape]) -> Shape:
    _require(len(shapes[0]) >= 1, "a scalar")
    return shapes[0]


def _concatenation(attributes: Any, shapes: Sequence[Shape]) -> Shape:
    first = shapes[0]
    axis = _axis(attributes["axis"], len(first))
    for shape in shapes:
        rest = (*shape[:axis], *shape[axis + 1 :])
        _require(rest == (*first[:axis], *first[axis + 1 :]), f"{shape} beside {first}")
    return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])


def _mean(attributes: Any, shapes: Sequence[Shape]) -> Shape:
    rank = len(shapes[0])
    axes = {_axis(axis, rank) for axis in attributes["axes"]}
    _require(len(axes) == len(attributes["axes"]), f"axes {attributes['axes']}")
    if attributes["keep_dims"]:
        return tuple(1 if axis in axes else size for axis, size in enumerate(shapes[0]))
    return tuple(size for axis, size in enumerate(shapes[0]) if axis not in axes)


def _reshape(attributes: Any, shapes: Sequence[Shape]) -> Shape:
    sizes = _integers(attributes["new_shape"], None, "the new shape", least=-1)
    total, known = math.prod(shapes[0]), math.prod(size for size in sizes if size != -1)
    open_sizes = sizes.count(-1)
    _require(open_sizes <= 1 and known > 0 and total % known == 0, f"{shapes[0]} as {sizes}")
    _require(open_sizes == 1 or known == total, f"{shapes[0]} as {sizes}")
    return tuple(total // known if size == -1 else size for size in sizes)


def _transpose(attributes: Any, shapes: Sequence[Shape]) -> Shape:
    order, rank = list(attributes["permutation"]), len(shapes[0])
    _require(sorted(order) == list(range(rank)), f"permutation {order} of {rank} dimensions")
    return tuple(shapes[0][axis] for axis in order)


def _pad(attributes: Any, shapes: Sequence[Shape]) -> Shape:
    amounts = [_integers(pair, 2, "padding") for pair in attributes["paddings"]]
    _require(len(amounts) == len(shapes[0]), f"{len(amounts)} paddings of {shapes[0]}")
    return tuple(
        before + size + after for size, (before, after) in zip(shapes[0], amounts, strict=True)
    )


def _slice(attributes: Any, shapes: Sequence[Shape]) -> Shape:
    rank = len(shapes[0])
    begins = _integers(attributes["begin"], rank, "begin")
    sizes = _integers(attributes["size"], rank, "size", least=-1)
    taken = [
        total - begin if size == -1 else size
        for total, begin, size in zip(shapes[0], begins, sizes, strict=True)
    ]
    for total, begin, size in zip(shapes[0], begins, taken, strict=True):
        _require(size >= 1 and begin + size <= total, f"{size} from {begin} on of {total}")
    return tuple(taken)


def _resize(attributes: Any, shapes: Sequence[Shape]) -> Shape:
    _rank(shapes[0], 4)
    height, width = _integers(attributes["size"], 2, "the new size", least=1)
    return (shapes[0][0], height, width, shapes[0][3])


_SHAPES: dict[str, Callable[[Any, Sequence[Shape]], Shape]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _dense,
    "MAX_POOL_2D": _pool,
    "AVERAGE_POOL_2D": _pool,
    **dict.fromkeys(("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "PRELU"), _broadcast),
    **dict.fromkeys(
        ("RELU", "RELU6", "LEAKY_RELU", "HARD_SWISH", "LOGISTIC", "TANH", "QUANTIZE"), _same
    ),
    "SOFTMAX": _softmax,
    "CONCATENATION": _concatenation,
    "MEAN": _mean,
    "RESHAPE": _reshape,
    "TRANSPOSE": _transpose,
    "PAD": _pad,
    "SLICE": _slice,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
    "RESIZE_BILINEAR": _resize,
}
