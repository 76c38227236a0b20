"""Where a model ends that is asked to end elsewhere."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L

import tfeptq
import tflite_export
from tfeptq.preparation import as_functional

NEAREST = {"rounding": "nearest", "threshold": "mse", "samples": 32}
IMAGES = np.random.default_rng(0).normal(size=(40, 8, 8, 3)).astype("float32")


def detector() -> keras.Model:
    """One head on two scales; boxes in pixels beside probabilities, joined over both."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3), name="image")
    fine = L.Conv2D(6, 3, padding="same", activation="relu", name="fine")(inputs)
    coarse = L.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="coarse")(fine)
    boxes, scores = L.Conv2D(4, 1, name="boxes"), L.Conv2D(3, 1, name="scores")
    levels = []
    for features in (fine, coarse):
        box = L.Rescaling(100.0)(boxes(features))
        score = L.Activation("sigmoid")(scores(features))
        levels.append(L.Reshape((-1, 7))(L.Concatenate()([box, score])))
    return keras.Model(inputs, L.Concatenate(axis=1, name="all")(levels))


def test_named_layers_give_an_output_for_every_call():
    model = detector()
    found = as_functional(model, outputs=("scores", "coarse"))
    assert [tuple(tensor.shape[1:]) for tensor in found.outputs] == [
        (4, 4, 3),
        (8, 8, 3),
        (4, 4, 6),
    ]
    assert [tensor.name for tensor in found.inputs] == ["image"]
    _, first, last = found.predict(IMAGES, verbose=0)
    whole = model.predict(IMAGES, verbose=0)[:, :64, 4:]
    np.testing.assert_allclose(1 / (1 + np.exp(-first.reshape(40, 64, 3))), whole, atol=1e-6)
    expected = keras.Model(model.inputs, model.get_layer("coarse").output)
    np.testing.assert_array_equal(last, expected.predict(IMAGES, verbose=0))


def test_a_layer_of_two_models_is_that_of_the_model_which_is_asked():
    """`Layer.output` would be the tensor of the first."""
    layer = L.Dense(2, name="shared")
    layer(keras.Input((3,)))
    inputs = keras.Input((3,))
    model = keras.Model(inputs, L.Dense(1)(layer(L.Rescaling(2.0)(inputs))))
    found = as_functional(model, outputs=("shared",))
    rows = IMAGES[:, 0, 0]
    expected = layer(2.0 * rows).numpy()
    np.testing.assert_allclose(found.predict(rows, verbose=0), expected, rtol=1e-6)


def test_an_unknown_layer_is_refused_with_those_that_are_there():
    with pytest.raises(ValueError, match=r"no layer 'box'; it has .*fine, coarse.*boxes"):
        as_functional(detector(), outputs=("box",))


@pytest.mark.parametrize("wrong", [(), "boxes", 3, ("boxes", 1), ("boxes", "boxes")])
def test_what_is_no_list_of_names_is_refused(wrong):
    with pytest.raises(ValueError, match=r"outputs=.*name"):
        tfeptq.QuantizationConfig(outputs=wrong)


def joined() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    boxes = L.Rescaling(100.0, name="pixels")(L.Conv2D(4, 1, name="boxes")(inputs))
    angle = L.Conv2D(1, 1, name="angle")(inputs)
    scores = L.Activation("sigmoid", name="scores")(L.Conv2D(3, 1)(inputs))
    inner = keras.ops.concatenate([boxes, angle], axis=3)
    return keras.Model(inputs, [L.Concatenate(name="all")([inner, scores]), angle])


def test_parts_have_scales_of_their_own(tmp_path):
    model = joined()
    found = as_functional(model, outputs="parts")
    assert [tensor.shape[-1] for tensor in found.outputs] == [4, 1, 3, 1]
    with pytest.warns(UserWarning, match=r"outputs='parts' leaves them apart"):
        tfeptq.quantize(model, IMAGES, tfeptq.QuantizationConfig(**NEAREST))
    config = tfeptq.QuantizationConfig(**NEAREST, outputs="parts")
    quantized = tfeptq.quantize(model, IMAGES, config)
    assert quantized.report.warnings == []
    path = tmp_path / "m.tflite"
    tflite_export.export(quantized, path)
    wanted, parts = model.predict(IMAGES, verbose=0)[0], tflite_export.run(path, IMAGES)
    together = np.concatenate(parts[:3], axis=-1)
    # In one scale for all, scores from 0 to 1 would have one code or two.
    error = np.sqrt(np.mean(np.square(together - wanted), axis=(0, 1, 2)))
    assert (error < 0.05 * np.std(wanted, axis=(0, 1, 2))).all()


def test_a_model_that_joins_nothing_stays_as_it_is():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, L.Concatenate(axis=1)([L.Conv2D(2, 1)(inputs)] * 2))
    assert as_functional(model, outputs="parts") is model


def test_a_metric_sees_the_outputs_that_were_asked_for():
    seen = []

    def metric(model: keras.Model) -> float:
        found = model.predict(IMAGES[:4], verbose=0)
        seen.append([each.shape[1:] for each in found])
        return 1.0

    config = tfeptq.QuantizationConfig(
        weight_bits=(4, 8),
        outputs=("boxes", "angle"),
        accuracy_target=tfeptq.AccuracyTarget(metric, relative=0.9),
        sensitivity="label_free",
        **NEAREST,
    )
    tfeptq.quantize(joined(), IMAGES, config)
    assert {tuple(shapes) for shapes in seen} == {((8, 8, 4), (8, 8, 1))}


def test_what_belongs_to_other_outputs_is_refused():
    config = tfeptq.QuantizationConfig(
        weight_bits=(4, 8),
        outputs=("boxes",),
        sensitivity="hawq_v2",
        budget=tfeptq.Budget(weight_bytes=100),
    )
    with pytest.raises(ValueError, match=r"labels are for.*outputs=.*leave one of them out"):
        tfeptq.quantize(joined(), IMAGES, config, labels=np.zeros(40))
    with pytest.raises(ValueError, match=r"validation_data.*outputs=.*leave one of them out"):
        tfeptq.QuantizationCallback(IMAGES, config, validation_data=(IMAGES, IMAGES))
