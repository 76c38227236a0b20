"""Graphs of all forms: shared layers, nested models, several inputs and outputs, names."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers as L
from keras import ops

from tests.tfeptq.preparation.canonical_check import C, H, N, W, check, image_model, randomize
from tfeptq.preparation import prepare


def test_an_output_in_the_middle_keeps_its_value():
    inputs = keras.Input((H, W, C))
    middle = L.Conv2D(N, 3)(inputs)
    check(randomize(keras.Model(inputs, [middle, L.BatchNormalization()(middle)])))


def test_shared_layers_stay_shared_and_do_not_fold():
    left, right = keras.Input((H, W, C)), keras.Input((H, W, C))
    shared = L.Conv2D(N, 3, name="shared")
    first = L.BatchNormalization()(shared(left))
    model = randomize(keras.Model([left, right], [first, shared(right)]))
    canonical = check(model)
    assert sum(isinstance(layer, L.Conv2D) for layer in canonical.layers) == 1


def test_nested_models_are_flattened_and_shared():
    inner = keras.Sequential([keras.Input((H, W, C)), L.Conv2D(C, 3, padding="same", name="conv")])
    inputs = keras.Input((H, W, C))
    outputs = L.Conv2D(C, 1, name="conv")(inner(inner(inputs)))
    canonical = check(randomize(keras.Model(inputs, outputs)))
    assert sum(isinstance(layer, L.Conv2D) for layer in canonical.layers) == 2


def test_sequential_models_and_several_outputs_keep_order():
    inputs = {"b": keras.Input((W,), name="b"), "a": keras.Input((N,), name="a")}
    outputs = [L.Dense(3, name="one")(inputs["b"]), L.Dense(2, name="two")(inputs["a"])]
    canonical = prepare(randomize(keras.Model(list(inputs.values()), outputs)))
    assert [tensor.shape[-1] for tensor in canonical.inputs] == [W, N]
    assert [tensor.shape[-1] for tensor in canonical.outputs] == [3, 2]


def test_the_original_is_untouched():
    model = image_model(L.Conv2D(N, 3), L.BatchNormalization(), L.ReLU(), L.Dense(2))
    weights = [array.copy() for array in model.get_weights()]
    config = model.get_config()
    prepare(model)
    assert model.get_config() == config
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_residual_sequences_need_reshapes_at_their_ends_only():
    inputs = keras.Input((11, C))
    trunk = L.Conv1D(N, 3, padding="causal")(inputs)
    for dilation in (1, 2):
        branch = L.Conv1D(N, 3, padding="causal", dilation_rate=dilation)(trunk)
        trunk = L.Add()([trunk, L.ReLU()(L.BatchNormalization()(branch))])
    canonical = check(randomize(keras.Model(inputs, L.GlobalMaxPooling1D()(trunk))))
    assert sum(isinstance(layer, L.Reshape) for layer in canonical.layers) == 2


def test_reshapes_before_a_broadcasting_merge_stay():
    inputs = keras.Input((N,))
    check(keras.Model(inputs, L.Reshape((N, 1))(inputs) + L.Reshape((1, N))(inputs)))


def test_a_nested_model_may_be_the_last_layer():
    inner = keras.Model(
        one := keras.Input((W,)), [L.Dense(3, name="left")(one), L.Dense(2, name="right")(one)]
    )
    inputs = keras.Input((W,))
    check(randomize(keras.Model(inputs, inner(inputs))))


def test_dictionaries_of_a_nested_model_meet_their_names():
    first, second = keras.Input((C,), name="a"), keras.Input((C,), name="b")
    inner = keras.Model(
        {"b": second, "a": first}, {"z": L.Dense(2)(first), "y": L.Dense(4)(second)}
    )
    inputs = keras.Input((C,))
    outputs = inner({"b": inputs, "a": L.Dense(C)(inputs)})
    check(randomize(keras.Model(inputs, [outputs["z"], outputs["y"]])))


def test_dictionaries_keep_the_order_of_keras():
    inputs = {"b": keras.Input((W,), name="b"), "a": keras.Input((N,), name="a")}
    outputs = {"two": L.Dense(3)(inputs["b"]), "one": L.Dense(2)(inputs["a"])}
    model = randomize(keras.Model(inputs, outputs))
    canonical = prepare(model)
    assert [tensor.name for tensor in canonical.inputs] == [tensor.name for tensor in model.inputs]
    values = {name: np.ones((2, tensor.shape[1]), "float32") for name, tensor in inputs.items()}
    expected = model(values)
    found = canonical([values[tensor.name] for tensor in canonical.inputs])
    assert set(found) == {"one", "two"}
    for name in expected:
        np.testing.assert_allclose(expected[name], found[name], rtol=1e-5)


def test_nested_outputs_keep_their_structure():
    inputs = keras.Input((W,))
    leaves = [L.Dense(units)(inputs) for units in (1, 2, 3, 4)]
    structure = [leaves[0], {"b": leaves[1], "a": [leaves[2]]}, (leaves[3],)]
    canonical = check(randomize(keras.Model(inputs, structure)))
    made = canonical(np.ones((2, W), "float32"))
    shapes = keras.tree.map_structure(lambda tensor: tuple(tensor.shape), made)
    assert str(shapes) == "[(2, 1), {'b': (2, 2), 'a': [(2, 3)]}, ((2, 4),)]"


def test_calls_of_a_layer_in_other_models_do_not_count():
    shared = L.Conv2D(C, 3, padding="same")
    elsewhere = keras.Input((H, W, C))
    keras.Model(elsewhere, shared(elsewhere))
    inputs = keras.Input((H, W, C))
    check(randomize(keras.Model(inputs, shared(L.ReLU()(shared(inputs))))))


def test_a_part_of_a_model_converts_alone():
    inputs = keras.Input((H, W, C))
    middle = L.Conv2D(N, 3, activation="relu")(inputs)
    randomize(keras.Model(inputs, L.Dense(2)(L.Flatten()(middle))))
    check(keras.Model(inputs, middle))


def test_inputs_may_be_outputs_and_outputs_may_repeat():
    inputs = keras.Input((W,))
    output = L.Dense(3)(inputs)
    check(randomize(keras.Model(inputs, [output, L.Dropout(0.5)(inputs), output])))


def test_clashing_names_keep_the_outermost_and_prefix_the_nested():
    inner = keras.Sequential(
        [keras.Input((W,)), L.Dense(C, activation="relu", name="dense")], name="inner"
    )
    inputs = keras.Input((W,))
    canonical = check(randomize(keras.Model(inputs, L.Dense(2, name="dense")(inner(inputs)))))
    weighted = [layer.name for layer in canonical.layers if isinstance(layer, L.Dense)]
    assert weighted == ["inner_dense", "dense"]


def test_the_name_of_an_activation_gives_way_to_a_layer():
    inputs = keras.Input((W,))
    hidden = L.Dense(C, activation="relu", name="one")(inputs)
    canonical = check(randomize(keras.Model(inputs, L.Dense(2, name="one_relu")(hidden))))
    assert isinstance(canonical.get_layer("one_relu"), L.Dense)


def test_training_arguments_do_not_matter_to_inference():
    inputs = keras.Input((H, W, C))
    normalized = L.BatchNormalization()(inputs, training=True)
    check(randomize(keras.Model(inputs, L.Dropout(0.5)(normalized, training=True))))


def test_models_with_a_training_step_of_their_own_convert():
    class Trained(keras.Model):
        def train_step(self, data):
            return {}

    inputs = keras.Input((W,))
    check(randomize(Trained(inputs, L.Dense(2)(inputs))))


def test_integer_inputs_and_a_fixed_batch_become_float_and_free():
    inputs = keras.Input(batch_shape=(2, H, W, C), dtype="uint8")
    outputs = ops.reshape(L.Rescaling(1 / 127.5, -1.0)(inputs), (2, -1))
    model = keras.Model(inputs, outputs)
    canonical = prepare(model)
    pixels = np.random.default_rng(0).integers(0, 256, (2, H, W, C))
    expected = np.asarray(model(pixels.astype("uint8")))
    np.testing.assert_allclose(canonical(pixels.astype("float32")), expected, atol=1e-6)
