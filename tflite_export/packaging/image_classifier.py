"""Image classifiers as MediaPipe tasks and Android Studio take them: bytes in, labels inside.

Those read TensorFlow Lite metadata (normalization of the input, names of the classes) and feed
pixels as uint8: MediaPipe refuses int8 inputs. The metadata's classes come from MediaPipe's package
(extra `metadata`), which a worker imports, with all that it brings; its own writers do not import
in release 1.2.2, whose native part is missing.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_export.file.atomic import write_atomically
from tflite_export.file.damage import names_damage
from tflite_export.file.reader import content_of, parse
from tflite_export.file.stored import StoredModel
from tflite_export.file.writer import serialize
from tflite_export.packaging.unsigned_ends import require_signed_ends, with_unsigned_ends
from tflite_export.runtimes.isolation import MEDIAPIPE, guarded
from tflite_export.runtimes.sessions import RuntimeUnavailableError

_LABELS = "labels.txt"
_METADATA, _IDENTIFIER = "TFLITE_METADATA", b"M001"
#: The oldest parser that knows all that is written here.
_PARSER_VERSION = "1.0.0"
_RGB = 3


class LabelsError(ValueError):
    """Names of classes that are none, or do not fit the file."""


@dataclasses.dataclass(frozen=True)
class ImageClassifier:
    """A written file.

    Attributes:
        labels: number of classes.
    """

    path: Path
    size_bytes: int
    labels: int


@names_damage
def write_image_classifier(
    model: str | Path | bytes,
    output: str | Path,
    *,
    labels: Sequence[str],
    mean: float = 0.0,
    std: float = 1.0,
    metadata: bool = True,
) -> ImageClassifier:
    """Writes an int8 file again with uint8 pixels as input, uint8 scores as output and metadata.

    Args:
        model: path or content; one int8 input (1, H, W, 3) and one int8 output (1, classes).
        output: path of the new file; it appears only after it has been run and compared.
        labels: names of the classes, in order.
        mean, std: what the model was trained on is (pixel - mean) / std, pixels in 0..255.
        metadata: False leaves them out and needs no extra; the labels then go beside the file, one
            a line, as `output` with the suffix `.labels.txt`: for PyCoral, because the Edge TPU
            compiler drops metadata.

    Raises:
        LabelsError: another number of labels than of classes, or names that are empty or equal.
        ValueError: another kind of model, see `with_unsigned_ends`.
        RuntimeUnavailableError: the extra `metadata` is not installed.
    """
    if metadata and importlib.util.find_spec("mediapipe") is None:
        raise RuntimeUnavailableError("metadata needs MediaPipe: install the extra 'metadata'")
    content = content_of(model)
    stored = parse(content)
    require_signed_ends(stored)
    _check(stored, labels)
    unsigned = with_unsigned_ends(content, mean=mean, std=std)
    path = Path(output)
    if metadata:
        unsigned = _with_metadata(unsigned, stored, labels, mean, std)
    else:
        text = "".join(f"{label}\n" for label in labels)
        write_atomically(path.with_suffix(".labels.txt"), text.encode("utf-8"))
    write_atomically(path, unsigned)
    return ImageClassifier(path, len(unsigned), len(labels))


def _check(model: StoredModel, labels: Sequence[str]) -> None:
    image, scores = (model.tensors[index] for index in (model.inputs[0], model.outputs[0]))
    if len(image.shape) != 4 or image.shape[-1] != _RGB:
        raise ValueError(f"input {image.name!r} is {image.shape}, need pictures (1, H, W, {_RGB})")
    if scores.shape[-1] != len(labels) or int(np.prod(scores.shape)) != len(labels):
        raise LabelsError(f"{len(labels)} labels for an output of {scores.shape}")
    _check_names(labels)


def _check_names(labels: Sequence[str]) -> None:
    for place, label in enumerate(labels, 1):
        if not label.strip():
            raise LabelsError(f"label {place} of {len(labels)} is empty: every class needs a name")
        first = labels.index(label) + 1
        if first < place:
            raise LabelsError(
                f"labels {first} and {place} are both {label!r}: every class needs its own name"
            )


def _with_metadata(
    content: bytes, stored: StoredModel, labels: Sequence[str], mean: float, std: float
) -> bytes:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    names = (stored.name, stored.input_names[0], stored.output_names[0])
    metadata = guarded(content, MEDIAPIPE, _metadata, *names, mean, std)
    buffer.data = np.frombuffer(metadata, np.uint8)
    model.buffers.append(buffer)
    entry.name, entry.buffer = _METADATA, len(model.buffers) - 1
    model.metadata = [
        *(old for old in model.metadata or () if old.name not in (_METADATA, _METADATA.encode())),
        entry,
    ]
    file = io.BytesIO(serialize(model))
    # Readers find associated files in a ZIP archive behind the flatbuffer.
    file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file, "a") as archive:
        # A fixed date: the same input gives the same bytes.
        archive.writestr(zipfile.ZipInfo(_LABELS), "\n".join(labels))
    return file.getvalue()


def _metadata(name: str, pixels: str, classes: str, mean: float, std: float) -> bytes:
    """Metadata of a model, by its own name and those of its ends; in a worker."""
    from mediapipe.tasks.metadata import metadata_schema_py_generated as meta

    normalization, step = meta.NormalizationOptionsT(), meta.ProcessUnitT()
    normalization.mean, normalization.std = [mean], [std]
    step.optionsType = meta.ProcessUnitOptions.NormalizationOptions
    step.options = normalization
    picture = meta.ImagePropertiesT()
    picture.colorSpace = meta.ColorSpaceType.RGB
    image = _endpoint(meta, pixels, "ImageProperties", picture)
    image.processUnits = [step]
    labels = meta.AssociatedFileT()
    labels.name, labels.type = _LABELS, meta.AssociatedFileType.TENSOR_AXIS_LABELS
    scores = _endpoint(meta, classes, "FeatureProperties", meta.FeaturePropertiesT())
    scores.associatedFiles = [labels]
    graph, root = meta.SubGraphMetadataT(), meta.ModelMetadataT()
    graph.inputTensorMetadata, graph.outputTensorMetadata = [image], [scores]
    root.name, root.minParserVersion = name, _PARSER_VERSION
    root.subgraphMetadata = [graph]
    builder = flatbuffers.Builder()
    builder.Finish(root.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


def _endpoint(meta: Any, name: str, kind: str, properties: Any) -> Any:
    entry, content = meta.TensorMetadataT(), meta.ContentT()
    content.contentPropertiesType = getattr(meta.ContentProperties, kind)
    content.contentProperties = properties
    entry.name, entry.content = name, content
    return entry
