"""Which activation width each layer gets, before any quantization."""

from __future__ import annotations

import keras
import pytest
from keras import layers as L

from tests.tfeptq import small_models
from tfeptq.config import QuantizationConfig
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import prepare

H, W, C = small_models.H, small_models.W, small_models.C


@pytest.fixture(scope="module")
def small():
    return prepare(small_models.residual_network())


def resolved(model, bits, **settings):
    config = QuantizationConfig(activation_bits=bits, **settings)
    return QuantizationPlan.of(model, config)


def model_of(build):
    inputs = keras.Input((H, W, C), name="image")
    return prepare(keras.Model(inputs, build(inputs)))


def test_one_width_is_everybodys(small):
    assert set(resolved(small, 16).activation_bits.values()) == {16}
    assert set(resolved(small, 8).activation_bits.values()) == {8}


def test_one_narrow_width_spares_inputs_outputs_and_logits(small):
    widths = resolved(small, 4).activation_bits
    assert {name for name, bits in widths.items() if bits == 8} == {
        "image",
        "classes",
        "classes_softmax",
    }
    assert set(widths.values()) == {4, 8}


def test_the_spared_output_may_lie_behind_layers_that_move_integers():
    model = model_of(lambda x: L.Flatten()(L.ReLU(name="last")(L.Conv2D(4, 3, name="conv")(x))))
    assert resolved(model, 5).activation_bits == {"image": 8, "conv": 8, "last": 8}


def test_layers_left_out_of_a_mapping_get_eight_bits(small):
    widths = resolved(small, {"stem": 16, "image": 5}).activation_bits
    assert widths["image"] == 5
    assert widths["stem"] == widths["stem_relu"] == 16
    assert widths["pointwise"] == widths["sum"] == widths["classes"] == 8


def test_a_relu_in_the_kernel_and_its_producer_are_one_tensor(small):
    for name in ("sum", "sum_relu"):
        widths = resolved(small, {name: 16}).activation_bits
        assert widths["sum"] == widths["sum_relu"] == 16
    with pytest.raises(ValueError, match=r"16 to 'sum' and 8 to 'sum_relu'.*name one of them"):
        resolved(small, {"sum": 16, "sum_relu": 8})


def test_layers_that_move_integers_have_their_inputs_width(small):
    message = (
        r"activation_bits\['pool'\]=8: the layer \(MaxPooling2D\).*give the width to 'sum_relu'"
    )
    with pytest.raises(ValueError, match=message):
        resolved(small, {"sum": 16, "pool": 8})
    widths = resolved(small, {"sum": 16, "pool": 16}).activation_bits
    assert "pool" not in widths


def test_concatenations_keep_the_width_of_inputs_that_agree(small):
    assert resolved(small, {"sum": 16, "skip": 16}).activation_bits["joined"] == 16
    assert resolved(small, {"sum": 16}).activation_bits["joined"] == 8
    assert resolved(small, {"sum": 16, "joined": 16}).activation_bits["joined"] == 16


def test_kernels_that_fix_their_codes_have_eight_bits_or_sixteen():
    model = model_of(lambda x: L.Conv2D(4, 3)(L.Activation("sigmoid", name="gate")(x)))
    assert resolved(model, 4).activation_bits["gate"] == 8
    assert resolved(model, {"gate": 16}).activation_bits["gate"] == 16
    with pytest.raises(ValueError, match=r"activation_bits\['gate'\]=6.*allowed are 8 and 16"):
        resolved(model, {"gate": 6})


def test_resolving_twice_changes_nothing(small):
    for bits in (4, 16, {"sum": 16, "depthwise": 5}):
        once = resolved(small, bits).activation_bits
        assert resolved(small, once).activation_bits == once


def test_unknown_layers_are_refused_with_a_suggestion(small):
    with pytest.raises(ValueError, match=r"'pointwize'.*did you mean 'pointwise'"):
        resolved(small, {"pointwize": 16})


@pytest.mark.parametrize(
    ("target", "build", "bits", "message"),
    [
        ("coral", L.ReLU(name="a"), 16, "'image' on target 'coral': the Edge TPU .* 8 bits only"),
        ("coral", L.ReLU(name="a"), {"image": 16}, "set weight_bits=8 and activation_bits=8, or"),
        ("android", L.Activation("hard_silu", name="a"), {"a": 16}, "'a'.*HARD_SWISH"),
        (
            "microcontroller",
            L.UpSampling2D(2, interpolation="bilinear", name="a"),
            {"image": 16},
            "'a'.*RESIZE_BILINEAR",
        ),
    ],
)
def test_what_a_target_lacks_at_sixteen_bits_is_refused_by_layer(target, build, bits, message):
    with pytest.raises(ValueError, match=message):
        resolved(model_of(build), bits, target=target)


def test_sixteen_bit_weighted_layers_are_refused_where_the_target_has_none(small):
    with pytest.raises(ValueError, match="=16 of 'stem_relu' on target 'coral': the Edge TPU"):
        resolved(small, {"stem": 16}, target="coral")


@pytest.mark.parametrize(
    ("target", "name", "bits", "expected"),
    [
        ("android", "pointwise", 16, "int4"),
        ("android", "depthwise", 16, "int8"),
        ("android", "depthwise", 8, "int8"),
        ("microcontroller", "depthwise", 8, "int4"),
        ("microcontroller", "pointwise", 16, "int8"),
        ("microcontroller", "pointwise", 5, "int4"),
    ],
)
def test_containers_depend_on_the_type_that_the_kernel_computes_in(
    small, target, name, bits, expected
):
    """Above all: never 4-bit weights under a 16-bit depthwise convolution."""
    held = resolved(small, {name: bits}, target=target).storage(name, 4)
    assert held.dtype == ("int16" if bits == 16 else "int8")
    assert held.container == expected


def test_only_eight_bit_kernels_imitate_the_targets_rounding(small):
    plan = resolved(small, {"sum": 16, "skip": 16}, target="microcontroller")
    found = plan.requantizations
    assert found["skip"] == "once"
    assert found["stem"] == "twice"
