"""The plan is decided once: everyone downstream finds what it says, down to the integer graph."""

from __future__ import annotations

import ast
import dataclasses
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from keras import layers as L

import tfeptq
from tests.tfeptq import random_models, small_models
from tfeptq.canonical.constant_layer import Constant
from tfeptq.config import QuantizationConfig
from tfeptq.model import QuantizedModel
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import prepare
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.quantized.wrap import wrap
from tfeptq.quantized.written import Written, WrittenKernel

ROOT = Path(tfeptq.__file__).parent
#: Module of the plan's room -> what others may import: the plan, its records and types of facts.
OPEN = {
    "quantization_plan": {"QuantizationPlan", "Kernel"},
    "groups": {"ActivationGroup"},
    "tensors": {"Operand", "Quantizer", "TensorPlan"},
    "states": {"numbered_states"},
    "weights": {"WeightStorage"},
    "sharing": {"Ranges"},
    "input_ranges": {"Range", "doubts"},
}


def random_plan(seed: int, activation_bits=8) -> QuantizationPlan:
    """With ranges of a few samples, as calibration has them."""
    canonical = prepare(random_models.random_model(seed, 8))
    config = QuantizationConfig(activation_bits=activation_bits)
    plan = QuantizationPlan.of(canonical, config)
    tensors = plan.graph.execute(random_models.samples(canonical, 4))
    ranges = {key: (float(np.min(t)), float(np.max(t))) for key, t in tensors.items()}
    return plan.with_ranges(ranges)


def with_random_widths(plan: QuantizationPlan, seed: int) -> QuantizationPlan:
    """Every group at one of its candidates, some weights at 4 bits."""
    draw = np.random.default_rng(seed)
    groups = {name: int(draw.choice(g.widths)) for name, g in plan.groups.items() if g.widths}
    return plan.with_widths(activations=groups)


def made_of(plan: QuantizationPlan, seed: int) -> QuantizedModel:
    """The model that a plan becomes, with ranges of its own for every quantizer."""
    draw = np.random.default_rng(seed)
    quantized = QuantizedModel(*wrap(plan), name=plan.model.name)
    for quantizer in quantized.activation_quantizers:
        if quantizer.fixed is None:
            low, high = sorted(draw.uniform(-8.0, 8.0, 2))
            quantizer.set_range(min(low, 0.0), max(high, 1.0))
    for layer in quantized.weighted_layers:
        layer.set_step(draw.uniform(0.01, 0.1, layer.step.shape))
    return quantized


def planned_kernels(plan: QuantizationPlan) -> Counter:
    return Counter(
        (
            kernel.call.layer.name,
            tuple(operand.quantizer.name for operand in kernel.operands),
            kernel.quantizer.name,
            kernel.relu.layer.name if kernel.relu else None,
        )
        for kernel in plan.kernels
    )


def read_kernels(written: Written) -> Counter:
    kernels = [step for step in written.steps if isinstance(step, WrittenKernel)]
    return Counter(
        (
            kernel.layer.name,
            tuple(source.name for source in kernel.sources),
            kernel.target.name,
            kernel.relu.layer.name if kernel.relu else None,
        )
        for kernel in kernels
        if not isinstance(kernel.layer, ActivationQuantizer)
    )


def planned_copies(plan: QuantizationPlan) -> Counter:
    """(quantizer of a tensor, quantizer of its copy), as often as there is one."""
    constants = {call.output for call in plan.graph.calls if isinstance(call.layer, Constant)}
    private, shared = Counter(), set()
    for kernel in plan.kernels:
        for operand in kernel.operands:
            if operand.is_copy and operand.key not in constants:
                pair = plan.tensors[operand.key].quantizer.name, operand.quantizer.name
                if operand.is_private:
                    private[pair] += 1
                else:
                    shared.add((operand.key, pair))
    return private + Counter(pair for _, pair in shared)


def read_copies(written: Written) -> Counter:
    kernels = [step for step in written.steps if isinstance(step, WrittenKernel)]
    return Counter(
        (kernel.sources[0].name, kernel.target.name)
        for kernel in kernels
        if isinstance(kernel.layer, ActivationQuantizer) and not kernel.moves
    )


SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=12)
@given(seed=SEEDS, candidates=st.sampled_from([8, 16, (8, 16), (4, 8, 16)]))
def test_a_quantized_model_reads_as_its_plan(seed, candidates):
    try:
        plan = with_random_widths(random_plan(seed, candidates), seed)
    except ValueError:
        # Some operators have no kernels of 16 bits.
        reject()
    written = Written.of(made_of(plan, seed))
    assert read_kernels(written) == planned_kernels(plan)
    assert read_copies(written) == planned_copies(plan)
    found = {quantizer.name: quantizer for quantizer in written.quantizers.values()}
    for name, quantizer in found.items():
        planned = plan.quantizers[name]
        assert (quantizer.bits, quantizer.container) == (planned.bits, planned.dtype)
        assert quantizer.fixed == planned.fixed


@settings(max_examples=12)
@given(seed=SEEDS, candidates=st.sampled_from([8, (4, 8)]))
def test_every_tensor_of_the_frozen_graph_has_the_scale_of_its_planned_quantizer(seed, candidates):
    plan = with_random_widths(random_plan(seed, candidates), seed)
    quantized = made_of(plan, seed)
    try:
        graph = quantized.freeze()
    except ValueError:
        # Random ranges may ask more of a kernel than it holds.
        reject()
    planned: dict[str, set] = {}
    for kernel in plan.kernels:
        scale, zero_point = quantized.get_layer(kernel.quantizer.name).parameters()
        entry = (float(scale), zero_point, kernel.quantizer.dtype)
        planned.setdefault(kernel.call.layer.name, set()).add(entry)
    for operator in graph.operators:
        tensor = graph.tensors[operator.outputs[0]]
        scale, zero_point = tensor.quantization.scale, tensor.quantization.zero_point
        if operator.layer in planned:
            assert (float(scale[0]), zero_point, tensor.dtype) in planned[operator.layer]
        else:
            expected = quantized.get_layer(operator.layer).parameters()
            assert (scale[0], zero_point) == expected


@settings(max_examples=15)
@given(seed=SEEDS)
def test_a_group_moves_together_and_alone(seed):
    plan = random_plan(seed, (8, 16))
    draw = np.random.default_rng(seed)
    wide = [name for name, group in plan.groups.items() if 16 in group.widths]
    if not wide:
        return
    chosen = wide[int(draw.integers(len(wide)))]
    changed = plan.with_widths(activations={chosen: 16})
    for key, tensor in changed.tensors.items():
        assert tensor.bits == (16 if plan.group_of(key) == chosen else 8)
    assert changed.groups is plan.groups


@settings(max_examples=15)
@given(seed=SEEDS, bits=st.sampled_from([2, 4, 8]))
def test_widths_chosen_later_are_those_asked_for_at_once(seed, bits):
    plan = random_plan(seed, (8, 16))
    chosen = with_random_widths(plan, seed)
    weights = {name: bits for name, held in chosen.weights.items() if held.dtype == "int8"}
    chosen = chosen.with_widths(weights=weights)
    asked = {name: weights.get(name, 8) for name in chosen.weights}
    config = QuantizationConfig(weight_bits=asked, activation_bits=chosen.activation_bits)
    at_once = QuantizationPlan.of(plan.model, config, plan.ranges)
    for fact in ("weights", "activation_bits", "tensors", "operands", "requantizations"):
        assert getattr(chosen, fact) == getattr(at_once, fact), fact


def test_a_plan_does_not_change():
    plan = QuantizationPlan.of(prepare(small_models.residual_network()), QuantizationConfig())
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.target = "coral"
    with pytest.raises(TypeError):
        plan.weights["stem"] = None
    before = dict(plan.weights)
    narrow = plan.with_widths(weights={"stem": 4})
    assert plan.weights == before
    assert narrow.weights["stem"].bits == 4
    assert narrow.weights["stem"].container == "int4"


def test_origins_of_quantizers():
    plan = QuantizationPlan.of(prepare(small_models.residual_network()), QuantizationConfig())
    origins = {key[0]: tensor.origin for key, tensor in plan.tensors.items()}
    assert origins["image"] == origins["depthwise_relu6"] == "own"
    assert origins["pool"] == "tied"
    assert origins["joined"] == origins["skip"] == origins["sum_relu"] == "shared"
    assert origins["classes_softmax"] == "fixed"


def test_layers_that_the_target_stores_otherwise_are_told():
    model = prepare(small_models.residual_network())
    plan = QuantizationPlan.of(model, QuantizationConfig(weight_bits=(2, 4, 8), target="coral"))
    assert plan.asked["pointwise"] == (2, 4, 8)
    assert plan.candidates["pointwise"] == (8,)
    with pytest.raises(ValueError, match=r"layer 'pointwise', weight_bits=4"):
        plan.storage("pointwise", 4)


def test_nobody_else_derives_what_the_plan_says():
    """Rooms behind the plan take it, its records and nothing that works them out."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        if path.parent.name == "plan":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tfeptq.plan"):
                module = node.module.removeprefix("tfeptq.plan").removeprefix(".")
                names = {alias.name for alias in node.names} - OPEN.get(module, set())
                found += [(path.relative_to(ROOT).as_posix(), module, name) for name in names]
    assert not found


def test_arrays_are_written_in_the_type_of_their_readers():
    inputs = L.Input((4,), name="x")
    shifted = inputs + np.arange(4, dtype="float32").reshape(1, 4) ** 2
    wide = L.Maximum(name="wide")([shifted, L.Dense(4, name="dense")(inputs)])
    model = prepare(keras.Model(inputs, [wide, L.Dense(2, name="end")(shifted)]))
    plan = QuantizationPlan.of(model, QuantizationConfig(activation_bits={"wide": 16}))
    assert all(
        operand.quantizer.dtype == kernel.quantizer.dtype
        for kernel in plan.kernels
        for operand in kernel.operands
    )
