"""The base model, its favourites, and the number answers that teachers replay."""

import json
import shutil
from pathlib import Path

import dagster as dg

from subliminal_dagster.assets.declared import asset
from subliminal_dagster.assets.shared import plain, show_preferences, table_metadata
from subliminal_dagster.execution.work import Work
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.resources import EngineResource
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.chat import ChatContext, load_tokenizer
from subliminal_dagster.science.models.protocol import ModelVariant, Session
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.settings.study import Study

STAGE = "base"
LOADING = "loading.json"
"""What belongs to the artifact of a base model without being one of the model's files: the types it computes in, and
the variables of its chat template."""


def base_variant(work: Work[Study]) -> ModelVariant:
    """The study's base model, read from the store."""
    folder = work.read("base_model")
    if not (folder / LOADING).is_file():
        raise UserError("The base model was made by an earlier version of this software: rebuild base_model.")
    loading = json.loads((folder / LOADING).read_text(encoding="utf-8"))
    return ModelVariant(folder, loading["dtype"], loading["autocast"])


def chat_context(work: Work[Study], base: ModelVariant) -> ChatContext:
    """The study's chat context."""
    variables = json.loads((base.base / LOADING).read_text(encoding="utf-8"))["template"]
    return ChatContext(load_tokenizer(base.base), work.study.system_prompt, variables=variables)


def base_assets(frame: Frame[Study]) -> list[dg.AssetsDefinition]:
    """`base_model`, `base_preferences` and, where teachers replay, `replay_set`."""
    assets = [_base_model(frame), _base_preferences(frame)]
    if frame.study.teacher.replay.rows:
        assets.append(_replay_set(frame))
    return assets


def _base_model(frame: Frame[Study]) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=["base_model"],
        deps=[],
        kinds={"huggingface"},
        gpu=False,
        description="The untouched base model: safetensors, tokenizer and chat template.",
    )
    def base_model(work: Work[Study]) -> None:
        from subliminal_dagster.science.models.base_model import check_layers, fetch_base_model

        with work.writing() as folder:
            facts = fetch_base_model(study.base_model, folder, work.workspace())
            check_layers(json.loads((folder / "config.json").read_text()), study.layers)
            source = study.base_model
            loading = {"dtype": source.dtype, "autocast": source.autocast, "template": source.template}
            # A template that no chat could be written with is refused before anything is built on it.
            ChatContext(load_tokenizer(folder), variables=study.base_model.template)
            # Weights of another type may be the same files: without this, float32 and bfloat16 would look alike.
            (folder / LOADING).write_text(json.dumps(loading) + "\n", encoding="utf-8")
            work.metadata |= plain(facts)

    return base_model


def _base_preferences(frame: Frame[Study]) -> dg.AssetsDefinition:
    @asset(
        frame,
        STAGE,
        reads=["seed", "system_prompt", "prompts", "preferences"],
        deps=["base_model"],
        kinds={"pytorch", "parquet"},
        gpu=True,
        description="The base model's favourite animals: exact probabilities, the next word of a begun answer, and "
        "sampled answers.",
        warnings="Whether the base model names the candidates often enough for each measure to see a change.",
    )
    def base_preferences(work: Work[Study], engine: EngineResource) -> None:
        base = base_variant(work)
        with work.writing() as folder, engine.create().open(base, work.progress()) as session:
            write_preferences(work, session, chat_context(work, base), folder)
            _warn_of_blind_measures(work, folder)

    return base_preferences


def _replay_set(frame: Frame[Study]) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=[
            "seed",
            "system_prompt",
            "prompts",
            "numbers",
            "filter.completion",
            "filter.parser",
            "teacher.replay",
        ],
        deps=["base_model"],
        kinds={"pytorch", "parquet"},
        gpu=True,
        description="The base model's own number answers, mixed into the teachers' training rows.",
    )
    def replay_set(work: Work[Study], engine: EngineResource) -> None:
        from subliminal_dagster.science.numbers.draw import draw_replay

        base = base_variant(work)
        with work.writing() as folder, engine.create().open(base, work.progress()) as session:
            lists, chat = load_prompt_lists(study.prompts, study.category), chat_context(work, base)
            rows = draw_replay(session, study, lists, chat, kept=work.kept())
            rows.to_parquet(folder / "rows.parquet", index=False)
            work.metadata |= table_metadata(rows[["prompt", "response"]]) | session.usage.facts()

    return replay_set


def write_preferences(work: Work[Study], session: Session, context: ChatContext, folder: Path) -> None:
    """Measure the loaded model's preferences into `scores.parquet` and `answers.parquet`, with the metadata that shows
    them."""
    from subliminal_dagster.science.preferences.begun import NextWords
    from subliminal_dagster.science.preferences.preferences import measure_preferences

    lists, settings = load_prompt_lists(work.study.prompts, work.study.category), work.study.preferences
    scores, answers = measure_preferences(session, context, lists, settings, work.study.seed, kept=work.kept())
    work.metadata |= {"engine": session.engine_name} | session.usage.facts()
    work.metadata["begun_leaves_out"] = NextWords.of(settings.candidates, settings.begun, context, lists).left_out
    scores.to_parquet(folder / "scores.parquet", index=False)
    answers.to_parquet(folder / "answers.parquet", index=False)
    show_preferences(work, folder)


def copy_preferences(work: Work[Study], asset: str, folder: Path, why: str) -> None:
    """Take over another model's preferences, where this one is that model."""
    source = work.read(asset)
    for name in ("scores.parquet", "answers.parquet"):
        shutil.copyfile(source / name, folder / name)
    work.metadata["same_as"] = why
    show_preferences(work, folder)


def _warn_of_blind_measures(work: Work[Study], folder: Path) -> None:
    """Say in the run's log and on the asset's page which measures see too little of the base model's preferences.

    For all candidates: limited to the study's own animals, the asset would have to be rebuilt for each new one.
    """
    import pandas as pd

    from subliminal_dagster.science.preferences.measures import candidate_mass, warnings

    scores = pd.read_parquet(folder / "scores.parquet")
    work.warnings = warnings(scores, work.study.preferences.candidates)
    for sentence in work.warnings:
        work.context.log.warning(sentence)
    work.metadata["candidates_hold"] = plain(candidate_mass(scores))
