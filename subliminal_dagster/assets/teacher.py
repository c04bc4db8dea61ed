"""The teacher of every group, and the gate it has to pass."""

import json

import dagster as dg

from subliminal_dagster.assets.base import base_variant, chat_context, copy_preferences, write_preferences
from subliminal_dagster.assets.shared import Frame, Work, plain, show_training, table, working
from subliminal_dagster.resources import EngineResource, StoreResource, TrainerResource
from subliminal_dagster.science.errors import GateError
from subliminal_dagster.science.prompt_lists import load_prompt_lists
from subliminal_dagster.science.study import CONTROL

STAGE = "teacher"
GATE = "gate.json"


def require_gate(work: Work) -> None:
    """Refuse to build on a teacher that failed its gate, whoever launched this run."""
    gate = json.loads((work.read("teacher_preferences", work.group) / GATE).read_text())
    if not gate["passed"]:
        raise GateError(f"The teacher of {work.group!r} failed its gate: {'; '.join(gate['failures'])}.")


def teacher_assets(frame: Frame) -> list[dg.AssetsDefinition]:
    """`teacher_lora` and `teacher_preferences`, a partition a group."""
    study = frame.study
    replay = ["replay_set"] if study.teacher.replay.rows else []
    making = [f"teacher.{name}" for name in ("method", "lora", "training", "stop", "instruction", "steering", "replay")]

    @dg.asset(
        **frame.spec(
            "teacher_lora",
            STAGE,
            ["seed", "system_prompt", "prompt_lists", *making],
            ["base_model", *replay],
            {"pytorch", "huggingface"},
            partitioned=True,
            gpu=True,
        ),
        description="What turns the base model into the group's teacher; for `control`, the untouched base.",
    )
    def teacher_lora(
        context: dg.AssetExecutionContext, store: StoreResource, trainer: TrainerResource
    ) -> dg.MaterializeResult:
        import pandas as pd

        from subliminal_dagster.science.teachers import make_teacher

        with working(context, store.create(), study) as work:
            base = base_variant(work)
            rows = pd.read_parquet(work.read("replay_set") / "rows.parquet") if replay else None
            assert work.group is not None
            with work.writing() as folder:
                teacher, report = make_teacher(
                    study,
                    work.group,
                    base,
                    chat_context(work, base),
                    load_prompt_lists(study.prompt_lists),
                    rows,
                    trainer.create(),
                    folder,
                    work.workspace(),
                    work.progress(),
                )
                work.metadata["kind"] = teacher.kind
                if report is not None:
                    show_training(work, report, folder, "teacher")
            return work.result()

    @dg.asset(
        **frame.spec(
            "teacher_preferences",
            STAGE,
            ["seed", "system_prompt", "prompt_lists", "preferences", "numbers", "filter.completion", "teacher.gate"],
            ["base_model", "base_preferences", "teacher_lora"],
            {"pytorch", "parquet"},
            partitioned=True,
            gpu=True,
        ),
        description="The teacher's favourite animals and the share of valid number answers. A teacher below the "
        "study's gate fails here, and nothing downstream runs.",
    )
    def teacher_preferences(
        context: dg.AssetExecutionContext, store: StoreResource, engine: EngineResource
    ) -> dg.MaterializeResult:
        import pandas as pd

        from subliminal_dagster.science.teachers import Teacher, gate_failures, valid_rate

        with working(context, store.create(), study) as work:
            base = base_variant(work)
            teacher = Teacher.load(work.read("teacher_lora", work.group))
            chat = teacher.context(chat_context(work, base))
            failures: list[str] = []
            assert work.group is not None
            with work.writing() as folder:
                if work.group == CONTROL:
                    copy_preferences(work, "base_preferences", folder, "the control's teacher is the untouched base")
                else:
                    write_preferences(work, engine, teacher.variant(base), chat, folder)
                with engine.create().open(teacher.variant(base), work.progress()) as session:
                    rate, rows = valid_rate(session, study, load_prompt_lists(study.prompt_lists), chat)
                rows.to_parquet(folder / "number_answers.parquet", index=False)
                scores = pd.read_parquet(folder / "scores.parquet")
                failures = gate_failures(study.teacher.gate, work.group, scores, rate, rows["reason"].dropna().tolist())
                gate = {"passed": not failures, "failures": failures, "valid_rate": rate}
                (folder / GATE).write_text(json.dumps(gate, indent=2) + "\n")
                work.metadata |= plain(gate) | {
                    "number_answers": table(rows[["prompt", "response", "reason"]].head(10))
                }
            if failures:
                raise GateError(f"The teacher of {work.group!r} failed its gate: {'; '.join(failures)}.")
            return work.result()

    return [teacher_lora, teacher_preferences]
