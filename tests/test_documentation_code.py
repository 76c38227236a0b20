"""Whatever the documentation shows as Python or as a command runs as it stands there.

All pages share one tiny model and samples under the names that pages take for given, and the
quickest recipe, where a page asks for none: what the others do is the tests' of the packages. A
block that cannot run carries its reason, `<!-- not run: why -->`, in the line before it.
"""

from __future__ import annotations

import functools
import re
import shlex
import textwrap

import keras
import numpy as np
import pytest

import tfeptq
from tests.test_documentation import PAGES, ROOT
from tfeptq.cli.main import main

_FENCE = re.compile(
    r"(?:<!-- not run: (?P<why>[^\n]+) -->\n+)?"
    r"^ *```(?P<language>\w*)\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


def blocks(languages: tuple[str, ...]):
    """(page and line, code, why it does not run or None) of all fenced blocks."""
    for page in PAGES:
        text = page.read_text("utf-8")
        for found in _FENCE.finditer(text):
            if found["language"] in languages:
                line = text.count("\n", 0, found.start("code")) + 1
                place = f"{page.relative_to(ROOT).as_posix()}:{line}"
                yield place, textwrap.dedent(found["code"]), found["why"]


PYTHON = {place: code for place, code, why in blocks(("python",)) if why is None}
#: Command -> the page where it stands first.
COMMANDS: dict[str, str] = {}
for place, code, why in blocks(("", "bash", "sh")):
    for line in code.replace("\\\n", " ").splitlines() if why is None else ():
        command = line.partition("#")[0].strip()
        if command.startswith("tfeptq ") and "..." not in command:
            COMMANDS.setdefault(command, place.partition(":")[0])


class MyLayer(keras.layers.Layer):
    """Of the page about layers of the user's own."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(3, 3, shape[-1], 2))

    def call(self, x):
        return keras.ops.relu(keras.ops.conv(x, self.kernel, padding="same"))


def network():
    layers = keras.layers
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, activation="relu", name="conv1")(inputs)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, name="conv2")(x))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x), name="net")
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def given():
    """Names that pages take for given."""
    keras.utils.set_random_seed(0)
    model = network()
    x = np.random.default_rng(0).uniform(0, 1, (48, 8, 8, 3)).astype("float32")
    y = np.arange(48) % 3
    config = tfeptq.QuantizationConfig(weight_bits=4, rounding="nearest", samples=32)
    return {
        "MyLayer": MyLayer,
        "calibration": x,
        "config": config,
        "generator": lambda: ([row[None]] for row in x),
        "images": x[:4],
        "keras": keras,
        "model": model,
        "trained": model.get_weights(),
        "np": np,
        "quantized": tfeptq.quantize(model, x, config),
        "samples": x,
        "x": x,
        "x_test": x,
        "x_train": x,
        "xv": x,
        "y": y,
        "y_test": y,
        "yv": y,
    }


@pytest.fixture
def names(given, monkeypatch, tmp_path):
    """The same for one block, in a folder of its own."""
    import tensorflow as tf

    import tflite_export

    # Pages train it.
    given["model"].set_weights(given["trained"])
    quick = functools.partial(tfeptq.QuantizationConfig, rounding="nearest", samples=32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tfeptq, "QuantizationConfig", quick)
    result = tflite_export.export(given["quantized"], tmp_path / "given.tflite", verify=False)
    return dict(given, tf=tf, tfeptq=tfeptq, tflite_export=tflite_export, result=result)


def recurrent():
    """The model and the samples of the page about recurrent layers."""
    inputs = keras.Input((4, 10))
    x = keras.layers.LSTM(32, name="lstm")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, name="word")(x))
    return model, np.random.default_rng(0).normal(size=(8, 4, 10)).astype("float32")


@pytest.mark.parametrize("place", PYTHON)
def test_python(place, names):
    code = PYTHON[place]
    if 'runtime="tflm"' in code:
        pytest.importorskip("tflite_micro", reason="extra 'microcontroller' is missing")
    if "recurrent" in place:
        names["model"], names["sequences"] = recurrent()
    exec(compile(code, place, "exec"), names)


@pytest.fixture(scope="module")
def folder(given, tmp_path_factory):
    """Files under the names that commands take for given."""
    import tflite_export

    path = tmp_path_factory.mktemp("commands")
    for name in ("model", "m"):
        given["model"].save(path / f"{name}.keras")
    given["quantized"].save(path / "q.keras")
    tflite_export.export(given["quantized"], path / "m.tflite")
    for name in ("x", "calibration", "validation", "test"):
        np.savez(path / f"{name}.npz", x=given["x"], y=given["y"])
    (path / "labels.txt").write_text("cat\ndog\nbird\n")
    return path


@pytest.mark.parametrize("command", COMMANDS, ids=[f"{COMMANDS[c]} {c[7:40]}" for c in COMMANDS])
def test_commands(command, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    words = shlex.split(command)[1:]
    if words[0] in ("quantize", "frontier"):
        words += ["--samples", "32"] + ([] if "--rounding" in words else ["--rounding", "nearest"])
    code = main(words)
    said = capsys.readouterr().err
    if "install the extra" in said or "pip install" in said:
        pytest.skip(said.strip())
    assert code == 0, said
