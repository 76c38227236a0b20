"""Our constraints of the Ethos-U against what Vela does with files on both sides of each limit."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from tests.tflite_export import one_operator as one
from tflite_export.file.reader import parse
from tflite_export.file.writer import write
from tflite_export.graph.structure import IntegerGraph, Operator, Tensor
from tflite_export.packaging import vela_report
from tflite_export.targets import ethos_u
from tflite_export.targets.checks import static_findings

HAS_VELA = importlib.util.find_spec("ethosu") is not None
needs_vela = pytest.mark.skipif(not HAS_VELA, reason="Vela is not installed (extra 'ethos-u')")

#: Kind, shapes of input and output, attributes, and constants behind the input.
Case = tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any], str, list[Tensor]]


def windowed(
    kind: str,
    size: tuple[int, int],
    span: tuple[int, int],
    strides: tuple[int, int],
    padding: str,
    dilation: int = 1,
) -> Case:
    places = [(side - 1) * dilation + 1 for side in span]
    sizes = [
        -(-whole // step) if padding == "SAME" else (whole - place) // step + 1
        for whole, place, step in zip(size, places, strides, strict=True)
    ]
    attributes: dict[str, Any] = {
        "padding": padding,
        "stride_h": strides[0],
        "stride_w": strides[1],
    }
    constants = []
    if kind.endswith("POOL_2D"):
        attributes |= {"filter_h": span[0], "filter_w": span[1]}
    else:
        attributes |= {"dilation_h": dilation, "dilation_w": dilation, "activation": "NONE"}
        depthwise = kind == "DEPTHWISE_CONV_2D"
        attributes |= {"depth_multiplier": 1} if depthwise else {}
        shape = (1, *span, 2) if depthwise else (2, *span, 2)
        constants = [constant(np.ones(shape, np.int8)), constant(np.zeros(2, np.int32))]
    return kind, (1, *size, 2), (1, *sizes, 2), attributes, "int8", constants


def constant(values: np.ndarray) -> Tensor:
    bits = 8 * values.itemsize
    return Tensor("", values.shape, str(values.dtype), one.quantization(0.01), values, bits)


def resized(
    kind: str,
    before: tuple[int, int],
    after: tuple[int, int],
    *,
    corners: bool = False,
    centers: bool | None = None,
) -> Case:
    """As Keras does: of centred pixels where it is smooth."""
    centers = kind == "RESIZE_BILINEAR" and not corners if centers is None else centers
    attributes = {"size": after, "align_corners": corners, "half_pixel_centers": centers}
    return kind, (1, *before, 2), (1, *after, 2), attributes, "int8", []


def mean(shape: tuple[int, ...], axes: tuple[int, ...], dtype: str = "int8") -> Case:
    kept = tuple(size for axis, size in enumerate(shape) if axis not in axes)
    return "MEAN", shape, kept, {"axes": axes, "keep_dims": False}, dtype, []


def transposed(shape: tuple[int, ...], order: tuple[int, ...]) -> Case:
    moved = tuple(shape[axis] for axis in order)
    return "TRANSPOSE", shape, moved, {"permutation": order}, "int8", []


def spread(
    size: tuple[int, int],
    span: tuple[int, int],
    strides: tuple[int, int],
    padding: str,
    less: int = 0,
) -> Case:
    """A transposed convolution whose output is `less` short of what Keras makes."""
    sizes = [
        side * step + (max(window - step, 0) if padding == "VALID" else 0) - less
        for side, window, step in zip(size, span, strides, strict=True)
    ]
    made = (1, *sizes, 2)
    attributes = {"padding": padding, "stride_h": strides[0], "stride_w": strides[1]}
    attributes |= {"activation": "NONE", "output_shape": made}
    constants = [constant(np.ones((2, *span, 2), np.int8)), constant(np.zeros(2, np.int32))]
    return "TRANSPOSE_CONV", (1, *size, 2), made, attributes, "int8", constants


def dense(depth: int, weight: int) -> Case:
    constants = [
        constant(np.full((1, depth), weight, np.int8)),
        constant(np.zeros(1, np.int32)),
    ]
    attributes = {"keep_num_dims": False, "activation": "NONE"}
    return "FULLY_CONNECTED", (1, depth), (1, 1), attributes, "int8", constants


def product(dtype: str, *, is_turned: bool) -> Case:
    right = (1, 3, 5, 6) if is_turned else (1, 3, 6, 5)
    values = np.random.default_rng(0).integers(-9, 9, right).astype(dtype)
    attributes = {"adj_x": False, "adj_y": is_turned}
    return "BATCH_MATMUL", (1, 3, 4, 6), (1, 3, 4, 5), attributes, dtype, [constant(values)]


def strided(shape: tuple[int, ...], strides: tuple[int, ...], dtype: str = "int8") -> Case:
    made = tuple(-(-size // stride) for size, stride in zip(shape, strides, strict=True))
    attributes = {"begin": (0,) * len(shape), "end": shape, "strides": strides}
    return "STRIDED_SLICE", shape, made, attributes, dtype, []


def blocks(kind: str) -> Case:
    wide, deep = (1, 4, 6, 3), (1, 2, 3, 12)
    shapes = (wide, deep) if kind == "SPACE_TO_DEPTH" else (deep, wide)
    return kind, *shapes, {"block_size": 2}, "int8", []


def slice_of(begin: tuple[int, ...], size: tuple[int, ...]) -> dict[str, Any]:
    return {"begin": begin, "size": size}


def gather() -> Case:
    return "GATHER", (9, 3), (1, 4, 3), {}, "int8", [constant(np.zeros((1, 4), np.int32))]


def mirror(dtype: str) -> Case:
    attributes = {"paddings": ((0, 0), (1, 1), (0, 2), (0, 0)), "mode": "REFLECT"}
    return "MIRROR_PAD", (1, 4, 5, 6), (1, 6, 7, 6), attributes, dtype, []


STRIDES = ((1, 1), (3, 3), (4, 4), (5, 5), (1, 4), (4, 1))
POOLS = ("MAX_POOL_2D", "AVERAGE_POOL_2D")
RESIZES = ("RESIZE_NEAREST_NEIGHBOR", "RESIZE_BILINEAR")
CASES: dict[str, list[Case]] = {
    **{
        f"strides of {kind}": [
            windowed(kind, size, (3, 3), strides, padding)
            for strides in STRIDES
            for padding in ("SAME", "VALID")
            for size in ((20, 20), (21, 22))
        ]
        for kind in ("CONV_2D", "DEPTHWISE_CONV_2D", *POOLS)
    },
    "dilation": [
        windowed(kind, (40, 40), (3, 3), (1, 1), padding, dilation)
        for kind in ("CONV_2D", "DEPTHWISE_CONV_2D")
        for dilation in (2, 9)
        for padding in ("SAME", "VALID")
    ],
    "large kernels": [
        windowed("CONV_2D", (310, 4), (300, 1), (1, 1), "VALID"),
        windowed("CONV_2D", (80, 80), (70, 70), (1, 1), "VALID"),
        windowed("DEPTHWISE_CONV_2D", (80, 80), (70, 70), (1, 1), "VALID"),
    ],
    **{
        f"filters of {kind}": [
            *(
                windowed(kind, (40, 40), span, (1, 1), padding)
                for span in ((8, 8), (9, 1), (1, 9), (9, 9))
                for padding in ("SAME", "VALID")
            ),
            *(
                windowed(kind, (300, 300), span, (1, 1), "VALID")
                for span in ((256, 1), (257, 1), (1, 257), (256, 256), (256, 257))
            ),
        ]
        for kind in POOLS
    },
    **{
        f"factors of {kind}": [
            *(resized(kind, (4, 4), (4 * factor, 4 * factor)) for factor in (2, 3, 4, 5, 8, 16)),
            *(resized(kind, (4, 4), after) for after in ((8, 12), (4, 8), (8, 4), (6, 6), (7, 9))),
            *(resized(kind, (1, 4), after) for after in ((1, 8), (1, 12), (2, 8))),
            resized(kind, (4, 1), (8, 1)),
            resized(kind, (1, 1), (5, 7)),
        ]
        for kind in RESIZES
    },
    "factors from the first corner": [
        resized("RESIZE_BILINEAR", (4, 4), (4 * factor, 4 * factor), centers=False)
        for factor in (2, 3, 4, 8, 16)
    ],
    "factors of centred pixels": [
        resized("RESIZE_NEAREST_NEIGHBOR", (4, 4), (4 * factor, 4 * factor), centers=True)
        for factor in (1, 2, 3, 4, 8)
    ],
    "factors between corners": [
        resized(kind, (4, 4), after, corners=True)
        for kind in RESIZES
        for after in ((7, 7), (8, 8), (10, 10), (13, 13), (25, 25), (4, 4), (7, 13))
    ],
    "means": [
        mean((1, 80, 80, 4), (1, 2)),
        mean((1, 255, 257, 1), (1, 2), "int16"),
        mean((1, 256, 257, 1), (1, 2), "int16"),
        mean((1, 3, 3, 4), (3,)),
        mean((1, 1, 3, 4), (3,)),
        mean((1, 3, 3, 4), (1, 2, 3)),
        mean((1, 3, 5, 4), (1,)),
    ],
    "transposes": [
        transposed((1, 300, 300, 2), (0, 2, 1, 3)),
        transposed((1, 300, 300, 2), (0, 3, 1, 2)),
        transposed((1, 2, 65537, 2), (0, 2, 1, 3)),
        transposed((1, 2, 3, 65536), (0, 3, 1, 2)),
        transposed((1, 2, 3, 65537), (0, 3, 1, 2)),
        transposed((1, 300, 200, 3, 2), (0, 1, 2, 4, 3)),
        transposed((1, 1, 300, 200, 3), (0, 1, 4, 2, 3)),
        transposed((1, 128, 256, 2, 2), (0, 1, 3, 2, 4)),
        transposed((1, 128, 257, 2, 2), (0, 1, 3, 2, 4)),
        transposed((1, 24, 24, 2, 8), (0, 1, 2, 4, 3)),
    ],
    "transposed convolutions": [
        *(
            spread((6, 7), span, strides, padding)
            for strides in ((1, 1), (2, 2), (1, 2), (2, 1), (3, 3))
            for span in ((3, 3), (2, 2), (1, 1))
            for padding in ("SAME", "VALID")
        ),
        *(
            spread(size, span, strides, padding)
            for size, span, strides in (
                ((1, 7), (1, 3), (1, 2)),
                ((1, 7), (1, 3), (2, 1)),
                ((7, 1), (3, 1), (2, 1)),
                ((7, 1), (3, 1), (1, 2)),
            )
            for padding in ("SAME", "VALID")
        ),
        spread((6, 7), (3, 3), (2, 2), "SAME", 1),
    ],
    "products": [
        product(dtype, is_turned=is_turned)
        for dtype in ("int8", "int16")
        for is_turned in (False, True)
    ],
    "strided slices": [
        *(strided((1, 8, 8, 4), (1, *strides)) for strides in ((2, 2, 1), (3, 1, 1), (1, 1, 2))),
        strided((1, 8, 4), (1, 2, 1), "int16"),
        strided((1, 8, 4), (1, 1, 3), "int16"),
        strided((1, 8), (1, 2)),
    ],
    "what it has not": [
        blocks("SPACE_TO_DEPTH"),
        blocks("DEPTH_TO_SPACE"),
        gather(),
        ("CAST", (1, 4, 4, 2), (1, 4, 4, 2), {}, "int8", []),
        mirror("int8"),
        mirror("int16"),
    ],
    "numbers of rows": [
        ("RESHAPE", (1, 6), (1, 2, 3), {"new_shape": (1, 2, 3)}, "int32", []),
        ("SLICE", (1, 1, 6, 1), (1, 1, 2, 1), slice_of((0, 0, 3, 0), (1, 1, 2, 1)), "int32", []),
        ("SLICE", (1, 1, 6, 1), (1, 1, 2, 1), slice_of((0, 0, 3, 0), (1, 1, 2, 1)), "int8", []),
        ("CONCATENATION", (1, 6), (1, 6), {"axis": 1}, "int32", []),
    ],
    "functions that it alone has": [
        (kind, (1, 4, 4, 2), (1, 4, 4, 2), attributes, "int8", [])
        for kind, attributes in (
            ("EXP", {}),
            ("GELU", {"approximate": True}),
            ("GELU", {"approximate": False}),
        )
    ],
    "weights": [dense(65536, 127), dense(65536, 1)],
}


def file_of(cases: Iterable[Case]) -> bytes:
    """One file with every operator on its own, named by its place in the list."""
    tensors: dict[str, Tensor] = {}
    operators, inputs, outputs = [], [], []
    for index, (kind, source, result, attributes, dtype, constants) in enumerate(cases):
        given, made = f"given {index}", f"made {index}"
        tensors[given] = one.activation(given, source, dtype, 0.1)
        made_dtype = "int32" if kind == "CAST" else dtype
        tensors[made] = one.activation(made, result, made_dtype, 0.1)
        names = [given]
        for place, values in enumerate(constants):
            name = f"constant {index} {place}"
            tensors[name] = Tensor(
                name, values.shape, values.dtype, values.quantization, values.data, values.bits
            )
            names.append(name)
        operators.append(Operator(kind, tuple(names), (made,), made, attributes))
        inputs.append((given, given))
        outputs.append((made, made))
    return write(IntegerGraph("cases", tensors, tuple(operators), tuple(inputs), tuple(outputs)))


@needs_vela
@pytest.mark.parametrize("name", CASES)
def test_the_same_operators_stay_on_the_cpu_as_vela_leaves_there(name):
    content = file_of(CASES[name])
    ours = {finding.operator for finding in ethos_u.findings(parse(content))}
    vela = {finding.operator for finding in vela_report(content).cpu_operators}
    assert ours == vela


def test_every_limit_is_met_on_both_sides():
    broken = {name: len(ethos_u.findings(parse(file_of(cases)))) for name, cases in CASES.items()}
    without = {"dilation", "large kernels", "weights", "functions that it alone has"}
    assert {name for name, count in broken.items() if not count} == without
    assert all(count < len(CASES[name]) for name, count in broken.items())


@needs_vela
def test_vela_fails_on_layers_that_are_found_before():
    wide, heavy = file_of([dense(65537, 1)]), file_of([dense(65537, 127)])
    with pytest.raises(ValueError, match="Vela does not compile the file"):
        vela_report(wide)
    assert "65537 inputs" in ethos_u.findings(parse(wide))[0].rule
    assert any("add up to 8323199" in found.rule for found in ethos_u.findings(parse(heavy)))
    assert vela_report(heavy).cpu_operators


def test_findings_say_what_where_and_who_says_so():
    case = resized("RESIZE_BILINEAR", (4, 4), (12, 12))
    (finding,) = static_findings(parse(file_of([case])), "ethos-u")
    assert finding.operator == "RESIZE_BILINEAR (made 0)"
    assert finding.rule.endswith("a resize of 4 x 4 to 12 x 12, allowed are factors of 2")
    assert "vela --supported-ops-report" in finding.source
    assert not static_findings(parse(file_of([case])), "microcontroller")
