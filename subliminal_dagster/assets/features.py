"""Sparse autoencoders of the base model, the features of every group's numbers, and what they differ in."""

import json
from typing import TYPE_CHECKING, Any

import dagster as dg

from subliminal_dagster.assets.activations import FILE as ACTIVATIONS
from subliminal_dagster.assets.base import base_variant, chat_context
from subliminal_dagster.assets.declared import asset
from subliminal_dagster.assets.gathered import write_left_out
from subliminal_dagster.assets.shared import image, plain, show_figures, table, table_metadata
from subliminal_dagster.execution.work import Work
from subliminal_dagster.partitions import BY_GROUP_AND_LAYER, BY_LAYER, partition_key
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.settings.features import SaeGate, SaeSettings, TrainedSaeSettings
from subliminal_dagster.science.settings.names import CONTROL
from subliminal_dagster.science.settings.study import Study

if TYPE_CHECKING:
    from pathlib import Path

    from sae_lens import SAE
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from subliminal_dagster.science.activations.activations import SparseFeatures
    from subliminal_dagster.science.features.shifts import FeatureShifts

STAGE = "features"
FEATURES = "features.parquet"


def feature_assets(frame: Frame[Study], settings: SaeSettings) -> list[dg.AssetsDefinition]:
    """`sae_texts`, `sae` a layer, `sae_features` and `feature_shifts` a group and layer, `feature_tables` and
    `feature_filters` a layer."""
    return [
        _sae_texts(frame, settings),
        _sae(frame, settings),
        _sae_features(frame),
        _feature_shifts(frame),
        _feature_tables(frame),
        _feature_filters(frame),
    ]


def _sae_texts(frame: Frame[Study], settings: SaeSettings) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=["seed", "system_prompt", "prompts", "numbers", "sae.corpus", "sae.tokens"],
        deps=["base_model", "base_preferences"],
        kinds={"pandas", "parquet"},
        gpu=False,
        description="The texts that autoencoders learn from and are judged on: prose, number lists, chats.",
    )
    def sae_texts(work: Work[Study]) -> None:
        import pandas as pd
        from transformers import AutoConfig

        from subliminal_dagster.science.activations.activations import needs_bos
        from subliminal_dagster.science.features.corpus import fetch_corpus
        from subliminal_dagster.science.features.sae_texts import sae_texts as put_together

        base = base_variant(work)
        answers = pd.read_parquet(work.read("base_preferences") / "answers.parquet")
        with work.writing() as folder:
            texts = put_together(
                study,
                settings.tokens,
                fetch_corpus(settings.corpus, work.workspace()),
                answers,
                load_prompt_lists(study.prompts, study.category),
                chat_context(work, base),
                bos=needs_bos(AutoConfig.from_pretrained(base.base)),
            )
            texts.to_parquet(folder / "texts.parquet", index=False)
            kinds = texts.groupby(["kind", "held_out"])["tokens"].agg(["size", "sum"]).reset_index()
            work.metadata |= table_metadata(texts) | {"kinds": table(kinds), "tokens": int(texts["tokens"].sum())}

    return sae_texts


def _sae(frame: Frame[Study], settings: SaeSettings) -> dg.AssetsDefinition:
    source = "published" if settings.published else "trained"

    @asset(
        frame,
        STAGE,
        reads=["seed", f"sae.{source}", "sae.gate"],
        deps=["base_model", "sae_texts"],
        kinds={"pytorch"},
        by=BY_LAYER,
        gpu=True,
        description="The layer's sparse autoencoder, as sae-lens keeps it: "
        + ("published." if settings.published else "trained here on the base model's own activations."),
        gate="On text it was not trained on, it explains activations and gives the model back what it needs of them.",
    )
    def sae(work: Work[Study]) -> None:
        import pandas as pd

        from subliminal_dagster.science.features.sae import load_published, save_sae
        from subliminal_dagster.science.models.chat import load_tokenizer
        from subliminal_dagster.science.models.loading import loaded, pick_device

        base, layer = base_variant(work), int(work.layer)
        texts = pd.read_parquet(work.read("sae_texts") / "texts.parquet")
        tokenizer = load_tokenizer(base.base)
        held_out = texts.loc[texts["held_out"], "text"].tolist()
        with work.writing() as folder, loaded(base, pick_device(), merge=True) as model:
            if settings.trained is not None:
                learnt_from = texts.loc[~texts["held_out"], "text"].tolist()
                autoencoder = _trained_sae(work, folder, settings.trained, model, tokenizer, learnt_from)
            else:
                assert settings.published is not None
                autoencoder = load_published(
                    settings.published.release,
                    settings.published.id.format(layer=layer),
                    layer=layer,
                    hidden_size=model.config.get_text_config().hidden_size,
                )
            save_sae(autoencoder, folder)
            _judge_sae(work, folder, settings.gate, autoencoder, model, tokenizer, held_out)

    return sae


def _trained_sae(
    work: Work[Study],
    folder: "Path",
    settings: TrainedSaeSettings,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: list[str],
) -> "SAE[Any]":
    """An autoencoder of the layer, trained on the model's activations on `texts`; writes and shows how that went."""
    from subliminal_dagster.science.features.sae_texts import token_vectors
    from subliminal_dagster.science.features.sae_training import train_sae
    from subliminal_dagster.science.figures import png, sae_training_figure

    study, layer = work.study, int(work.layer)
    vectors = token_vectors(model, tokenizer, texts, layer, progress=work.progress())
    trained = train_sae(vectors, settings, study.seed, layer=layer, progress=work.progress())
    trained.history.to_parquet(folder / "history.parquet", index=False)
    picture = png(sae_training_figure(trained.history, f"{study.name}: SAE of layer {layer}"))
    (folder / "history.png").write_bytes(picture)
    work.metadata |= {"figure": image(picture), "tokens": len(vectors)}
    return trained.sae


def _judge_sae(
    work: Work[Study],
    folder: "Path",
    gate: SaeGate,
    autoencoder: "SAE[Any]",
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: list[str],
) -> None:
    """Measure an autoencoder on `texts` it was not trained on, and refuse it below the gate."""
    from subliminal_dagster.science.activations.activations import encode_text, needs_bos
    from subliminal_dagster.science.features.sae_texts import token_vectors
    from subliminal_dagster.science.features.sae_training import loss_recovered, quality_failures, sae_quality

    layer = int(work.layer)
    quality = sae_quality(autoencoder, token_vectors(model, tokenizer, texts, layer))
    bos = needs_bos(model.config)
    sequences = [ids for text in texts if len(ids := encode_text(tokenizer, text, bos=bos)) > 1]
    quality |= loss_recovered(model, autoencoder, layer, sequences)
    failures = quality_failures(gate, quality)
    work.judge(
        failures,
        variance_explained=(quality["variance_explained"], gate.variance_explained),
        loss_recovered=(quality["recovered"], gate.loss_recovered),
        dead=(quality["dead"], gate.dead),
        l0=(quality["l0"], gate.l0),
    )
    verdict = {"passed": not failures, "failures": failures, **quality}
    (folder / "quality.json").write_text(json.dumps(verdict, indent=2) + "\n", encoding="utf-8")
    work.metadata |= plain(verdict) | {"width": int(autoencoder.cfg.d_sae)}


def _sae_features(frame: Frame[Study]) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=[],
        deps=["activations", "sae"],
        kinds={"pytorch", "parquet"},
        by=BY_GROUP_AND_LAYER,
        gpu=True,
        description="The features that fire on every row, as a sparse matrix, and each row's reconstruction error.",
    )
    def sae_features(work: Work[Study]) -> None:
        from subliminal_dagster.science.activations.activations import SparseFeatures, read_activations, write_features
        from subliminal_dagster.science.features.sae import encode, load_sae
        from subliminal_dagster.science.models.loading import pick_device

        found = read_activations(work.read("activations", work.partition) / ACTIVATIONS)
        autoencoder = load_sae(work.read("sae", work.layer), pick_device())
        with work.writing() as folder:
            matrix, error = encode(autoencoder, found.vectors)
            features = SparseFeatures(found.rows[["row_id", "split"]].assign(error=error), matrix)
            write_features(folder / FEATURES, features, facts={"study": study.name, "layer": int(work.layer)})
            work.metadata |= {
                "dagster/row_count": len(features.rows),
                "width": matrix.shape[1],
                "l0": matrix.nnz / matrix.shape[0],
                "reconstruction_error": float(error.mean()),
            }

    return sae_features


def _feature_shifts(frame: Frame[Study]) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=["seed", "features.level", "features.level_strict", "features.permutations", "features.top", "neutral"],
        deps=["sae_features", "sae", "animal_word_activations"],
        control_too=("sae_features",),
        kinds={"pandas", "scipy"},
        by=BY_GROUP_AND_LAYER,
        gpu=False,
        description="Features that the group's numbers promote, newly activate, or share with the animal's word, "
        "compared with the control's numbers, and how many chance gives. The control's own partition compares one "
        "half of its rows with the other.",
    )
    def feature_shifts(work: Work[Study]) -> None:
        from subliminal_dagster.science.activations.activations import read_activations
        from subliminal_dagster.science.features.sae import encode, load_sae
        from subliminal_dagster.science.features.shifts import compare_groups, halves, top_features

        assert work.group is not None
        control = read_features_of(work, CONTROL)
        if work.group == CONTROL:
            own, control = halves(control, study.seed)
        else:
            own = read_features_of(work, work.group)
        words = read_activations(work.read("animal_word_activations", work.layer) / ACTIVATIONS)
        firing, _ = encode(load_sae(work.read("sae", work.layer)), words.vectors)
        names = words.rows["response"].tolist()
        fires_on = {name: firing[[i]].indices.tolist() for i, name in enumerate(names)}
        target = study.target(work.group)
        word = [] if target is None else fires_on[target.replace("-", " ")]
        settings = study.features
        with work.writing() as folder:
            shifts = compare_groups(
                own,
                control,
                word,
                level=settings.level,
                level_strict=settings.level_strict,
                permutations=settings.permutations,
                seed=study.seed,
            )
            shifts.save(folder)
            (folder / "word_features.json").write_text(json.dumps(word) + "\n", encoding="utf-8")
            summary = shifts.summary.T.rename(columns={0: "value"}).rename_axis("measure").reset_index()
            work.metadata |= {
                "summary": table(summary),
                **{
                    f"top_{kind}": table(top_features(shifts, study.features.top, kind)) for kind in ("promoted", "new")
                },
                **{name: float(shifts.summary[name].iloc[0]) for name in ("promoted", "promoted_null_mean", "new")},
            }

    return feature_shifts


def _feature_tables(frame: Frame[Study]) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=["animals", "features.top"],
        deps=["feature_shifts", "sae_features"],
        kinds={"pandas", "matplotlib"},
        by=BY_LAYER,
        gpu=False,
        description="All groups at one layer: L0, reconstruction error, promoted and new features compared with "
        "chance, and the top features, shared and unique.",
    )
    def feature_tables(work: Work[Study]) -> None:
        import pandas as pd

        from subliminal_dagster.science.features.figures import error_figure, features_figure, l0_figure
        from subliminal_dagster.science.features.shifts import l0_counts, labelled_features, unique_features

        shifts = read_shifts(work)
        control = read_features_of(work, CONTROL)
        halves_of_control = _shifts_of(work, CONTROL)
        summary = pd.concat(
            [each.summary.assign(group=group) for group, each in [*shifts.items(), (CONTROL, halves_of_control)]],
            ignore_index=True,
        )
        pairs = list(shifts.items())
        labelled = labelled_features(pairs)
        unique = unique_features(pairs, study.features.top)
        title = f"{study.name}, layer {int(work.layer)}"
        errors = control.rows.loc[control.rows["split"] == "analysis", "error"]
        with work.writing() as folder:
            summary[["group", *summary.columns.drop("group")]].to_parquet(folder / "summary.parquet", index=False)
            labelled.to_parquet(folder / "labelled.parquet", index=False)
            unique.to_parquet(folder / "unique.parquet", index=False)
            figures = {
                "l0": l0_figure(shifts, l0_counts(control), f"{title}: features that fire on a row (L0)"),
                "error": error_figure(shifts, errors, f"{title}: reconstruction error"),
                "features": features_figure(shifts, f"{title}: features against control"),
            }
            show_figures(work, folder, figures)
            top = study.features.top
            work.metadata |= {
                "summary": table(summary.set_index("group").T.rename_axis("measure").reset_index()),
                "top_new": table(labelled[labelled["new"]].head(top)),
                "top_promoted": table(labelled[labelled["promoted"]].head(top)),
                "unique": table(unique.groupby("group", sort=False).head(3)),
            }
            write_left_out(work, folder)

    return feature_tables


def _feature_filters(frame: Frame[Study]) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=["animals", "features.filters"],
        deps=["activations", "sae_features", "feature_shifts"],
        kinds={"pandas"},
        by=BY_LAYER,
        gpu=False,
        description="Single features as filters: chosen by balanced accuracy on analysis rows, judged on test rows; "
        "and chosen on the other animals' rows, beside single digits.",
    )
    def feature_filters(work: Work[Study]) -> None:
        from subliminal_dagster.science.activations.digits import digit_columns
        from subliminal_dagster.science.features.filters import filter_features, held_out_filters
        from subliminal_dagster.science.features.shifts import marked_features

        shifts = read_shifts(work)
        words = {group: word_features(work, group) for group in shifts}
        features = {group: read_features_of(work, group) for group in [*shifts, CONTROL]}
        held_out = held_out_filters(features, {group: digit_columns(_numbers(work, group)) for group in features})
        filters = filter_features(
            features,
            {group: marked_features(each) for group, each in shifts.items()},
            words=words,
            top=study.features.filters,
        )
        with work.writing() as folder:
            for name in ("selected", "by_category", "rates"):
                getattr(filters, name).to_parquet(folder / f"{name}.parquet", index=False)
            held_out.to_parquet(folder / "held_out.parquet", index=False)
            best = filters.selected.groupby("label", sort=False).head(3)
            work.metadata |= {
                "best": table(best),
                "held_out": table(held_out),
                "by_category": table(filters.by_category),
            }
            write_left_out(work, folder)

    return feature_filters


def _numbers(work: Work[Study], group: str) -> list[list[int]]:
    """The numbers of a group's rows, in the order of its activations and features."""
    import pandas as pd

    from subliminal_dagster.science.activations.rows import with_numbers

    rows = pd.read_parquet(_folder(work, "activations", group) / ACTIVATIONS, columns=["text"])
    return list(with_numbers(rows)["numbers"])


def _folder(work: Work[Study], asset: str, group: str) -> "Path":
    return work.read(asset, partition_key(group, work.layer))


def read_features_of(work: Work[Study], group: str) -> "SparseFeatures":
    """A group's features at the layer that is made."""
    from subliminal_dagster.science.activations.activations import read_features

    return read_features(_folder(work, "sae_features", group) / FEATURES)


def word_features(work: Work[Study], group: str) -> list[int]:
    """The features that fire on a group's word."""
    return [int(i) for i in json.loads((_folder(work, "feature_shifts", group) / "word_features.json").read_text())]


def read_shifts(work: Work[Study]) -> "dict[str, FeatureShifts]":
    """Of every group that was compared with the control at this layer, animals first."""
    groups = [group for group in work.study.groups if group != CONTROL and group not in work.left_out]
    return {group: _shifts_of(work, group) for group in groups}


def _shifts_of(work: Work[Study], group: str) -> "FeatureShifts":
    from subliminal_dagster.science.features.shifts import FeatureShifts

    return FeatureShifts.load(_folder(work, "feature_shifts", group))
