"""One file of ai-edge-quantizer; runs in an environment of its own, see `benchmarks.peers`.

python benchmarks/ai_edge.py FLOAT.tflite SAMPLES.npy BITS OUTPUT.tflite
"""

import sys

import numpy as np
from ai_edge_quantizer import quantizer, recipe


def main(source: str, samples: str, bits: str, output: str) -> None:
    rules = recipe.static_wi8_ai8()
    for rule in rules:
        rule["op_config"]["weight_tensor_config"]["num_bits"] = int(bits)
    work = quantizer.Quantizer(source)
    work.load_quantization_recipe(rules)
    from ai_edge_litert.interpreter import Interpreter

    (signature,) = Interpreter(source).get_signature_list().items()
    (name,) = signature[1]["inputs"]
    data = {signature[0]: [{name: sample[None]} for sample in np.load(samples)]}
    work.quantize(work.calibrate(data)).export_model(output, overwrite=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
