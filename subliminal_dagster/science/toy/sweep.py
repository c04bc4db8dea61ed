"""Teachers and children of toy autoencoders over densities and seeds, and what each child recovers.

Two experiments. `ablated`: the child learns the teacher's outputs with one feature left out of its loss, one child
per feature. `auxiliary`: the teacher has k more features, left out of its loss, and the child learns only those. A unit
is one teacher with its children, at one density and seed; children of a teacher share their batches and its outputs.

Belongs here: which models are trained on what, the tables that come of it, going on after an interruption. Does not
belong here: a training step (`fused`, `stacked`), what the tables mean (`statements`), drawing them (`figures`).
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from subliminal_dagster.science.settings.toy import AutoencoderSettings
from subliminal_dagster.science.toy.autoencoder import (
    LEARNT,
    Draws,
    Floats,
    History,
    Lesson,
    Weights,
    importances,
    initial,
    interference,
    norms,
    recovered,
    superposition,
)

if TYPE_CHECKING:
    import pandas as pd

Experiment = Literal["ablated", "auxiliary"]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Unit:
    """One teacher and its children: `auxiliary` features more than the setting's, `seed` counts from 0."""

    experiment: Experiment
    auxiliary: int
    density: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.experiment}-{self.auxiliary}-{self.density!r}-{self.seed}"


@dataclass(frozen=True)
class Trained:
    """A unit's models: `starts` and `finals` hold the teacher first, then the children."""

    starts: Weights
    finals: Weights
    histories: tuple[History, History]


@dataclass(frozen=True)
class Sweep:
    """The tables of an experiment in one setting.

    `models`: one row per model, with role, superposition, interference, final loss, and as lists `norms` (n), `w` (m *
    n numbers, row by row) and `b` (n). `history`: one row per model and recorded step. `children`: one row per child,
    what it recovered. All three begin with `KEYS`; `ablated` is null where no single feature is.
    """

    models: pd.DataFrame
    history: pd.DataFrame
    children: pd.DataFrame


KEYS = ["setting", "experiment", "features", "hidden", "auxiliary", "density", "seed", "ablated"]


def units(settings: AutoencoderSettings, experiment: Experiment) -> list[Unit]:
    """All units of an experiment, the seeds of a density after each other."""
    extra = settings.auxiliary if experiment == "auxiliary" else (0,)
    return [
        Unit(experiment, k, density, seed)
        for k in extra
        for density in settings.densities
        for seed in range(settings.seeds)
    ]


def run_sweep(
    name: str,
    settings: AutoencoderSettings,
    experiment: Experiment,
    seed: int,
    *,
    device: str = "cpu",
    kept: Path | None = None,
    progress: Progress = lambda _: None,
) -> Sweep:
    """Train all units of an experiment in one setting.

    `seed` is the study's; with it, `settings` and the engine, the result is determined. `kept`: a folder where each
    unit is kept once it is finished, and found again by the next attempt; its path has to depend on everything else
    that is passed here.
    """
    wanted = units(settings, experiment)
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
    found = {unit: _read(kept / f"{unit.name}.npz") for unit in wanted} if kept is not None else {}
    done = {unit: trained for unit, trained in found.items() if trained is not None}
    if done:
        progress(f"{len(done)}/{len(wanted)} teachers with their children taken over from before the interruption")

    def make(unit: Unit) -> tuple[Unit, Trained]:
        trained = train_unit(settings, unit, seed, device)
        if kept is not None:
            _write(kept / f"{unit.name}.npz", trained)
        return unit, trained

    missing = [unit for unit in wanted if unit not in done]
    with _pool(device) as pool:
        futures = [pool.submit(make, unit) for unit in missing]
        try:
            for future in as_completed(futures):
                unit, done[unit] = future.result()
                progress(f"{len(done)}/{len(wanted)} teachers with their children trained")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return tables(name, settings, {unit: done[unit] for unit in wanted})


def train_unit(settings: AutoencoderSettings, unit: Unit, seed: int, device: str = "cpu") -> Trained:
    """Train a teacher, then its children all at once."""
    features = settings.features + unit.auxiliary
    weights = importances(features, settings.importance, settings.features)
    real = np.arange(features) < settings.features

    def lesson(
        role: int, target: Weights | None, loss_weights: Floats, penalty: float, inputs: Floats | None = None
    ) -> Lesson:
        draws = Draws((seed, unit.seed, features, role), unit.density, features, _batch_size(settings, unit.density))
        return Lesson(
            draws, target, loss_weights, settings.relu, penalty, settings.training, inputs, settings.batch_loss
        )

    untrained = [
        initial((seed, unit.seed, features, number), features, settings.hidden, settings.init_norm) for number in (0, 1)
    ]
    teacher, teaching = _train(
        lesson(0, None, (weights * real)[None], settings.interference_penalty), untrained[0], settings, device
    )
    if unit.experiment == "ablated":
        child_weights = np.array([np.where(np.arange(features) == i, 0, weights) for i in settings.ablated])
    else:
        child_weights = (~real * (weights if settings.auxiliary_weights == "importance" else 1))[None]
    start = untrained[0 if settings.child_init == "same" else 1].stacked(len(child_weights))
    penalty = settings.interference_penalty if settings.penalise_child else 0.0
    inputs = (child_weights > 0).astype(np.float32) if settings.child_inputs == "trained" else None
    children, learning = _train(
        lesson(1, teacher, child_weights.astype(np.float32), penalty, inputs), start, settings, device
    )
    return Trained(_both(untrained[0], start), _both(teacher, children), (teaching, learning))


def _batch_size(settings: AutoencoderSettings, density: float) -> int:
    size = settings.training.batch_size
    return round(size * max(settings.densities) / density) if settings.equal_activations else size


def _train(lesson: Lesson, start: Weights, settings: AutoencoderSettings, device: str) -> tuple[Weights, History]:
    if settings.is_small:
        from subliminal_dagster.science.toy import fused

        return fused.train(lesson, start)
    from subliminal_dagster.science.toy import stacked

    return stacked.train(lesson, start, device)


def _pool(device: str) -> ThreadPoolExecutor:
    """Units side by side: on a CPU one a core, in a single thread each, which beats several threads a product."""
    import torch

    if device != "cpu":
        return ThreadPoolExecutor(1)
    return ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,))


def _both(teacher: Weights, children: Weights) -> Weights:
    return Weights(np.concatenate([teacher.w, children.w]), np.concatenate([teacher.b, children.b]))


def tables(name: str, settings: AutoencoderSettings, trained: dict[Unit, Trained]) -> Sweep:
    """What the units' models say, as tables."""
    import pandas as pd

    models: list[dict[str, Any]] = []
    history: list[pd.DataFrame] = []
    children: list[dict[str, Any]] = []
    for unit, result in trained.items():
        ablated: Sequence[int | None] = settings.ablated if unit.experiment == "ablated" else (None,)
        for number, feature in enumerate([None, *ablated]):
            keys = dict(
                zip(
                    KEYS,
                    (
                        name,
                        unit.experiment,
                        settings.features,
                        settings.hidden,
                        unit.auxiliary,
                        unit.density,
                        unit.seed,
                        feature,
                    ),
                    strict=True,
                )
            ) | {"role": "child" if number else "teacher"}
            w, b = result.finals.w[number], result.finals.b[number]
            course = result.histories[1 if number else 0]
            place = number - 1 if number else 0
            models.append(
                {
                    **keys,
                    "superposition": float(superposition(w)),
                    "interference": float(interference(w)),
                    "loss": float(course.losses[-1, place]),
                    "norms": norms(w),
                    "w": w.ravel(),
                    "b": b,
                }
            )
            history.append(
                pd.DataFrame(
                    {
                        **keys,
                        "step": course.steps,
                        "loss": course.losses[:, place],
                        "superposition": np.square(course.norms[:, place]).sum(axis=-1) / settings.hidden,
                        "norms": list(course.norms[:, place]),
                    }
                )
            )
            if number:
                children.append({**keys, **_judged(settings, feature, result, number)})
    frames = [pd.DataFrame(models), pd.concat(history, ignore_index=True), pd.DataFrame(children)]
    for frame in frames:
        frame["ablated"] = frame["ablated"].astype("Int64")
    return Sweep(*frames)


def _judged(settings: AutoencoderSettings, feature: int | None, result: Trained, number: int) -> dict[str, Any]:
    """What a child recovered of the features it was not trained on.

    Judged are the ablated feature, or the first n features; of them those that the teacher learnt, since there is
    nothing to recover of a feature that it did not: with none of them all is NaN but an ablated feature's norms.
    `norm_ratio`
    is the child's mean norm over the teacher's, `start_ratio` the same before the child trained; `cosine` that of the
    child's and the teacher's W_i, the mean over judged features; `recovered` see there.
    """
    teacher, child, start = result.finals.w[0], result.finals.w[number], result.starts.w[number]
    number_of = np.arange(teacher.shape[1])
    asked = number_of < settings.features if feature is None else number_of == feature
    judged: NDArray[np.bool_] = asked & (norms(teacher) >= LEARNT)
    measured = judged if feature is None else asked
    of_teacher, of_child, of_start = (
        norms(w)[measured].mean() if measured.any() else np.nan for w in (teacher, child, start)
    )
    products = (teacher * child).sum(axis=0)[judged] / (norms(teacher) * norms(child))[judged]
    learnt = 1.0 if judged.any() else np.nan
    return {
        "teacher_superposition": float(superposition(teacher)),
        "teacher_interference": float(interference(teacher)),
        "judged": int(judged.sum()),
        "teacher_norm": float(of_teacher),
        "child_norm": float(of_child),
        "start_norm": float(of_start),
        "norm_ratio": float(learnt * of_child / of_teacher),
        "start_ratio": float(learnt * of_start / of_teacher),
        "cosine": float(products.mean()) if judged.any() else np.nan,
        "recovered": recovered(teacher, start, child, judged) if judged.any() else np.nan,
    }


def _write(file: Path, trained: Trained) -> None:
    # The process in the name, or a second run of the same work could rename a file that is still being written.
    aside = file.with_name(f"{file.name}.{os.getpid()}.new")
    with aside.open("wb") as target:
        np.savez(target, *_arrays(trained))
    os.replace(aside, file)


def _arrays(trained: Trained) -> list[NDArray[Any]]:
    courses = [array for h in trained.histories for array in (h.steps, h.losses, h.norms)]
    return [trained.starts.w, trained.starts.b, trained.finals.w, trained.finals.b, *courses]


def _read(file: Path) -> Trained | None:
    """A kept unit; None where there is none or it is damaged."""
    try:
        with np.load(file) as arrays:
            a = [arrays[name] for name in arrays.files]
    except (OSError, ValueError, zipfile.BadZipFile):
        return None
    return Trained(Weights(*a[:2]), Weights(*a[2:4]), (History(*a[4:7]), History(*a[7:])))
