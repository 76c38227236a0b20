"""Zeros around an image that a convolution pads with by itself.

`keras.applications` pads images in front of convolutions with strides, where sizes are even as
padding="same" would. A kernel that pads needs no padded image in memory, and no operator before it.
"""

from __future__ import annotations

import keras

from tfeptq.preparation.nodes import Graph, Node, Weights
from tflite_export.operators.windows import padding_before_after

_L = keras.layers


def merge_zero_paddings(graph: Graph) -> None:
    """Convolutions read images without the zeros that padding="same" adds to them.

    All calls of a layer have one padding: it changes where every call would.
    """
    calls: dict[Weights, list[Node]] = {}
    for node in graph.nodes():
        if node.kind in (_L.Conv2D, _L.DepthwiseConv2D) and node.weights is not None:
            calls.setdefault(node.weights, []).append(node)
    for together in calls.values():
        if all(_pads_as_same(node) for node in together):
            for node in together:
                node.inputs = node.inputs[0].inputs
                node.options = {**node.options, "padding": "same"}


def _pads_as_same(node: Node) -> bool:
    """Whether a convolution reads zeros of which padding="same" would add those that count."""
    zeros = node.inputs[0]
    if zeros.kind is not _L.ZeroPadding2D:
        return False
    layer = node.kind(**node.options)
    if layer.padding != "valid":
        return False
    sizes = zeros.inputs[0].shape
    for axis, (before, _) in enumerate(zeros.options["padding"]):
        stride, dilation = layer.strides[axis], layer.dilation_rate[axis]
        window = (layer.kernel_size[axis] - 1) * dilation + 1
        own, _ = padding_before_after(sizes[axis], window=window, stride=stride, same=True)
        # What lies behind the last window is not read.
        if before != own or node.shape[axis] != -(-sizes[axis] // stride):
            return False
    return True
