"""How near a quantized model is to the float one, output by output, on samples held back.

Signal-to-noise ratio in dB (SQNR: 10 log10 of the signal's variance over the mean squared error),
cosine, agreement of the largest value and codes in use. The quantized Keras model computes what the
file does, so one forward pass of both models tells, over a few samples and no more than are in
memory at once: on large images that are a dozen, whose time is little beside the rest.

Thresholds: at 8 bits, ResNet8 and DS-CNN of MLPerf Tiny and small dense, inception and U-Net nets
measured 20 to 29 dB at their outputs and 12 dB at the worst channel. Below `LEAST_SQNR` a third of
an output's deviation is error. A channel is lost that has fewer than `LEAST_CODES` codes and hardly
more signal than error, on `LEAST_VALUES` values or more. Channels of softmax and sigmoid, whose
codes are fixed, may be always near zero: they are not looked at.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical.layer_graph import Call, Key, LayerGraph
from tfeptq.canonical.primitives import Output, find_primitive
from tfeptq.canonical.topology import Topology
from tfeptq.data.memory import fitting_batch
from tfeptq.data.samples import Taken
from tfeptq.model import QuantizedModel
from tfeptq.quantized.correspondence import corresponding_tensors
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.report.nearness import INAUDIBLE, cosine, sqnr, tensor_nearness
from tfeptq.stage_samples import first

#: dB of an output, and of one of its channels.
LEAST_SQNR, LEAST_CHANNEL_SQNR = 10.0, 3.0
LEAST_CODES = 4
#: Of a channel, to say so: few values have few codes.
LEAST_VALUES = 16
#: Samples held back that are enough to measure on.
LEAST_HELD_BACK = 8


@dataclasses.dataclass(frozen=True)
class OutputQuality:
    """One output.

    Attributes:
        sqnr: in dB; infinite where nothing differs.
        agreement: share of vectors along the last axis whose largest value is the same; None where
            that axis has one value.
        values: of each index of the last axis, over all samples.
        codes: distinct values of the quantized output.
        channel_sqnr, channel_codes: the same for each index of the last axis.
    """

    name: str
    sqnr: float
    cosine: float
    agreement: float | None
    values: int
    codes: int
    channel_sqnr: tuple[float, ...]
    channel_codes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Quality:
    """All outputs.

    Attributes:
        samples: how many were measured on.
        is_held_back: whether nothing else has used them; otherwise they are calibration samples,
            because no more were given than were asked for.
        layers: layer name -> SQNR in dB of its output, in the model's order, where the file holds
            it; of what is read of it, see `Topology.seen`. Of several calls of a layer the worst.
        cosines: layer name -> cosine of the same.
        lost: layer name -> dB that its output is further from float than the furthest of its
            inputs, of `INAUDIBLE` dB and less.
    """

    outputs: tuple[OutputQuality, ...]
    samples: int
    is_held_back: bool
    layers: Mapping[str, float]
    cosines: Mapping[str, float] = dataclasses.field(default_factory=dict)
    lost: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def warnings(self, graph: LayerGraph) -> list[str]:
        """What is below the thresholds: the output, where, why and what to do."""
        keys = dict(zip((o.name for o in self.outputs), graph.outputs, strict=True))
        producers = {call.output: call for call in graph.calls}
        return [
            sentence
            for output in self.outputs
            if (sentence := _warning(output, keys[output.name], producers, self.lost)) is not None
        ]


def report_quality(
    quantized: QuantizedModel, canonical: keras.Model, taken: Taken, *, count: int
) -> None:
    """Compares with the float model, on samples that were held back if there are enough."""
    held_back = taken.held_back or [np.empty(0)]
    enough = len(held_back[0]) >= LEAST_HELD_BACK
    samples = held_back if enough else taken.arrays
    quality = measure(canonical, quantized, samples, is_held_back=enough, count=count)
    quantized.report.quality = quality
    quantized.report.samples["quality"] = quality.samples
    sentences = quality.warnings(LayerGraph.of(canonical))
    quantized.report.add_warnings(sentences)
    for sentence in sentences:
        warnings.warn(sentence, stacklevel=5)


def measure(
    model: keras.Model,
    quantized: keras.Model,
    samples: Sequence[np.ndarray],
    *,
    is_held_back: bool,
    count: int | None = None,
) -> Quality:
    """Compares a quantized model with the canonical float model that it was made of.

    Args:
        samples: one array a model input, float32 (N, ...); the first `count` are used, None: all;
            or as many as `tfeptq.data.memory.fitting_batch` allows.
    """
    count = fitting_batch(model, first(count, len(samples[0])), copies=2)
    batch = [tf.constant(array[:count]) for array in samples]
    graph, wrapped = LayerGraph.of(model), LayerGraph.of(quantized)
    left, right = graph.execute(batch), wrapped.execute(batch)
    pairs = _pairs(graph, wrapped)
    near = {key: tensor_nearness(left[key], right[found]) for key, found in pairs.items()}
    topology = Topology(graph)
    read = {key: topology.seen(key) for key in pairs}
    levels = {key: min(near[at][0] for at in read[key]) for key in pairs}
    cosines = {key: min(near[at][1] for at in read[key]) for key in pairs}
    lost = {call.output: -_drop(call, levels) for call in graph.calls}
    outputs = tuple(
        _output(ours[0], np.asarray(left[ours]), np.asarray(right[theirs]))
        for ours, theirs in zip(graph.outputs, wrapped.outputs, strict=True)
    )
    layers = (_of_layers(levels, min), _of_layers(cosines, min), _of_layers(lost, max))
    return Quality(outputs, count, is_held_back, *layers)


def _of_layers(
    values: Mapping[Key, float], worst: Callable[[float, float], float]
) -> dict[str, float]:
    """Layer name -> the worst of its calls."""
    found: dict[str, float] = {}
    for (name, _), value in values.items():
        found[name] = worst(value, found.get(name, value))
    return found


def _pairs(graph: LayerGraph, wrapped: LayerGraph) -> dict[Key, Key]:
    """Tensor -> its counterpart, quantized where a quantizer is behind the call."""
    behind: dict[Key, Key] = {}
    for call in wrapped.calls:
        # The first one is the tensor's own, others make copies of it.
        if isinstance(call.layer, ActivationQuantizer):
            behind.setdefault(call.inputs[0], call.output)
    counterparts = corresponding_tensors(graph, wrapped)
    made = ((call.output, counterparts[call.output]) for call in graph.calls)
    return {key: behind.get(other, other) for key, other in made}


def _output(name: str, expected: np.ndarray, found: np.ndarray) -> OutputQuality:
    channels = expected.shape[-1] if expected.ndim > 1 else 1
    left, right = expected.reshape(-1, channels), found.reshape(-1, channels)
    agreement = None
    if channels > 1:
        agreement = float(np.mean(left.argmax(axis=-1) == right.argmax(axis=-1)))
    return OutputQuality(
        name,
        sqnr(left, right),
        cosine(left, right),
        agreement,
        len(left),
        len(np.unique(right)),
        tuple(sqnr(left[:, i], right[:, i]) for i in range(channels)),
        tuple(len(np.unique(right[:, i])) for i in range(channels)),
    )


def _warning(
    output: OutputQuality, key: Key, producers: Mapping[Key, Call], lost_by: Mapping[str, float]
) -> str | None:
    producer = producers.get(key)
    if producer is not None and _makes_indices(producer):
        # Neighbours in number are not alike: the scores that they are of tell.
        return None
    is_fixed = producer is not None and _has_fixed_codes(producer.layer)
    lost = [] if is_fixed or output.values < LEAST_VALUES else _lost_channels(output)
    if output.sqnr >= LEAST_SQNR and not lost:
        return None
    what = f"output {output.name!r} is {output.sqnr:.1f} dB from the float model's"
    if lost:
        shown = ", ".join(map(str, lost[:4])) + (", ..." if len(lost) > 4 else "")
        kept = min(output.channel_codes[index] for index in lost)
        what += f", channels {shown} of its last axis keep {kept} codes"
    # Which channels a join leaves without codes, the SQNR of all hardly tells.
    is_all = output.sqnr < LEAST_SQNR
    where, cause = _where(key, producers, lost_by, by_loss=is_all)
    return (
        f"{what}; {where}{cause}: give what has its own range an output of its own, or "
        "activation_bits=16 there"
    )


def _lost_channels(output: OutputQuality) -> list[int]:
    return [
        index
        for index, (sqnr, codes) in enumerate(
            zip(output.channel_sqnr, output.channel_codes, strict=True)
        )
        if sqnr < LEAST_CHANNEL_SQNR and codes < LEAST_CODES
    ]


def _where(
    key: Key, producers: Mapping[Key, Call], lost_by: Mapping[str, float], *, by_loss: bool
) -> tuple[str, str]:
    """The layer that loses most among those that the output is computed from, and why.

    Args:
        by_loss: also where a join makes the output; otherwise that is where.
    """
    seen: list[Call] = []
    stack = [key]
    while stack:
        call = producers.get(stack.pop())
        if call is not None and call not in seen:
            seen.append(call)
            stack.extend(call.inputs)
    joins = [call for call in seen if _joins_ranges(call)]
    worst = max(seen, key=lambda call: lost_by.get(call.layer.name, 0.0), default=None)
    if worst is None:
        return "it comes from the input", ""
    is_joined = bool(joins) and joins[0].output == key and not by_loss
    if worst in joins or is_joined:
        join = worst if worst in joins else joins[0]
        return (
            f"it happens in layer {join.layer.name!r}",
            ", which joins unequal ranges in one scale; outputs='parts' leaves them apart",
        )
    where = f"most is lost in layer {worst.layer.name!r}"
    if _makes_shares(worst):
        return where, ", whose shares are 1/256 apart in 8 bits, so that the smallest vanish"
    return where, ""


def _makes_indices(call: Call) -> bool:
    row = find_primitive(call.layer)
    return row is not None and row.makes_indices


def _makes_shares(call: Call) -> bool:
    row = find_primitive(call.layer)
    return row is not None and row.squashes == "softmax" and not row.makes_indices


def _has_fixed_codes(layer: keras.Layer) -> bool:
    row = find_primitive(layer)
    return row is not None and row.output_of(layer) is Output.FIXED


def _joins_ranges(call: Call) -> bool:
    row = find_primitive(call.layer)
    return row is not None and row.merges and row.copies


def _drop(call: Call, levels: Mapping[Key, float]) -> float:
    """SQNR of a call's output minus the least of its inputs', in dB."""
    before = [levels[key] for key in call.inputs if key in levels]
    own = levels.get(call.output, np.inf)
    return min(own, INAUDIBLE) - min([*before, INAUDIBLE])
