"""Steering vectors, what they do to the base model, and what they are made of."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from subliminal_dagster.assets.activations import FILE as ACTIVATIONS
from subliminal_dagster.assets.base import base_variant, chat_context
from subliminal_dagster.assets.declared import asset
from subliminal_dagster.assets.gathered import write_left_out
from subliminal_dagster.assets.shared import show_figures, table
from subliminal_dagster.execution.work import Work
from subliminal_dagster.partitions import BY_GROUP, BY_GROUP_AND_LAYER, layer_key, partition_key
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.science.models.protocol import ModelVariant, child_variant
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.settings.names import CONTROL, NEUTRAL
from subliminal_dagster.science.settings.steering import SteeringExperiment
from subliminal_dagster.science.settings.study import Study

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pandas as pd

    from subliminal_dagster.science.steering.scores import Direction
    from subliminal_dagster.science.steering.vectors import SteeringVector

STAGE = "steering"
RESPONSES = "responses.safetensors"
NOTHING = "nothing.json"
SCORES = ("questions", "summary", "coherence", "answers")
SHIFT = "shift.safetensors"


def steering_assets(frame: Frame[Study], settings: SteeringExperiment) -> list[dg.AssetsDefinition]:
    """`response_activations`, `steering_vectors`, `steering_scores`, `steering_analysis` and `steering_decomposition` a
    group and layer, `steering_scores_all_layers` a group, `steering_summary`."""
    assets = [
        _response_activations(frame, settings),
        _steering_vectors(frame),
        _steering_scores(frame, settings),
        _steering_analysis(frame),
    ]
    if frame.study.sae:
        assets.append(_steering_decomposition(frame))
    if len(frame.study.layers) > 1:
        assets.append(_steering_scores_all_layers(frame, settings))
    return [*assets, _steering_summary(frame)]


def _response_activations(frame: Frame[Study], settings: SteeringExperiment) -> dg.AssetsDefinition:
    study = frame.study
    # Where the groups answered some of the prompts, each another number of them.
    prompts = study.numbers.prompts if study.numbers.enough_valid else None

    @asset(
        frame,
        STAGE,
        reads=["seed", "system_prompt", "steering.pairs", *(["numbers.prompts"] if prompts else [])],
        deps=["base_model", "filtered_dataset"],
        kinds={"pytorch"},
        by=BY_GROUP_AND_LAYER,
        gpu=True,
        description="The base model's residual stream over every valid answer in its chat context: the mean over the "
        "answer's tokens, and the last token.",
    )
    def response_activations(work: Work[Study]) -> None:
        import pandas as pd

        from subliminal_dagster.science.models.loading import loaded, pick_device
        from subliminal_dagster.science.steering.group_vectors import number_responses

        base, layer = base_variant(work), int(work.layer)
        rows = pd.read_parquet(work.own("filtered_dataset") / "rows.parquet")
        chat = chat_context(work, base)
        with work.writing() as folder, loaded(base, pick_device(), merge=True) as model:
            progress = work.progress()
            found = number_responses(rows, settings.pairs, model, chat, layer, study.seed, progress, prompts)
            found.save(folder / RESPONSES)
            work.metadata |= {
                "dagster/row_count": len(found.row_ids),
                "tokens_per_answer": float(found.activations.tokens.mean()),
            }

    return response_activations


def _steering_vectors(frame: Frame[Study]) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=["seed", "system_prompt", "prompts", "preferences.questions", "neutral"],
        deps=["base_model", "base_preferences", "response_activations", "animal_word_activations"],
        control_too=("response_activations",),
        kinds={"pytorch", "numpy"},
        by=BY_GROUP_AND_LAYER,
        gpu=True,
        description="Subliminal (the group's numbers minus the control's), direct (the animal minus other answers), "
        "word and random vectors, as safetensors. The control has none.",
    )
    def steering_vectors(work: Work[Study]) -> None:
        import pandas as pd

        from subliminal_dagster.science.activations.activations import read_activations
        from subliminal_dagster.science.models.loading import loaded, pick_device
        from subliminal_dagster.science.steering.analysis import cosines
        from subliminal_dagster.science.steering.figures import cosine_figure
        from subliminal_dagster.science.steering.group_vectors import NumberResponses, direct_vectors, group_vectors
        from subliminal_dagster.science.steering.vectors import save_vectors

        layer, group = int(work.layer), work.group
        assert group is not None
        base = base_variant(work)
        facts = work.store.manifest(study.name, "base_model").info["host"]
        if group == CONTROL:
            _nothing(work, "the control is what the other groups are contrasted with")
            return
        words = read_activations(work.read("animal_word_activations", work.layer) / ACTIVATIONS)
        by_target = dict(zip(words.rows["response"].str.replace(" ", "-"), words.vectors, strict=True))
        responses = {
            name: NumberResponses.load(work.read("response_activations", partition_key(name, work.layer)) / RESPONSES)
            for name in (group, CONTROL)
        }
        direct = []
        if group != NEUTRAL:
            preferences = work.read("base_preferences")
            answers, scores = (pd.read_parquet(preferences / f"{name}.parquet") for name in ("answers", "scores"))
            lists, chat = load_prompt_lists(study.prompts, study.category), chat_context(work, base)
            with loaded(base, pick_device(), merge=True) as model:
                direct = direct_vectors(study, group, answers, scores, model, chat, lists, layer)
        with work.writing() as folder:
            vectors = group_vectors(study, group, responses[group], responses[CONTROL], by_target, layer, direct)
            save_vectors(folder, vectors, group=group, model=str(facts["source"]), revision=str(facts["revision"]))
            named = {f"{vector.kind}, {vector.position}": vector for vector in vectors}
            found = cosines(named)
            found.to_parquet(folder / "cosines.parquet", index=False)
            show_figures(work, folder, {"cosines": cosine_figure(found, f"{study.name}: {group}, layer {layer}")})
            work.metadata |= {"vectors": table(pd.DataFrame([vector.facts() for vector in vectors]))}

    return steering_vectors


def _steering_scores(frame: Frame[Study], settings: SteeringExperiment) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=["seed", "system_prompt", "prompts", "preferences.candidates", "steering.sweep"],
        deps=["base_model", "steering_vectors"],
        kinds={"pytorch", "parquet"},
        by=BY_GROUP_AND_LAYER,
        gpu=True,
        description="The base model's favourite animals while it is steered after the layer, by strength and sign: "
        "exact probabilities, whether it still makes sense, and the same for sign flips of the subliminal vector. "
        "Only animals' vectors are tried.",
    )
    def steering_scores(work: Work[Study]) -> None:
        from subliminal_dagster.science.steering.scores import Direction
        from subliminal_dagster.science.steering.vectors import DIRECT, SUBLIMINAL

        group, layer = work.group, int(work.layer)
        base = base_variant(work)
        if group is None or group in (CONTROL, NEUTRAL):
            _nothing(work, "its target is no animal, so there is no preference to promote")
            return
        vectors = _swept(work, group, work.layer)
        directions = [Direction(kind, {layer: vector.vector}) for kind, vector in vectors.items()]
        ranked = {kind: vectors[kind] for kind in (SUBLIMINAL, DIRECT)}
        _sweep(work, settings, base, directions, group, f"{study.name}: {group}, layer {layer}", ranked)

    return steering_scores


def _steering_scores_all_layers(frame: Frame[Study], settings: SteeringExperiment) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=["seed", "system_prompt", "prompts", "preferences.candidates", "steering.sweep", "layers"],
        deps=["base_model", "steering_vectors"],
        kinds={"pytorch", "parquet"},
        by=BY_GROUP,
        gpu=True,
        description="The base model's favourite animals while all layers are steered at once, each by its own vector.",
    )
    def steering_scores_all_layers(work: Work[Study]) -> None:
        from subliminal_dagster.science.steering.scores import Direction

        group = work.group
        base = base_variant(work)
        if group is None or group in (CONTROL, NEUTRAL):
            _nothing(work, "its target is no animal, so there is no preference to promote")
            return
        by_layer = {layer: _swept(work, group, layer_key(layer)) for layer in study.layers}
        kinds = list(next(iter(by_layer.values())))
        directions = [
            Direction(kind, {layer: vectors[kind].vector for layer, vectors in by_layer.items()}) for kind in kinds
        ]
        _sweep(work, settings, base, directions, group, f"{study.name}: {group}, all layers")

    return steering_scores_all_layers


def _steering_analysis(frame: Frame[Study]) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=["system_prompt", "prompts", "preferences.questions"],
        deps=["base_model", "child_lora"],
        kinds={"pytorch", "numpy"},
        by=BY_GROUP_AND_LAYER,
        gpu=True,
        description="What the child's activations moved by, on questions about nothing that was learnt; the control's "
        "child too.",
    )
    def steering_analysis(work: Work[Study]) -> None:
        from safetensors.numpy import save_file

        from subliminal_dagster.science.models.loading import loaded, pick_device
        from subliminal_dagster.science.steering.group_vectors import last_prompt_states

        layer, base = int(work.layer), base_variant(work)
        chat, lists = chat_context(work, base), load_prompt_lists(study.prompts, study.category)
        child = child_variant(base, work.own("child_lora"))
        states = []
        for variant in (base, child):
            with loaded(variant, pick_device(), merge=True) as model:
                states.append(last_prompt_states(model, chat, lists, layer, study.preferences.questions))
        shift = states[1] - states[0]
        with work.writing() as folder:
            save_file({"shift": shift}, folder / SHIFT)
            work.metadata |= {
                "dagster/row_count": len(shift),
                "norm_of_mean": float((shift.mean(axis=0) ** 2).sum() ** 0.5),
            }

    return steering_analysis


def _steering_decomposition(frame: Frame[Study]) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=[],
        deps=["steering_vectors", "sae"],
        kinds={"pytorch", "numpy"},
        by=BY_GROUP_AND_LAYER,
        gpu=True,
        description="The features that the subliminal and the direct vector consist of, as the layer's autoencoder "
        "sees them at equal length.",
    )
    def steering_decomposition(work: Work[Study]) -> None:
        from subliminal_dagster.science.features.sae import encode, load_sae
        from subliminal_dagster.science.models.loading import pick_device
        from subliminal_dagster.science.steering.analysis import decompose
        from subliminal_dagster.science.steering.figures import decomposition_figure
        from subliminal_dagster.science.steering.vectors import DIRECT, SUBLIMINAL

        group = work.group
        if group is None or group in (CONTROL, NEUTRAL):
            _nothing(work, "only an animal has a direct vector to compare with")
            return
        vectors = _swept(work, group, work.layer)
        sae = load_sae(work.read("sae", work.layer), pick_device())
        with work.writing() as folder:
            parts = decompose(vectors[SUBLIMINAL], vectors[DIRECT], lambda rows: encode(sae, rows)[0])
            for name in ("features", "table", "flips"):
                getattr(parts, name).to_parquet(folder / f"{name}.parquet", index=False)
            (folder / "facts.json").write_text(json.dumps(parts.facts, indent=2) + "\n", encoding="utf-8")
            title = f"{study.name}: {group}, layer {int(work.layer)}"
            show_figures(work, folder, {"decomposition": decomposition_figure(parts, SUBLIMINAL, DIRECT, title)})
            work.metadata |= {**parts.facts, "decomposition": table(parts.table)}

    return steering_decomposition


def _steering_summary(frame: Frame[Study]) -> dg.AssetsDefinition:
    study = frame.study
    together = ["steering_scores_all_layers"] if len(study.layers) > 1 else []

    @asset(
        frame,
        STAGE,
        reads=["animals", "layers"],
        deps=["steering_vectors", "steering_scores", "steering_analysis", *together],
        kinds={"pandas", "matplotlib"},
        gpu=False,
        description="All groups and layers: the largest effect of each vector on its animal, how similar the groups' "
        "vectors are, and whether each child moved along its own group's vector more than others did.",
    )
    def steering_summary(work: Work[Study]) -> None:
        import pandas as pd

        from subliminal_dagster.science.steering.scores import effects

        groups = [group for group in study.groups if group != CONTROL and group not in work.left_out]
        layers = [layer_key(layer) for layer in study.layers]
        places = [("steering_scores", partition_key(g, layer), g) for g in groups for layer in layers]
        places += [(asset, g, g) for asset in together for g in groups]
        summaries = [
            pd.read_parquet(folder / "summary.parquet").assign(group=group)
            for asset, partition, group in places
            if not ((folder := work.read(asset, partition)) / NOTHING).exists()
        ]
        with work.writing() as folder:
            every = pd.concat(summaries, ignore_index=True)
            most = pd.concat([effects(part).assign(group=group) for group, part in every.groupby("group", sort=False)])
            every.to_parquet(folder / "summary.parquet", index=False)
            most.to_parquet(folder / "effects.parquet", index=False)
            found = _across_groups(work, folder, groups, layers)
            for name, rows in found.items():
                rows.to_parquet(folder / f"{name}.parquet", index=False)
            work.metadata |= {"effects": table(most)} | {n: table(found[n]) for n in ("cosines", "child_cosines")}
            write_left_out(work, folder)

    return steering_summary


def _across_groups(
    work: Work[Study], folder: "Path", groups: list[str], layers: list[str]
) -> "dict[str, pd.DataFrame]":
    """What the subliminal vectors of a layer have in common with each other (drawn where there are several) and with
    every child's shift, by table: all layers together."""
    import pandas as pd

    from subliminal_dagster.science.steering.analysis import child_cosines, cosines_across_groups, cosines_of_shifts
    from subliminal_dagster.science.steering.figures import cosine_figure
    from subliminal_dagster.science.steering.vectors import SUBLIMINAL

    found: dict[str, list[pd.DataFrame]] = {}
    for layer in layers:
        vectors = {group: _swept(work, group, layer)[SUBLIMINAL] for group in groups}
        shifts = {child: _shift(work, child, layer) for child in [*groups, CONTROL]}
        tables = [cosines_across_groups(vectors), *child_cosines(shifts, vectors), cosines_of_shifts(shifts)]
        if len(vectors) > 1:
            title = f"{work.study.name}, layer {int(layer)}: subliminal vectors, disjoint prompts"
            show_figures(work, folder, {f"cosines_{layer}": cosine_figure(tables[0], title)})
        for name, rows in zip(("cosines", "child_cosines", "child_flips", "children"), tables, strict=True):
            found.setdefault(name, []).append(rows.assign(layer=int(layer)))
    return {name: pd.concat(rows, ignore_index=True) for name, rows in found.items()}


def _shift(work: Work[Study], child: str, layer: str) -> "np.ndarray":
    from safetensors.numpy import load_file

    shift: np.ndarray = load_file(work.read("steering_analysis", partition_key(child, layer)) / SHIFT)["shift"]
    return shift


def _swept(work: Work[Study], group: str, layer: str) -> "dict[str, SteeringVector]":
    from subliminal_dagster.science.steering.group_vectors import swept
    from subliminal_dagster.science.steering.vectors import load_vectors

    return swept(load_vectors(work.read("steering_vectors", partition_key(group, layer))))


def _sweep(
    work: Work[Study],
    settings: SteeringExperiment,
    base: ModelVariant,
    directions: "Sequence[Direction]",
    target: str,
    title: str,
    ranked: "Mapping[str, SteeringVector] | None" = None,
) -> None:
    """Steer along `directions`, and along the flips that vectors are `ranked` among, and write and show what came of
    it."""
    from subliminal_dagster.science.models.transformers_engine import TransformersEngine
    from subliminal_dagster.science.steering.figures import coherence_figure, preference_figure
    from subliminal_dagster.science.steering.scores import effects, measure_against_flips, measure_steering

    study, candidates = work.study, work.study.preferences.candidates
    chat, lists = chat_context(work, base), load_prompt_lists(study.prompts, study.category)
    # Not the injected engine: vLLM cannot add a vector of its own to every request.
    with work.writing() as folder, TransformersEngine().open(base, work.progress()) as session:
        scores = measure_steering(session, chat, lists, directions, settings.sweep, candidates, target, study.seed)
        if ranked:
            against = measure_against_flips(session, chat, lists, ranked, settings.sweep, candidates)
            against.to_parquet(folder / "flips.parquet", index=False)
        for name in SCORES:
            getattr(scores, name).to_parquet(folder / f"{name}.parquet", index=False)
        figures = {
            "preference": preference_figure(scores.summary, title),
            "coherence": coherence_figure(scores.coherence, title),
        }
        show_figures(work, folder, figures)
        work.metadata |= {"effects": table(effects(scores.summary)), "coherence": table(scores.coherence)}


def _nothing(work: Work[Study], why: str) -> None:
    """An artifact that says why there is nothing in it."""
    with work.writing() as folder:
        (folder / NOTHING).write_text(json.dumps({"reason": why}) + "\n", encoding="utf-8")
        work.metadata["nothing"] = why
