"""Random models of all supported layers come out of `prepare` with the same outputs."""

from __future__ import annotations

import keras
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tfeptq.preparation.canonical_check import check, randomize
from tests.tfeptq.preparation.random_graphs import RandomGraph


@settings(max_examples=220)
@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 9))
def test_prepare_keeps_the_outputs_of_random_models(seed, steps):
    keras.utils.set_random_seed(0)
    check(randomize(RandomGraph(seed).model(steps), seed), rounding=1e-6)
