"""Features of numbers that overlap with an animal's directions, and how crowded the base model's layers are."""

from typing import TYPE_CHECKING

import dagster as dg

from subliminal_dagster.assets.activations import FILE as ACTIVATIONS
from subliminal_dagster.assets.base import base_variant
from subliminal_dagster.assets.declared import asset
from subliminal_dagster.assets.features import FEATURES
from subliminal_dagster.assets.gathered import write_left_out
from subliminal_dagster.assets.shared import show_figures, table
from subliminal_dagster.execution.work import Work
from subliminal_dagster.partitions import BY_LAYER, partition_key
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.science.settings.interference import InterferenceSettings
from subliminal_dagster.science.settings.names import CONTROL
from subliminal_dagster.science.settings.study import Study

if TYPE_CHECKING:
    import numpy as np
    from sae_lens import SAE
    from scipy.sparse import csr_array

    from subliminal_dagster.science.interference.results import Target

STAGE = "mechanism"


def interference_assets(frame: Frame[Study], settings: InterferenceSettings) -> list[dg.AssetsDefinition]:
    """`interference` a layer, on request."""
    return [_interference(frame, settings)]


def _interference(frame: Frame[Study], settings: InterferenceSettings) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=["seed", "animals", "neutral", "interference"],
        deps=[
            "base_model",
            "sae_texts",
            "sae",
            "sae_features",
            "activations",
            "animal_word_activations",
            "steering_vectors",
        ],
        kinds={"pytorch", "numpy"},
        by=BY_LAYER,
        gpu=True,
        on_request=True,
        description="How far the features that numbers activate overlap with each animal's directions, beside features "
        "as long and as frequent; how crowded the layer is; L0 and reconstruction error at one norm.",
    )
    def interference(work: Work[Study]) -> None:
        from subliminal_dagster.science.activations.activations import read_activations
        from subliminal_dagster.science.features.sae import encode, load_sae
        from subliminal_dagster.science.interference.figures import overlap_figure
        from subliminal_dagster.science.interference.results import layer_interference
        from subliminal_dagster.science.models.loading import pick_device
        from subliminal_dagster.science.storage.tables import save_tables

        sae = load_sae(work.read("sae", work.layer), pick_device())
        groups = [group for group in study.groups if group not in work.left_out]
        features, vectors = {}, {}
        for group in groups:
            features[group] = _analysis_features(work, group)
            found = read_activations(work.read("activations", partition_key(group, work.layer)) / ACTIVATIONS)
            vectors[group] = found.vectors[(found.rows["split"] == "analysis").to_numpy()]
        with work.writing() as folder:
            result = layer_interference(
                sae.W_dec.detach().double().cpu().numpy(),
                lambda rows: encode(sae, rows),
                _text_vectors(work),
                features,
                vectors,
                _targets(work, sae, groups),
                settings.draws,
                study.seed,
            )
            save_tables(result, folder)
            title = f"{study.name}, layer {int(work.layer)}: features of numbers and the animals' directions"
            show_figures(work, folder, {"overlap": overlap_figure(result.overlap, title)})
            shown = result.superposition.T.rename(columns={0: "value"}).rename_axis("figure").reset_index()
            work.metadata |= {"superposition": table(shown), "texts": table(result.texts)}
            write_left_out(work, folder)

    return interference


def _analysis_features(work: Work[Study], group: str) -> "csr_array":
    from subliminal_dagster.science.activations.activations import read_features

    found = read_features(work.read("sae_features", partition_key(group, work.layer)) / FEATURES)
    return found.matrix[(found.rows["split"] == "analysis").to_numpy()]


def _text_vectors(work: Work[Study]) -> "dict[str, np.ndarray]":
    """The base model's activations on the autoencoders' texts by kind, massive ones left out."""
    import pandas as pd

    from subliminal_dagster.science.features.sae_texts import token_vectors
    from subliminal_dagster.science.features.sae_training import is_ordinary
    from subliminal_dagster.science.models.chat import load_tokenizer
    from subliminal_dagster.science.models.loading import loaded, pick_device

    base = base_variant(work)
    texts, tokenizer = pd.read_parquet(work.read("sae_texts") / "texts.parquet"), load_tokenizer(base.base)
    found = {}
    with loaded(base, pick_device(), merge=True) as model:
        for kind, own in texts.groupby("kind"):
            vectors = token_vectors(model, tokenizer, own["text"].tolist(), int(work.layer), progress=work.progress())
            found[str(kind)] = vectors[is_ordinary(vectors)]
    return found


def _targets(work: Work[Study], sae: "SAE", groups: list[str]) -> "dict[str, Target]":
    """The directions of every animal, and of what the neutral teacher likes."""
    from subliminal_dagster.science.activations.activations import read_activations
    from subliminal_dagster.science.features.sae import encode
    from subliminal_dagster.science.interference.results import Target
    from subliminal_dagster.science.steering.vectors import CENTRED_WORD, DIRECT, MEAN, WORD, load_vectors

    words = read_activations(work.read("animal_word_activations", work.layer) / ACTIVATIONS)
    firing, _ = encode(sae, words.vectors)
    fires_on = {name: firing[[i]].indices for i, name in enumerate(words.rows["response"])}
    found = {}
    for group in groups:
        if group == CONTROL:
            continue
        vectors = load_vectors(work.read("steering_vectors", partition_key(group, work.layer)))
        by_kind = {vector.kind: vector.vector for vector in vectors if vector.position in (MEAN, "word")}
        target = work.study.target(group)
        assert target is not None
        word = by_kind[WORD]
        own = fires_on[target.replace("-", " ")]
        found[group] = Target(word, by_kind.get(CENTRED_WORD, word), by_kind.get(DIRECT), own)
    return found
