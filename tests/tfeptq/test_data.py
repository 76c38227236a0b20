"""Calibration data in all its forms, and what is wrong with it said in one line."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfeptq.data import load_npz, take_labels, take_samples

SHAPE = (5, 7, 3)
IMAGES = np.arange(40 * 105, dtype="float32").reshape(40, *SHAPE)


@pytest.fixture
def inputs():
    return [keras.Input(SHAPE, name="image")]


@pytest.fixture
def two_inputs(inputs):
    return [*inputs, keras.Input((4,), name="extra")]


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return IMAGES[8 * index : 8 * index + 8], np.zeros(8)


FORMS = {
    "array": lambda: IMAGES[:24],
    "list of one array": lambda: [IMAGES[:24]],
    "dict": lambda: {"image": IMAGES[:24]},
    "PyDataset": Batches,
    "tf.data": lambda: tf.data.Dataset.from_tensor_slices(IMAGES).batch(8),
    "tf.data with labels": lambda: tf.data.Dataset.from_tensor_slices((IMAGES, np.zeros(40))).batch(
        8
    ),
    "generator": lambda: (IMAGES[8 * index : 8 * index + 8] for index in range(5)),
    "generator of lists": lambda: ([IMAGES[8 * i : 8 * i + 8]] for i in range(5)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_samples(inputs, form):
    (samples,) = take_samples(FORMS[form](), inputs, samples=24, seed=0)
    assert samples.dtype == np.float32
    np.testing.assert_array_equal(samples, IMAGES[:24])


def test_integers_become_float32(inputs):
    (samples,) = take_samples(IMAGES.astype(np.uint8), inputs, samples=40, seed=0)
    assert samples.dtype == np.float32


def test_arrays_with_more_samples_are_chosen_from_with_a_seed(inputs):
    first, again, other = (
        take_samples(IMAGES, inputs, samples=11, seed=seed)[0] for seed in (1, 1, 2)
    )
    assert len(first) == 11
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("form", ["array", "PyDataset", "list of one array"])
def test_labels_stay_with_their_samples(inputs, form):
    images = [IMAGES] if form.startswith("list") else IMAGES if form == "array" else Batches()
    labels = IMAGES[:, 0, 0, 0]
    (samples,) = take_samples(images, inputs, samples=11, seed=3)
    taken = take_labels(labels, images, inputs, samples=11, seed=3)
    np.testing.assert_array_equal(samples[:, 0, 0, 0], taken)


@pytest.mark.parametrize("labels", [None, "cat", ["cat"] * 40, np.zeros(41)])
def test_labels_that_do_not_fit_are_refused(inputs, labels):
    with pytest.raises(ValueError, match="labels"):
        take_labels(labels, IMAGES, inputs, samples=11, seed=3)


def test_reading_stops_when_there_are_enough(inputs):
    def endless():
        while True:
            yield IMAGES[:8]

    assert len(take_samples(endless(), inputs, samples=20, seed=0)[0]) == 20


def test_several_inputs_stay_aligned(two_inputs):
    extra = IMAGES[:, 0, 0, :1] * np.ones(4, "float32")
    for data in ((IMAGES, extra), {"extra": extra, "image": IMAGES}):
        images, others = take_samples(data, two_inputs, samples=7, seed=3)
        np.testing.assert_array_equal(images[:, 0, 0, 0], others[:, 0])


def test_batches_of_two_inputs_with_labels(two_inputs):
    batch = ((IMAGES[:8], np.zeros((8, 4))), np.zeros(8))
    images, others = take_samples(iter([batch]), two_inputs, samples=8, seed=0)
    assert images.shape == (8, *SHAPE)
    assert others.shape == (8, 4)


def test_a_flat_pair_is_two_inputs_where_the_model_has_two(two_inputs):
    batch = (IMAGES[:8], np.ones((8, 4)))
    _, others = take_samples(iter([batch]), two_inputs, samples=8, seed=0)
    np.testing.assert_array_equal(others, np.ones((8, 4)))


def test_inputs_of_unequal_length_are_refused(two_inputs):
    with pytest.raises(ValueError, match=r"unequal numbers of samples: \[39, 40\]"):
        take_samples((IMAGES, np.ones((39, 4))), two_inputs, samples=8, seed=0)


def test_fewer_samples_warn_with_the_number_used(inputs):
    with pytest.warns(UserWarning, match="holds 40 samples, 100 were asked for: 40 are used"):
        take_samples(IMAGES, inputs, samples=100, seed=0)


BAD = {
    "wrong shape": (np.zeros((4, 7, 5, 3)), r"'image' has shape \(4, 7, 5, 3\); expected"),
    "text": (np.array(["a", "b"]), "dtype"),
    "complex": (np.zeros((4, *SHAPE), complex), "dtype complex128"),
    "empty": (np.zeros((0, *SHAPE)), "'image' is empty"),
    "NaN": (np.full((4, *SHAPE), np.nan), "NaN"),
    "infinity": (np.full((4, *SHAPE), np.inf), "infinity"),
    "no batch": (iter([]), "yields no batch"),
    "number": (3, "calibration is a int"),
    "samples without batches": (iter(IMAGES), r"shape \(5, 7, 3\); expected \(samples, 5, 7, 3\)"),
    "inputs and labels": ((IMAGES, np.zeros(40)), "2 unequal parts.*'image'.*without labels"),
    "missing input": ({"picture": IMAGES}, r"lacks the inputs \['image'\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_get_one_clear_error(inputs, name):
    data, message = BAD[name]
    with pytest.raises(ValueError, match=message) as refusal:
        take_samples(data, inputs, samples=4, seed=0)
    assert "\n" not in str(refusal.value)


def test_npz_keys(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, y=np.arange(3), images=IMAGES[:3], other=IMAGES[3:6])
    images, labels = load_npz(path)
    np.testing.assert_array_equal(images, IMAGES[:3])
    np.testing.assert_array_equal(labels, np.arange(3))
    np.testing.assert_array_equal(load_npz(path, input_key="other")[0], IMAGES[3:6])


def test_npz_errors_name_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.npz: no such file"):
        load_npz(tmp_path / "absent.npz")
    np.savez(tmp_path / "d.npz", y=np.arange(3))
    with pytest.raises(ValueError, match="no array of inputs"):
        load_npz(tmp_path / "d.npz")
    with pytest.raises(ValueError, match=r"no array \['z'\]"):
        load_npz(tmp_path / "d.npz", input_key="z")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 nonsense")
    with pytest.raises(ValueError, match=r"bad\.npz: not an \.npz file"):
        load_npz(tmp_path / "bad.npz")
    np.save(tmp_path / "bare.npy", IMAGES)
    with pytest.raises(ValueError, match=r"bare\.npy: one bare array"):
        load_npz(tmp_path / "bare.npy")
    np.savez(tmp_path / "pickled.npz", np.array([{}]))
    with pytest.raises(ValueError, match=r"pickled\.npz: array 'arr_0' cannot be read"):
        load_npz(tmp_path / "pickled.npz")


def test_a_damaged_npz_is_refused_by_name(tmp_path):
    path = tmp_path / "d.npz"
    np.savez_compressed(path, images=IMAGES)
    content = bytearray(path.read_bytes())
    content[200:240] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"d\.npz: array 'images' cannot be read"):
        load_npz(path)
