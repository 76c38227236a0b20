"""Makes the latency table "host": milliseconds per million multiplications, by kind and width.

    python -m benchmarks.host_latency [--output tfeptq/host_latency_android.csv] [--size 96]

Every layer of MobileNetV2, a ResNet, a U-Net's transposed convolutions and dense layers, all
untrained, is timed by itself in LiteRT on one thread, see `tfeptq.selection.latency`. A row is
the sum of times over the sum of multiplications, so large layers weigh most. Nothing else may run
beside it.
"""

from __future__ import annotations

import argparse
import collections
import os
import platform
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from keras import layers

import tfeptq
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import as_functional, prepare
from tfeptq.selection.costs import layer_multiplications
from tfeptq.selection.latency import measure_latencies
from tfeptq.selection.latency_table import LatencyTable, write_latencies

TARGET = "android"
WIDTHS = (2, 3, 4, 5, 6, 7, 8)


def residual_network(size: int) -> keras.Model:
    """Convolutions of 3 by 3 at three sizes, as ResNets for small images have them."""
    inputs = x = keras.Input((size, size, 3))
    for channels in (16, 32, 64):
        x = layers.Conv2D(channels, 3, strides=2, padding="same", activation="relu")(x)
        y = layers.Conv2D(channels, 3, padding="same", activation="relu")(x)
        x = layers.Add()([x, layers.Conv2D(channels, 3, padding="same")(y)])
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def decoder(size: int) -> keras.Model:
    """Transposed convolutions, as U-Nets have them."""
    inputs = x = keras.Input((size // 8, size // 8, 64))
    for channels in (64, 32, 16):
        x = layers.Conv2DTranspose(channels, 2, strides=2, activation="relu")(x)
    return keras.Model(inputs, layers.Conv2D(4, 1)(x))


def dense_network() -> keras.Model:
    """Dense layers, as the MLPerf Tiny autoencoder has them."""
    sizes = (256, 256, 256, 64, 256, 256)
    return keras.Sequential(
        [keras.Input((640,)), *(layers.Dense(n, activation="relu") for n in sizes)]
    )


def models(size: int) -> Iterator[keras.Model]:
    yield keras.applications.MobileNetV2(input_shape=(size, size, 3), weights=None)
    yield residual_network(size)
    yield decoder(size)
    yield dense_network()


def measured(size: int) -> LatencyTable:
    """Times of all kinds, by integer type of the kernel."""
    config = tfeptq.QuantizationConfig(
        weight_bits=WIDTHS, activation_bits=(8, 16), first_last_bits=None, target=TARGET
    )
    times: collections.Counter[tuple[str, str, int]] = collections.Counter()
    work: collections.Counter[tuple[str, str, int]] = collections.Counter()
    for model in models(size):
        canonical = prepare(as_functional(model), config)
        plan = QuantizationPlan.of(canonical, config)
        multiplications = layer_multiplications(plan)
        for dtype, table in measure_latencies(canonical, config).by_type.items():
            for (name, bits), milliseconds in table.weighted.items():
                key = (dtype, plan.weights[name].kind, bits)
                times[key] += milliseconds
                work[key] += multiplications[name] / 1e6
    by_type: dict[str, dict[tuple[str, int], float]] = collections.defaultdict(dict)
    for (dtype, kind, bits), milliseconds in sorted(times.items()):
        by_type[dtype][kind, bits] = milliseconds / work[dtype, kind, bits]
    return LatencyTable({}, by_type={dtype: LatencyTable(rows) for dtype, rows in by_type.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("host_latency.csv"))
    parser.add_argument("--size", type=int, default=96, help="of images, in pixels")
    options = parser.parse_args()
    table = measured(options.size)
    write_latencies(table, options.output)
    print(f"{options.output}: {platform.processor() or platform.machine()}, {os.cpu_count()} CPUs")
    print(options.output.read_text())


if __name__ == "__main__":
    main()
