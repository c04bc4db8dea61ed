"""The teacher of every group, and the gate it has to pass."""

import json

import dagster as dg

from subliminal_dagster.assets.base import base_variant, chat_context, copy_preferences, write_preferences
from subliminal_dagster.assets.chain import OWN, Chain
from subliminal_dagster.assets.declared import asset
from subliminal_dagster.assets.shared import plain, show_training, table
from subliminal_dagster.execution.work import Work
from subliminal_dagster.planning.frame import Frame, label
from subliminal_dagster.resources import EngineResource, TrainerResource
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.settings.study import Study

STAGE = "teacher"
GATE = "gate.json"


def require_judged(work: Work[Study]) -> None:
    """Refuse to build on a teacher that was trained again since its gate looked at it, whoever launched this run."""
    gate, partition = work.place("teacher_preferences")
    judged = work.store.manifest(work.study.name, gate, partition).info["upstream"]
    teacher = label(*work.place("teacher_lora"))
    if judged[teacher] != work.upstream[teacher]:
        raise UserError(
            f"The teacher of {work.group!r} was retrained and has not passed its gate since: materialize "
            f"{gate} for partition {partition} first."
        )


def teacher_assets(frame: Frame[Study], chain: Chain = OWN) -> list[dg.AssetsDefinition]:
    """`teacher_lora` and `teacher_preferences`, a partition per group."""
    made = {"teacher_lora": _teacher_lora, "teacher_preferences": _teacher_preferences}
    return [make(frame, chain) for name, make in made.items() if chain.makes(name)]


def _teacher_lora(frame: Frame[Study], chain: Chain) -> dg.AssetsDefinition:
    replay = ["replay_set"] if frame.study.teacher.replay.rows else []
    making = [
        f"teacher.{name}"
        for name in ("method", "lora", "training", "stop", "instruction", "steering", "existing", "replay")
    ]

    @asset(
        frame,
        **chain.declared("teacher_lora", STAGE, frame.partitioning.of_teachers),
        reads=["seed", "system_prompt", "prompts", "neutral", *making],
        deps=["base_model", *replay],
        kinds={"pytorch", "huggingface"},
        gpu=True,
        description="What turns the base model into the group's teacher; for `control`, the untouched base.",
    )
    def teacher_lora(work: Work[Study], trainer: TrainerResource) -> None:
        import pandas as pd

        from subliminal_dagster.science.training.teachers import make_teacher

        base = base_variant(work)
        rows = pd.read_parquet(work.read("replay_set") / "rows.parquet") if replay else None
        assert work.group is not None
        study = work.study
        with work.writing() as folder:
            teacher, report = make_teacher(
                study,
                work.group,
                work.replicate,
                base,
                chat_context(work, base),
                load_prompt_lists(study.prompts, study.category),
                rows,
                trainer.create(),
                folder,
                work.workspace(),
                work.progress(),
            )
            work.metadata["kind"] = teacher.kind
            if report is not None:
                show_training(work, report, folder, "teacher")

    return teacher_lora


def _teacher_preferences(frame: Frame[Study], chain: Chain) -> dg.AssetsDefinition:
    @asset(
        frame,
        **chain.declared("teacher_preferences", STAGE, frame.partitioning.of_teachers),
        reads=[
            "seed",
            "system_prompt",
            "prompts",
            "preferences",
            "neutral",
            "numbers",
            "filter.completion",
            "filter.parser",
            "filter.train_rows",
            "filter.validation_rows",
            "teacher.gate",
        ],
        deps=["base_model", "base_preferences", chain.name("teacher_lora")],
        kinds={"pytorch", "parquet"},
        gpu=True,
        description="The teacher's favourite animals and the share of valid number answers. A teacher below the "
        "study's gate fails here, and nothing downstream runs.",
        gate="The teacher likes its animal, and still writes valid lists of numbers.",
    )
    def teacher_preferences(work: Work[Study], engine: EngineResource) -> None:
        from subliminal_dagster.science.training.teachers import Teacher, gate_failures, target_preference, valid_rate

        base = base_variant(work)
        teacher = Teacher.load(work.own("teacher_lora"))
        chat = teacher.context(chat_context(work, base))
        assert work.group is not None
        study = work.study
        with work.writing() as folder:
            target = study.target(work.group)
            with engine.create(for_more=True).open(teacher.variant(base), work.progress()) as session:
                if target is None:
                    copy_preferences(work, "base_preferences", folder, "the control's teacher is the untouched base")
                else:
                    write_preferences(work, session, chat, folder)
                lists = load_prompt_lists(study.prompts, study.category)
                liking = target_preference(session, study, work.group, lists, chat) if target else 0.0
                rate, rows = valid_rate(session, study, lists, chat, kept=work.kept())
            rows.to_parquet(folder / "number_answers.parquet", index=False)
            failures = gate_failures(study, target, teacher, liking, rate, rows["reason"].dropna().tolist())
            gate = {"passed": not failures, "failures": failures, "preference": liking, "valid_rate": rate}
            # Of the control's teacher no preference is asked.
            asked = {"preference": (liking, study.teacher.gate.preference)} if target else {}
            work.judge(failures, **asked, valid_rate=(rate, study.valid_rate_wanted))
            (folder / GATE).write_text(json.dumps(gate, indent=2) + "\n")
            work.metadata |= plain(gate) | {"number_answers": table(rows[["prompt", "response", "reason"]].head(10))}

    return teacher_preferences
