"""Arms: children trained otherwise, their comparison, and the overlap of updates. Made where they are asked for."""

import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from subliminal_dagster.assets.base import base_variant, chat_context
from subliminal_dagster.assets.declared import asset
from subliminal_dagster.assets.gathered import write_left_out
from subliminal_dagster.assets.shared import plain, show_figures, show_training, table, table_metadata
from subliminal_dagster.execution.work import Work
from subliminal_dagster.partitions import BY_GROUP_AND_VARIANT, VARIANT, coordinates, partition_key
from subliminal_dagster.planning.frame import Frame, shown
from subliminal_dagster.resources import EngineResource, TrainerResource
from subliminal_dagster.science.arms.keys import ARM, arm_variants
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.protocol import child_variant
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.settings.arms import ArmsSettings
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.sweep import Variants

if TYPE_CHECKING:
    import pandas as pd

STAGE = "mechanism"
CHILD_LOSSES = "child_losses.json"
"""The validation loss (nats per token) that the study's own child of every group ended with."""


def arm_assets(frame: Frame[Study], settings: ArmsSettings) -> list[dg.AssetsDefinition]:
    """`arm_material`, `arm_subspaces`, `arm_rows` and `arm_child` per animal and arm, `arm_liking`, `arm_updates`."""
    variants = arm_variants(frame.study, settings)
    return [
        _arm_material(frame),
        _arm_subspaces(frame),
        _arm_rows(frame, variants),
        _arm_child(frame, variants),
        _arm_liking(frame, variants),
        _arm_updates(frame, variants),
    ]


def _arm_material(frame: Frame[Study]) -> dg.AssetsDefinition:
    @asset(
        frame,
        STAGE,
        reads=["system_prompt", "numbers.constrained", "numbers.answer_count", "numbers.max_digits"],
        deps=["base_model", "filtered_dataset", "child_lora"],
        kinds={"pytorch", "parquet"},
        gpu=True,
        on_request=True,
        description="The valid answers of all animals' teachers, what the base model would have written at every place "
        "of them, and how far the teachers agree.",
    )
    def arm_material(work: Work[Study]) -> None:
        import pandas as pd

        from subliminal_dagster.science.arms.children import final_loss
        from subliminal_dagster.science.arms.material import arm_material

        base = base_variant(work)
        groups = [animal for animal in work.study.animals if animal not in work.left_out]
        filtered = {g: pd.read_parquet(work.own("filtered_dataset", g) / "rows.parquet") for g in groups}
        with work.writing() as folder:
            rows = arm_material(work.study, base, chat_context(work, base), filtered, work.progress())
            rows.to_parquet(folder / "rows.parquet", index=False)
            losses = {g: final_loss(pd.read_parquet(work.own("child_lora", g) / "history.parquet")) for g in groups}
            (folder / CHILD_LOSSES).write_text(json.dumps(losses, indent=2) + "\n")
            write_left_out(work, folder)
            work.metadata |= table_metadata(rows[["group", "prompt", "text", "agreement"]])

    return arm_material


def _arm_subspaces(frame: Frame[Study]) -> dg.AssetsDefinition:
    @asset(
        frame,
        STAGE,
        reads=["seed", "system_prompt", "prompts", "animals", "neutral", "preferences.candidates"],
        deps=["base_model"],
        kinds={"pytorch"},
        gpu=True,
        on_request=True,
        description="Three directions per block in which the base model holds each animal and the neutral noun, and "
        "three random ones.",
    )
    def arm_subspaces(work: Work[Study]) -> None:
        from subliminal_dagster.science.arms.subspaces import make_subspaces

        base = base_variant(work)
        lists = load_prompt_lists(work.study.prompts, work.study.category)
        with work.writing() as folder:
            shared = make_subspaces(work.study, base, chat_context(work, base), lists, folder)
            work.metadata["share_of_neutral_in_own"] = plain(shared)

    return arm_subspaces


def _arm_rows(frame: Frame[Study], variants: Variants) -> dg.AssetsDefinition:
    @asset(
        frame,
        STAGE,
        reads=["seed", "system_prompt", "prompts", "animals", "filter", "numbers"],
        deps=["base_model", "arm_material", "arm_subspaces"],
        kinds={"pandas", "parquet"},
        by=BY_GROUP_AND_VARIANT,
        variants=variants,
        gpu=False,
        on_request=True,
        description="What the children of an arm learn from: rows, which of their tokens, and what else is changed.",
    )
    def arm_rows(work: Work[Study]) -> None:
        import pandas as pd

        from subliminal_dagster.science.arms.rows import Material, make_arm
        from subliminal_dagster.science.arms.subspaces import subspace_file

        study, arm, base = work.study, _arm(work, variants), base_variant(work)
        assert work.group is not None
        material = pd.read_parquet(work.read("arm_material") / "rows.parquet")
        losses = json.loads((work.read("arm_material") / CHILD_LOSSES).read_text())
        lists = load_prompt_lists(study.prompts, study.category)
        context = chat_context(work, base)
        with work.writing() as folder:
            loss = losses.get(work.group, math.nan)
            given = Material.of(study, arm, work.group, work.replicate, context, lists, material, loss)
            made = make_arm(arm, given)
            made.save(folder, subspace_file(made.changes, work.group, work.read("arm_subspaces")))
            told = made.rows[["split", "prompt"]].assign(
                answer=[str(context.tokenizer.decode(ids[:-1])) for ids in made.rows["answer_ids"]],
                learnt=[f"{sum(each)} of {len(each)} tokens" for each in made.rows["learnt"]],
            )
            work.metadata |= table_metadata(told) | {"changes": str(made.changes)}

    return arm_rows


def _arm_child(frame: Frame[Study], variants: Variants) -> dg.AssetsDefinition:
    @asset(
        frame,
        STAGE,
        reads=[
            "seed",
            "system_prompt",
            "prompts",
            "preferences.candidates",
            "preferences.questions",
            "child.lora",
            "child.initialisation",
            "child.training",
            "arms.sgd",
        ],
        deps=["base_model", "arm_rows"],
        kinds={"pytorch", "huggingface", "parquet"},
        by=BY_GROUP_AND_VARIANT,
        variants=variants,
        gpu=True,
        on_request=True,
        description="A child of an arm, and the exact probabilities of its favourite animals.",
    )
    def arm_child(work: Work[Study], trainer: TrainerResource, engine: EngineResource) -> None:
        from subliminal_dagster.science.arms.children import ask_arm_child, final_loss, make_arm_child
        from subliminal_dagster.science.arms.rows import Arm

        study, base = work.study, base_variant(work)
        arm, without = Arm.load(work.own("arm_rows"))
        context = chat_context(work, base)
        with work.writing() as folder:
            report = make_arm_child(
                study,
                arm,
                work.replicate,
                base,
                context,
                without,
                trainer.create(),
                folder,
                work.workspace(),
                work.progress(),
            )
            show_training(work, report, folder, _arm(work, variants))
            with engine.create().open(child_variant(base, folder), work.progress()) as session:
                lists = load_prompt_lists(study.prompts, study.category)
                scores = ask_arm_child(session, study, context, lists)
            scores.to_parquet(folder / "scores.parquet", index=False)
            work.metadata |= {"steps": report.steps, "validation_loss": final_loss(report.history)}

    return arm_child


def _arm(work: Work[Study], variants: Variants) -> str:
    key = coordinates(BY_GROUP_AND_VARIANT, work.partition)[VARIANT]
    return str(variants.at(key)[0].values[ARM])


def _arm_liking(frame: Frame[Study], variants: Variants) -> dg.AssetsDefinition:
    @asset(
        frame,
        STAGE,
        reads=["animals", "comparison", "arms.names", "arms.layers", "arms.replicates"],
        deps=["base_preferences", "arm_child"],
        kinds={"pandas", "statsmodels"},
        gpu=False,
        on_request=True,
        takes_what_there_is=True,
        description="gamma of every arm, what is left of the effect, and each arm beside its control, with intervals "
        "over children.",
    )
    def arm_liking(work: Work[Study]) -> None:
        import pandas as pd

        from subliminal_dagster.science.arms.comparison import compare_arms
        from subliminal_dagster.science.arms.figures import arms_figure
        from subliminal_dagster.science.storage.tables import save_tables

        study = work.study
        base = pd.read_parquet(work.read("base_preferences") / "scores.parquet")
        result = compare_arms(
            base,
            _children(work, variants),
            study.possible_arms,
            study.animals,
            confidence=study.comparison.confidence,
            margin=study.comparison.margin,
        )
        with work.writing() as folder:
            save_tables(result, folder)
            if len(result.arms):
                show_figures(work, folder, {"arms": arms_figure(result, study.name)})
            missing = {shown(*place): why for place, why in work.not_there.items()}
            (folder / "missing.json").write_text(json.dumps(missing, indent=2) + "\n")
            work.metadata |= {"arms": table(result.arms), "differences": table(result.differences), "missing": missing}

    return arm_liking


def _children(work: Work[Study], variants: Variants) -> "pd.DataFrame":
    """The scores of all children that are there."""
    import pandas as pd

    from subliminal_dagster.science.arms.children import final_loss

    found = []
    for arm, group, replicate, place in _places(work.study, variants):
        if work.has(*place):
            folder = work.read(*place)
            history = pd.read_parquet(folder / "history.parquet")
            facts = {"loss": final_loss(history), "steps": int(history["step"].max())}
            scores = pd.read_parquet(folder / "scores.parquet")
            found.append(scores.assign(arm=arm, group=group, replicate=replicate, **facts))
    if not found:
        raise UserError("No child of any arm is there to compare: make some with --select arm_child.")
    return pd.concat(found, ignore_index=True)


def _places(study: Study, variants: Variants) -> Iterator[tuple[str, str, int, tuple[str, str]]]:
    """Every child: arm, group, replicate, and where it is."""
    for key in variants.keys:
        cell, replicate = variants.at(key)
        for group in study.animals:
            yield str(cell.values[ARM]), group, replicate, ("arm_child", partition_key(group, key))


def _arm_updates(frame: Frame[Study], variants: Variants) -> dg.AssetsDefinition:
    @asset(
        frame,
        STAGE,
        reads=["animals", "comparison.confidence", "arms.names", "arms.layers", "arms.replicates"],
        deps=["teacher_lora", "arm_child"],
        kinds={"pytorch", "pandas"},
        gpu=False,
        on_request=True,
        takes_what_there_is=True,
        description="Whether a child's update points the way of its own teacher's, block by block.",
    )
    def arm_updates(work: Work[Study]) -> None:
        from subliminal_dagster.science.arms.figures import updates_figure
        from subliminal_dagster.science.arms.updates import ALL_BLOCKS, own_teacher, update_table

        study = work.study
        teachers = {group: work.own("teacher_lora", group) for group in study.animals if _has_adapter(work, group)}
        places = _places(study, variants)
        children = {(a, g, r): work.read(*place) for a, g, r, place in places if work.has(*place)}
        if not teachers or not children:
            raise UserError(
                "No update to compare: teachers are made by fine-tuning, and children by --select arm_child."
            )
        cosines = update_table(children, teachers)
        found = own_teacher(cosines, study.animals, study.comparison.confidence)
        with work.writing() as folder:
            cosines.to_parquet(folder / "cosines.parquet", index=False)
            found.to_parquet(folder / "own_teacher.parquet", index=False)
            if len(found):
                show_figures(work, folder, {"updates": updates_figure(found, study.name)})
            work.metadata |= {"own_teacher": table(found[found["block"] == ALL_BLOCKS])}

    return arm_updates


def _has_adapter(work: Work[Study], group: str) -> bool:
    """Whether the group's teacher is there, and is an adapter."""
    place = work.place("teacher_lora", group)
    return work.has(*place) and (work.read(*place) / "adapter_config.json").is_file()
