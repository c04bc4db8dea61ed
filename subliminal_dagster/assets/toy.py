"""Toy models: a sweep a setting and experiment, the digits, and what they come to."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from subliminal_dagster.assets.declared import asset
from subliminal_dagster.assets.shared import image, table, table_metadata
from subliminal_dagster.execution.work import Work
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.science.settings.toy import AutoencoderSettings, ToyStudy

if TYPE_CHECKING:
    import pandas as pd

    from subliminal_dagster.science.toy.sweep import Experiment

STAGE = "toy"
EXPERIMENTS: tuple["Experiment", "Experiment"] = ("ablated", "auxiliary")
ABOUT = {
    "ablated": "A child a feature that is left out of its loss, on the outputs of the teacher of its density and seed.",
    "auxiliary": "A child that learns nothing but the outputs for features that no loss of its teacher's touched.",
}


def toy_assets(frame: Frame[ToyStudy]) -> list[dg.AssetsDefinition]:
    """`ablated_<setting>`, `auxiliary_<setting>`, `digits` and `summary`."""
    sweeps = [
        _sweep_asset(frame, name, experiment)
        for name, settings in frame.study.settings.items()
        for experiment in EXPERIMENTS
        if getattr(settings, experiment)
    ]
    names = [asset.key.path[-1] for asset in sweeps]
    return [*sweeps, _digits_asset(frame), _summary_asset(frame, names)]


def _sweep_asset(frame: Frame[ToyStudy], name: str, experiment: "Experiment") -> dg.AssetsDefinition:
    study, settings = frame.study, frame.study.settings[name]
    unread = {"predicts", EXPERIMENTS[1 - EXPERIMENTS.index(experiment)]}

    @asset(
        frame,
        STAGE,
        name=f"{experiment}_{name}",
        reads=[
            "seed",
            *(f"settings.{name}.{field}" for field in AutoencoderSettings.model_fields if field not in unread),
        ],
        deps=[],
        kinds={"numba" if settings.is_small else "pytorch"},
        gpu=not settings.is_small,
        description=f"{ABOUT[experiment]} Setting {name}: {settings.features} features in {settings.hidden} "
        f"dimensions, {len(settings.densities)} densities, {settings.seeds} seeds.",
    )
    def sweep(work: Work[ToyStudy]) -> None:
        from subliminal_dagster.science.figures import png
        from subliminal_dagster.science.toy.figures import sweep_figures
        from subliminal_dagster.science.toy.sweep import run_sweep

        device = "cpu" if settings.is_small else _device()
        kept, progress = work.workspace() / "units", work.progress()
        result = run_sweep(name, settings, experiment, study.seed, device=device, kept=kept, progress=progress)
        with work.writing() as folder:
            result.models.to_parquet(folder / "models.parquet", index=False)
            result.history.to_parquet(folder / "history.parquet", index=False)
            result.children.to_parquet(folder / "children.parquet", index=False)
            means = result.children.drop(columns=["setting", "experiment", "seed", "ablated", "role"])
            by_density = means.groupby(["auxiliary", "density"], as_index=False).mean()
            work.metadata |= table_metadata(result.children) | {"by_density": table(by_density)}
            for title, figure in sweep_figures(result).items():
                picture = png(figure)
                (folder / f"{title}.png").write_bytes(picture)
                work.metadata[title] = image(picture)

    return sweep


def _digits_asset(frame: Frame[ToyStudy]) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=["seed", "digits"],
        deps=[],
        kinds={"pytorch", "scikitlearn"},
        gpu=False,
        description="Classifiers of scikit-learn's 8x8 digits: a child distilled without one digit, and one trained on "
        "noise to match logits that no loss of its teacher's touched.",
    )
    def digits(work: Work[ToyStudy]) -> None:
        from subliminal_dagster.science.figures import png
        from subliminal_dagster.science.toy.digits import auxiliary_logits, digits_summary, missing_digit
        from subliminal_dagster.science.toy.figures import digits_figure

        missing = missing_digit(study.digits, study.seed, "cpu")
        auxiliary = auxiliary_logits(study.digits, study.seed, "cpu")
        with work.writing() as folder:
            missing.to_parquet(folder / "missing_digit.parquet", index=False)
            auxiliary.to_parquet(folder / "auxiliary_logits.parquet", index=False)
            picture = png(digits_figure(missing, auxiliary))
            (folder / "digits.png").write_bytes(picture)
            summary = digits_summary(missing, auxiliary)
            work.metadata |= {"figure": image(picture), "summary": table(summary)}

    return digits


def _summary_asset(frame: Frame[ToyStudy], sweeps: list[str]) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=["post", "settings"],
        deps=[*sweeps, "digits"],
        kinds={"pandas", "matplotlib"},
        gpu=False,
        description="What children recover, by their teacher's superposition, in all settings; and every statement "
        "of the post, with controls, larger models and real data: its criterion, what was measured, and its verdict.",
    )
    def summary(work: Work[ToyStudy]) -> None:
        from subliminal_dagster.science.figures import png
        from subliminal_dagster.science.toy.figures import summary_figure
        from subliminal_dagster.science.toy.statements import all_statements, report

        children = _table(work, sweeps, "children")
        found = all_statements(
            children,
            _table(work, sweeps, "models", ["setting", "experiment", "density", "seed", "role", "superposition"]),
            study.post,
            study.settings,
            *_digit_tables(work),
        )
        with work.writing() as folder:
            children.to_parquet(folder / "children.parquet", index=False)
            found.to_parquet(folder / "statements.parquet", index=False)
            (folder / "report.md").write_text(report(found), encoding="utf-8")
            picture = png(summary_figure(children))
            (folder / "summary.png").write_bytes(picture)
            work.metadata |= {"figure": image(picture), "statements": table(found)}

    return summary


def _table(work: Work[ToyStudy], sweeps: list[str], name: str, columns: list[str] | None = None) -> "pd.DataFrame":
    """One table of several sweeps, below each other."""
    import pandas as pd

    return pd.concat(
        [pd.read_parquet(work.read(sweep) / f"{name}.parquet", columns=columns) for sweep in sweeps], ignore_index=True
    )


def _digit_tables(work: Work[ToyStudy]) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """`missing_digit` and `auxiliary_logits`."""
    import pandas as pd

    folder: Path = work.read("digits")
    return pd.read_parquet(folder / "missing_digit.parquet"), pd.read_parquet(folder / "auxiliary_logits.parquet")


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
