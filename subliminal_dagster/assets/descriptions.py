"""What features mean: descriptions, categories by a judge, and what groups' features are made of. Made on request."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from subliminal_dagster.assets.base import base_variant
from subliminal_dagster.assets.declared import asset
from subliminal_dagster.assets.features import read_features_of, read_shifts, word_features
from subliminal_dagster.assets.gathered import write_left_out
from subliminal_dagster.assets.shared import plain, show_figures, table, table_metadata
from subliminal_dagster.execution.work import Work
from subliminal_dagster.partitions import BY_LAYER, partition_key
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.planning.planner import Part
from subliminal_dagster.resources import EngineResource, JudgeResource
from subliminal_dagster.science.descriptions.categories import LABELLED_DESCRIPTIONS
from subliminal_dagster.science.descriptions.chat_api import MODEL
from subliminal_dagster.science.descriptions.judges import JUDGE_PROMPT, Judge
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.descriptions import DescriptionsSettings, OpenAiJudgeSettings
from subliminal_dagster.science.settings.names import CONTROL
from subliminal_dagster.science.settings.study import AnyStudy, Study
from subliminal_dagster.science.storage.content_hash import file_content_hashes
from subliminal_dagster.science.storage.store import ArtifactStore

STAGE = "descriptions"
FILE = "descriptions.parquet"


def description_assets(frame: Frame[Study], settings: DescriptionsSettings) -> list[dg.AssetsDefinition]:
    """`feature_descriptions`, `feature_categories`, `feature_composition` and, where the study steers,
    `steering_by_category`, a partition per layer."""
    return [
        _descriptions(frame, settings),
        _categories(frame, settings),
        _composition(frame),
        *([_steering_by_category(frame)] if frame.study.steering else []),
    ]


def _descriptions(frame: Frame[Study], settings: DescriptionsSettings) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=["descriptions.source"],
        deps=["base_model", "sae_texts", "sae"],
        kinds={"pandas", "parquet"},
        by=BY_LAYER,
        gpu=settings.source.kind == "made",
        on_request=True,
        description="One line on every feature: Neuronpedia's, or where it fires and which tokens it promotes.",
    )
    def feature_descriptions(work: Work[Study], judge: JudgeResource) -> None:
        import pandas as pd

        from subliminal_dagster.science.descriptions.descriptions import describe_features
        from subliminal_dagster.science.descriptions.neuronpedia import described
        from subliminal_dagster.science.features.sae import load_sae
        from subliminal_dagster.science.models.chat import load_tokenizer
        from subliminal_dagster.science.models.loading import loaded, pick_device

        source = settings.source
        base, layer = base_variant(work), int(work.layer)
        texts = pd.read_parquet(work.read("sae_texts") / "texts.parquet")["text"].tolist()
        sae = load_sae(work.read("sae", work.layer))
        with work.writing() as folder:
            if source.kind == "made":
                writer = judge.create(source.writer, work.progress()) if source.writer else None
                with loaded(base, pick_device(), merge=True) as model:
                    found = describe_features(
                        sae.to(model.device),
                        model,
                        load_tokenizer(base.base),
                        texts,
                        layer,
                        contexts=source.contexts,
                        tokens=source.tokens,
                        writer=writer,
                        progress=work.progress(),
                    )
                work.metadata |= plain(writer.facts()) if writer else {}
            else:
                published = study.sae.published if study.sae else None
                found = described(source, published, layer, sae.cfg.d_sae, work.workspace(), work.progress())
            found.to_parquet(folder / FILE, index=False)
            work.metadata |= table_metadata(found[["feature", "description"]], 20)

    return feature_descriptions


def _categories(frame: Frame[Study], settings: DescriptionsSettings) -> dg.AssetsDefinition:
    judged_locally = settings.judge.kind == "local"
    also: dict[str, Any] = {"descriptions.judge.files": file_content_hashes(JUDGE_PROMPT, LABELLED_DESCRIPTIONS)}
    if settings.judge.kind == "openai" and settings.judge.model is None:
        also["descriptions.judge.model"] = os.environ.get(MODEL)

    @asset(
        frame,
        STAGE,
        reads=["descriptions.judge"],
        also=also,
        deps=["base_model", "feature_descriptions"],
        kinds={"pandas", "scikitlearn"},
        by=BY_LAYER,
        gpu=judged_locally,
        on_request=True,
        description="Animals, numbers, opinion or other, by a judge whose agreement with hand-made labels is shown.",
        gate="The judge agrees with the descriptions that were labelled by hand (Cohen's kappa).",
    )
    def feature_categories(work: Work[Study], engine: EngineResource, judge: JudgeResource) -> None:
        import pandas as pd

        from subliminal_dagster.science.descriptions.categories import (
            agreement,
            categorise_features,
            judge_failures,
            load_labelled,
        )

        descriptions = pd.read_parquet(work.read("feature_descriptions", work.layer) / FILE)
        with work.writing() as folder, _judge(work, settings, engine, judge) as chosen:
            found = agreement(chosen, load_labelled())
            failures = judge_failures(settings.judge.kappa, found)
            work.judge(failures, kappa=(found.kappa, settings.judge.kappa))
            if work.refused is None:
                categorise_features(descriptions, chosen).to_parquet(folder / "categories.parquet", index=False)
            facts = {"judge": found.judge, "kappa": found.kappa, "low": found.low, "high": found.high}
            facts |= {"accuracy": found.accuracy, "failures": failures}
            (folder / "agreement.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
            found.answers.to_parquet(folder / "labelled.parquet", index=False)
            work.metadata |= plain(facts) | {"by_category": table(found.by_category)}

    return feature_categories


def _composition(frame: Frame[Study]) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=["animals", "features.top", "features.filters"],
        deps=["sae_features", "feature_shifts", "feature_descriptions", "feature_categories"],
        kinds={"pandas", "statsmodels"},
        by=BY_LAYER,
        gpu=False,
        on_request=True,
        description="What kinds of features each group marks, tested against all that fire; the top features with "
        "their descriptions; filters by category.",
    )
    def feature_composition(work: Work[Study]) -> None:
        import pandas as pd

        from subliminal_dagster.science.descriptions.categories import group_composition
        from subliminal_dagster.science.features.filters import filter_features
        from subliminal_dagster.science.features.shifts import firing_features, labelled_features, marked_features

        shifts = read_shifts(work)
        features = {group: read_features_of(work, group) for group in [*shifts, CONTROL]}
        marked = {group: marked_features(each) for group, each in shifts.items()}
        known = pd.read_parquet(work.read("feature_categories", work.layer) / "categories.parquet")
        categories = dict(zip(known["feature"], known["category"], strict=True))
        fires = {group: firing_features(each) for group, each in features.items()}
        words = {group: word_features(work, group) for group in shifts}
        with work.writing() as folder:
            everything = set().union(*(found.tolist() for found in fires.values()))
            composition = group_composition(categories, {**marked, CONTROL: fires[CONTROL]}, everything)
            composition.to_parquet(folder / "composition.parquet", index=False)
            top = labelled_features(list(shifts.items())).merge(known, on="feature", how="left")
            top.to_parquet(folder / "top_features.parquet", index=False)
            filters = filter_features(features, marked, words=words, categories=categories, top=study.features.filters)
            filters.by_category.to_parquet(folder / "filters_by_category.parquet", index=False)
            work.metadata |= {
                "composition": table(composition),
                "top_new": table(top[top["new"]].head(study.features.top)),
                "top_promoted": table(top[top["promoted"]].head(study.features.top)),
                "filters_by_category": table(filters.by_category),
            }
            write_left_out(work, folder)

    return feature_composition


def _steering_by_category(frame: Frame[Study]) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=["animals"],
        deps=["steering_decomposition", "feature_categories"],
        kinds={"pandas", "matplotlib"},
        by=BY_LAYER,
        gpu=False,
        on_request=True,
        description="What kinds of features the subliminal and the direct vector are made of, for every animal.",
    )
    def steering_by_category(work: Work[Study]) -> None:
        import pandas as pd

        from subliminal_dagster.science.steering.analysis import Decomposition, categorised, table_by_category
        from subliminal_dagster.science.steering.figures import decomposition_figure
        from subliminal_dagster.science.steering.vectors import DIRECT, SUBLIMINAL

        known = pd.read_parquet(work.read("feature_categories", work.layer) / "categories.parquet")
        animals = [animal for animal in study.animals if animal not in work.left_out]
        with work.writing() as folder:
            for animal in animals:
                made = work.read("steering_decomposition", partition_key(animal, work.layer))
                features = categorised(pd.read_parquet(made / "features.parquet"), known)
                facts = json.loads((made / "facts.json").read_text())
                parts = Decomposition(features, table_by_category(features), facts)
                parts.table.to_parquet(folder / f"{animal}.parquet", index=False)
                title = f"{study.name}: {animal}, layer {int(work.layer)}"
                show_figures(work, folder, {animal: decomposition_figure(parts, SUBLIMINAL, DIRECT, title)})
                work.metadata[f"table_{animal.replace('-', '_')}"] = table(parts.table)
            write_left_out(work, folder)

    return steering_by_category


def expected_costs(
    study: AnyStudy, due: Iterable[Part], store: ArtifactStore, resource: JudgeResource
) -> dict[str, str]:
    """What parts that are due cost beside time, by their names: what a judge behind an endpoint will be asked."""
    if not isinstance(study, Study) or study.descriptions is None or study.descriptions.judge.kind != "openai":
        return {}
    judge = study.descriptions.judge
    judged = [(part.name, str(part.partition)) for part in due if part.asset == "feature_categories"]
    return {name: _expected_cost(study, judge, layer, store, resource) for name, layer in judged}


def _expected_cost(
    study: Study, judge: OpenAiJudgeSettings, layer: str, store: ArtifactStore, resource: JudgeResource
) -> str:
    import pandas as pd

    from subliminal_dagster.science.descriptions.categories import load_labelled
    from subliminal_dagster.science.descriptions.judges import OpenAiJudge

    if not store.exists(study.name, "feature_descriptions", layer):
        return "what its judge will cost is known once feature_descriptions is there"
    described = pd.read_parquet(store.read(study.name, "feature_descriptions", layer).path / FILE)
    texts = [*load_labelled()["description"], *described["description"]]
    try:
        return OpenAiJudge(resource.create(judge.model, lambda _: None)).expected(texts)
    except UserError as error:
        return f"the cost of its judge is unknown: {error}"


@contextmanager
def _judge(
    work: Work[Study], settings: DescriptionsSettings, engine: EngineResource, resource: JudgeResource
) -> Iterator[Judge]:
    """The study's judge; what it asked of an endpoint, and what that cost, ends up in the asset's metadata."""
    from subliminal_dagster.science.descriptions.judges import LocalJudge, OpenAiJudge
    from subliminal_dagster.science.models.chat import load_tokenizer

    if settings.judge.kind == "openai":
        api = resource.create(settings.judge.model, work.progress())
        yield OpenAiJudge(api)
        work.metadata |= plain(api.facts())
        return
    base = base_variant(work)
    with engine.create().open(base, work.progress()) as session:
        facts = work.store.manifest(work.study.name, "base_model").info["host"]
        # Its name is part of the result, which must not depend on where a model lay on this machine.
        name = facts["revision"] if Path(facts["source"]).is_absolute() else facts["source"]
        yield LocalJudge(session, load_tokenizer(base.base), str(name))
