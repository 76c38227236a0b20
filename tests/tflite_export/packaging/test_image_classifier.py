"""uint8 ends and metadata, up to MediaPipe's own classifier."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest

import tflite_export
from tests.tflite_export.weighted_layers import convolution
from tflite_export.file.reader import parse
from tflite_export.file.writer import write
from tflite_export.graph.structure import IntegerGraph, Operator
from tflite_export.graph.validation import validated
from tflite_export.packaging import unsigned_ends, write_image_classifier
from tflite_export.packaging.unsigned_ends import with_unsigned_ends
from tflite_export.runtimes.sessions import RuntimeUnavailableError

needs_mediapipe = pytest.mark.skipif(
    importlib.util.find_spec("mediapipe") is None, reason="extra 'metadata' is missing"
)
LABELS = ("ant", "bee", "cat", "dog", "eel")
MEAN, STD = 120.0, 47.0


def classifier() -> IntegerGraph:
    """Pictures (1, 6, 7, 3) in about [-5, 5] to five scores, the mean of a convolution."""
    graph = convolution(8)
    scores = dataclasses.replace(graph.tensors["y"], name="z", shape=(1, 5))
    mean = Operator("MEAN", ("y",), ("z",), "mean", {"axes": (1, 2), "keep_dims": False})
    return validated(
        dataclasses.replace(
            graph,
            tensors={**graph.tensors, "z": scores},
            operators=(*graph.operators, mean),
            outputs=(("scores", "z"),),
        )
    )


def pixels() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (6, 6, 7, 3)).astype(np.uint8)


def test_pixels_are_normalized_and_scores_are_the_same():
    content = write(classifier())
    unsigned = with_unsigned_ends(content, mean=MEAN, std=STD)
    stored = parse(unsigned)
    ends = [stored.tensors[index] for index in (*stored.inputs, *stored.outputs)]
    assert [tensor.type for tensor in ends] == ["uint8", "uint8"]
    assert (ends[0].scale[0], ends[0].zero_point[0]) == (np.float32(1 / STD), MEAN)
    assert (stored.input_names, stored.output_names) == (("x",), ("scores",))
    given = (pixels().astype("float32") - MEAN) / STD
    picture = np.clip(np.round(given / np.float32(0.04)) + 3, -128, 127).astype(np.int8)
    expected = tflite_export.run(content, picture, runtime="litert-reference")
    found = tflite_export.run(unsigned, pixels(), runtime="litert-reference")
    assert found.dtype == np.uint8
    assert (ends[1].scale[0], ends[1].zero_point[0]) == (np.float32(0.05), 0)
    difference = np.abs(found.astype(int) - 128 - expected)
    # Ties of the normalization may be rounded to the other side.
    assert difference.max() <= 1
    assert np.mean(difference == 0) > 0.9


@pytest.mark.parametrize("target", ["android", "coral", "ethos-u", "microcontroller"])
def test_unsigned_ends_have_no_blocker(tmp_path, target):
    path = tmp_path / "m.tflite"
    path.write_bytes(with_unsigned_ends(write(classifier()), mean=MEAN, std=STD))
    assert tflite_export.check(path, target=target).findings == ()


@pytest.mark.parametrize(
    ("end", "message"), [("x", "does not normalize"), ("z", "computes something else")]
)
def test_a_wrong_end_is_found(monkeypatch, end, message):
    add = unsigned_ends.add_tensor

    def wrong(graph, like, kind, *, scale, zero_point):
        scale = 1.1 * scale if like.name == end else scale
        return add(graph, like, kind, scale=scale, zero_point=zero_point)

    monkeypatch.setattr(unsigned_ends, "add_tensor", wrong)
    with pytest.raises(ValueError, match=message):
        with_unsigned_ends(write(classifier()), mean=MEAN, std=STD)


@pytest.mark.parametrize(
    ("graph", "mean", "message"),
    [
        (lambda: classifier(), -1.0, "mean=-1"),
        (lambda: dataclasses.replace(classifier(), outputs=(("a", "y"), ("b", "z"))), 0.0, "2 out"),
    ],
)
def test_other_ends_are_refused(graph, mean, message):
    with pytest.raises(ValueError, match=message):
        with_unsigned_ends(write(graph()), mean=mean, std=1.0)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.0, 1e4), (120.0, 4.0), (250.0, 255.0)])
def test_pixels_in_another_unit_are_refused_with_what_would_fit(mean, std):
    """The input of the file reaches from -5.24 to 4.96."""
    message = f"mean={mean:g}, std={std:g} make .* from -5.24 to 4.96: .*mean=131, std=25 fill"
    if std == 255.0:
        with_unsigned_ends(write(classifier()), mean=mean, std=std)
        return
    with pytest.raises(ValueError, match=message):
        with_unsigned_ends(write(classifier()), mean=mean, std=std)


def test_a_missing_mediapipe_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeUnavailableError, match="extra 'metadata'"):
        write_image_classifier(write(classifier()), tmp_path / "m.tflite", labels=LABELS)


@needs_mediapipe
def test_labels_and_normalization_are_in_the_file_and_it_is_the_same_each_time(tmp_path):
    from mediapipe.tasks.metadata import metadata_schema_py_generated as meta

    paths = [tmp_path / name for name in ("a.tflite", "b.tflite")]
    content = write(classifier())
    for path in paths:
        write_image_classifier(content, path, labels=LABELS, mean=MEAN, std=STD)
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    archive = zipfile.ZipFile(io.BytesIO(first))
    assert archive.read("labels.txt").decode().splitlines() == list(LABELS)
    start = first.index(b"M001") - 4
    root = meta.ModelMetadataT.InitFromObj(meta.ModelMetadata.GetRootAs(first[start:], 0))
    (step,) = root.subgraphMetadata[0].inputTensorMetadata[0].processUnits
    assert (list(step.options.mean), list(step.options.std)) == ([MEAN], [STD])
    with pytest.raises(ValueError, match="4 labels for an output"):
        write_image_classifier(content, paths[0], labels=LABELS[:4])


@needs_mediapipe
def test_mediapipe_stays_out_of_this_process(tmp_path):
    program = textwrap.dedent(
        f"""
        import sys
        sys.path[:] = {sys.path!r}
        from tests.tflite_export.packaging.test_image_classifier import *
        from tflite_export.file.writer import write
        from tflite_export.packaging import write_image_classifier
        made = write(classifier())
        write_image_classifier(made, sys.argv[1], labels=LABELS, mean=MEAN, std=STD)
        print({{"mediapipe", "tensorflow", "ai_edge_litert.interpreter"}} & set(sys.modules))
        """
    )
    command = [sys.executable, "-c", program, str(tmp_path / "m.tflite")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed == "set()\n"


@needs_mediapipe
def test_mediapipe_classifies_as_the_file_does(tmp_path):
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    path = tmp_path / "m.tflite"
    content = write(classifier())
    write_image_classifier(content, path, labels=LABELS, mean=MEAN, std=STD)
    expected = tflite_export.run(content, (pixels().astype("float32") - MEAN) / STD)
    options = vision.ImageClassifierOptions(
        base_options=BaseOptions(model_asset_path=str(path)), max_results=len(LABELS)
    )
    with vision.ImageClassifier.create_from_options(options) as task:
        for image, scores in zip(pixels(), expected, strict=True):
            picture = mp.Image(image_format=mp.ImageFormat.SRGB, data=image)
            found = {
                entry.category_name: entry.score
                for entry in task.classify(picture).classifications[0].categories
            }
            np.testing.assert_allclose([found[label] for label in LABELS], scores, atol=0.051)
