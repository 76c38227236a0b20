"""One small untrained member of every family of keras.applications, and keras-hub's backbones.

Weights are random, and so are the statistics of batch normalization, around those that the model's
own data give: otherwise signals vanish or explode on the way through a deep network.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

#: Classes or features at the end.
OUTPUTS = 10
TOKENS, LENGTH = 50, 12


@dataclasses.dataclass(frozen=True)
class Member:
    """A model and what it is fed.

    Attributes:
        calibration, test: one array a model input, in their order.
    """

    model: keras.Model
    calibration: list[np.ndarray]
    test: list[np.ndarray]


#: Member of a family of keras.applications -> side of its input.
APPLICATIONS = {
    "ConvNeXtTiny": 64,
    "DenseNet121": 64,
    "EfficientNetB0": 64,
    "EfficientNetV2B0": 64,
    "InceptionResNetV2": 80,
    "InceptionV3": 80,
    "MobileNet": 64,
    "MobileNetV2": 64,
    "MobileNetV3Large": 64,
    "MobileNetV3Small": 64,
    "NASNetMobile": 64,
    "ResNet50": 64,
    "ResNet50V2": 64,
    "VGG16": 64,
    "Xception": 80,
}
#: Where a family's `preprocess_input` is, if not in a module of the lower-case name.
_MODULES = {
    "ConvNeXtTiny": "convnext",
    "DenseNet121": "densenet",
    "EfficientNetB0": "efficientnet",
    "EfficientNetV2B0": "efficientnet_v2",
    "InceptionResNetV2": "inception_resnet_v2",
    "InceptionV3": "inception_v3",
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3Large": "mobilenet_v3",
    "MobileNetV3Small": "mobilenet_v3",
    "NASNetMobile": "nasnet",
    "ResNet50": "resnet",
    "ResNet50V2": "resnet_v2",
}


def names() -> list[str]:
    return [*APPLICATIONS, *HUB]


def build(
    name: str,
    *,
    samples: int = 32,
    seed: int = 0,
    side: int | None = None,
    until: str | None = None,
) -> Member:
    """A member with its data: `samples` to calibrate with, as many others to test with.

    Args:
        side: of the pictures of a family of keras.applications; None: that of `APPLICATIONS`.
        until: name of the layer at which such a network ends; None: its own last one.
    """
    keras.utils.set_random_seed(seed)
    generator = np.random.default_rng(seed)
    if name in APPLICATIONS:
        model, draw = _application(name, side or APPLICATIONS[name], until)
    else:
        model, draw = _hub(name)
    arrays = draw(generator, 2 * samples)
    _randomize_statistics(model, [array[:samples] for array in arrays], generator)
    return Member(
        model, [array[:samples] for array in arrays], [array[samples:] for array in arrays]
    )


def _application(
    name: str, side: int, until: str | None
) -> tuple[keras.Model, Callable[..., list[np.ndarray]]]:
    settings = {"weights": None, "classes": OUTPUTS, "classifier_activation": None}
    model = getattr(keras.applications, name)(input_shape=(side, side, 3), **settings)
    if until is not None:
        model = keras.Model(model.inputs, model.get_layer(until).output)
    family = importlib.import_module(f"keras.applications.{_MODULES.get(name, name.lower())}")

    def draw(generator: np.random.Generator, count: int) -> list[np.ndarray]:
        return [family.preprocess_input(pictures(generator, count, side))]

    return model, draw


def pictures(generator: np.random.Generator, count: int, side: int) -> np.ndarray:
    """Smooth random colours with noise, (N, side, side, 3) from 0 to 255.

    White noise would be the same to a network that averages: its samples would all have one answer.
    """
    coarse = generator.uniform(0, 255, size=(count, 5, 5, 3)).astype("float32")
    smooth = keras.ops.convert_to_numpy(keras.ops.image.resize(coarse, (side, side)))
    noise = generator.normal(0, 20, size=smooth.shape)
    return np.clip(smooth + noise, 0, 255).astype("float32")


def _randomize_statistics(
    model: keras.Model, samples: Sequence[np.ndarray], generator: np.random.Generator
) -> None:
    """Draws what batch normalizations hold: scales, offsets, and statistics near the data's."""
    layers = [
        layer for layer in _inner(model) if isinstance(layer, keras.layers.BatchNormalization)
    ]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
        if layer.gamma is not None:
            layer.gamma.assign(generator.uniform(0.5, 1.5, layer.gamma.shape))
        if layer.beta is not None:
            layer.beta.assign(generator.normal(0.0, 0.3, layer.beta.shape))
    model(given(samples), training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        statistics = (layer.moving_mean, layer.moving_variance)
        mean, variance = map(keras.ops.convert_to_numpy, statistics)
        shift = generator.normal(0.0, 0.2, mean.shape) * np.sqrt(variance)
        layer.moving_mean.assign(mean + shift)
        layer.moving_variance.assign(variance * generator.uniform(0.7, 1.4, variance.shape) + 1e-5)


def _inner(layer: keras.Layer) -> list[keras.Layer]:
    """All layers inside of a layer, at any depth, each once."""
    found: dict[int, keras.Layer] = {}
    waiting = [layer]
    while waiting:
        for value in _held(list(vars(waiting.pop()).values())):
            if isinstance(value, keras.Layer) and id(value) not in found:
                found[id(value)] = value
                waiting.append(value)
    return list(found.values())


def _held(value: Any) -> Iterator[Any]:
    """What an attribute holds, inside of lists and dictionaries too."""
    parts = value.values() if isinstance(value, dict) else value
    if isinstance(value, (dict, list, tuple)):
        for part in parts:
            yield from _held(part)
    else:
        yield value


def given(arrays: Sequence[np.ndarray]) -> Any:
    """As a model takes them."""
    return list(arrays) if len(arrays) > 1 else arrays[0]


# keras-hub, from configuration ---------------------------------------------------------------


def _images(side: int) -> Callable[..., list[np.ndarray]]:
    return lambda generator, count: [pictures(generator, count, side) / 127.5 - 1.0]


def _tokens(model: keras.Model) -> Callable[..., list[np.ndarray]]:
    """Random texts of 4 to 12 tokens, in the order of the model's inputs."""

    def draw(generator: np.random.Generator, count: int) -> list[np.ndarray]:
        lengths = generator.integers(4, LENGTH + 1, size=(count, 1))
        made = {
            "token_ids": generator.integers(0, TOKENS, size=(count, LENGTH)),
            "segment_ids": generator.integers(0, 2, size=(count, LENGTH)),
            "padding_mask": np.arange(LENGTH) < lengths,
        }
        return [made[tensor.name].astype("int32") for tensor in model.inputs]

    return draw


_TEXT = {
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 32,
    "intermediate_dim": 64,
    "max_sequence_length": LENGTH,
}
_SMALL = {"vocabulary_size": TOKENS, **_TEXT}


def _resnet(models: Any, **settings: Any) -> keras.Model:
    return models.ResNetBackbone(
        **{
            "input_conv_filters": [64],
            "input_conv_kernel_sizes": [7],
            "stackwise_num_filters": [64, 64, 64, 64],
            "stackwise_num_blocks": [1, 1, 1, 1],
            "stackwise_num_strides": [1, 2, 2, 2],
            "block_type": "basic_block",
            "image_shape": (64, 64, 3),
            **settings,
        }
    )


def _mit(models: Any) -> keras.Model:
    return models.MiTBackbone(
        layerwise_depths=[1, 1, 1, 1],
        num_layers=4,
        layerwise_num_heads=[1, 2, 2, 4],
        layerwise_sr_ratios=[8, 4, 2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
        image_shape=(64, 64, 3),
        hidden_dims=[16, 32, 48, 64],
    )


def _mobilenet(models: Any) -> keras.Model:
    return models.MobileNetBackbone(
        stackwise_expansion=[[40, 56], [64, 144, 144]],
        stackwise_num_blocks=[2, 3],
        stackwise_num_filters=[[16, 16], [24, 24, 24]],
        stackwise_kernel_size=[[3, 3], [5, 5, 5]],
        stackwise_num_strides=[[2, 1], [2, 1, 1]],
        stackwise_se_ratio=[[None, None], [0.25, 0.25, 0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish"] * 3],
        stackwise_padding=[[1, 1], [2, 2, 2]],
        output_num_filters=32,
        input_activation="hard_swish",
        output_activation="hard_swish",
        input_num_filters=16,
        image_shape=(64, 64, 3),
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        squeeze_and_excite=0.5,
        last_layer_filter=64,
    )


def _efficientnet(models: Any) -> keras.Model:
    return models.EfficientNetBackbone(
        stackwise_width_coefficients=[1.0] * 2,
        stackwise_depth_coefficients=[1.0] * 2,
        stackwise_block_types=["fused", "unfused"],
        stackwise_kernel_sizes=[3, 3],
        stackwise_num_repeats=[1, 1],
        stackwise_input_filters=[16, 16],
        stackwise_output_filters=[16, 24],
        stackwise_expansion_ratios=[1, 4],
        stackwise_strides=[1, 2],
        stackwise_squeeze_and_excite_ratios=[0, 0.25],
        image_shape=(64, 64, 3),
    )


def _hgnet(models: Any) -> keras.Model:
    return models.HGNetV2Backbone(
        depths=[1, 1],
        embedding_size=16,
        hidden_sizes=[32, 48],
        stem_channels=[3, 16, 16],
        hidden_act="relu",
        use_learnable_affine_block=False,
        stackwise_stage_filters=[(16, 16, 32, 1, 2, 3), (32, 16, 48, 1, 2, 3)],
        apply_downsample=[False, True],
        use_lightweight_conv_block=[False, True],
        image_shape=(64, 64, 3),
    )


def _segformer(models: Any) -> keras.Model:
    backbone = models.SegFormerBackbone(image_encoder=_mit(models), projection_filters=32)
    return models.SegFormerImageSegmenter(backbone=backbone, num_classes=4)


def _deeplab(models: Any) -> keras.Model:
    backbone = models.DeepLabV3Backbone(
        image_encoder=_resnet(models),
        spatial_pyramid_pooling_key="P5",
        upsampling_size=8,
        dilation_rates=[2, 3, 4],
        low_level_feature_key="P2",
        projection_filters=16,
        image_shape=(64, 64, 3),
    )
    return models.DeepLabV3ImageSegmenter(backbone=backbone, num_classes=4)


def _retinanet(models: Any) -> keras.Model:
    return models.RetinaNetBackbone(
        image_encoder=_resnet(models),
        min_level=3,
        max_level=6,
        use_p5=True,
        use_fpn_batch_norm=True,
        image_shape=(64, 64, 3),
    )


#: Name of a backbone or task of keras-hub -> what makes it, and the side of its images or None.
HUB: dict[str, tuple[Callable[[Any], keras.Model], int | None]] = {
    "hub ALBERT": (
        lambda m: m.AlbertBackbone(
            embedding_dim=16, num_groups=1, num_inner_repetitions=1, **_SMALL
        ),
        None,
    ),
    "hub BERT": (lambda m: m.BertBackbone(**_SMALL), None),
    "hub CSPNet": (
        lambda m: m.CSPNetBackbone(
            stackwise_num_filters=[16, 32],
            stackwise_depth=[1, 1],
            block_type="dark_block",
            stage_type="csp",
            stem_filters=8,
            stem_kernel_size=3,
            stem_strides=1,
            stackwise_strides=[2, 2],
            bottle_ratio=[0.5, 1.0],
            block_ratio=[1.0, 0.5],
            expand_ratio=[2.0, 1.0],
            image_shape=(32, 32, 3),
        ),
        32,
    ),
    "hub DeBERTaV3": (lambda m: m.DebertaV3Backbone(bucket_size=8, **_SMALL), None),
    "hub DeepLabV3+": (_deeplab, 64),
    "hub DeiT": (
        lambda m: m.DeiTBackbone(
            image_shape=(32, 32, 3),
            patch_size=8,
            num_layers=2,
            num_heads=2,
            hidden_dim=32,
            intermediate_dim=64,
        ),
        32,
    ),
    "hub DenseNet": (
        lambda m: m.DenseNetBackbone(
            stackwise_num_repeats=[2, 2],
            compression_ratio=0.5,
            growth_rate=8,
            image_shape=(64, 64, 3),
        ),
        64,
    ),
    "hub DINOv2": (
        lambda m: m.DINOV2Backbone(
            patch_size=8,
            num_layers=2,
            hidden_dim=32,
            num_heads=2,
            intermediate_dim=64,
            image_shape=(32, 32, 3),
            position_embedding_shape=(32, 32),
            use_mask_token=False,
        ),
        32,
    ),
    "hub DistilBERT": (lambda m: m.DistilBertBackbone(**_SMALL), None),
    "hub EfficientNet": (_efficientnet, 64),
    "hub ELECTRA": (
        lambda m: m.ElectraBackbone(vocab_size=TOKENS, embedding_dim=16, **_TEXT),
        None,
    ),
    "hub FNet": (
        lambda m: m.FNetBackbone(**{k: v for k, v in _SMALL.items() if k != "num_heads"}),
        None,
    ),
    "hub GPT2": (lambda m: m.GPT2Backbone(**_SMALL), None),
    "hub HGNetV2": (_hgnet, 64),
    "hub MiT": (_mit, 64),
    "hub MobileNet": (_mobilenet, 64),
    "hub ResNet": (_resnet, 64),
    "hub ResNetV2": (lambda m: _resnet(m, use_pre_activation=True), 64),
    "hub RetinaNet": (_retinanet, 64),
    "hub RoBERTa": (lambda m: m.RobertaBackbone(**_SMALL), None),
    "hub SegFormer": (_segformer, 64),
    "hub Swin": (
        lambda m: m.SwinTransformerBackbone(
            image_shape=(32, 32, 3), embed_dim=16, depths=[2, 2], num_heads=[2, 2], window_size=4
        ),
        32,
    ),
    "hub VGG": (
        lambda m: m.VGGBackbone(
            stackwise_num_repeats=[1, 1], stackwise_num_filters=[8, 16], image_shape=(32, 32, 3)
        ),
        32,
    ),
    "hub ViT": (
        lambda m: m.ViTBackbone(
            image_shape=(32, 32, 3),
            patch_size=(8, 8),
            num_layers=2,
            num_heads=2,
            hidden_dim=32,
            mlp_dim=64,
        ),
        32,
    ),
    "hub Xception": (
        lambda m: m.XceptionBackbone(
            stackwise_conv_filters=[[8, 16], [16, 32], [32, 32]],
            stackwise_pooling=[True, True, False],
            image_shape=(64, 64, 3),
        ),
        64,
    ),
}


def _hub(name: str) -> tuple[keras.Model, Callable[..., list[np.ndarray]]]:
    models = importlib.import_module("keras_hub").models
    make, side = HUB[name]
    inner = make(models)
    # Some leave sizes open.
    shape = (LENGTH,) if side is None else (side, side, 3)
    inputs = keras.tree.map_structure(
        lambda tensor: keras.Input(shape, dtype=tensor.dtype, name=tensor.name), inner.input
    )
    model = keras.Model(keras.tree.flatten(inputs), _ended(inner(inputs)))
    return model, _tokens(model) if side is None else _images(side)


def _ended(output: Any) -> Any:
    """One tensor of a backbone's outputs, with a small head where it is no picture."""
    if isinstance(output, dict):
        known = [name for name in ("pooled_output", "sequence_output") if name in output]
        # Of a pyramid every level is an output.
        if not known:
            return [output[name] for name in sorted(output)]
        output = output[known[0]]
    if len(output.shape) == 3:
        output = output[:, 0]
    elif len(output.shape) == 4 and output.shape[1] and output.shape[1] < 16:
        output = keras.layers.GlobalAveragePooling2D()(output)
    return keras.layers.Dense(OUTPUTS, name="head")(output) if len(output.shape) == 2 else output
