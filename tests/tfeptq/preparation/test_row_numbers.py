"""Numbers of rows that are parts of an input, or have whole constants added: tabular models."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import tfeptq
import tflite_export
from tests.tfeptq.preparation.canonical_check import randomize
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.canonical.lookup_layer import Lookup
from tfeptq.preparation import UnsupportedLayerError, prepare, prove
from tfeptq.preparation.lookups import require_rows

COLUMNS, SIZES = 3, (7, 20, 11)
OFFSETS = np.array([0, 7, 27], "int32")
#: A number of rows a column, of each column another count.
NUMBERS = np.random.default_rng(0).integers(1, SIZES, (41, COLUMNS)).astype("int32")


def rows(count: int = 38, **options) -> keras.Layer:
    return L.Embedding(count, 4, **options)


def _columns(ids):
    return L.Concatenate()([rows(SIZES[k])(ids[:, k]) for k in range(COLUMNS)])


def _split(ids):
    parts = ops.split(ids, COLUMNS, axis=1)
    return L.Flatten()(L.Concatenate()([rows(n)(p) for n, p in zip(SIZES, parts, strict=True)]))


MAKERS = {
    "columns": _columns,
    "split": _split,
    "range": lambda ids: L.Flatten()(rows()(ids[:, 1:3])),
    "backwards": lambda ids: L.Flatten()(rows()(ids[:, ::-1])),
    "taken": lambda ids: L.Flatten()(rows()(ops.take(ids, [2, 0], axis=1))),
    "one taken": lambda ids: ops.one_hot(ops.take(ids, 2, axis=1), SIZES[2]),
    "expanded": lambda ids: L.Flatten()(rows()(ops.expand_dims(ids[:, 1], -1))),
    "reshaped": lambda ids: L.Flatten()(rows()(L.Reshape((COLUMNS, 1))(ids))),
    "squeezed": lambda ids: L.Flatten()(rows()(ops.squeeze(L.Reshape((COLUMNS, 1))(ids), 2))),
    "turned": lambda ids: L.Flatten()(
        ops.one_hot(ops.transpose(L.Reshape((COLUMNS, 1))(ids), (0, 2, 1)), 20)
    ),
    "one table": lambda ids: L.Flatten()(rows()(ids + OFFSETS)),
    "one table, then columns": lambda ids: rows()((ids + OFFSETS)[:, 1]),
    "from 1 on": lambda ids: L.Flatten()(rows()(ids - 1)),
    "below the first": lambda ids: L.Flatten()(rows()(ids - 3)),
    "none of the classes": lambda ids: L.Flatten()(ops.one_hot(ids - 3, 20)),
    "some are masked": lambda ids: L.GlobalAveragePooling1D()(rows(mask_zero=True)(ids[:, 1:])),
}


def made(maker: str, dtype: str = "int32") -> keras.Model:
    ids = keras.Input((COLUMNS,), dtype=dtype, name="ids")
    return randomize(keras.Model(ids, L.Dense(3, name="last")(MAKERS[maker](ids))))


@pytest.mark.parametrize("maker", MAKERS)
def test_they_are_moved_and_counted_as_in_keras(maker):
    model = made(maker)
    prove(model, prepare(model), [NUMBERS])


@pytest.mark.parametrize("maker", ["columns", "one table", "from 1 on", "some are masked"])
def test_so_are_whole_numbers_in_floating_point(maker):
    model = made(maker, "float32")
    prove(model, prepare(model), [NUMBERS])


@pytest.mark.parametrize("target", ["android", "microcontroller", "ethos-u"])
@pytest.mark.parametrize("maker", ["columns", "taken", "one table", "some are masked"])
def test_files_hold_them_as_they_are(maker, target, tmp_path):
    if target != "android":
        pytest.importorskip("tflite_micro", reason="extra 'microcontroller' is missing")
    model, path = made(maker), tmp_path / "m.tflite"
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=41, target=target)
    quantized = tfeptq.quantize(model, NUMBERS, config, verbose=0)
    result = tflite_export.export(quantized, path)
    assert all(report.skipped is None for report in result.verification.runtimes)
    found = tflite_export.run(path, NUMBERS, runtime="reference")
    assert np.abs(quantized.predict(NUMBERS, verbose=0) - found).max() < 1e-5
    wanted = model.predict(NUMBERS, verbose=0)
    assert 10 * np.log10(wanted.var() / np.mean((found - wanted) ** 2)) > 25.0
    tensors = {tensor.name: tensor.type for tensor in tflite_export.inspect(path).tensors}
    assert tensors["ids"] == "int32"
    numbers = [name for name, kind in tensors.items() if kind == "int32" and "bias" not in name]
    assert len(numbers) > 1


def test_one_table_is_held_once_and_saved(tmp_path):
    config = tfeptq.QuantizationConfig(
        weight_bits=(4, 8),
        activation_bits=(8, 16),
        rounding="nearest",
        samples=41,
        first_last_bits=None,
        budget=tfeptq.Budget(activation_bytes=200),
    )
    quantized = tfeptq.quantize(made("one table"), NUMBERS, config, verbose=0)
    quantized.save(tmp_path / "m.keras")
    loaded = tfeptq.load_model(tmp_path / "m.keras")
    left, right = (
        tflite_export.export(model, tmp_path / f"{name}.tflite")
        for name, model in (("left", quantized), ("right", loaded))
    )
    assert left.path.read_bytes() == right.path.read_bytes()
    stored = tflite_export.inspect(left.path).tensors
    assert [tensor.shape for tensor in stored if tensor.shape[-1:] == (4,)].count((38, 4)) == 1


def test_numbers_of_one_distance_are_rows_of_a_shorter_table():
    ids = keras.Input((COLUMNS,), dtype="int32")
    calls = LayerGraph.of(prepare(keras.Model(ids, rows()(ids + 5)))).calls
    (layer,) = (call.layer for call in calls if isinstance(call.layer, Lookup))
    assert (layer.rows, layer.added.any()) == (33, False)


def test_samples_beyond_the_table_of_their_column_are_refused():
    canonical = prepare(made("columns"))
    with pytest.raises(ValueError, match=r"input 'ids' holds 11; .* whole numbers from 0 to 10"):
        require_rows(canonical, [np.array([[1, 2, 11]])])
    canonical = prepare(made("one table"))
    require_rows(canonical, [np.array([[37, 30, 10]])])
    with pytest.raises(ValueError, match=r"holds 31; .* whole numbers from -7 to 30"):
        require_rows(canonical, [np.array([[1, 31, 3]])])


def test_what_is_computed_otherwise_is_refused():
    ids = keras.Input((COLUMNS,), dtype="int32")
    for computed in (2 * ids, ids + ids, ops.maximum(ids, 1)):
        with pytest.raises(UnsupportedLayerError, match="sums with whole constants, are taken"):
            prepare(keras.Model(ids, rows()(computed)))


def test_values_beside_numbers_of_rows_need_an_input_of_their_own():
    features = keras.Input((COLUMNS,), name="features")
    joined = L.Concatenate(name="join")([rows()(features[:, 0]), features[:, 1:]])
    with pytest.raises(ValueError, match=r"layer 'join' \(Concatenate\) reads the values of an"):
        prepare(keras.Model(features, L.Dense(2)(joined)))


def test_a_target_without_tables_refuses_them():
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=41, target="coral")
    with pytest.raises(ValueError, match="not int32, but with int32 on android"):
        tfeptq.quantize(made("columns"), NUMBERS, config, verbose=0)
