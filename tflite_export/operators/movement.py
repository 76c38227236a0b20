"""Operators that move integers and leave them as they are."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from tflite_export.graph.case import Case
from tflite_export.graph.kinds import Attribute, OperatorKind, Shape, register
from tflite_export.graph.operand_rules import INDEX
from tflite_export.graph.shapes import axis_of, integers, positive, require, require_rank
from tflite_export.operators.operands import Operands
from tflite_export.operators.stored import OPERAND, UNFUSED


def reshape(operands: Operands) -> np.ndarray:
    values = operands.arrays[0]
    return values.reshape(len(values), *operands.attributes["new_shape"][1:])


def transpose(operands: Operands) -> np.ndarray:
    return operands.arrays[0].transpose(operands.attributes["permutation"])


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
            f"{operands.operator.where}: index "
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


def _index_problems(case: Case) -> Iterator[str]:
    indices, table = case.tensor("indices"), case.tensor("table")
    if indices.dtype != INDEX:
        yield f"the indices {indices.name!r} are {indices.dtype}, need {INDEX}"
    if table.data is None or not table.shape:
        yield f"the table {table.name!r} {table.shape} must be a constant of one dimension or more"


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
        counts=True,
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
        counts=True,
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
