"""`tfeptq frontier`: what every sensible choice of widths would cost."""

from __future__ import annotations

import contextlib
import dataclasses
import json as json_text
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tfeptq.cli.augmentation import (
    RandomFlip,
    RandomTranslation,
    augmentation,
    check_augmentation,
)
from tfeptq.cli.exit_codes import DONE
from tfeptq.cli.npz import Npz
from tfeptq.cli.request import ConfigFile, Prices, Settings, request
from tfeptq.cli.source import TraceLoss, source_model
from tfeptq.cli.values import InputKey, Json, LabelKey, Model, Verbose, one_of, require_file
from tfeptq.cli.workers import Ray, Workers, sharing
from tfeptq.foreign.files import require_model_file
from tfeptq.goals import COSTS
from tflite_export.file.atomic import require_folder


def frontier(
    model: Model,
    /,
    *,
    calibration: Annotated[Path, Parameter(metavar="X.npz")],
    config: ConfigFile = None,
    cost: Annotated[
        str, one_of(COSTS, "What the predicted loss is drawn against:")
    ] = "weight_bytes",
    resume: Annotated[Path | None, Parameter(metavar="DIR")] = None,
    input_key: InputKey = None,
    label_key: LabelKey = None,
    trace_loss: TraceLoss = None,
    json: Json = False,
    verbose: Verbose = 1,
    workers: Workers = None,
    ray: Ray = None,
    settings: Settings = None,
    prices: Prices = None,
    random_flip: RandomFlip = None,
    random_translation: RandomTranslation = None,
) -> int:
    """Predicted loss against cost for every sensible choice of widths.

    Args:
        model: The float model: .keras, .h5 or the folder of a SavedModel.
        calibration: A few hundred unlabelled samples.
        resume: Keeps sensitivities in this folder.
    """
    asked = request(config, settings, prices or {})
    check_augmentation(asked.augmentation, random_flip, random_translation)
    require_model_file(model)
    require_file(calibration)
    require_folder("--resume", resume)
    shared = sharing(workers, ray)
    with contextlib.redirect_stdout(sys.stderr if json else sys.stdout):
        source = source_model(model, trace_loss)
        copies = augmentation(source, asked, random_flip, random_translation)
        samples = Npz(calibration, input_key, label_key, is_labelled=trace_loss is not None)
        from tfeptq.pareto import pareto_frontier

        with shared:
            points = pareto_frontier(
                source,
                samples.inputs,
                dataclasses.replace(asked.config, augmentation=copies),
                cost=cost,
                verbose=verbose,
                checkpoint_dir=resume,
                labels=samples.labels if samples.is_labelled else None,
            )
    if json:
        print(json_text.dumps([dataclasses.asdict(point) for point in points]))
        return DONE
    from tfeptq.report.tables import show_frontier

    show_frontier(points, cost)
    return DONE
