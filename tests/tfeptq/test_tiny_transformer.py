"""A transformer with masks, shared embeddings and sizes that all differ, through the whole road."""

from __future__ import annotations

import functools
import importlib.util

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import tfeptq
import tflite_export
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.canonical.primitives import is_product
from tfeptq.checkpoint.steps import Checkpoint
from tfeptq.config import SENSITIVITIES
from tfeptq.hessian.float_scores import FloatScores
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import prepare
from tfeptq.rounding.teacher import Teacher
from tfeptq.selection.costs import operations
from tfeptq.selection.variables import Variables
from tfeptq.sensitivity.activation_sensitivity import activation_sensitivity
from tfeptq.sensitivity.method import Facts

WORDS, TIME, WIDTH, HEADS, DEPTH, CLASSES = 19, 7, 6, 2, 5, 3
SAMPLES = 37


def block(x, mask, *, is_causal=False):
    attention = L.MultiHeadAttention(HEADS, DEPTH, name="attention")
    x = x + attention(x, x, attention_mask=mask, use_causal_mask=is_causal)
    x = L.LayerNormalization(name="norm")(x)
    y = L.Dense(11, activation="gelu", name="wide")(x)
    return L.RMSNormalization(name="last_norm")(x + L.Dense(WIDTH, name="narrow")(y))


def encoder() -> keras.Model:
    """Padding, which is token 0, is not looked at; the first token is the class."""
    keras.utils.set_random_seed(1)
    ids = keras.Input((TIME,), dtype="int32", name="ids")
    places = L.Embedding(TIME, WIDTH, name="places")(ops.arange(TIME)[None])
    x = L.Embedding(WORDS, WIDTH, name="words")(ids) + places
    x = block(x, ops.not_equal(ids, 0)[:, None])
    return keras.Model(ids, L.Dense(CLASSES, activation="softmax", name="head")(x[:, 0]))


class Tied(L.Layer):
    """Scores of all words by their own embedding, as language models have them."""

    def __init__(self, embedding):
        super().__init__(name="scores")
        self.embedding = embedding

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.embedding.embeddings))


def decoder() -> keras.Model:
    """A language model: causal, and what reads words also scores them."""
    keras.utils.set_random_seed(2)
    ids = keras.Input((TIME,), dtype="int32", name="ids")
    embedding = L.Embedding(WORDS, WIDTH, name="words")
    x = block(embedding(ids), None, is_causal=True)
    return keras.Model(ids, Tied(embedding)(x))


MODELS = {"encoder": encoder, "decoder": decoder}


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    """Sentences of all lengths, with padding behind them."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, TIME + 1, size=(SAMPLES, 1))
    return generator.integers(1, WORDS, size=(SAMPLES, TIME)) * (np.arange(TIME) < lengths)


@pytest.fixture(scope="module")
def quantize(tokens):
    """Each model, quantized once."""
    config = tfeptq.QuantizationConfig(rounding="optq", samples=SAMPLES)
    return functools.cache(lambda name: tfeptq.quantize(MODELS[name](), tokens, config))


@pytest.mark.parametrize("name", MODELS)
def test_files_compute_what_loaded_models_predict(tokens, quantize, tmp_path, name):
    quantized = quantize(name)
    quantized.save(tmp_path / "m.keras")
    loaded = tfeptq.load_model(tmp_path / "m.keras")
    result = tflite_export.export(loaded, tmp_path / "m.tflite")
    assert not any("float" in t.type for t in tflite_export.inspect(result.path).tensors)
    wanted = np.asarray(MODELS[name]()(tokens))
    predicted = np.asarray(quantized(tokens))
    found = tflite_export.run(result.path, tokens, runtime="reference")
    scale = np.abs(wanted).max()
    # A tie that falls the other way moves a code, and what stands behind it by some.
    assert np.abs(predicted - found).mean() <= 0.5 / 256 * scale
    assert np.abs(predicted - found).max() <= 12 / 256 * scale
    assert np.sqrt(np.mean((wanted - found) ** 2)) < 0.05 * scale


def test_causal_files_do_not_look_ahead(tokens, quantize, tmp_path):
    path = tflite_export.export(quantize("decoder"), tmp_path / "m.tflite").path
    changed = tokens.copy()
    changed[:, 4:] = (changed[:, 4:] + 5) % WORDS
    before, after = (tflite_export.run(path, ids) for ids in (tokens, changed))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert np.any(before[:, 4:] != after[:, 4:])


def test_padding_changes_nothing_in_the_file(tokens, quantize, tmp_path):
    """What the masked words would have been is hidden: only their number, zero, is in the file."""
    quantized = quantize("encoder")
    table = quantized.get_layer("words").table
    path = tflite_export.export(quantized, tmp_path / "m.tflite").path
    before = tflite_export.run(path, tokens)
    values = table.numpy()
    original = values.copy()
    # Within the range that the tensor has.
    values[0] = values[1]
    table.assign(values)
    other = tflite_export.export(quantized, tmp_path / "other.tflite").path
    # Others use this model as well.
    table.assign(original)
    assert other.read_bytes() != path.read_bytes()
    np.testing.assert_array_equal(before, tflite_export.run(other, tokens))


@pytest.fixture(scope="module")
def canonical() -> keras.Model:
    return prepare(encoder())


def _products(model):
    return [call for call in LayerGraph.of(model).calls if is_product(call.layer)]


def test_biases_and_scales_of_heads_are_those_of_their_layers(canonical):
    """Nothing stands between the projections and the products but moves of data."""
    names = {layer.name for layer in canonical.layers}
    assert not {"query_add", "key_add", "value_add"} & names
    graph = LayerGraph.of(canonical)
    made = {call.output: call for call in graph.calls}
    for product in _products(canonical):
        for key in product.inputs:
            while type(made[key].layer) in (L.Reshape, L.Permute):
                (key,) = made[key].inputs
            assert type(made[key].layer) in (L.Dense, L.Softmax)


@pytest.fixture(scope="module")
def scores(canonical, tokens) -> FloatScores:
    """What each of these tests asks of the float model, computed once."""
    return FloatScores(canonical, [tokens.astype("float32")], 0)


def test_products_are_compared_in_the_distillation(canonical, scores):
    products = {call.output for call in _products(canonical)}
    assert len(products) == 2
    compared = Teacher(canonical).compared
    assert products < set(compared)
    by_product = [scores.attention[index] for index, key in enumerate(compared) if key in products]
    assert [array.shape for array in by_product] == [(SAMPLES, TIME), (SAMPLES, DEPTH)]
    assert all(np.all(array >= 0) and np.any(array > 0) for array in by_product)


@pytest.mark.parametrize("sensitivity", SENSITIVITIES)
def test_products_have_a_sensitivity(canonical, tokens, scores, sensitivity):
    config = tfeptq.QuantizationConfig(activation_bits=(8, 16), sensitivity=sensitivity)
    plan = QuantizationPlan.of(canonical, config)
    samples = [tokens.astype("float32")]
    losses = activation_sensitivity(plan, Facts(plan.model, samples, config, Checkpoint(), scores))
    for call in _products(canonical):
        of_group = losses[plan.group_of(call.output)]
        assert of_group[8] > of_group[16] > 0


def test_products_cost_the_bits_of_both_operands(canonical):
    config = tfeptq.QuantizationConfig(weight_bits=(8,), activation_bits=(4, 8, 16))
    plan = QuantizationPlan.of(canonical, config)
    variables = Variables(plan)
    factors = {factor.part: factor for factor in operations(plan, variables) if factor.part}
    scores, context = _products(canonical)
    counts = {scores: HEADS * TIME * TIME * DEPTH, context: HEADS * TIME * DEPTH * TIME}
    prices = set()
    for call, count in counts.items():
        factor = factors[call.layer.name]
        for combination in factor.costs:
            chosen = dict(zip(factor.variables, combination, strict=True))
            left, right, written = (
                chosen[variables.of_tensor(key)] for key in (*call.inputs, call.output)
            )
            # A kernel reads what its own integer type holds.
            bits = [16 if written == 16 else min(read, 8) for read in (left, right)]
            cost = factor.cost(chosen, "bit_operations")
            assert cost == count * bits[0] * bits[1]
            prices.add(cost / count)
    assert {64, 256} <= prices


@pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="extra 'microcontroller' is missing"
)
def test_microcontrollers_mask_tokens(tokens, tmp_path):
    ids = keras.Input((TIME,), dtype="int32", name="ids")
    keras.utils.set_random_seed(4)
    x = L.Embedding(WORDS, WIDTH)(ids)
    x = L.MultiHeadAttention(HEADS, DEPTH)(x, x, attention_mask=ops.not_equal(ids, 0)[:, None])
    model = keras.Model(ids, L.Dense(CLASSES)(L.LayerNormalization()(x)[:, 0]))
    config = tfeptq.QuantizationConfig(rounding="optq", samples=SAMPLES, target="microcontroller")
    quantized = tfeptq.quantize(model, tokens, config)
    path = tflite_export.export(quantized, tmp_path / "m.tflite").path
    found = tflite_export.run(path, tokens, runtime="tflm")
    wanted = np.asarray(model(tokens))
    assert np.sqrt(np.mean((wanted - found) ** 2)) < 0.05 * np.abs(wanted).max()
