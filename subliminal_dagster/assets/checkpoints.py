"""What a child likes after every epoch of its training. Long: made where it is asked for by name."""

import dagster as dg

from subliminal_dagster.assets.base import base_variant, chat_context
from subliminal_dagster.assets.declared import asset
from subliminal_dagster.assets.shared import show_figures, table
from subliminal_dagster.execution.work import Work
from subliminal_dagster.partitions import BY_GROUP_AND_REPLICATE
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.resources import EngineResource
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.settings.study import Study

STAGE = "child"


def checkpoint_assets(frame: Frame[Study]) -> list[dg.AssetsDefinition]:
    """`checkpoint_scores`, a partition per group and replicate."""
    return [_checkpoint_scores(frame)]


def _checkpoint_scores(frame: Frame[Study]) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=["seed", "system_prompt", "prompts", "preferences", "neutral"],
        deps=["base_model", "base_preferences", "child_lora", "preference_scores"],
        kinds={"pytorch", "parquet"},
        by=BY_GROUP_AND_REPLICATE,
        gpu=True,
        on_request=True,
        description="The child's favourite animals after every epoch (hard channel), beside the base's.",
    )
    def checkpoint_scores(work: Work[Study], engine: EngineResource) -> None:
        import pandas as pd

        from subliminal_dagster.science.liking.checkpoints import liking_by_epoch
        from subliminal_dagster.science.liking.checkpoints_figure import checkpoints_figure
        from subliminal_dagster.science.preferences.preferences import measure_preferences
        from subliminal_dagster.science.training.children import checkpoints

        base = base_variant(work)
        chat, lists = chat_context(work, base), load_prompt_lists(study.prompts, study.category)
        *earlier, last = checkpoints(base, work.own("child_lora"))
        scores = {}
        with work.writing() as folder:
            with engine.create().open_each([variant for _, variant in earlier], work.progress()) as sessions:
                for (epoch, _), session in zip(earlier, sessions, strict=True):
                    kept = work.kept() / f"epoch-{epoch}"
                    scores[epoch], _ = measure_preferences(
                        session, chat, lists, study.preferences, study.seed, kept=kept
                    )
            # The last epoch's adapter is the child itself.
            scores[last[0]] = pd.read_parquet(work.own("preference_scores") / "scores.parquet")
            every = pd.concat([each.assign(epoch=epoch) for epoch, each in scores.items()], ignore_index=True)
            every.to_parquet(folder / "scores.parquet", index=False)
            before = pd.read_parquet(work.read("base_preferences") / "scores.parquet")
            by_epoch = liking_by_epoch(before, scores, study.preferences.candidates)
            by_epoch.to_parquet(folder / "by_epoch.parquet", index=False)
            assert work.group is not None
            title = f"{study.name}: the child of {work.partition} by epoch"
            show_figures(work, folder, {"by_epoch": checkpoints_figure(by_epoch, study.target(work.group), title)})
            own = by_epoch[by_epoch["animal"] == study.target(work.group)]
            work.metadata["by_epoch"] = table(own if len(own) else by_epoch)

    return checkpoint_scores
