"""Tuning a child's hyperparameters, and the child of the best setting. Long: made where it is asked for by name."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import dagster as dg

from subliminal_dagster.assets.base import base_variant, chat_context
from subliminal_dagster.assets.capability import examined_by, read_capability
from subliminal_dagster.assets.declared import asset
from subliminal_dagster.assets.shared import plain, show_figures, show_training, table
from subliminal_dagster.execution.work import Work
from subliminal_dagster.partitions import BY_GROUP
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.resources import EngineResource, TrainerResource
from subliminal_dagster.science.models.protocol import child_variant
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.tuning import TuningSettings

if TYPE_CHECKING:
    import pandas as pd

    from subliminal_dagster.science.capability.capability import Capability

STAGE = "tuning"
GROWS = ("tuning.trials",)
"""Of which more do not make worthless what there is."""


def tuning_assets(frame: Frame[Study], settings: TuningSettings) -> list[dg.AssetsDefinition]:
    """`tuning_study`, `tuned_child_lora` and `tuned_scores`, a partition per group."""
    return [_tuning_study(frame, settings), _tuned_child_lora(frame, settings), _tuned_scores(frame, settings)]


def _tuning_study(frame: Frame[Study], settings: TuningSettings) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=[
            "seed",
            "system_prompt",
            "child.lora",
            "child.training",
            *(f"tuning.{name}" for name in TuningSettings.model_fields if name != "final_epochs"),
        ],
        deps=["base_model", "filtered_dataset"],
        kinds={"pytorch", "optuna"},
        by=BY_GROUP,
        gpu=True,
        on_request=True,
        description="Optuna's search for the child's learning rate, dropout, rank and alpha with the lowest validation "
        "loss. More trials go on from those there are.",
    )
    def tuning_study(work: Work[Study], trainer: TrainerResource) -> None:
        from subliminal_dagster.science.training.datasets import training_rows
        from subliminal_dagster.science.tuning.figures import curves_figure, importance_figure, trials_figure
        from subliminal_dagster.science.tuning.result import TuningResult, parameter_importance
        from subliminal_dagster.science.tuning.search import run_tuning

        base = base_variant(work)
        dataset, chat = work.own("filtered_dataset"), chat_context(work, base)
        kept, before = work.workspace(whatever=GROWS), work.earlier()
        assert study.child.lora is not None
        result = run_tuning(
            base,
            training_rows(dataset, "train", chat),
            training_rows(dataset, "validation", chat),
            study.child.lora,
            study.child.training,
            trainer.create(),
            settings,
            study.seed,
            kept / "study",
            kept / "trials",
            earlier=None if before is None else TuningResult.read(before),
            progress=work.progress(),
        )
        with work.writing() as folder:
            result.write(folder)
            importance = parameter_importance(result.trials, settings.search, study.seed)
            title = f"{study.name}: tuning of {work.group}'s child"
            figures = {
                "trials": trials_figure(result.trials, title),
                "curves": curves_figure(result.curves, int(result.best["trial"]), title),
            }
            if len(importance):
                importance.to_parquet(folder / "importance.parquet", index=False)
                figures["importance"] = importance_figure(importance, title)
            show_figures(work, folder, figures)
            work.metadata |= plain(result.facts()) | {"trials": table(result.trials)}

    return tuning_study


def _tuned_child_lora(frame: Frame[Study], settings: TuningSettings) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=["seed", "system_prompt", "child.lora", "child.initialisation", "child.training", "tuning.final_epochs"],
        deps=["base_model", "filtered_dataset", "tuning_study"],
        kinds={"pytorch", "huggingface"},
        by=BY_GROUP,
        gpu=True,
        on_request=True,
        description="The child of the best setting, on all training rows, for as many epochs as the last one scored.",
    )
    def tuned_child_lora(work: Work[Study], trainer: TrainerResource) -> None:
        from subliminal_dagster.science.training.children import initialisation_seed
        from subliminal_dagster.science.training.datasets import training_rows
        from subliminal_dagster.science.training.task import TrainingTask
        from subliminal_dagster.science.tuning.result import TuningResult
        from subliminal_dagster.science.tuning.search import tuned_settings

        base = base_variant(work)
        dataset, chat = work.own("filtered_dataset"), chat_context(work, base)
        best = TuningResult.read(work.own("tuning_study")).best
        assert study.child.lora is not None
        lora, training = tuned_settings(best, study.child.lora, study.child.training, settings.final_epochs[-1])
        task = TrainingTask(
            base,
            training_rows(dataset, "train", chat),
            lora,
            training,
            study.seed,
            validation=training_rows(dataset, "validation", chat),
            initialisation_seed=initialisation_seed(study, replicate=1),
        )
        with work.writing() as folder:
            report = trainer.create().train(task, folder, work.workspace(), work.progress())
            show_training(work, report, folder, "tuned child")

    return tuned_child_lora


def _tuned_scores(frame: Frame[Study], settings: TuningSettings) -> dg.AssetsDefinition:
    study = frame.study
    examined = ["exam", "base_capability", "child_capability"] if study.capability else []

    @asset(
        frame,
        STAGE,
        reads=[
            "seed",
            "system_prompt",
            "prompts",
            "preferences",
            "neutral",
            "tuning.final_epochs",
            *(["capability.ways"] if study.capability else []),
        ],
        deps=["base_model", "base_preferences", "preference_scores", "tuned_child_lora", *examined],
        kinds={"pytorch", "parquet"},
        by=BY_GROUP,
        gpu=True,
        on_request=True,
        description="The tuned child's favourite animals and exam at the epochs that the study lists, beside the base "
        "and the child of the study's own settings.",
    )
    def tuned_scores(work: Work[Study], engine: EngineResource) -> None:
        import pandas as pd

        from subliminal_dagster.science.preferences.preferences import measure_preferences
        from subliminal_dagster.science.tuning.figures import epochs_figure

        assert work.group is not None
        base = base_variant(work)
        chat, lists = chat_context(work, base), load_prompt_lists(study.prompts, study.category)
        child = work.own("tuned_child_lora")
        scores, skills = {}, {}
        variants = [child_variant(base, child / "epochs" / str(epoch)) for epoch in settings.final_epochs]
        with work.writing() as folder:
            with engine.create().open_each(variants, work.progress()) as sessions:
                for epoch, session in zip(settings.final_epochs, sessions, strict=True):
                    kept = work.kept() / f"epoch-{epoch}"
                    scores[epoch], _ = measure_preferences(
                        session, chat, lists, study.preferences, study.seed, kept=kept / "liking"
                    )
                    if study.capability:
                        skills[epoch] = examined_by(work, study.capability, session, chat, kept / "exam")
            tables = _over_epochs(work, scores, skills)
            every = pd.concat([each.assign(epoch=epoch) for epoch, each in scores.items()], ignore_index=True)
            every.to_parquet(folder / "scores.parquet", index=False)
            if tables:
                over_epochs = pd.concat(tables, ignore_index=True)
                over_epochs.to_parquet(folder / "over_epochs.parquet", index=False)
                title = f"{study.name}: {work.group}'s tuned child"
                show_figures(work, folder, {"epochs": epochs_figure(over_epochs, title)})
                work.metadata["over_epochs"] = table(over_epochs)

    return tuned_scores


def _over_epochs(
    work: Work[Study], scores: "Mapping[int, pd.DataFrame]", skills: "Mapping[int, Capability]"
) -> "list[pd.DataFrame]":
    """How the tuned child's liking and skill went with the epochs, beside the base's and the untuned child's."""
    import pandas as pd

    from subliminal_dagster.science.tuning.scores import liking_over_epochs, skill_over_epochs

    study, tables = work.study, []
    assert work.group is not None
    target = study.target(work.group)
    if target is not None and target in study.preferences.candidates:
        untuned = pd.read_parquet(work.own("preference_scores") / "scores.parquet")
        untouched = pd.read_parquet(work.read("base_preferences") / "scores.parquet")
        tables.append(liking_over_epochs(untouched, untuned, scores, target))
    if study.capability:
        before = [
            read_capability(work.read(asset, partition))
            for asset, partition in (("base_capability", None), ("child_capability", work.group))
        ]
        tables.append(skill_over_epochs(before[0], before[1], skills, study.capability.ways[0]))
    return tables
