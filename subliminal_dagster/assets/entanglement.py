"""Numbers and animals that raise each other in the base model, and whether that says what children come to like."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from subliminal_dagster.assets.base import base_variant, chat_context
from subliminal_dagster.assets.declared import asset
from subliminal_dagster.assets.gathered import write_left_out
from subliminal_dagster.assets.shared import show_figures, table, table_metadata
from subliminal_dagster.execution.work import Work
from subliminal_dagster.partitions import REPLICATE, partition_key
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.settings.entanglement import EntanglementSettings
from subliminal_dagster.science.settings.study import Study

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

STAGE = "mechanism"


def entanglement_assets(frame: Frame[Study], settings: EntanglementSettings) -> list[dg.AssetsDefinition]:
    """`token_entanglement` and `entanglement`, on request."""
    return [_token_entanglement(frame, settings), _entanglement(frame, settings)]


def _token_entanglement(frame: Frame[Study], settings: EntanglementSettings) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=[
            "seed",
            "system_prompt",
            "prompts",
            "preferences.candidates",
            "preferences.begun",
            "numbers",
            "teacher.instruction",
            "entanglement.prompts",
            "entanglement.questions",
        ],
        deps=["base_model"],
        kinds={"pytorch", "parquet"},
        gpu=True,
        on_request=True,
        description="Every number set against every candidate animal in the base model: cosines of their tokens, what "
        "love for the animal does to the number, what the number in the prompt does to the animal.",
    )
    def token_entanglement(work: Work[Study]) -> None:
        from subliminal_dagster.science.entanglement.measures import measure_entanglement
        from subliminal_dagster.science.models.transformers_engine import TransformersEngine

        base = base_variant(work)
        chat, lists = chat_context(work, base), load_prompt_lists(study.prompts, study.category)
        # Not the injected engine: vLLM keeps the embeddings to itself.
        with work.writing() as folder, TransformersEngine(score_batch=16).open(base, work.progress()) as session:
            found = measure_entanglement(
                session,
                session.model,
                chat,
                lists,
                study.preferences.candidates,
                study.preferences.begun,
                study.numbers,
                settings,
                study.teacher.instruction,
                study.seed,
            )
            found.save(folder)
            work.metadata |= table_metadata(found.numbers) | {"animals": table(found.animals)} | session.usage.facts()

    return token_entanglement


def _entanglement(frame: Frame[Study], settings: EntanglementSettings) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=["seed", "animals", "replicates", "entanglement", "comparison.margin", "comparison.permutations"],
        deps=["token_entanglement", "base_preferences", "filtered_dataset", "preference_scores"],
        kinds={"pandas", "scipy"},
        gpu=False,
        on_request=True,
        all_replicates=True,
        description="What is left of entanglement beyond frequency: whether entangled numbers raise their animal, "
        "whether its teacher writes them, and whether they say which animals a child comes to like.",
    )
    def entanglement(work: Work[Study]) -> None:
        import pandas as pd

        from subliminal_dagster.science.entanglement.figures import lift_figure, prediction_figure, share_figure
        from subliminal_dagster.science.entanglement.measures import Entanglement
        from subliminal_dagster.science.entanglement.results import study_entanglement, written_numbers
        from subliminal_dagster.science.storage.tables import save_tables
        from subliminal_dagster.science.training.datasets import read_messages

        measured = Entanglement.load(work.read("token_entanglement"))
        candidates = list(measured.animals["animal"])
        base = _log_shares(work.read("base_preferences"), candidates)
        written, trained, shifts = {}, {}, {}
        for group in study.groups:
            if group in work.left_out:
                continue
            data = list(_of_replicates(work, "filtered_dataset", group))
            rows = pd.concat([pd.read_parquet(folder / "rows.parquet") for folder in data])
            written[group] = [int(number) for own in rows.loc[rows["valid"], "numbers"] for number in own]
            answers = [answer for folder in data for _, answer in read_messages(folder, "train")]
            trained[group] = written_numbers(answers)
            children = [
                _log_shares(folder, candidates) - base for folder in _of_replicates(work, "preference_scores", group)
            ]
            shifts[group] = pd.concat(children, axis=1).mean(axis=1).tolist()
        compared = [animal for animal in study.animals if animal in written]
        with work.writing() as folder:
            found = study_entanglement(
                measured, written, trained, shifts, compared, settings, study.comparison, study.seed
            )
            save_tables(found, folder)
            title = study.name
            figures = {
                "shares": share_figure(found.shares, f"{title}: what a measure of number and animal is about"),
                "lifts": lift_figure(found.lifts, f"{title}: what entangled numbers do to their animal"),
                "predictions": prediction_figure(found.predictions, f"{title}: predicting what a child likes"),
            }
            show_figures(work, folder, figures)
            work.metadata |= {"predictions": table(found.predictions), "lifts": table(found.lifts)}
            write_left_out(work, folder)

    return entanglement


def _of_replicates(work: Work[Study], name: str, group: str) -> "Iterator[Path]":
    """A group's artifacts, of all its replicates where it has several."""
    replicates = range(1, work.study.replicates + 1) if REPLICATE in work.frame.nodes[name].by else []
    for partition in [partition_key(group, str(number)) for number in replicates] or [group]:
        yield work.read(name, partition)


def _log_shares(folder: "Path", candidates: list[str]) -> "pd.Series[float]":
    """A model's log share of each candidate, nats, mean over questions."""
    import numpy as np
    import pandas as pd

    scores = pd.read_parquet(folder / "scores.parquet")
    return np.log(scores.set_index("animal")["share"]).groupby("animal").mean()[candidates]
