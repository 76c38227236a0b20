"""Where a quantized model loses what the float model knows, layer by layer, and what to give back.

Two looks at every operator of the file: its output against the float model's, with all errors that
have gathered before it (*accumulated*), and with float inputs (*alone*), which is its own doing.
Then an ablation: one layer at a time gets its float weights, 8-bit weights, or a wider output, and
what the model's outputs win by it is measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.arguments import given_model
from tfeptq.canonical.layer_graph import Call, Key, LayerGraph
from tfeptq.data.memory import fitting_batch
from tfeptq.data.samples import take
from tfeptq.preparation import as_functional, open_inputs, prepare
from tfeptq.progress import Verbosity, check_verbose, is_silent, progress
from tfeptq.progress import shown as shown_by
from tfeptq.quantized.correspondence import corresponding_tensors
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.quantized.wrappers import QuantizedWeights
from tfeptq.quantized.written import Written, WrittenKernel
from tfeptq.report.nearness import INAUDIBLE, tensor_cosine, tensor_sqnr
from tfeptq.report.restoration import WAYS, Restored, applicable
from tfeptq.report.tables import show_comparison
from tfeptq.settings import shown, whole

#: Lost in one layer, and left after it, in dB, where a model breaks.
BREAK, SOUND = 6.0, 20.0


@dataclasses.dataclass(frozen=True)
class LayerComparison:
    """One operator of the file.

    Attributes:
        layer: its name.
        kind: class of the Keras layer.
        weight_bits: None without weights.
        activation_bits: of its output.
        sqnr: of its output in dB, with the errors of everything before it.
        cosine: between the two outputs.
        alone: SQNR in dB where its inputs are float.
        lost: dB by which its output is worse than the worst of its inputs; 0 or more.
    """

    layer: str
    kind: str
    weight_bits: int | None
    activation_bits: int
    sqnr: float
    cosine: float
    alone: float
    lost: float


@dataclasses.dataclass(frozen=True)
class Restoration:
    """One layer with more bits, all others as they are.

    Attributes:
        way: "float", "8-bit weights", "8-bit output" or "16-bit output".
        sqnr: of the model's outputs in dB.
        won: dB more than without.
    """

    layer: str
    way: str
    sqnr: float
    won: float


@dataclasses.dataclass(frozen=True)
class ModelComparison:
    """What `compare` found.

    Attributes:
        sqnr: of the model's outputs in dB; of several outputs their mean noise.
        layers: in execution order.
        breaks_at: the first layer that loses `BREAK` dB or more and leaves less than `SOUND`: its
            error is twice what came in, and more than a tenth of its output; None: there is none.
        restorations: those that win most first.
        samples: how many were looked at.
    """

    sqnr: float
    layers: tuple[LayerComparison, ...]
    breaks_at: str | None
    restorations: tuple[Restoration, ...]
    samples: int


def compare(
    model: keras.Model,
    quantized: keras.Model,
    data: Any,
    *,
    samples: int = 64,
    restored: int = 16,
    verbose: Verbosity = "auto",
) -> ModelComparison:
    """Compares a quantized model with the float model that it was made of, layer by layer.

    Prints a table of it, unless `verbose` is 0.

    Args:
        model: the float model.
        quantized: what `tfeptq.quantize` returned for it, or `tfeptq.load_model` read.
        data: inputs in any form that `tfeptq.quantize` takes; labels are not needed.
        samples: at most so many of them are looked at, and as many as fit into memory.
        restored: so many layers, those that lose most by themselves, are given more bits, one at a
            time; each takes up to three forward passes. 0: none.
        verbose: see `tfeptq.quantize`.

    Raises:
        ValueError: not a float model and its own quantized copy, or data that do not fit.

    Example:
        >>> quantized = tfeptq.quantize(model, samples, config)
        >>> found = tfeptq.compare(model, quantized, samples, verbose=0)
        >>> [layer.layer for layer in found.layers]
        ['first', 'middle', 'last']
        >>> found.restorations[0].layer
        'middle'
    """
    model = given_model(model)
    samples, restored = whole("samples", samples, 1), whole("restored", restored, 0)
    check_verbose(verbose)
    _require_quantized(quantized)
    # Where the quantization has the file end.
    outputs = getattr(quantized, "asked_outputs", None)
    sizes = _open_sizes(model, quantized)
    canonical = prepare(as_functional(model, sizes, outputs))
    both = _Both(canonical, quantized)
    arrays = take(data, canonical.inputs, samples=samples, seed=0, may_be_fewer=True).arrays
    count = fitting_batch(canonical, len(arrays[0]), copies=4)
    both.run([tf.constant(array[:count]) for array in arrays])
    layers = tuple(both.layer(kernel) for kernel in both.kernels)
    base = both.noise(both.right)
    by_loss = sorted(layers, key=lambda layer: layer.alone)
    worst = list(dict.fromkeys(layer.layer for layer in by_loss))
    with shown_by(verbose):
        found = both.restored(worst[:restored])
    restorations = [
        Restoration(name, way, _of_noise(noise), _of_noise(noise) - _of_noise(base))
        for name, way, noise in found
    ]
    restorations.sort(key=lambda restoration: -restoration.won)
    broken = (each for each in layers if each.lost >= BREAK and each.sqnr < SOUND)
    breaks_at = next((layer.layer for layer in broken), None)
    comparison = ModelComparison(_of_noise(base), layers, breaks_at, tuple(restorations), count)
    with shown_by(verbose):
        if not is_silent():
            show_comparison(comparison)
    return comparison


def _require_quantized(quantized: Any) -> None:
    layers = quantized.layers if isinstance(quantized, keras.Model) else []
    if not any(isinstance(layer, ActivationQuantizer) for layer in layers):
        raise ValueError(
            f"quantized={shown(quantized)} is no quantized model: pass what tfeptq.quantize "
            "returned, or tfeptq.load_model read of a file that it was saved to"
        )


def _open_sizes(model: keras.Model, quantized: keras.Model) -> Any:
    """Sizes that the quantization has fixed of inputs which the model leaves open."""
    known = getattr(model, "inputs", None) or (model.get_build_config() or {}).get("input_shape")
    if known and not open_inputs(model):
        return None
    fixed = [tuple(tensor.shape[1:]) for tensor in quantized.inputs]
    return fixed[0] if len(fixed) == 1 else fixed


def _of_noise(noise: float) -> float:
    """dB of a ratio of noise to signal."""
    return INAUDIBLE if noise <= 0.0 else float(min(-10.0 * np.log10(noise), INAUDIBLE))


class _Both:
    """A canonical model and its quantized copy on the same samples.

    Attributes:
        kernels: operators of the file that compute something.
        left, right: tensors of the two models, after `run`.
    """

    left: dict[Key, tf.Tensor]
    right: dict[Key, tf.Tensor]

    def __init__(self, canonical: keras.Model, quantized: keras.Model) -> None:
        self._canonical = canonical
        self._float_graph, written = LayerGraph.of(canonical), Written.of(quantized)
        self._graph = written.graph
        pairs = corresponding_tensors(self._float_graph, self._graph)
        _require_same_weights(canonical, quantized)
        self._stands_for = {other: key for key, other in pairs.items()}
        for call in self._graph.calls:
            if isinstance(call.layer, ActivationQuantizer):
                self._stands_for[call.output] = self._stands_for[call.inputs[0]]
        computing = written.computing()
        self.kernels = [k for k in computing if not isinstance(k.layer, ActivationQuantizer)]

    def run(self, batch: Sequence[tf.Tensor]) -> None:
        self._batch = batch
        self.left, self.right = self._float_graph.execute(batch), self._graph.execute(batch)

    def expected(self, key: Key) -> tf.Tensor:
        """What the float model has where the quantized one has a tensor."""
        return self.left[self._stands_for[key]]

    def layer(self, kernel: WrittenKernel) -> LayerComparison:
        expected, found = self.expected(kernel.result), self.right[kernel.result]
        layer = kernel.layer
        entering = [self._accumulated(key) for key in kernel.call.inputs]
        accumulated = tensor_sqnr(expected, found)
        is_wrapper = isinstance(layer, keras.layers.Wrapper)
        return LayerComparison(
            layer.name,
            type(layer.layer if is_wrapper else layer).__name__,
            layer.bits if isinstance(layer, QuantizedWeights) else None,
            kernel.target.bits,
            accumulated,
            tensor_cosine(expected, found),
            tensor_sqnr(expected, self._alone(kernel)),
            max(min([*entering, INAUDIBLE]) - min(accumulated, INAUDIBLE), 0.0),
        )

    def _accumulated(self, key: Key) -> float:
        return tensor_sqnr(self.expected(key), self.right[key])

    def _alone(self, kernel: WrittenKernel) -> tf.Tensor:
        """The output of an operator whose inputs are float."""
        output = kernel.call([self.expected(key) for key in kernel.call.inputs])
        if kernel.relu is not None:
            output = kernel.relu([output])
        return kernel.target(output)

    def noise(self, tensors: Mapping[Key, tf.Tensor]) -> float:
        """Mean over the outputs of the ratio of noise to signal."""
        ratios = [
            10.0 ** (-tensor_sqnr(self.expected(key), tensors[key]) / 10.0)
            for key in self._graph.outputs
        ]
        return float(np.mean(ratios))

    def restored(self, names: Sequence[str]) -> list[tuple[str, str, float]]:
        """(Layer, way, noise of the outputs) of each layer in each way that changes something."""
        ways = [(name, way) for name in names for way in WAYS if self._applies(name, way)]
        return [
            (name, way, self.noise(self._graph.execute(self._batch, hook=self._hook(name, way))))
            for name, way in progress(ways, "layers with more bits")
        ]

    def _of_layer(self, name: str) -> list[WrittenKernel]:
        return [kernel for kernel in self.kernels if kernel.layer.name == name]

    def _applies(self, name: str, way: str) -> bool:
        return any(applicable(kernel, way) for kernel in self._of_layer(name))

    def _hook(self, name: str, way: str) -> Any:
        found = Restored(LayerGraph.of(self._canonical).layers[name], self._of_layer(name), way)

        def hook(call: Call, inputs: list[Any], output: Any) -> Any:
            expected = self._stands_for.get(call.output)
            return found(call, inputs, output, None if expected is None else self.left[expected])

        return hook


def _require_same_weights(canonical: keras.Model, quantized: keras.Model) -> None:
    layers = LayerGraph.of(canonical).layers
    for layer in quantized.layers:
        if isinstance(layer, QuantizedWeights):
            own = keras.ops.convert_to_numpy(layers[layer.name].kernel)
            if not np.allclose(own, layer.float_kernel, rtol=1e-5, atol=1e-7):
                raise ValueError(
                    f"layer {layer.name!r} has other weights in the float model than in the one "
                    "that was quantized: pass the float model as it was quantized"
                )
