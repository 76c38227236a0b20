"""One model quantized in several ways, each a file that was verified and run; and beside them
TFLiteConverter's int8 file."""

from __future__ import annotations

import dataclasses
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import tfeptq
import tflite_export

#: Names of all recipes, which are those of their rows.
RECIPES = (
    "int8, nearest",
    "4-bit weights, nearest",
    "4-bit weights, OPTQ",
    "4-bit weights, EPTQ",
    "4 or 8 bits, OPTQ",
)
#: Outputs of a model for images (N, ...), one array each.
Run = Callable[[np.ndarray], list[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Row:
    """A file, what it scores, and how long it took to make."""

    name: str
    score: float
    size_bytes: int | None
    seconds: float


def compare(
    model: keras.Model,
    calibration: np.ndarray,
    score: Callable[[Run], float],
    *,
    steps: int,
    outputs: tuple[str, ...] | None = None,
    only: Sequence[str] = RECIPES,
) -> Iterator[Row]:
    """Scores the float model and every file, one after the other.

    Args:
        score: of what a file gives for images.
        steps: of EPTQ.
        outputs: layers at which files end, see `tfeptq.QuantizationConfig`.
        only: of `RECIPES`.
    """
    ends = [model.get_layer(name).output for name in outputs or ()]
    heads = keras.Model(model.inputs, ends) if ends else model
    yield Row("float", score(lambda images: _listed(heads.predict(images, verbose=0))), None, 0.0)
    common = {"samples": len(calibration), "outputs": outputs, "steps": steps}
    settings_of = {
        "int8, nearest": {"rounding": "nearest"},
        "4-bit weights, nearest": {"weight_bits": 4, "rounding": "nearest"},
        "4-bit weights, OPTQ": {"weight_bits": 4, "rounding": "optq"},
        "4-bit weights, EPTQ": {"weight_bits": 4},
        # Android stores convolutions of 2 to 4 bits in 4.
        "4 or 8 bits, OPTQ": {
            "weight_bits": (4, 8),
            "rounding": "optq",
            "budget": tfeptq.Budget(weight_bytes=_weights(heads) * 3 // 4),
        },
    }
    for name in only:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            config = tfeptq.QuantizationConfig(**common, **settings_of[name])
            quantized = tfeptq.quantize(model, calibration, config, verbose=0)
            path = Path(folder) / "m.tflite"
            size = tflite_export.export(quantized, path).size_bytes
            seconds = time.perf_counter() - begin
            value = score(lambda images, path=path: _listed(tflite_export.run(path, images)))
        yield Row(name, value, size, seconds)
    begin = time.perf_counter()
    content = converted(heads, calibration)
    seconds = time.perf_counter() - begin
    yield Row("TFLiteConverter int8", score(lambda x: run_int8(content, x)), len(content), seconds)


def show(title: str, rows: Iterator[Row]) -> list[Row]:
    """Prints rows as they come, and returns them."""
    print(f"{title:34} {'score':>7} {'bytes':>8} {'seconds':>8}", flush=True)
    shown = []
    for row in rows:
        size = "" if row.size_bytes is None else f"{row.size_bytes:,}"
        print(f"{row.name:34} {100 * row.score:7.2f} {size:>8} {row.seconds:8.1f}", flush=True)
        shown.append(row)
    return shown


def converted(model: keras.Model, calibration: np.ndarray) -> bytes:
    """TensorFlow's own file: int8 throughout, on the same samples."""
    shape = (1, *model.inputs[0].shape[1:])
    holder = tf.Module()
    holder.kept = [variable.value for variable in model.variables]
    call = tf.function(
        lambda image: keras.tree.flatten(model(image, training=False)),
        input_signature=[tf.TensorSpec(shape, tf.float32)],
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [call.get_concrete_function()], holder
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def run_int8(content: bytes, images: np.ndarray) -> list[np.ndarray]:
    """Outputs of such a file as floats, in its order."""
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    # Files list outputs in an order of their own; names end in the number of the output.
    outputs = sorted(interpreter.get_output_details(), key=lambda detail: detail["name"])
    scale, zero = given["quantization"]
    rows = []
    for image in images:
        codes = np.clip(np.round(image[None] / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(given["index"], codes)
        interpreter.invoke()
        rows.append([_floats(interpreter, detail) for detail in outputs])
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


def _floats(interpreter: Interpreter, detail: dict) -> np.ndarray:
    scale, zero = detail["quantization"]
    return (interpreter.get_tensor(detail["index"]).astype(np.float32) - zero) * scale


def _listed(value: object) -> list[np.ndarray]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _weights(model: keras.Model) -> int:
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables if len(v.shape) > 1)
