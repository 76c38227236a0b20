"""The layers of canonical models, one row each: what there is to know about them.

Every room asks here: which operator executes a layer, where its output's quantizer comes from, with
which kernel it is weighted, and what may change places with it.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfeptq.canonical.add_layer import Add
from tfeptq.canonical.argmax_layer import ArgMax
from tfeptq.canonical.linear_maps import (
    ConvolutionMap,
    DenseMap,
    DepthwiseMap,
    LinearMap,
    Shape,
    TransposedMap,
    is_one_factor,
)
from tfeptq.canonical.lookup_layer import Lookup
from tfeptq.canonical.matmul_layer import MatMul
from tfeptq.canonical.mean_layer import Mean
from tfeptq.canonical.resize_layer import Resize
from tfeptq.canonical.table_layer import Table
from tfeptq.canonical.tabulated import MONOTONE
from tflite_export.graph.kinds import kind_of as operator_kind

#: (layer, shape of its output, shape of its first input) -> attributes of its operator.
Attributes = Callable[[Any, Shape, Shape], dict[str, Any]]
_L = keras.layers


class Output(enum.Enum):
    """Where the quantizer of a layer's output comes from."""

    OWN = enum.auto()
    #: From the kernel, which writes in one scale whatever the values.
    FIXED = enum.auto()
    #: From the input, whose integers are moved.
    MOVED = enum.auto()
    #: From the input, between whose integers are those of the output.
    AVERAGED = enum.auto()
    #: One with all inputs, whose integers are moved.
    JOINED = enum.auto()
    #: From the input, whose integers are cut, or from the kernel that does the same on its way out.
    CUT = enum.auto()


class Passes(enum.Enum):
    """With which maps scale * x + offset, in front of it, a layer changes places."""

    NONE = enum.auto()
    ANY = enum.auto()
    POSITIVE = enum.auto()
    WITHOUT_OFFSET = enum.auto()
    #: One for all channels.
    UNIFORM = enum.auto()
    #: By channel as far as whole sets of channels stay together.
    RESHAPED = enum.auto()


class Magnitude(enum.Enum):
    """What a kernel makes of its inputs' magnitudes, which bounds the scales that it can hold."""

    NONE = enum.auto()
    #: Sums of products with weights.
    WEIGHTED = enum.auto()
    MEAN = enum.auto()
    #: The input, times a number.
    RESCALED = enum.auto()
    #: The input, times learned slopes.
    SLOPES = enum.auto()
    SUM = enum.auto()
    PRODUCT = enum.auto()
    #: Sums of products of two inputs.
    DOT_PRODUCT = enum.auto()
    HARD_SWISH = enum.auto()
    EXPONENTIAL = enum.auto()


def _no_attributes(*_: Any) -> dict[str, Any]:
    return {}


@dataclasses.dataclass(frozen=True)
class Primitive:
    """One layer of canonical models.

    Attributes:
        layer: its class.
        kind: of the TensorFlow Lite operator that executes it, or what tells it of a layer.
        function: name of the function, of an `Activation`.
        attributes: of the operator; weighted layers' are their map's.
        output: where its output's quantizer comes from, or what tells it of a layer.
        weights: what it does with its kernel; None: it has none.
        merges: takes a list of tensors.
        passes: with which maps in front of it it changes places.
        is_homogeneous: f(s x) = s f(x) for s > 0, element by element.
        is_elementwise: works on each place alone, whatever the shape.
        copies: its output holds the values of its inputs, once each.
        chooses: its output is the largest of many values.
        keeps_order: of each number by itself, its results never fall, or never rise, with the
            number; or what tells it of a layer.
        is_steep: its results grow without bound towards zero.
        looks_up: its input numbers the rows of its table.
        tabulates: its operator reads a table of its results at all integers of its input.
        squashes: it turns logits into "softmax" or "sigmoid" probabilities.
        magnitude: what its kernel makes of its inputs' magnitudes.
        flat_beyond: integer type -> magnitude beyond which its inputs change nothing.
    """

    layer: type[keras.Layer]
    kind: str | Callable[[Any], str]
    _: dataclasses.KW_ONLY
    function: str | None = None
    attributes: Attributes = _no_attributes
    output: Output | Callable[[Any], Output] = Output.OWN
    weights: LinearMap | None = None
    merges: bool = False
    passes: Passes = Passes.NONE
    is_homogeneous: bool = False
    is_elementwise: bool = False
    copies: bool = False
    chooses: bool = False
    keeps_order: bool | Callable[[Any], bool] = False
    is_steep: bool = False
    looks_up: bool = False
    tabulates: bool = False
    squashes: str | None = None
    magnitude: Magnitude = Magnitude.NONE
    flat_beyond: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def has_slopes(self) -> bool:
        """Whether it holds slopes, which models share between unlike places."""
        return self.magnitude is Magnitude.SLOPES

    @property
    def fuses(self) -> bool:
        """Whether the kernel applies a ReLU to its result itself."""
        return not callable(self.kind) and operator_kind(self.kind).fuses

    @property
    def makes_indices(self) -> bool:
        """Whether its output numbers places, and has no scale."""
        return not callable(self.kind) and operator_kind(self.kind).makes_indices

    def kind_of(self, layer: keras.Layer) -> str:
        """The operator that executes a layer of this class."""
        return self.kind(layer) if callable(self.kind) else self.kind

    def output_of(self, layer: keras.Layer) -> Output:
        """Where the quantizer of a layer's output comes from."""
        return self.output(layer) if callable(self.output) else self.output

    def keeps_order_of(self, layer: keras.Layer) -> bool:
        """Whether a layer of this class keeps, or turns, the order of its numbers."""
        return self.keeps_order(layer) if callable(self.keeps_order) else self.keeps_order

    def operator(self, layer: keras.Layer, output: Shape, source: Shape) -> tuple[str, dict]:
        """Kind and attributes of the operator.

        Args:
            output, source: shapes of the layer's output and of its first input.
        """
        if self.weights is not None:
            return self.kind_of(layer), self.weights.attributes(layer, output)
        return self.kind_of(layer), self.attributes(layer, output, source)


def _window(layer: Any, *_: Any) -> dict[str, Any]:
    (height, width), (filter_h, filter_w) = layer.strides, layer.pool_size
    return {
        "padding": layer.padding.upper(),
        "stride_h": height,
        "stride_w": width,
        "filter_h": filter_h,
        "filter_w": filter_w,
    }


def _fused(*_: Any) -> dict[str, Any]:
    return {"activation": "NONE"}


def _slice(layer: Any, output: Shape, _: Shape) -> dict[str, Any]:
    (top, _bottom), (left, _right) = layer.cropping
    return {"begin": (0, top, left, 0), "size": output}


def _has_one_slope(layer: Any) -> bool:
    """Whether a PReLU with slopes by channel is a LeakyReLU."""
    slopes = keras.ops.convert_to_numpy(layer.alpha)
    return slopes.size == slopes.shape[-1] and bool(slopes.min() == slopes.max() >= 0.0)


def _is_nearest(layer: Any) -> bool:
    return layer.interpolation == "nearest"


def _resize(layer: Any, output: Shape, _: Shape) -> dict[str, Any]:
    # Multiples by the nearest pixel are the same by either convention.
    centers = not _is_nearest(layer) or isinstance(layer, Resize)
    return {"size": output[1:3], "align_corners": False, "half_pixel_centers": centers}


#: Every row; their order has no meaning.
PRIMITIVES: tuple[Primitive, ...] = (
    Primitive(_L.Conv2D, "CONV_2D", weights=ConvolutionMap(), magnitude=Magnitude.WEIGHTED),
    Primitive(
        _L.DepthwiseConv2D,
        "DEPTHWISE_CONV_2D",
        weights=DepthwiseMap(),
        keeps_order=is_one_factor,
        magnitude=Magnitude.WEIGHTED,
    ),
    Primitive(
        _L.Conv2DTranspose,
        "TRANSPOSE_CONV",
        weights=TransposedMap(),
        magnitude=Magnitude.WEIGHTED,
    ),
    Primitive(_L.Dense, "FULLY_CONNECTED", weights=DenseMap(), magnitude=Magnitude.WEIGHTED),
    Primitive(
        _L.MaxPooling2D,
        "MAX_POOL_2D",
        attributes=_window,
        output=Output.MOVED,
        passes=Passes.POSITIVE,
        chooses=True,
    ),
    Primitive(
        _L.AveragePooling2D,
        "AVERAGE_POOL_2D",
        attributes=_window,
        output=Output.AVERAGED,
        passes=Passes.ANY,
    ),
    Primitive(
        _L.GlobalAveragePooling2D,
        "MEAN",
        attributes=lambda layer, *_: {"axes": (1, 2), "keep_dims": bool(layer.keepdims)},
        passes=Passes.ANY,
        magnitude=Magnitude.MEAN,
    ),
    Primitive(
        Mean,
        "MEAN",
        attributes=lambda layer, *_: {"axes": layer.axes, "keep_dims": layer.keepdims},
        passes=Passes.UNIFORM,
        magnitude=Magnitude.MEAN,
    ),
    Primitive(
        _L.Add, "ADD", attributes=_fused, merges=True, is_elementwise=True, magnitude=Magnitude.SUM
    ),
    Primitive(
        _L.Subtract,
        "SUB",
        attributes=_fused,
        merges=True,
        is_elementwise=True,
        magnitude=Magnitude.SUM,
    ),
    Primitive(
        _L.Multiply,
        "MUL",
        attributes=_fused,
        merges=True,
        is_elementwise=True,
        magnitude=Magnitude.PRODUCT,
    ),
    Primitive(
        MatMul,
        "BATCH_MATMUL",
        attributes=lambda layer, *_: {"adj_x": False, "adj_y": layer.transpose_b},
        merges=True,
        magnitude=Magnitude.DOT_PRODUCT,
    ),
    Primitive(Lookup, "GATHER", looks_up=True),
    Primitive(
        Table,
        "GATHER",
        is_elementwise=True,
        tabulates=True,
        keeps_order=lambda layer: all(function in MONOTONE for function, _ in layer.steps),
    ),
    Primitive(_L.Maximum, "MAXIMUM", output=Output.JOINED, merges=True, is_elementwise=True),
    Primitive(_L.Minimum, "MINIMUM", output=Output.JOINED, merges=True, is_elementwise=True),
    Primitive(
        _L.Concatenate,
        "CONCATENATION",
        attributes=lambda layer, output, _: {"axis": layer.axis % len(output)},
        output=Output.JOINED,
        merges=True,
        copies=True,
    ),
    Primitive(
        _L.Reshape,
        "RESHAPE",
        attributes=lambda _, output, __: {"new_shape": output},
        output=Output.MOVED,
        passes=Passes.RESHAPED,
        copies=True,
    ),
    Primitive(
        _L.Permute,
        "TRANSPOSE",
        attributes=lambda layer, *_: {"permutation": (0, *layer.dims)},
        output=Output.MOVED,
        passes=Passes.UNIFORM,
        copies=True,
    ),
    Primitive(
        _L.ZeroPadding2D,
        "PAD",
        attributes=lambda layer, *_: {"paddings": ((0, 0), *map(tuple, layer.padding), (0, 0))},
        output=Output.MOVED,
        passes=Passes.WITHOUT_OFFSET,
    ),
    Primitive(_L.Cropping2D, "SLICE", attributes=_slice, output=Output.MOVED, passes=Passes.ANY),
    Primitive(
        _L.UpSampling2D,
        lambda layer: "RESIZE_NEAREST_NEIGHBOR" if _is_nearest(layer) else "RESIZE_BILINEAR",
        attributes=_resize,
        output=lambda layer: Output.MOVED if _is_nearest(layer) else Output.AVERAGED,
        passes=Passes.ANY,
    ),
    Primitive(
        Resize,
        lambda layer: "RESIZE_NEAREST_NEIGHBOR" if _is_nearest(layer) else "RESIZE_BILINEAR",
        attributes=_resize,
        output=lambda layer: Output.MOVED if _is_nearest(layer) else Output.AVERAGED,
        passes=Passes.ANY,
    ),
    Primitive(
        _L.ReLU,
        lambda layer: "RELU6" if layer.max_value == 6.0 else "RELU",
        output=Output.CUT,
        is_homogeneous=True,
        is_elementwise=True,
        keeps_order=True,
        magnitude=Magnitude.RESCALED,
    ),
    Primitive(
        _L.LeakyReLU,
        "LEAKY_RELU",
        attributes=lambda layer, *_: {"alpha": float(layer.negative_slope)},
        is_homogeneous=True,
        is_elementwise=True,
        keeps_order=lambda layer: layer.negative_slope >= 0.0,
        magnitude=Magnitude.RESCALED,
    ),
    Primitive(_L.PReLU, "PRELU", keeps_order=_has_one_slope, magnitude=Magnitude.SLOPES),
    Primitive(_L.Softmax, "SOFTMAX", output=Output.FIXED, squashes="softmax"),
    # What it reads are logits: only their differences count.
    Primitive(
        ArgMax,
        "ARG_MAX",
        attributes=lambda _, __, source: {"axis": (len(source) - 1,)},
        output=Output.FIXED,
        squashes="softmax",
    ),
    Primitive(
        _L.Activation,
        "LOGISTIC",
        function="sigmoid",
        output=Output.FIXED,
        is_elementwise=True,
        keeps_order=True,
        squashes="sigmoid",
        flat_beyond={"int8": 8.0, "int16": 12.0},
    ),
    Primitive(
        _L.Activation,
        "TANH",
        function="tanh",
        output=Output.FIXED,
        is_elementwise=True,
        keeps_order=True,
        flat_beyond={"int8": 4.0, "int16": 8.0},
    ),
    Primitive(
        _L.Activation,
        "RSQRT",
        function="rsqrt",
        is_elementwise=True,
        keeps_order=True,
        is_steep=True,
    ),
    Primitive(
        _L.Activation,
        "GELU",
        function="gelu",
        attributes=lambda *_: {"approximate": False},
        is_elementwise=True,
        magnitude=Magnitude.RESCALED,
    ),
    Primitive(
        _L.Activation,
        "GELU",
        function="gelu_tanh",
        attributes=lambda *_: {"approximate": True},
        is_elementwise=True,
        magnitude=Magnitude.RESCALED,
    ),
    Primitive(
        _L.Activation,
        "EXP",
        function="exponential",
        is_elementwise=True,
        keeps_order=True,
        magnitude=Magnitude.EXPONENTIAL,
    ),
    Primitive(
        _L.Activation,
        "ELU",
        function="elu",
        is_elementwise=True,
        keeps_order=True,
        magnitude=Magnitude.RESCALED,
    ),
    Primitive(
        _L.Activation,
        "HARD_SWISH",
        function="hard_silu",
        is_elementwise=True,
        magnitude=Magnitude.HARD_SWISH,
    ),
)

_ROWS = {(row.layer, row.function): row for row in PRIMITIVES}
if len(_ROWS) < len(PRIMITIVES):
    raise AssertionError("a primitive has two rows")


def row_of(kind: type, function: str | None = None) -> Primitive | None:
    """The row of a layer class (and of the function of an `Activation`), if it has one."""
    # What sums in canonical models, for Keras's own layer.
    kind = _L.Add if kind is Add else kind
    return _ROWS.get((kind, function if kind is _L.Activation else None))


def find_primitive(layer: keras.Layer) -> Primitive | None:
    """The row of a layer, or of the one that a wrapper holds; None: inputs, arrays, quantizers."""
    inner = layer.layer if isinstance(layer, _L.Wrapper) else layer
    function = inner.activation.__name__ if isinstance(inner, _L.Activation) else None
    return row_of(type(inner), function)


def is_product(layer: keras.Layer) -> bool:
    """Whether a layer sums products of two computed tensors."""
    found = find_primitive(layer)
    return found is not None and found.magnitude is Magnitude.DOT_PRODUCT


def primitive_of(layer: keras.Layer) -> Primitive:
    """The row of a layer, or of the one that a wrapper holds.

    Raises:
        ValueError: it has none.
    """
    found = find_primitive(layer)
    if found is None:
        raise ValueError(f"layer {layer.name!r} ({type(layer).__name__}) is no primitive")
    return found
