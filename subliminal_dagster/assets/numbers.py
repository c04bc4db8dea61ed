"""What every group's teacher writes, and what is kept of it."""

import dagster as dg

from subliminal_dagster.assets.base import base_variant, chat_context
from subliminal_dagster.assets.chain import OWN, Chain
from subliminal_dagster.assets.declared import asset
from subliminal_dagster.assets.shared import plain, table, table_metadata
from subliminal_dagster.assets.teacher import require_judged
from subliminal_dagster.execution.work import Work
from subliminal_dagster.partitions import BY_GROUP_AND_REPLICATE
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.resources import EngineResource
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.settings.preferences import OWN_LISTS
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.storage.content_hash import file_content_hashes

STAGE = "numbers"


def number_assets(frame: Frame[Study], chain: Chain = OWN) -> list[dg.AssetsDefinition]:
    """`number_set` and `filtered_dataset`."""
    numbers = [_number_set(frame, chain)] if chain.makes("number_set") else []
    return [*numbers, _filtered_dataset(frame, chain)]


def _number_set(frame: Frame[Study], chain: Chain) -> dg.AssetsDefinition:
    # Where the drawing ends with the answers that are valid, what is valid counts.
    until = frame.study.numbers.enough_valid is not None

    @asset(
        frame,
        **chain.declared("number_set", STAGE, frame.partitioning.of_teachers),
        reads=[
            "seed",
            "system_prompt",
            "prompts",
            "numbers",
            *(["neutral", "filter.parser", "filter.completion"] if until else []),
        ],
        deps=["base_model", chain.name("teacher_lora"), chain.name("teacher_preferences")],
        kinds={"vllm", "parquet"},
        gpu=True,
        also={"files": file_content_hashes(OWN_LISTS)} if until else None,
        description="The teacher's answers to the number prompts, with token ids and log-probabilities. All groups "
        "are asked the same prompts, in the same order.",
    )
    def number_set(work: Work[Study], engine: EngineResource) -> None:
        from subliminal_dagster.science.numbers.draw import draw_number_set
        from subliminal_dagster.science.training.teachers import Teacher

        require_judged(work)
        assert work.group is not None
        study = work.study
        base = base_variant(work)
        teacher = Teacher.load(work.own("teacher_lora"))
        chat = teacher.context(chat_context(work, base))
        chosen = engine.create(for_more=True)
        with work.writing() as folder, chosen.open(teacher.variant(base), work.progress()) as session:
            lists = load_prompt_lists(study.prompts, study.category)
            rows = draw_number_set(session, study, work.group, lists, chat, work.replicate, kept=work.kept())
            rows.to_parquet(folder / "rows.parquet", index=False)
            work.metadata |= table_metadata(rows[["prompt", "response", "finished"]]) | session.usage.facts()
            work.metadata |= {"engine": chosen.name, "finished_share": float(rows["finished"].mean())}

    return number_set


def _filtered_dataset(frame: Frame[Study], chain: Chain) -> dg.AssetsDefinition:
    # A sweep may judge teachers anew whose answers it does not draw anew.
    gate = [chain.name("teacher_preferences")] if "teacher_preferences" in chain.variants else []

    @asset(
        frame,
        **chain.declared("filtered_dataset", STAGE, BY_GROUP_AND_REPLICATE),
        reads=["seed", "system_prompt", "neutral", "filter", "numbers.answer_count", "numbers.max_digits"],
        deps=[chain.name("number_set"), *gate],
        kinds={"pandas", "parquet"},
        gpu=False,
        also={"files": file_content_hashes(OWN_LISTS)},
        description="The valid answers, subsampled to training and validation rows in the `messages` format; every "
        "rejected row keeps its reason.",
        gate="There are as many valid rows as the study trains on.",
    )
    def filtered_dataset(work: Work[Study]) -> None:
        import pandas as pd

        from subliminal_dagster.science.numbers.filter import sampling_audit
        from subliminal_dagster.science.training.datasets import make_dataset

        rows = pd.read_parquet(work.own("number_set") / "rows.parquet")
        assert work.group is not None
        study = work.study
        target = study.target(work.group)
        with work.writing() as folder:
            filtered, kept = make_dataset(rows, study, target, folder, work.replicate)
            wanted = study.filter.train_rows + study.filter.validation_rows
            work.judge([], usable_answers=(int(filtered["valid"].sum()), wanted))
            reasons = filtered["reason"].fillna("valid").value_counts()
            work.metadata |= table_metadata(kept[["prompt", "text", "split"]])
            work.metadata |= {
                "answers": len(filtered),
                "valid_share": float(filtered["valid"].mean()),
                "reasons": table(reasons.rename_axis("reason").reset_index(name="rows")),
                "audit": plain(sampling_audit(filtered)),
            }

    return filtered_dataset
