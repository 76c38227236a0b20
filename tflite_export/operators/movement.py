"""Operators that move integers and leave them as they are."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from tflite_export.graph.case import Case
from tflite_export.graph.kinds import Attribute, OperatorKind, Shape, register
from tflite_export.graph.shapes import axis_of, integers, positive, require, require_rank
from tflite_export.operators.operands import Operands
from tflite_export.operators.stored import OPERAND, UNFUSED


def reshape(operands: Operands) -> np.ndarray:
    values = operands.arrays[0]
    return values.reshape(len(values), *operands.attributes["new_shape"][1:])


def transpose(operands: Operands) -> np.ndarray:
    return operands.arrays[0].transpose(operands.attributes["permutation"])


def pad(operands: Operands) -> np.ndarray:
    amounts = operands.attributes["paddings"]
    fill = operands.output.quantization.zero_point
    return np.pad(operands.arrays[0], amounts, constant_values=fill)


def crop(operands: Operands) -> np.ndarray:
    begin, size = (operands.attributes[name] for name in ("begin", "size"))
    inner = [slice(b, b + s) for b, s in zip(begin[1:], size[1:], strict=True)]
    return operands.arrays[0][(slice(None), *inner)]


def strided_slice(operands: Operands) -> np.ndarray:
    limits = zip(*(operands.attributes[name] for name in ("begin", "end", "strides")), strict=True)
    _, *inner = (slice(begin, end, stride) for begin, end, stride in limits)
    return operands.arrays[0][(slice(None), *inner)]


def concatenation(operands: Operands) -> np.ndarray:
    count = max(len(array) for array in operands.arrays)
    arrays = [np.broadcast_to(a, (count, *a.shape[1:])) for a in operands.arrays]
    return np.concatenate(arrays, axis=operands.attributes["axis"])


def gather(operands: Operands) -> np.ndarray:
    """Entries of a constant table along its first dimension.

    Raises:
        ValueError: an index that the table has not.
    """
    table, indices = operands.array("table"), operands.array("indices")
    outside = indices[(indices < 0) | (indices >= len(table))]
    if outside.size:
        raise ValueError(
            f"operator {operands.operator.kind} of layer {operands.operator.layer!r}: index "
            f"{outside.flat[0]} into a table of {len(table)}; allowed are 0 to {len(table) - 1}"
        )
    return table[indices]


def space_to_depth(operands: Operands) -> np.ndarray:
    """Blocks of pixels become channels."""
    block, values = operands.attributes["block_size"], operands.arrays[0]
    samples, height, width, channels = values.shape
    split = values.reshape(samples, height // block, block, width // block, block, channels)
    return split.transpose(0, 1, 3, 2, 4, 5).reshape(samples, *operands.output.shape[1:])


def depth_to_space(operands: Operands) -> np.ndarray:
    """Channels become blocks of pixels."""
    block, values = operands.attributes["block_size"], operands.arrays[0]
    samples, height, width, _ = values.shape
    split = values.reshape(samples, height, width, block, block, -1)
    return split.transpose(0, 1, 3, 2, 4, 5).reshape(samples, *operands.output.shape[1:])


def mirror_pad(operands: Operands) -> np.ndarray:
    values, amounts = operands.arrays[0], operands.attributes["paddings"]
    if operands.attributes["mode"] == "REFLECT":
        return np.pad(values, amounts, mode="reflect")
    return np.pad(values, amounts, mode="symmetric")


def pad_with(operands: Operands) -> np.ndarray:
    """Padding by any value."""
    (value,) = operands.array("value").reshape(-1)
    return np.pad(operands.arrays[0], operands.attributes["paddings"], constant_values=value)


def _index_problems(case: Case) -> Iterator[str]:
    indices, table = case.tensor("indices"), case.tensor("table")
    if indices.dtype != "int32":
        yield f"the indices {indices.name!r} are {indices.dtype}, need int32"
    if table.data is None or len(table.shape) < 2:
        yield f"the table {table.name!r} {table.shape} must be a constant of at least 2 dimensions"


def _value_problems(case: Case) -> Iterator[str]:
    value = case.tensor("value")
    if value.data is None or value.data.size != 1:
        yield f"the value {value.name!r} {value.shape} must be one constant"


def _gathered(case: Case) -> Shape:
    table, indices = case.shapes
    return (*indices, *table[1:])


def _deepened(case: Case) -> Shape:
    require_rank(case.shapes[0], 4)
    (block,) = positive(case.attributes, "block_size")
    samples, height, width, channels = case.shapes[0]
    require(height % block == width % block == 0, f"blocks of {block} in {case.shapes[0]}")
    return (samples, height // block, width // block, channels * block**2)


def _widened(case: Case) -> Shape:
    require_rank(case.shapes[0], 4)
    (block,) = positive(case.attributes, "block_size")
    samples, height, width, channels = case.shapes[0]
    require(channels % block**2 == 0, f"blocks of {block} in {channels} channels")
    return (samples, height * block, width * block, channels // block**2)


def _mirrored(case: Case) -> Shape:
    made = _padded(case)
    kept = 1 if case.attributes["mode"] == "REFLECT" else 0
    for size, pair in zip(case.shapes[0], case.attributes["paddings"], strict=True):
        require(max(pair) <= size - kept, f"a mirror of {max(pair)} beside {size}")
    return made


def _concatenated(case: Case) -> Shape:
    first = case.shapes[0]
    axis = axis_of(case.attributes["axis"], len(first))
    for shape in case.shapes:
        rest = (*shape[:axis], *shape[axis + 1 :])
        require(rest == (*first[:axis], *first[axis + 1 :]), f"{shape} beside {first}")
    return (*first[:axis], sum(shape[axis] for shape in case.shapes), *first[axis + 1 :])


def _reshaped(case: Case) -> Shape:
    (given,) = case.shapes
    sizes = integers(case.attributes["new_shape"], None, "the new shape", least=-1)
    total, known = math.prod(given), math.prod(size for size in sizes if size != -1)
    open_sizes = sizes.count(-1)
    require(open_sizes <= 1 and known > 0 and total % known == 0, f"{given} as {sizes}")
    require(open_sizes == 1 or known == total, f"{given} as {sizes}")
    return tuple(total // known if size == -1 else size for size in sizes)


def _transposed(case: Case) -> Shape:
    (given,) = case.shapes
    order, rank = list(case.attributes["permutation"]), len(given)
    require(sorted(order) == list(range(rank)), f"permutation {order} of {rank} dimensions")
    return tuple(given[axis] for axis in order)


def _padded(case: Case) -> Shape:
    given = case.shapes[0]
    amounts = [integers(pair, 2, "padding") for pair in case.attributes["paddings"]]
    require(len(amounts) == len(given), f"{len(amounts)} paddings of {given}")
    return tuple(
        before + size + after for size, (before, after) in zip(given, amounts, strict=True)
    )


def _cropped(case: Case) -> Shape:
    (given,) = case.shapes
    begins = integers(case.attributes["begin"], len(given), "begin")
    sizes = integers(case.attributes["size"], len(given), "size", least=-1)
    taken = [
        total - begin if size == -1 else size
        for total, begin, size in zip(given, begins, sizes, strict=True)
    ]
    for total, begin, size in zip(given, begins, taken, strict=True):
        require(size >= 1 and begin + size <= total, f"{size} from {begin} on of {total}")
    return tuple(taken)


def _strided(case: Case) -> Shape:
    (given,) = case.shapes
    begins = integers(case.attributes["begin"], len(given), "begin")
    ends = integers(case.attributes["end"], len(given), "end", least=1)
    strides = integers(case.attributes["strides"], len(given), "strides", least=1)
    for size, begin, end in zip(given, begins, ends, strict=True):
        require(begin < end <= size, f"{begin} to {end} of {size}")
    return tuple(
        -(-(end - begin) // stride)
        for begin, end, stride in zip(begins, ends, strides, strict=True)
    )


CONCATENATION = register(
    OperatorKind(
        "CONCATENATION",
        concatenation,
        _concatenated,
        versions=(2, 3),
        options="ConcatenationOptions",
        attributes={"axis": Attribute("axis")},
        required=UNFUSED,
        roles=("parts",),
        repeats=True,
        ties=True,
    )
)
RESHAPE = register(
    OperatorKind(
        "RESHAPE",
        reshape,
        _reshaped,
        versions=(1, 1),
        options="ReshapeOptions",
        attributes={"new_shape": OPERAND},
        ties=True,
    )
)
TRANSPOSE = register(
    OperatorKind(
        "TRANSPOSE",
        transpose,
        _transposed,
        versions=(2, 5),
        options="TransposeOptions",
        attributes={"permutation": OPERAND},
        ties=True,
    )
)
PAD = register(
    OperatorKind(
        "PAD",
        pad,
        _padded,
        versions=(2, 3),
        options="PadOptions",
        attributes={"paddings": OPERAND},
        ties=True,
    )
)
SLICE = register(
    OperatorKind(
        "SLICE",
        crop,
        _cropped,
        versions=(2, 4),
        options="SliceOptions",
        attributes={"begin": OPERAND, "size": OPERAND},
        ties=True,
    )
)
GATHER = register(
    OperatorKind(
        "GATHER",
        gather,
        _gathered,
        versions=(2, 4),
        options="GatherOptions",
        required={"axis": 0, "batchDims": 0},
        roles=("table", "indices"),
        own_types=("indices",),
        operands=_index_problems,
        indexes={"indices": ("table", 0)},
        ties=True,
    )
)
SPACE_TO_DEPTH = register(
    OperatorKind(
        "SPACE_TO_DEPTH",
        space_to_depth,
        _deepened,
        versions=(2, 2),
        options="SpaceToDepthOptions",
        attributes={"block_size": Attribute("blockSize")},
        ties=True,
    )
)
DEPTH_TO_SPACE = register(
    OperatorKind(
        "DEPTH_TO_SPACE",
        depth_to_space,
        _widened,
        versions=(1, 1),
        options="DepthToSpaceOptions",
        attributes={"block_size": Attribute("blockSize")},
        ties=True,
    )
)
MIRROR_PAD = register(
    OperatorKind(
        "MIRROR_PAD",
        mirror_pad,
        _mirrored,
        versions=(2, 3),
        options="MirrorPadOptions",
        attributes={
            "mode": Attribute("mode", "MirrorPadMode", ("REFLECT", "SYMMETRIC")),
            "paddings": OPERAND,
        },
        ties=True,
    )
)
PADV2 = register(
    OperatorKind(
        "PADV2",
        pad_with,
        _padded,
        versions=(2, 3),
        options="PadV2Options",
        attributes={"paddings": OPERAND},
        roles=("input", "value"),
        layout=("input", "paddings", "value"),
        operands=_value_problems,
        ties=True,
    )
)
STRIDED_SLICE = register(
    OperatorKind(
        "STRIDED_SLICE",
        strided_slice,
        _strided,
        versions=(2, 2),
        options="StridedSliceOptions",
        attributes={"begin": OPERAND, "end": OPERAND, "strides": OPERAND},
        required={
            "beginMask": 0,
            "endMask": 0,
            "ellipsisMask": 0,
            "newAxisMask": 0,
            "shrinkAxisMask": 0,
        },
        ties=True,
    )
)
