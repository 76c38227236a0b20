"""Tensors with the batch behind another axis: what takes them apart is read."""

from __future__ import annotations

import keras
import pytest
from keras import layers as L
from keras import ops

from tests.tfeptq.preparation.canonical_check import check
from tfeptq.preparation import prepare

#: Rows and channels of a sample: three parts of two heads of four.
T, C, HEADS = 5, 24, 2


def heads(x):
    """(3, batch, heads, T, C / 3 / heads)."""
    return ops.transpose(ops.reshape(x, (-1, T, 3, HEADS, C // 3 // HEADS)), (2, 0, 3, 1, 4))


def attention(q, k, v):
    scores = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))), -1)
    return ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3))


def indexed(x):
    qkv = heads(x)
    return attention(qkv[0], qkv[1], qkv[2])


def ranges(x):
    qkv = heads(0.5 * x) * 2.0
    q, kv = ops.split(qkv, [1], axis=0)
    return attention(ops.squeeze(q, 0), kv[0, :, :, ::-1], kv[-1])


def split(x):
    parts = ops.split(ops.moveaxis(ops.reshape(x, (-1, T, 3, C // 3)), 2, 0), 3, axis=0)
    return ops.subtract(*(part[0] for part in parts[:2])) * ops.squeeze(parts[2], axis=0)


def steps(x):
    """What runs through time, step by step."""
    rows = ops.unstack(ops.transpose(x, (1, 0, 2)), axis=0)
    sums = [rows[0]]
    for row in rows[1:]:
        sums.append(0.5 * sums[-1] + row)
    return ops.transpose(ops.stack(sums, axis=0), (1, 0, 2))


TAKEN_APART = {
    "indexed": indexed,
    "ranges": ranges,
    "split": split,
    "steps": steps,
    "unstacked": lambda x: attention(*ops.unstack(heads(x), axis=0)),
    "stacked": lambda x: ops.sum(ops.stack([x, 2.0 * x, -x * x], axis=0), axis=0),
    "of two": lambda x: ops.max(ops.concatenate([heads(x), -heads(x)], axis=-1), axis=(0, 2)),
    "kept": lambda x: ops.mean(ops.swapaxes(x, 0, 1), axis=2, keepdims=True)[3],
    "expanded": lambda x: ops.expand_dims(x, 0)[0] + x[None, :, 1:2][0],
    "moved twice": lambda x: ops.transpose(ops.transpose(x, (2, 0, 1)), (1, 2, 0)),
    "summed": lambda x: ops.transpose(ops.sum(ops.transpose(x, (1, 2, 0)), axis=0)),
}


@pytest.mark.parametrize("name", TAKEN_APART)
def test_what_is_taken_apart_is_read(name):
    inputs = keras.Input((T, C))
    check(keras.Model(inputs, L.Dense(3)(L.Flatten()(TAKEN_APART[name](inputs)))))


REFUSED = {
    "'matmul.*reads 'transpose.*moves the batch to axis 1": lambda x: ops.matmul(
        heads(x), ops.swapaxes(heads(x), -1, -2)
    )[0],
    "'dense.*reads 'transpose.*moves the batch to axis 1": lambda x: L.Dense(2)(heads(x))[0],
    "model 'm': output 'transpose.*the batch at axis 1": lambda x: ops.transpose(x, (1, 0, 2)),
    "takes part of the batch": lambda x: heads(x)[:, 0],
    "axis=1 is the batch": lambda x: ops.sum(heads(x), axis=1),
}


@pytest.mark.parametrize("match", REFUSED)
def test_what_needs_the_batch_in_front_is_refused(match):
    inputs = keras.Input((T, C))
    model = keras.Model(inputs, REFUSED[match](inputs), name="m")
    with pytest.raises(ValueError, match=match):
        prepare(model)
