"""The children of every group and their preferences, once per channel."""

import dagster as dg

from subliminal_dagster.assets.base import base_variant, chat_context, copy_preferences, write_preferences
from subliminal_dagster.assets.chain import OWN, Chain
from subliminal_dagster.assets.declared import asset
from subliminal_dagster.assets.shared import show_training
from subliminal_dagster.execution.work import Work
from subliminal_dagster.partitions import BY_GROUP_AND_REPLICATE
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.resources import EngineResource, TrainerResource
from subliminal_dagster.science.models.protocol import child_variant
from subliminal_dagster.science.settings.child import Channel
from subliminal_dagster.science.settings.names import CONTROL
from subliminal_dagster.science.settings.study import Study

STAGE = "child"

PREFIX: dict[Channel, str] = {"hard": "", "soft": "soft_"}
"""The hard channel is the post's, and its assets carry the plain names."""

UNTOUCHED = "untouched.json"


def child_assets(frame: Frame[Study], chain: Chain = OWN) -> list[dg.AssetsDefinition]:
    """`child_lora` and `preference_scores` for the hard channel, `soft_...` where the study has the soft one."""
    channels = frame.study.child.channels
    return [make(frame, chain, channel) for channel in channels for make in (_child_lora, _preference_scores)]


def _child_lora(frame: Frame[Study], chain: Chain, channel: Channel) -> dg.AssetsDefinition:
    prefix = PREFIX[channel]
    soft = channel == "soft"

    @asset(
        frame,
        **chain.declared(f"{prefix}child_lora", STAGE, BY_GROUP_AND_REPLICATE),
        reads=[
            "seed",
            "system_prompt",
            "child.lora",
            "child.initialisation",
            "child.training",
            *(["child.soft"] if soft else []),
        ],
        deps=["base_model", chain.name("filtered_dataset"), *([chain.name("teacher_lora")] if soft else [])],
        kinds={"pytorch", "huggingface"},
        gpu=True,
        description=f"The base model trained on the group's numbers ({channel} channel), a checkpoint per epoch.",
    )
    def child_lora(work: Work[Study], trainer: TrainerResource) -> None:
        from subliminal_dagster.science.training.children import make_child
        from subliminal_dagster.science.training.teachers import Teacher

        base = base_variant(work)
        dataset = work.own("filtered_dataset")
        teacher = Teacher.load(work.own("teacher_lora")) if soft else None
        with work.writing() as folder:
            if soft and work.group == CONTROL:
                # Its teacher is the base it starts from: the divergence and its gradient are zero throughout.
                (folder / UNTOUCHED).write_text('{"reason": "the control\'s teacher is the base itself"}\n')
                work.metadata["kind"] = "untouched base: its teacher is the base itself, so nothing can be learnt"
            else:
                report = make_child(
                    work.study,
                    channel,
                    work.replicate,
                    base,
                    chat_context(work, base),
                    dataset,
                    teacher,
                    trainer.create(),
                    folder,
                    work.workspace(),
                    work.progress(),
                )
                show_training(work, report, folder, f"{channel} child")

    return child_lora


def _preference_scores(frame: Frame[Study], chain: Chain, channel: Channel) -> dg.AssetsDefinition:
    prefix = PREFIX[channel]

    @asset(
        frame,
        **chain.declared(f"{prefix}preference_scores", STAGE, BY_GROUP_AND_REPLICATE),
        reads=["seed", "system_prompt", "prompts", "preferences"],
        deps=["base_model", "base_preferences", chain.name(f"{prefix}child_lora")],
        kinds={"pytorch", "parquet"},
        gpu=True,
        description=f"The child's favourite animals ({channel} channel): exact probabilities and sampled answers.",
    )
    def preference_scores(work: Work[Study], engine: EngineResource) -> None:
        base = base_variant(work)
        child = work.own(f"{prefix}child_lora")
        with work.writing() as folder:
            if (child / UNTOUCHED).exists():
                copy_preferences(work, "base_preferences", folder, "the child is the untouched base")
            else:
                variant = child_variant(base, child)
                with engine.create(for_more=True).open(variant, work.progress()) as session:
                    write_preferences(work, session, chat_context(work, base), folder)

    return preference_scores
