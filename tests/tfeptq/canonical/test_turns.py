"""The order in which layers take their turn, and what has to stand in for layers behind it."""

from __future__ import annotations

import keras
from keras import layers as L

from tests.tfeptq import shared_models, small_models
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.canonical.linear import WEIGHTED_LAYERS
from tfeptq.canonical.turns import turns


def order(model):
    return {
        turn.layer.name: set(turn.unsettled)
        for turn in turns(LayerGraph.of(model), WEIGHTED_LAYERS)
    }


def test_without_shared_layers_it_is_the_order_of_the_network():
    model = small_models.residual_network()
    graph = LayerGraph.of(model)
    calls = [call.layer.name for call in graph.calls if isinstance(call.layer, WEIGHTED_LAYERS)]
    found = order(model)
    assert list(found) == calls
    assert not any(found.values())


def test_a_shared_layer_waits_for_all_that_its_calls_depend_on():
    for name in ("towers", "towers, other order"):
        found = order(shared_models.shared(name))
        assert list(found).index("extra") < list(found).index("embed")
        assert not any(found.values())


def test_every_turn_has_all_calls():
    model = shared_models.shared("repeated")
    again = turns(LayerGraph.of(model), WEIGHTED_LAYERS)[0]
    assert again.layer.name == "again"
    assert len(again.calls) == 3


def test_circles_are_broken_and_say_what_is_unsettled():
    assert order(shared_models.shared("repeated")) == {"again": {"again"}, "classes": set()}
    assert order(shared_models.shared("alternating")) == {
        "left": {"left", "right"},
        "right": {"right"},
        "classes": set(),
    }


def test_what_only_waits_for_a_circle_comes_after_it():
    inputs = keras.Input((4,))
    waiting, *circle = (L.Dense(4, name=name) for name in ("waiting", "one", "other"))
    first = waiting(inputs)
    x = circle[1](circle[0](circle[1](circle[0](inputs))))
    found = order(keras.Model(inputs, L.Add()([first, waiting(x)])))
    assert list(found) == ["one", "other", "waiting"]
