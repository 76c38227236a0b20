"""Sub-byte containers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_export.file import packing


@given(data=st.data(), bits=st.sampled_from([2, 4]))
def test_packing_round_trips_in_the_fewest_bytes(data, bits):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    values = np.array(data.draw(st.lists(st.integers(low, high), max_size=50)), np.int8)
    packed = packing.pack(values, bits=bits)
    assert packed.size == -(-values.size * bits // 8)
    np.testing.assert_array_equal(packing.unpack(packed, bits=bits, count=values.size), values)


def test_lowest_bits_come_first():
    assert packing.pack(np.array([1, -1]), bits=4).tolist() == [0xF1]
    assert packing.pack(np.array([1, -2, 0, -1]), bits=2).tolist() == [0b11_00_10_01]


@pytest.mark.parametrize(("value", "bits"), [(8, 4), (-9, 4), (2, 2)])
def test_values_that_do_not_fit_are_refused(value, bits):
    with pytest.raises(ValueError, match=f"to fit {bits} bits"):
        packing.pack(np.array([value]), bits=bits)
