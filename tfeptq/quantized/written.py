"""A quantized model read as the file that it will be: what its kernels read, and how they write.

`tfeptq.quantized.wrap` makes a plan a graph of layers and quantizers. That graph is saved, loaded
and trained without its plan: whoever needs to know again which quantizer a tensor has asks here.
A test holds that it is the plan's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import keras

from tfeptq.canonical.constant_layer import Constant
from tfeptq.canonical.layer_graph import Call, Key, LayerGraph
from tfeptq.canonical.primitives import find_primitive
from tfeptq.canonical.topology import cuts_nothing, is_relu, keeps_grid
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.quantized.wrappers import QuantizedPReLU


@dataclasses.dataclass(frozen=True, eq=False)
class WrittenArray:
    """A model input, or a constant: a tensor that no operator makes.

    Attributes:
        constant: that it holds; None: it is an input.
        target: the quantizer that tells its scale.
        result: its tensor.
    """

    constant: Constant | None
    target: ActivationQuantizer
    result: Key


@dataclasses.dataclass(frozen=True, eq=False)
class WrittenSlopes:
    """The slopes that a PReLU's kernel reads; of a shared layer once."""

    layer: QuantizedPReLU


@dataclasses.dataclass(frozen=True, eq=False)
class WrittenKernel:
    """One operator of the file.

    Attributes:
        call: what it computes; of a quantizer where it only brings a tensor into another scale.
        relu: what it applies to its result; None: nothing.
        sources: quantizers in whose scales its inputs are, in the order of `call.inputs`.
        target: the quantizer in whose scale it writes.
        result: the tensor that it writes.
        moves: it moves integers, and may cut some: its output lies on the grid of its input.
    """

    call: Call
    relu: Call | None
    sources: tuple[ActivationQuantizer, ...]
    target: ActivationQuantizer
    result: Key
    moves: bool

    @property
    def layer(self) -> keras.Layer:
        return self.call.layer

    @property
    def index(self) -> int:
        """Which of the calls of a shared layer with weights this is."""
        return self.call.options.get("call_index", 0)


Step = WrittenArray | WrittenSlopes | WrittenKernel


@dataclasses.dataclass(frozen=True, eq=False)
class Written:
    """The tensors of a quantized model's file, and what makes them.

    Attributes:
        graph: of the quantized model.
        steps: inputs, constants, slopes and operators in the order in which the file has them.
        quantizers: tensor of the file -> the quantizer whose grid it lies on.
    """

    graph: LayerGraph
    steps: tuple[Step, ...]
    quantizers: Mapping[Key, ActivationQuantizer]

    @classmethod
    def of(cls, model: keras.Model) -> Written:
        """Reads a quantized model.

        Raises:
            ValueError: a layer that reads a tensor without a quantizer; names what makes it.
        """
        reader = _Reader(LayerGraph.of(model))
        return cls(reader.graph, tuple(reader.steps), reader.quantizers)

    def quantizer(self, key: Key) -> ActivationQuantizer:
        """The quantizer whose grid a tensor lies on.

        Raises:
            ValueError: it is no tensor of the file.
        """
        return _known(self.quantizers, key)

    def output_quantizers(self) -> set[ActivationQuantizer]:
        """Those on whose grids the outputs of the file lie."""
        return {self.quantizer(key) for key in self.graph.outputs}

    def computing(self) -> list[WrittenKernel]:
        """Operators that do more than move integers, in execution order."""
        position = {call.output: index for index, call in enumerate(self.graph.calls)}
        found = [step for step in self.steps if isinstance(step, WrittenKernel) and not step.moves]
        return sorted(found, key=lambda kernel: position[kernel.call.output])


def _known(quantizers: Mapping[Key, ActivationQuantizer], key: Key) -> ActivationQuantizer:
    if key not in quantizers:
        raise ValueError(f"layer {key[0]!r} has no activation quantizer behind it")
    return quantizers[key]


class _Reader:
    """Walks the calls; what a kernel computes waits until a quantizer tells how it is written."""

    def __init__(self, graph: LayerGraph) -> None:
        self.graph = graph
        self.steps: list[Step] = []
        self.quantizers: dict[Key, ActivationQuantizer] = {}
        #: Tensor that is not written -> the call that makes it, and the ReLU behind that.
        self._waiting: dict[Key, tuple[Call, Call | None]] = {}
        self._constants: set[Key] = set()
        for call in graph.calls:
            self._read(call)

    def _read(self, call: Call) -> None:
        layer, source = call.layer, call.inputs[0]
        if isinstance(layer, ActivationQuantizer):
            self._quantize(call, layer)
        elif is_relu(layer) and self._fuses(source):
            self._waiting[call.output] = self._waiting[source][0], call
        elif keeps_grid(layer) or (is_relu(layer) and cuts_nothing(layer)):
            grid = next(key for key in call.inputs if key not in self._constants)
            self._write(call, call.output, _known(self.quantizers, grid), moves=True)
        else:
            self._waiting[call.output] = call, None
            if isinstance(layer, QuantizedPReLU):
                self.steps.append(WrittenSlopes(layer))

    def _fuses(self, key: Key) -> bool:
        """Whether the kernel that makes a tensor applies the ReLU behind it."""
        row = find_primitive(self._waiting[key][0].layer) if key in self._waiting else None
        return row is not None and row.fuses

    def _quantize(self, call: Call, quantizer: ActivationQuantizer) -> None:
        source = call.inputs[0]
        made, relu = self._waiting.get(source, (call, None))
        if source in self.graph.inputs:
            # Callers may pass every integer of the type; a narrower quantizer cuts them.
            self.steps.append(WrittenArray(None, quantizer, source))
            self._add(WrittenKernel(call, None, (quantizer,), quantizer, call.output, moves=True))
        elif isinstance(made.layer, Constant):
            self.steps.append(WrittenArray(made.layer, quantizer, call.output))
            self.quantizers[call.output] = quantizer
            self._constants.add(call.output)
        else:
            self._write(made, call.output, quantizer, relu=relu)

    def _write(
        self,
        call: Call,
        result: Key,
        target: ActivationQuantizer,
        *,
        relu: Call | None = None,
        moves: bool = False,
    ) -> None:
        sources = tuple(_known(self.quantizers, key) for key in call.inputs)
        self._add(WrittenKernel(call, relu, sources, target, result, moves))

    def _add(self, kernel: WrittenKernel) -> None:
        self.steps.append(kernel)
        self.quantizers[kernel.result] = kernel.target
