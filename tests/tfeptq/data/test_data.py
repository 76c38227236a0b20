"""Calibration data in all its forms, and what is wrong with it said in one line."""

from __future__ import annotations

import itertools
import pathlib
import tracemalloc
import warnings

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.tfeptq.batches import Batches
from tfeptq.data.samples import ENDLESS_FACTOR, load_npz, take, take_samples

SHAPE = (5, 7, 3)
IMAGES = np.arange(40 * 105, dtype="float32").reshape(40, *SHAPE)


@pytest.fixture
def inputs():
    return [keras.Input(SHAPE, name="image")]


@pytest.fixture
def two_inputs(inputs):
    return [*inputs, keras.Input((4,), name="extra")]


def batches():
    return Batches([(IMAGES[begin : begin + 8], np.zeros(8)) for begin in range(0, 40, 8)])


FORMS = {
    "array": lambda: IMAGES,
    "list of one array": lambda: [IMAGES],
    "dict": lambda: {"image": IMAGES},
    "PyDataset": batches,
    "tf.data": lambda: tf.data.Dataset.from_tensor_slices(IMAGES).batch(8),
    "tf.data with labels": lambda: tf.data.Dataset.from_tensor_slices((IMAGES, np.zeros(40))).batch(
        8
    ),
    "generator": lambda: (IMAGES[8 * index : 8 * index + 8] for index in range(5)),
    "generator of lists": lambda: ([IMAGES[8 * i : 8 * i + 8]] for i in range(5)),
    "generator backwards": lambda: (IMAGES[8 * i : 8 * i + 8][::-1] for i in (4, 3, 2, 1, 0)),
    "tf.data of unknown length": lambda: (
        tf.data.Dataset.from_tensor_slices(IMAGES).filter(lambda _: True).batch(7)
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_samples(inputs, form):
    (samples,) = take_samples(FORMS[form](), inputs, samples=24, seed=0)
    assert samples.dtype == np.float32
    (expected,) = take_samples(IMAGES.astype(np.float64), inputs, samples=24, seed=0)
    np.testing.assert_array_equal(samples, expected)
    numbers = (samples[:, 0, 0, 0] / 105).astype(int)
    assert sorted(set(numbers)) != sorted(range(24))
    assert len(set(numbers)) == 24


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
    images = [IMAGES] if form.startswith("list") else IMAGES if form == "array" else batches()
    labels = IMAGES[:, 0, 0, 0]
    (samples,) = take_samples(images, inputs, samples=11, seed=3)
    taken = take(images, inputs, samples=11, seed=3, labels=labels)
    np.testing.assert_array_equal(samples, taken.arrays[0])
    np.testing.assert_array_equal(samples[:, 0, 0, 0], taken.labels)


@pytest.mark.parametrize("labels", ["cat", ["cat"] * 40, np.zeros(41), np.zeros(39), [[1], [2, 3]]])
@pytest.mark.parametrize("form", ["array", "PyDataset", "generator"])
def test_labels_that_do_not_fit_are_refused(inputs, labels, form):
    with pytest.raises(ValueError, match="labels") as refusal:
        take(FORMS[form](), inputs, samples=11, seed=3, labels=labels)
    assert "\n" not in str(refusal.value)


def endless(data: np.ndarray, read: list[int]):
    generator = np.random.default_rng(0)
    while True:
        for begin in range(0, len(data), 8):
            read.append(1)
            yield generator.permutation(data)[:8] if begin else data[:8]


def test_what_does_not_end_is_read_up_to_a_bound_that_the_user_is_told(inputs):
    read = []
    taken = take(endless(IMAGES, read), inputs, samples=20, seed=0, labels=np.arange(400))
    assert len(read) * 8 == ENDLESS_FACTOR * 20
    (note,) = taken.notes
    assert "20 samples were chosen among the first 320" in note
    # Repetitions are no samples of their own while there are others.
    assert len(np.unique(taken.arrays[0], axis=0)) == 20
    assert len(taken.labels) == 20
    ended = take(FORMS["generator"](), inputs, samples=20, seed=0)
    assert ended.notes == ()


def test_an_endless_stream_of_few_samples_repeats_them(inputs):
    forever = tf.data.Dataset.from_tensor_slices(IMAGES[:7]).repeat().batch(3)
    (samples,) = take_samples(forever, inputs, samples=20, seed=0)
    assert len(samples) == 20
    assert len(np.unique(samples, axis=0)) == 7


def test_equal_samples_count_as_often_as_they_are_given(inputs):
    """Half of the data are one image: so is about half of a choice, and of the beginning of it."""
    data = np.concatenate([np.repeat(IMAGES[:1], 500, axis=0), np.zeros((500, *SHAPE))])
    data[500:, 0, 0, 0] = np.arange(500) + 0.5
    for form in (data, (data[begin : begin + 9] for begin in range(0, 1000, 9))):
        (samples,) = take_samples(form, inputs, samples=400, seed=0)
        is_equal = np.all(samples == IMAGES[0], axis=(1, 2, 3))
        assert 160 < is_equal.sum() < 240
        assert 15 < is_equal[:50].sum() < 35


def split(arrays, cuts):
    return list(zip(*(np.split(array, cuts) for array in arrays), strict=True))


def from_tensors(arrays, size):
    return tf.data.Dataset.from_tensor_slices(tuple(arrays)).batch(size)


@st.composite
def samples_with_labels(draw):
    """Two inputs of few values, so that samples are often equal, and labels."""
    count = draw(st.integers(1, 33))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([1, 2, 5, 1000]))
    images, extra = (
        generator.integers(0, levels, (count, *shape)).astype("float32") for shape in ((2, 1), (1,))
    )
    return [images, extra], generator.integers(0, 3, count), generator


@hypothesis.settings(max_examples=60)
@hypothesis.given(samples_with_labels(), st.integers(1, 40), st.integers(0, 3))
def test_neither_order_nor_form_change_what_is_taken(given, wanted, seed):
    arrays, labels, generator = given
    count = len(labels)
    inputs = [keras.Input((2, 1), name="a"), keras.Input((1,), name="b")]
    settings = {"samples": wanted, "seed": seed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        expected = take(tuple(arrays), inputs, labels=labels, **settings)
        assert len(expected.labels) == min(wanted, count)
        order = generator.permutation(count)
        cuts = np.unique(generator.integers(1, count, 4)) if count > 1 else []
        moved = [array[order] for array in arrays]
        forms = {
            "arrays": tuple(moved),
            "PyDataset": Batches(split(moved, cuts)),
            "tf.data": from_tensors(moved, 1 + int(generator.integers(count))),
        }
        if count < ENDLESS_FACTOR * wanted:
            forms["generator"] = iter(split(moved, cuts))
        for name, form in forms.items():
            found = take(form, inputs, labels=labels[order], **settings)
            for left, right in zip(expected.arrays, found.arrays, strict=True):
                np.testing.assert_array_equal(left, right, err_msg=name)
            np.testing.assert_array_equal(expected.labels, found.labels, err_msg=name)
            for left, right in zip(expected.held_back or (), found.held_back or (), strict=True):
                np.testing.assert_array_equal(left, right, err_msg=name)
            assert found.notes == ()


def test_a_choice_of_fewer_is_the_beginning_of_one_of_more(inputs):
    more, fewer = (take_samples(IMAGES, inputs, samples=n, seed=5)[0] for n in (30, 13))
    np.testing.assert_array_equal(more[:13], fewer)


def test_large_arrays_are_never_converted_as_a_whole(tmp_path):
    shape = (1500, 64, 64, 3)
    large = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, shape)
    large[:] = np.random.default_rng(0).integers(0, 255, (1500, 1, 1, 1))
    inputs = [keras.Input(shape[1:], name="image")]
    tracemalloc.start()
    try:
        (samples,) = take_samples(large, inputs, samples=9, seed=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert samples.shape == (9, *shape[1:])
    # As float32 they take 74 MB.
    assert peak < 30e6


def test_bad_numbers_are_refused_wherever_they_are(inputs):
    images = IMAGES.copy()
    images[17] = np.nan
    for seed in range(5):
        with pytest.raises(ValueError, match="NaN or infinity"):
            take_samples(images, inputs, samples=2, seed=seed)


@pytest.mark.parametrize("largest", [2e20, -1e30])
def test_values_that_no_kernel_computes_with_are_refused_before_any_work(inputs, largest):
    images = IMAGES.astype("float32")
    images[17, 1, 0, 0] = largest
    with pytest.raises(ValueError, match=r"reaches .*kernels compute with values up to 1.46e\+20"):
        take_samples(images, inputs, samples=2, seed=0)


def test_empty_batches_of_a_stream_are_no_batches(inputs):
    cuts = [0, 0, 3, 3, 17, len(IMAGES), len(IMAGES)]
    batches = (IMAGES[begin:end] for begin, end in itertools.pairwise(cuts))
    found = take_samples(batches, inputs, samples=len(IMAGES), seed=0)
    expected = take_samples(IMAGES, inputs, samples=len(IMAGES), seed=0)
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="yields no batch"):
        take_samples(iter([IMAGES[:0]]), inputs, samples=2, seed=0)


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


class Frame:
    """Like pandas' DataFrame."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


ALSO = {
    "list of samples": lambda: list(IMAGES),
    "nested lists": lambda: IMAGES.tolist(),
    "frame": lambda: Frame(IMAGES),
    "float16": lambda: IMAGES[:4].astype("float16"),
    "bfloat16": lambda: tf.cast(IMAGES[:4], "bfloat16"),
    "bytes": lambda: (IMAGES[:4] % 255).astype("uint8"),
    "truth values": lambda: IMAGES > 9,
    "masked nowhere": lambda: np.ma.masked_array(IMAGES, False),
}


@pytest.mark.parametrize("form", ALSO)
def test_what_holds_numbers_is_taken(inputs, form):
    (samples,) = take_samples(ALSO[form](), inputs, samples=4, seed=0)
    assert samples.dtype == np.float32
    assert samples.shape == (4, *SHAPE)


def test_tensors_that_refuse_to_be_arrays_are_named(inputs):
    class Tracked:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("Can't call numpy() on a Tensor\nthat requires grad.")

    with pytest.raises(ValueError, match="is a Tracked that is no array of numbers: Can't") as e:
        take_samples(Tracked(), inputs, samples=4, seed=0)
    assert "\n" not in str(e.value)


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
    "path": ("x.npz", "the path 'x.npz'; load its arrays"),
    "path object": (pathlib.Path("x.npz"), "the path 'x.npz'"),
    "one sample": (IMAGES[0], r"one sample needs an axis in front, array\[None\]"),
    "channels first": (IMAGES.transpose(0, 3, 1, 2), "channels are last here, numpy.moveaxis"),
    "flat": (IMAGES.reshape(40, -1), r"array\.reshape\(\(-1, 5, 7, 3\)\)"),
    "batches in an array": (IMAGES.reshape(8, 5, *SHAPE), "batches in an array"),
    "objects": (IMAGES.astype(object), "dtype object.*astype"),
    "dates": (np.zeros((4, *SHAPE), "datetime64[s]"), "dtype datetime64"),
    "masked": (np.ma.masked_array(IMAGES, IMAGES > 5), "masked values"),
    "beyond float32": (np.full((4, *SHAPE), 1e39), "float32 ends at"),
    "symbolic": (keras.Input(SHAPE), "a KerasTensor that is no array of numbers"),
    "batches of nothing": ((None for _ in range(3)), "dtype object"),
    "batches of text": (("a" for _ in range(3)), "path or text 'a'"),
    "unequal images": ([IMAGES[0], IMAGES[0, :4]], "2 unequal parts"),
    "ragged": (tf.ragged.constant([[1.0], [1.0, 2.0]]), "calibration is a RaggedTensor"),
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
    with pytest.raises(ValueError, match=r"pickled\.npz: array 'arr_0' holds Python objects"):
        load_npz(tmp_path / "pickled.npz")


def test_a_damaged_npz_is_refused_by_name(tmp_path):
    path = tmp_path / "d.npz"
    np.savez_compressed(path, images=IMAGES)
    content = bytearray(path.read_bytes())
    content[200:240] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"d\.npz: array 'images' cannot be read"):
        load_npz(path)
