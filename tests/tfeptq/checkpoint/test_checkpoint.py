"""What is kept on disk: found again for the same inputs only, whole or not at all, by one run."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tests.tfeptq import small_models
from tfeptq.checkpoint import sealed
from tfeptq.checkpoint.digest import UndigestibleError, digest
from tfeptq.checkpoint.steps import Checkpoint, open_checkpoint
from tfeptq.config import WEIGHT_GRIDS, QuantizationConfig
from tfeptq.goals import AccuracyTarget, Budget
from tfeptq.hessian.float_scores import FloatScores
from tfeptq.preparation import prepare
from tfeptq.quantized.uniform_grid import UniformGrid

#: Another value of every field; a field that is added must be added here.
OTHERS = {
    "weight_bits": 4,
    "activation_bits": 16,
    "target": "coral",
    "first_last_bits": None,
    "threshold": "max",
    "rounding": "optq",
    "initial_rounding": "optq",
    "steps": 7,
    "batch_size": 7,
    "samples": 7,
    "stage_samples": {"pair_terms": 7},
    "augmentation": keras.layers.RandomFlip(),
    "seed": 7,
    "bias_correction": False,
    "sample_layer_attention": False,
    "channel_attention": False,
    "gradual_activations": False,
    "gradual_rounding": False,
    "train_scales": False,
    "train_biases": False,
    "learning_rate": 0.7,
    "rounding_learning_rate": 0.7,
    "regularization": 0.7,
    "output_loss": 0.7,
    "sensitivity": "hawq_v2",
    "measured_moves": 7,
    "ordered_widths": True,
    "input_range": (0.0, 7.0),
    "input_shape": (7, 7, 3),
    "states": {"new": "old"},
    "outputs": ("last",),
    "weight_grid": "of another name",
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(QuantizationConfig)])
def test_every_setting_is_in_the_key(field, request):
    WEIGHT_GRIDS.register(OTHERS["weight_grid"], UniformGrid)
    request.addfinalizer(lambda: WEIGHT_GRIDS.forget(OTHERS["weight_grid"]))
    config = QuantizationConfig(weight_bits=(3, 8), budget=Budget(weight_bytes=9))
    others = {
        **OTHERS,
        "budget": Budget(weight_bytes=8),
        "accuracy_target": AccuracyTarget(lambda model: 1.0),
    }
    if field in ("weight_bits", "activation_bits"):
        config = dataclasses.replace(config, budget=None, weight_bits=8)
    changed = dataclasses.replace(config, **{field: others[field]})
    assert digest(config) == digest(dataclasses.replace(config))
    assert digest(changed) != digest(config)


def dense(activation="relu", scale=1.0, name="dense", crossed=False, shape=(4,)):
    left, right = (keras.Input(shape, name=side) for side in ("left", "right"))
    a, b = keras.layers.Dense(4, activation, name=name), keras.layers.Dense(4, name="b")
    ends = [a(right), b(left)] if crossed else [a(left), b(right)]
    model = keras.Model([left, right], keras.layers.Subtract(name="sub")(ends))
    for layer in (a, b):
        layer.set_weights([scale * np.ones((4, 4)), np.zeros(4)])
    return model


@pytest.mark.parametrize(
    "change",
    [
        {"activation": "tanh"},
        {"scale": 1.5},
        {"name": "other"},
        {"crossed": True},
        {"shape": (3, 4)},
    ],
)
def test_weights_layers_and_how_they_are_joined_are_in_the_key(change):
    assert digest(dense()) == digest(dense())
    assert digest(dense(**change)) != digest(dense())


def test_values_that_look_alike_have_keys_of_their_own():
    alike = [
        [1, 2], [[1], 2], ["1", 2], [1.0, 2], [1, 2, None], {"a": 1}, [("a", 1)], ["ab", "c"],
        ["a", "bc"], np.array([1, 2]), np.array([1, 2], np.int32), np.array([[1, 2]]),
        np.array([1.0, 2.0]), frozenset({1, 2}),
    ]  # fmt: skip
    assert len({digest(value) for value in alike}) == len(alike)
    assert digest({1, 2, 3}) == digest({3, 2, 1})


def test_functions_are_told_by_their_code_and_by_what_they_refer_to():
    def metric(values, power=2):
        return lambda model: np.mean(values) ** power

    first = digest(metric(np.zeros(3)))
    assert digest(metric(np.zeros(3))) == first
    others = [metric(np.ones(3)), metric(np.zeros(3), 3), lambda model: 1.0, lambda model: 2.0]
    assert len({first, *map(digest, others)}) == 5
    with pytest.raises(UndigestibleError, match="object"):
        digest(metric(object()))


def test_what_cannot_be_told_apart_is_not_kept(tmp_path):
    with open_checkpoint(tmp_path) as checkpoint:
        calls = []
        for _ in range(2):
            with pytest.warns(UserWarning, match="answer is not kept"):
                checkpoint.arrays("answer", lambda thing: calls.append(1) or {}, thing=object())
        assert len(calls) == 2


@given(
    st.dictionaries(
        st.sampled_from(["file", "a/b", "0", "names"]),
        npst.arrays(
            st.sampled_from(["f4", "f8", "i8", "u1", "?", "U3"]),
            npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
        ),
    ),
    st.data(),
)
def test_a_file_is_whole_or_not_there(tmp_path_factory, arrays, data):
    path = tmp_path_factory.mktemp("sealed") / "a.npz"
    sealed.write(path, arrays)
    found = sealed.read(path)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:place])
    assert sealed.read(path) is None
    flipped = bytearray(whole)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(flipped)
    changed = sealed.read(path)
    # Of a ZIP file's own fields some mean nothing: then everything is there.
    assert (
        changed is None or sealed.checksum(changed).tobytes() == sealed.checksum(arrays).tobytes()
    )


def test_a_torn_result_is_computed_again(tmp_path):
    with open_checkpoint(tmp_path) as checkpoint:
        calls = []

        def compute(value):
            calls.append(value)
            return {"value": np.array(value)}

        for _ in range(2):
            assert checkpoint.arrays("step", compute, value=3)["value"] == 3
        assert calls == [3]
        (path,) = tmp_path.glob("step-*.npz")
        path.write_bytes(path.read_bytes()[:-30])
        assert checkpoint.arrays("step", compute, value=3)["value"] == 3
        assert checkpoint.arrays("step", compute, value=4)["value"] == 4
        assert calls == [3, 3, 4]


def test_scores_of_layers_with_any_name_are_kept(tmp_path):
    inputs = keras.Input((4,))
    x = keras.layers.Dense(3, name="file")(inputs)
    model = prepare(keras.Model(inputs, keras.layers.Dense(2, name="sha256")(x)))
    samples = [np.random.default_rng(0).normal(size=(8, 4)).astype("float32")]
    with open_checkpoint(tmp_path) as checkpoint:
        first, second = (FloatScores(model, samples, 0, checkpoint).weights for _ in range(2))
    assert list(first) == list(second) == ["file", "sha256"]
    np.testing.assert_array_equal(first["file"], second["file"])


def test_one_run_in_a_folder(tmp_path):
    with (
        open_checkpoint(tmp_path),
        pytest.raises(ValueError, match=rf"in use by process {os.getpid()} .*: wait until it ends"),
        open_checkpoint(tmp_path),
    ):
        pass
    with open_checkpoint(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(ValueError, match=r"checkpoint_dir=.*cannot be written: .*; give a folder"),
        open_checkpoint(tmp_path / "file"),
    ):
        pass


#: Runs in a process of its own, without TensorFlow: it forks, dies, and its child lives on.
_DYING = """
import os, pathlib, signal, sys
from tfeptq.checkpoint.folder_lock import locked
with locked(pathlib.Path(sys.argv[1]), "checkpoint_dir"):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"ready")
        os.close(1), os.close(2)
        signal.pause()
    os.read(reader, 5)
    os.write(1, str(child).encode())
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_lock_of_a_process_that_was_killed_is_open(tmp_path):
    command = [sys.executable, "-c", _DYING, str(tmp_path)]
    child = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True).stdout
    try:
        with open_checkpoint(tmp_path):
            pass
    finally:
        os.kill(int(child), signal.SIGKILL)


#: The same: no file of this process may grow beyond a limit, which is a full disk to it.
_FULL_DISK = textwrap.dedent("""
    import pathlib, resource, sys, warnings
    import numpy as np
    from tfeptq.checkpoint import sealed
    path = pathlib.Path(sys.argv[1]) / "a.npz"
    sealed.write(path, {"a": np.arange(3)})
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    for size in (1000, 100_000):
        try:
            sealed.write(path, {"a": np.zeros(size), "b": np.zeros(size)})
        except OSError as error:
            print("refused", [file.name for file in path.parent.iterdir()], sealed.read(path))
""")


def test_a_full_disk_leaves_what_was_there(tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(tmp_path)],
        check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    assert found == ["refused ['a.npz'] {'a': array([0, 1, 2])}"] * 2


def test_without_a_folder_nothing_is_kept():
    assert Checkpoint().path("step", value=1) is None
    assert Checkpoint().arrays("step", lambda value: {"a": value}, value=1) == {"a": 1}


def test_models_of_this_suite_have_keys_of_their_own():
    keys = {digest(prepare(small_models.residual_network(seed))) for seed in (0, 0, 1)}
    assert len(keys) == 2


@pytest.mark.parametrize("field", [6, 8], ids=["encrypted", "packed otherwise"])
def test_fields_of_a_torn_zip_file_are_no_errors(field, tmp_path):
    path = tmp_path / "a.npz"
    sealed.write(path, {"values": np.arange(5.0)})
    content = bytearray(path.read_bytes())
    # The same field of the local and of the central directory's entry.
    for signature, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        content[content.index(signature) + field + shift] ^= 1
    path.write_bytes(content)
    assert sealed.read(path) is None
