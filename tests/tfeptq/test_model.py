"""The quantized model: what it learns by, what it reports, and that nobody sets flags on it."""

from __future__ import annotations

import ast
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfeptq
from tests.tfeptq import small_models
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.preparation import prepare
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.rounding.training_step import Distillation

CONFIG = tfeptq.QuantizationConfig(
    weight_bits=4, rounding="nearest", samples=16, target="microcontroller"
)


@pytest.fixture(scope="module")
def model():
    return small_models.residual_network()


@pytest.fixture(scope="module")
def quantized(model):
    """No test depends on what another has trained."""
    return tfeptq.quantize(model, small_models.images(16), CONFIG)


def test_called_on_symbols_it_gives_what_the_float_model_gives(model, quantized):
    inputs = keras.Input(model.inputs[0].shape[1:])
    ends = keras.Model(inputs, keras.layers.Dense(2)(quantized(inputs)))
    images = small_models.images(4)
    expected = ends.layers[-1](quantized.predict(images, verbose=0))
    # Sums of float32 in a compiled and in an eager product.
    np.testing.assert_allclose(ends.predict(images, verbose=0), expected, rtol=1e-6, atol=1e-6)


class Counting:
    """The least that a model can learn by."""

    def __init__(self):
        self.batches = tf.Variable(0)

    def train_step(self, model, data):
        self.batches.assign_add(1)
        variables = model.trainable_variables
        model.optimizer.apply([variable.value * 0.0 for variable in variables], variables)
        return {"mine": tf.reduce_mean(data)}


def test_it_learns_by_whatever_is_attached_and_then_by_labels_again(quantized):
    images, step = small_models.images(16), Counting()
    before = quantized.get_weights()
    quantized.attach(step)
    quantized.compile("sgd")
    history = quantized.fit(images, batch_size=4, verbose=0).history
    assert list(history) == ["mine"]
    assert int(step.batches) == 4
    for left, right in zip(quantized.get_weights(), before, strict=True):
        np.testing.assert_array_equal(left, right)
    quantized.attach(None)
    quantized.compile("sgd", loss="mse")
    labels = quantized.predict(images, verbose=0) + 1.0
    assert list(quantized.fit(images, labels, verbose=0).history) == ["loss"]
    assert int(step.batches) == 4


def test_results_hang_on_the_report_and_have_their_old_names(quantized):
    report = quantized.report
    assert report.config == CONFIG
    assert {"prepare", "calibrate", "thresholds", "quality"} <= set(report.seconds)
    assert quantized.quantization_config is report.config
    assert quantized.stage_seconds is report.seconds
    assert quantized.choice is report.choice is None
    assert quantized.accuracy_search is report.search is None
    for name in ("quantization_config", "choice", "accuracy_search", "stage_seconds"):
        with pytest.raises(AttributeError):
            setattr(quantized, name, object())


def test_copies_know_their_target_and_start_with_an_empty_report(quantized, tmp_path):
    quantized.save(tmp_path / "m.keras")
    for copy in (
        tfeptq.QuantizedModel.from_config(quantized.get_config()),
        tfeptq.load_model(tmp_path / "m.keras"),
    ):
        assert copy.target == "microcontroller"
        assert copy.report.config is None
        assert not copy.report.seconds
    old = quantized.get_config()
    del old["target"]
    assert tfeptq.QuantizedModel.from_config(old).target is None


def test_training_runs_other_calls_of_the_same_layers(model, quantized):
    """The options travel with the calls: the model itself predicts as ever in the meantime."""
    images, graph = small_models.images(16), LayerGraph.of(quantized)
    attention = [np.ones((16, 1), "float32") for _ in quantized.weighted_layers]
    before = quantized(images).numpy()
    canonical = prepare(model)
    distillation = Distillation(quantized, canonical, attention, CONFIG)
    calls = distillation._student.calls
    left = {call.output for call in graph.calls} - {call.output for call in calls}
    assert all(isinstance(quantized.get_layer(name), keras.layers.ReLU) for name, _ in left)
    plain_calls = [call for call in graph.calls if call.output not in left]
    assert [call.output for call in calls] == [call.output for call in plain_calls]
    for call, plain in zip(calls, plain_calls, strict=True):
        assert call.layer is plain.layer
        fuses = isinstance(call.layer, ActivationQuantizer)
        assert call.options.get("is_fused", False) is fuses
        assert not plain.options.get("is_fused", False)
    np.testing.assert_array_equal(quantized(images).numpy(), before)


def test_what_is_learned_is_asked_of_the_layers(quantized):
    layer = quantized.weighted_layers[0]
    for scales, biases in ((True, False), (False, True)):
        layer.set_learned(scales=scales, biases=biases)
        names = [variable.name for variable in layer.trainable_variables]
        assert names == ["rounding", *["log_scale"] * scales, *["bias_offset"] * biases]


PACKAGE = Path(tfeptq.__file__).parent
#: Where attributes of other objects are set, and of which: none is a Keras layer or model.
OTHERS = {
    "callbacks/quantization.py: copied": "a copy of itself",
    "canonical/walk.py": "a copy of itself",
    "cli/": "the module of warnings",
    "model.py: model.target": "a class method",
    "model.py: model.asked_outputs": "a class method",
    "pipeline.py: report": "the report",
    "pipeline.py: quantized.report": "the report",
    "recipe.py: report": "the report",
    "rounding/batches.py: options": "TensorFlow's own, which are set in this way",
    "rounding/distillation.py: quantized.report": "the report",
    "plan/": "what is being planned",
    "preparation/": "nodes of its own graph, and the operators of variables while it traces",
    "progress.py: Bar": "which bar is shown, of its own class",
    "report/": "sections that are being written",
}


def assigned(node):
    """Expressions that a statement assigns to."""
    if isinstance(node, ast.Assign):
        return node.targets
    if isinstance(node, (ast.AugAssign, ast.AnnAssign, ast.For)):
        return [node.target]
    return [node.optional_vars] if isinstance(node, ast.withitem) and node.optional_vars else []


def attributes_set(path):
    """`file: object.attribute` of everything that is not set on `self`."""
    name = path.relative_to(PACKAGE).as_posix()
    for node in ast.walk(ast.parse(path.read_text())):
        for part in (part for target in assigned(node) for part in ast.walk(target)):
            is_attribute = isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store)
            if is_attribute and not ast.unparse(part).startswith(("self.", "cls.")):
                yield f"{name}: {ast.unparse(part)}"
        if isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            is_own = function == "object.__setattr__" and ast.unparse(node.args[0]) == "self"
            if function.endswith(("setattr", "__setattr__", "delattr")) and not is_own:
                yield f"{name}: {ast.unparse(node)}"


def test_nobody_sets_attributes_of_layers_and_models():
    found = {place for path in PACKAGE.rglob("*.py") for place in attributes_set(path)}
    assert any(place.startswith("pipeline.py: report.") for place in found)
    unknown = sorted(place for place in found if not place.startswith(tuple(OTHERS)))
    assert not unknown, f"{unknown}: make it an argument, or state with a method of its class"
