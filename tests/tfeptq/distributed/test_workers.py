"""Parts of the work in other processes: in order, again where one dies, and with the same bits."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

import tfeptq
from tests.tfeptq import small_models
from tfeptq.calibrate.ranges import tensor_histograms
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.data.shares import mapped, shares, worker_count
from tfeptq.distributed.errors import WorkerError
from tfeptq.hessian.activations import Grid, activation_moments
from tfeptq.hessian.label_free import channel_attention, weight_scores
from tfeptq.hessian.pairs import RoundingError, pair_terms
from tfeptq.hessian.traces import average_traces
from tfeptq.preparation import prepare

pytest.importorskip("ray", reason="ray is not installed (extra distributed)")

COUNTS = (1, 2, 4)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One start of Ray for all tests: those that ask for fewer workers use it too."""
    with tfeptq.distribute(workers=4, cores=1) as found:
        yield found


def powers(exponent):
    return lambda number: (number**exponent, os.getpid())


def failing(layer):
    def run(number):
        raise ValueError(f"layer {layer!r} is no good at {number}")

    return run


def dying(mark, deaths):
    """A worker that ends as long as there are fewer marks than deaths."""

    def run(number):
        if number == 2:
            made = len(list(Path(mark).iterdir()))
            if made < deaths:
                (Path(mark) / str(made)).touch()
                os._exit(1)
        return number

    return run


def test_results_come_in_order_from_other_processes():
    found = list(mapped(powers, {"exponent": 2}, range(20), "powers"))
    assert [value for value, _ in found] == [number**2 for number in range(20)]
    assert os.getpid() not in {process for _, process in found}
    assert worker_count() == 4
    assert [len(share) for share in shares(9)] == [2, 2, 2, 3]


def test_whoever_has_enough_stops():
    found = mapped(powers, {"exponent": 3}, range(1000), "powers")
    assert [next(found)[0] for _ in range(3)] == [0, 1, 8]
    found.close()
    assert [value for value, _ in mapped(powers, {"exponent": 1}, range(3), "powers")] == [0, 1, 2]


def test_what_a_part_raises_is_raised_here():
    with pytest.raises(ValueError, match=r"^layer 'dense' is no good at 0$"):
        list(mapped(failing, {"layer": "dense"}, range(4), "parts"))


def test_a_worker_that_dies_is_replaced(tmp_path):
    inputs = {"mark": str(tmp_path), "deaths": 1}
    assert list(mapped(dying, inputs, range(6), "parts")) == list(range(6))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_part_whose_workers_always_die_ends_the_run(tmp_path):
    inputs = {"mark": str(tmp_path), "deaths": 99}
    with (
        tfeptq.distribute(workers=2, cores=1, retries=1),
        pytest.raises(
            WorkerError, match=r"parts: a worker ended 2 times in a row .* checkpoint_dir"
        ),
    ):
        list(mapped(dying, inputs, range(6), "parts"))
    assert len(list(tmp_path.iterdir())) == 2


def test_what_cannot_travel_is_computed_here():
    lock = threading.Lock()
    with pytest.warns(UserWarning, match="parts: this process computes them alone"):
        found = list(
            mapped(lambda lock: lambda number: (number, lock), {"lock": lock}, [1, 2], "parts")
        )
    assert found == [(1, lock), (2, lock)]


def test_map_takes_any_function(cluster):
    base = 10
    assert cluster.map(lambda number: number + base, [1, 2, 3]) == [11, 12, 13]


@pytest.mark.parametrize(
    "settings", [{"workers": 0}, {"workers": "2"}, {"cores": 0}, {"retries": -1}]
)
def test_settings_are_whole_numbers(settings):
    name = next(iter(settings))
    with pytest.raises(ValueError, match=f"^{name}=.* must be a whole number of at least"):
        tfeptq.distribute(**settings)


def test_more_cores_than_a_machine_has(cluster):
    with (
        pytest.raises(ValueError, match="cores=512: no machine of the cluster has so many"),
        tfeptq.distribute(workers=1, cores=512),
    ):
        pass


def same(left, right):
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if hasattr(left, "__dataclass_fields__"):
        return same(vars(left), vars(right))
    return np.array_equal(left, right)


@pytest.fixture(scope="module")
def network():
    return prepare(small_models.residual_network()), [small_models.images(41)]


def errors(model):
    generator = np.random.default_rng(3)
    return {
        (layer.name, bits): RoundingError(
            *(
                generator.normal(size=w.shape).astype("float32") / 2**bits
                for w in layer.get_weights()
            )
        )
        for layer in model.layers
        if hasattr(layer, "kernel")
        for bits in (2, 4)
    }


def grids(model):
    outputs = [call.output for call in LayerGraph.of(model).calls]
    return [Grid((key,), 0.05, 3, 8) for key in outputs[:4]]


STAGES = {
    "ranges": lambda m, x: tensor_histograms(
        m, x, [call.output for call in LayerGraph.of(m).calls], batch_size=3
    ),
    "attention": lambda m, x: channel_attention(m, x, batch_size=5),
    "weight scores": lambda m, x: weight_scores(m, x, batch_size=6, count=40),
    "activation traces": lambda m, x: activation_moments(
        m, x, grids(m), is_whitened=True, batch_size=6
    ),
    "pair terms": lambda m, x: vars(pair_terms(m, x, errors(m), batch_size=6)),
    "traces": lambda m, x: average_traces(m, x, batch_size=8, tolerance=0.5, draws=(5, 40)),
}


@pytest.mark.parametrize("stage", STAGES)
def test_any_number_of_workers_gives_the_bits_of_one_process(stage, network, alone):
    expected = alone(STAGES[stage], *network)
    for count in COUNTS:
        with tfeptq.distribute(workers=count, cores=1):
            assert same(STAGES[stage](*network), expected), f"{count} workers"


@pytest.fixture(scope="module")
def alone():
    """Calls a function in this process alone."""
    import contextvars

    empty = contextvars.Context()
    return empty.run
