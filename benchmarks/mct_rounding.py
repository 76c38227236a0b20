"""GPTQ of Sony MCT; runs in an environment of its own, see `benchmarks.mct`.

python benchmarks/mct_rounding.py FOLDER BITS EPOCHS BATCH ATTENTION

FOLDER holds layers.json, weights.npz, samples.npy and images.npy as `benchmarks.mct` writes them.
Seconds and the outputs of the quantized model on the images are written beside them.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from model_compression_toolkit import get_target_platform_capabilities, gptq
from model_compression_toolkit.core import BitWidthConfig, CoreConfig
from model_compression_toolkit.core.common.network_editors import NodeTypeFilter

_WEIGHTED = (tf.keras.layers.Conv2D, tf.keras.layers.DepthwiseConv2D, tf.keras.layers.Dense)


def rebuilt(folder: Path) -> tf.keras.Model:
    """The model as Keras 2 layers, with the weights of the Keras 3 one."""
    description = json.loads((folder / "layers.json").read_text("utf-8"))
    tensors: dict[str, tf.Tensor] = {}
    for name, kind, settings, sources in description["layers"]:
        if kind == "InputLayer":
            tensors[name] = tf.keras.Input(settings["shape"])
            continue
        layer = getattr(tf.keras.layers, kind)(**settings, name=name)
        read = [tensors[source] for source in sources]
        tensors[name] = layer(read if len(read) > 1 else read[0])
    model = tf.keras.Model(tensors[description["input"]], tensors[description["output"]])
    with np.load(folder / "weights.npz") as weights:
        for layer in model.layers:
            own = [weights[f"{layer.name}:{i}"] for i in range(len(layer.weights))]
            layer.set_weights(own)
    return model


def main(folder: Path, bits: int, epochs: int, batch: int, has_attention: bool) -> None:
    model = rebuilt(folder)
    samples, images = np.load(folder / "samples.npy"), np.load(folder / "images.npy")

    def batches():
        for start in range(0, len(samples), batch):
            yield [samples[start : start + batch]]

    widths = BitWidthConfig()
    for kind in (k for k in _WEIGHTED if any(type(each) is k for each in model.layers)):
        attribute = "depthwise_kernel" if kind is tf.keras.layers.DepthwiseConv2D else "kernel"
        widths.set_manual_weights_bit_width([NodeTypeFilter(kind)], bits, attribute)
    settings = gptq.get_keras_gptq_config(
        n_epochs=epochs,
        use_hessian_based_weights=has_attention,
        use_hessian_sample_attention=has_attention,
        gradual_activation_quantization=True,
    )
    begin = time.perf_counter()
    quantized, _ = gptq.keras_gradient_post_training_quantization(
        model,
        batches,
        gptq_config=settings,
        core_config=CoreConfig(bit_width_config=widths),
        target_platform_capabilities=get_target_platform_capabilities("1.0", "imx500"),
    )
    seconds = time.perf_counter() - begin
    outputs = quantized.predict(images, batch_size=128, verbose=0)
    np.savez(folder / "mct.npz", seconds=seconds, outputs=outputs)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]), sys.argv[5] == "1")
