"""`tfeptq.distribute`: has processes of a Ray cluster, or of this machine, share the work."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import itertools
import logging
import os
import pickle
import socket
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from types import ModuleType, TracebackType
from typing import Any

import keras
import numpy as np

from tfeptq.checkpoint.digest import code_version, digest
from tfeptq.data.shares import Build, Run, shared_among
from tfeptq.distributed.errors import WorkerError
from tfeptq.distributed.packing import packed
from tfeptq.distributed.tasks import Stage, compute
from tfeptq.settings import switch, whole

#: Parts that may be under way or done while the one in front of them is not, for each worker.
_AHEAD = 4
#: Of the memory that processes of this machine share; what is more goes to disk.
_STORE_BYTES = 2**30
#: Samples and models that stay where workers find them when a stage is done, those used last.
_KEPT = 8
#: Seconds until a cluster must answer.
_PATIENCE = 10.0
#: What pickling raises: the values' own errors too.
_UNPICKLABLE = (TypeError, ValueError, AttributeError, NotImplementedError, pickle.PicklingError)


def distribute(
    workers: int | None = None,
    *,
    address: str | None = None,
    cores: int | None = None,
    retries: int = 2,
    training: bool = False,
) -> Cluster:
    """Has worker processes share what `tfeptq` computes inside of the `with` statement.

    Shards of samples (ranges, scores, attention, sensitivities, bias correction) and candidates of
    an accuracy search are computed side by side, by Ray (`pip install '.[distributed]'`).
    Results are added up in the order of the samples whoever has computed them: files have the bytes
    that one process gives with as many threads as a worker has `cores`.

    A worker that dies is replaced and its part computed again, `retries` times; then the run ends
    with one error, and goes on with the same call where `checkpoint_dir` was given.

    Args:
        workers: how many parts are computed at a time. None: as many as the machine has cores, or
            the cluster at `address`.
        address: of a running Ray cluster, such as "auto", "head:6379" or "ray://head:10001", on
            whose machines the same versions are installed. None: processes of this machine, which
            end with the statement; a Ray that this process has started is used, and left running.
        cores: of each worker, and threads of TensorFlow in it. None: those of this machine in equal
            parts, or 1 where an address is given.
        retries: how often a part is computed again whose worker died.
        training: they share every step of EPTQ's training too, which pays where a step takes much
            longer than its gradients travel. Batches are cut into the same parts for any number of
            workers, so that these give the same bytes; one process alone sums in another order,
            and its scales and biases differ in their last digits.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ValueError: no whole numbers.
        WorkerError: when entered: the cluster cannot be reached.

    Example:
        >>> with tfeptq.distribute(workers=2):  # doctest: +SKIP
        ...     quantized = tfeptq.quantize(model, samples, config)
    """
    own = len(os.sched_getaffinity(0))
    if workers is not None:
        workers = whole("workers", workers, 1)
    elif address is None:
        workers = own
    if cores is not None:
        cores = whole("cores", cores, 1)
    elif address is None and workers is not None:
        cores = max(own // workers, 1)
    retries, training = whole("retries", retries, 0), switch("training", training)
    return Cluster(workers, address, cores or 1, retries, training, _ray())


@dataclasses.dataclass(frozen=True)
class _Opened:
    """A stage whose parts workers can compute.

    Attributes:
        stage: reference to the `Stage`.
        inputs: references to its values, kept for workers that come later and fetch them too.
    """

    title: str
    key: str
    task: Any
    stage: Any
    inputs: Mapping[str, Any]


def _ray() -> ModuleType:
    # What Ray tells its makers about is not ours to tell; workers run at this process's priority.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "tfeptq.distribute needs Ray: pip install '.[distributed]'"
        ) from error


class Cluster:
    """Workers, from `with` to its end; see `distribute`.

    Attributes:
        count: how many parts are computed at a time.
        trains: whether they share the steps of a training.
    """

    def __init__(
        self,
        workers: int | None,
        address: str | None,
        cores: int,
        retries: int,
        training: bool,
        ray: ModuleType,
    ) -> None:
        self.trains = training
        self._ray, self._address = ray, address
        self._cores, self._retries = cores, retries
        self._workers = workers
        self._scope = contextlib.ExitStack()
        self._kept: dict[Any, tuple[Any, Any]] = {}
        self._stages = itertools.count()

    def __enter__(self) -> Cluster:
        with contextlib.ExitStack() as scope:
            scope.callback(self._kept.clear)
            self._start(scope)
            scope.enter_context(shared_among(self))
            self._scope = scope.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._scope.close()

    @property
    def count(self) -> int:
        assert self._workers is not None
        return self._workers

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """`function(item)` of every item, in order: seeds, configurations, whole quantizations.

        Args:
            function: it and its results travel between processes by pickling. Keras models can; of
                a `QuantizedModel` the `report` stays behind.

        Raises:
            WorkerError: see `distribute`; and whatever the function raises.
        """
        return list(self.opened(_same, {"function": function}, "items")(list(items)))

    def opened(self, build: Build, inputs: Mapping[str, Any], title: str) -> Run:
        """See `tfeptq.data.shares.Workers`.

        Raises:
            WorkerError: a part's worker died more than `retries` times, or cannot be reached.
        """
        try:
            with self._failing_clearly(title):
                refs = {name: self._put(value) for name, value in inputs.items()}
                stage = self._ray.put(Stage(build, refs, code_version(), self._cores))
        except _UNPICKLABLE as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            warnings.warn(
                f"tfeptq.distribute: {title}: this process computes them alone, for what they are "
                f"computed from cannot be sent to workers: {reason[0]:.200}",
                stacklevel=3,
            )
            return _alone(build(**inputs))
        task = self._ray.remote(compute).options(
            num_cpus=self._cores, max_retries=self._retries, name=title
        )
        key = f"{id(self)} {next(self._stages)}"
        return functools.partial(self._results, _Opened(title, key, task, stage, refs))

    def _results(self, opened: _Opened, items: Sequence[Any], common: Any = None) -> Generator[Any]:
        with self._failing_clearly(opened.title):
            rest = () if common is None else (self._ray.put(common),)
            submit = functools.partial(opened.task.remote, opened.key, [opened.stage])
            for ref in self._in_order(lambda item: submit(item, *rest), items):
                yield self._ray.get(ref)

    def _in_order(self, submit: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        """References to results in the order of the items; each has been computed, or has failed.

        No more than `count` are computed at a time, and few before those in front of them are done.
        """
        rest, running, waiting = iter(items), set[Any](), deque[Any]()
        try:
            while True:
                free = min(self.count - len(running), _AHEAD * self.count - len(waiting))
                for item in itertools.islice(rest, free):
                    waiting.append(submit(item))
                    running.add(waiting[-1])
                if not waiting:
                    return
                if waiting[0] in running:
                    done, _ = self._ray.wait(list(running), num_returns=1)
                    running.difference_update(done)
                else:
                    yield waiting.popleft()
        finally:
            for ref in running:
                with contextlib.suppress(Exception):
                    self._ray.cancel(ref)

    def _put(self, value: Any) -> Any:
        """Keeps a value where workers find it; samples and models that are there already, once."""
        key: Any = None
        if isinstance(value, keras.Model):
            key = digest(value)
        elif isinstance(value, (list, tuple)) and all(isinstance(v, np.ndarray) for v in value):
            key = id(value)
        if key not in self._kept or key is None:
            # With the value, so that no other takes its place in memory.
            self._kept[key] = self._ray.put(packed(value)), value
        found = self._kept[key] = self._kept.pop(key)
        while len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]
        return found[0]

    def _start(self, scope: contextlib.ExitStack) -> None:
        ray = self._ray
        if ray.is_initialized() and self._address is not None:
            raise ValueError(
                f"address={self._address!r}: this process is connected to Ray already; leave "
                "address out to use that, or call ray.shutdown() before"
            )
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address is not None:
            _require_answer(self._address)
        try:
            if self._address is not None:
                scope.callback(ray.shutdown)
                ray.init(address=self._address, **quiet)
            elif not ray.is_initialized():
                scope.callback(ray.shutdown)
                # For want of memory too, and not for ever.
                scope.enter_context(_environment("RAY_task_oom_retries", str(self._retries)))
                ray.init(
                    # Not one that happens to run on this machine.
                    address="local",
                    num_cpus=self.count * self._cores,
                    include_dashboard=False,
                    object_store_memory=_STORE_BYTES,
                    **quiet,
                )
            sizes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
        except (ray.exceptions.RayError, OSError, RuntimeError) as error:
            where = "on this machine" if self._address is None else f"at {self._address}"
            raise WorkerError(
                f"tfeptq.distribute: Ray does not start {where}: {_last_line(error)}"
            ) from error
        if self._cores > max(sizes, default=0):
            raise ValueError(
                f"cores={self._cores}: no machine of the cluster has so many; the largest has "
                f"{max(sizes, default=0):g}"
            )
        if self._workers is None:
            self._workers = sum(int(size // self._cores) for size in sizes)

    @contextlib.contextmanager
    def _failing_clearly(self, title: str) -> Iterator[None]:
        """What a part raises is raised here; where workers fail, one sentence says so."""
        errors = self._ray.exceptions
        try:
            yield
        except errors.RayTaskError as error:
            if isinstance(error.cause, Exception):
                raise error.cause from error
            raise WorkerError(f"tfeptq.distribute: {title}: {_last_line(error)}") from error
        except (errors.WorkerCrashedError, errors.OutOfMemoryError) as error:
            number = self._retries + 1
            who = "a worker" if number == 1 else f"{number} workers, one after the other,"
            raise WorkerError(
                f"tfeptq.distribute: {title}: {who} ended while computing the same part, for want "
                "of memory or in native code; finished steps are kept in checkpoint_dir where one "
                "was given, and the same call goes on there, with fewer workers or without"
            ) from error
        except (errors.RayError, ConnectionError, TimeoutError) as error:
            raise WorkerError(
                f"tfeptq.distribute: {title}: the workers cannot be reached: {_last_line(error)}; "
                "finished steps are kept in checkpoint_dir where one was given, and the same call "
                "goes on there"
            ) from error


def _require_answer(address: str) -> None:
    """Where nobody listens at an address, Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), _PATIENCE).close()
    except OSError as error:
        raise WorkerError(
            f"tfeptq.distribute: no Ray cluster answers at {address}: {error}; `ray start --head` "
            "says where it does"
        ) from error


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """A variable of the environment, for a while."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1][:200]


def _alone(run: Callable[..., Any]) -> Run:
    def results(items: Sequence[Any], common: Any = None) -> Generator[Any]:
        rest = () if common is None else (common,)
        yield from (run(item, *rest) for item in items)

    return results


def _same(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return function
