"""One member of every family of keras.applications, untrained: it has an integer graph and a file.

Networks end where the kinds of their blocks have all been seen. keras-hub's backbones are in
`benchmarks.zoo`, beside TFLiteConverter's files.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfeptq
import tflite_export
from benchmarks import zoo_models

#: Family -> side of its input, and the layer where it ends.
FAMILIES = {
    "ConvNeXtTiny": (32, "convnext_tiny_stage_1_block_0_depthwise_conv"),
    "DenseNet121": (32, "pool2_pool"),
    "EfficientNetB0": (32, "block2b_add"),
    "EfficientNetV2B0": (32, "block4a_project_bn"),
    "InceptionResNetV2": (75, "block35_1_ac"),
    "InceptionV3": (75, "mixed0"),
    "MobileNet": (32, "conv_pw_5_relu"),
    "MobileNetV2": (32, "block_2_add"),
    "MobileNetV3Large": (32, "expanded_conv_4_add"),
    "MobileNetV3Small": (32, "expanded_conv_4_add"),
    "NASNetMobile": (32, "reduction_concat_stem_1"),
    "ResNet50": (32, "conv2_block2_out"),
    "ResNet50V2": (32, "conv2_block3_out"),
    "VGG16": (32, "block3_pool"),
    "Xception": (71, "block4_sepconv1_act"),
}
#: Whose files are verified, operator by operator.
VERIFIED = ("EfficientNetB0", "MobileNet", "ResNet50V2")


def test_every_family_has_a_member():
    assert FAMILIES.keys() == zoo_models.APPLICATIONS.keys()
    families = {
        name: module
        for name, module in vars(keras.applications).items()
        if hasattr(module, "preprocess_input")
    }
    without = {name for name, module in families.items() if not FAMILIES.keys() & set(dir(module))}
    # No family, VGG16 with three more layers, and one that `keras.applications` itself has.
    assert without == {"imagenet_utils", "vgg19", "mobilenet_v3"}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_member_of_every_family_is_quantized(name, tmp_path):
    side, until = FAMILIES[name]
    member = zoo_models.build(name, samples=2, side=side, until=until)
    settings = {"rounding": "nearest", "threshold": "max", "bias_correction": False}
    config = tfeptq.QuantizationConfig(**settings, samples=2)
    quantized = tfeptq.quantize(member.model, member.calibration[0], config)
    graph = quantized.freeze()
    assert {tensor.dtype for tensor in graph.tensors.values()} <= {"int8", "int16", "int32"}
    # Float pictures of chance through random weights: most of what the network says is kept.
    assert quantized.report.quality.outputs[0].sqnr > 6.0
    if name in VERIFIED:
        result = tflite_export.export(graph, tmp_path / "m.tflite", target="android")
        assert result.verification is not None
        found = tflite_export.run(result.path, member.test[0], runtime="litert")
        wanted = quantized.predict(member.test[0], verbose=0)
        assert np.square(found - wanted).mean() < 0.01 * wanted.var()
