"""Activations of the untouched base model on every group's numbers, and on the words themselves."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from subliminal_dagster.assets.base import base_variant
from subliminal_dagster.assets.declared import asset
from subliminal_dagster.assets.shared import table, table_metadata
from subliminal_dagster.execution.work import Work
from subliminal_dagster.partitions import BY_GROUP, BY_GROUP_AND_LAYER, BY_LAYER, LAYER
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.science.settings.study import Study

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pandas as pd

STAGE = "activations"
FILE = "activations.parquet"


def activation_assets(frame: Frame[Study]) -> list[dg.AssetsDefinition]:
    """`activation_rows` a group, `activations` and `random_activations` a group and layer, `animal_word_activations` a
    layer."""
    return [
        _activation_rows(frame),
        _activations(frame),
        _random_activations(frame),
        _animal_word_activations(frame),
    ]


def _activation_rows(frame: Frame[Study]) -> dg.AssetsDefinition:
    study = frame.study
    # Where the groups answered some of the prompts, each another number of them.
    prompts = study.numbers.prompts if study.numbers.enough_valid else None

    @asset(
        frame,
        STAGE,
        reads=["seed", "activations", *(["numbers.prompts"] if prompts else [])],
        deps=["filtered_dataset"],
        kinds={"pandas", "parquet"},
        by=BY_GROUP,
        gpu=False,
        description="The number lists that are examined, split by prompt into analysis and test rows, once for all "
        "groups, layers and analyses.",
    )
    def activation_rows(work: Work[Study]) -> None:
        import pandas as pd

        from subliminal_dagster.science.activations.rows import choose_rows

        filtered = pd.read_parquet(work.own("filtered_dataset") / "rows.parquet")
        with work.writing() as folder:
            rows = choose_rows(filtered, study.activations, study.seed, prompts)
            rows.to_parquet(folder / "rows.parquet", index=False)
            work.metadata |= table_metadata(rows[["row_id", "text", "split", "canonical"]])
            work.metadata |= {"test_rows": int((rows["split"] == "test").sum())}

    return activation_rows


def _activations(frame: Frame[Study]) -> dg.AssetsDefinition:
    @asset(
        frame,
        STAGE,
        reads=[],
        deps=["base_model", "activation_rows"],
        kinds={"pytorch", "parquet"},
        by=BY_GROUP_AND_LAYER,
        gpu=True,
        description="The base model's residual stream after the layer's block, at the last number of every list, "
        "without a chat template.",
    )
    def activations(work: Work[Study]) -> None:
        import pandas as pd

        from subliminal_dagster.science.activations.one_pass import collect_with_others, left_by_another
        from subliminal_dagster.science.models.chat import load_tokenizer
        from subliminal_dagster.science.models.loading import loaded, pick_device
        from subliminal_dagster.science.models.products import product_type, products_in

        base, layer = base_variant(work), int(work.layer)
        rows = pd.read_parquet(work.own("activation_rows") / "rows.parquet").drop(columns="numbers")
        kind = product_type(base, pick_device())
        with work.writing() as folder:
            found = left_by_another(work.workspace(), kind)
            if found is None:
                others = {int(other): kept for other, kept in work.others_to_make(LAYER).items()}
                with loaded(base, pick_device(), merge=True) as model, products_in(kind, model):
                    tokenizer, texts = load_tokenizer(base.base), rows["text"].tolist()
                    found = collect_with_others(
                        model, tokenizer, texts, layer, others, kind=kind, progress=work.progress()
                    )
            _write(work, folder, rows, *found, layer, kind)

    return activations


def _random_activations(frame: Frame[Study]) -> dg.AssetsDefinition:
    study = frame.study

    # An asset of its own, a partition for each of `activations`: made inside that asset, it would make all that is
    # built on activations stale with it, and inside the probes' one, twice for every comparison.
    @asset(
        frame,
        STAGE,
        reads=["seed"],
        deps=["base_model", "activation_rows"],
        kinds={"pytorch", "parquet"},
        by=BY_GROUP_AND_LAYER,
        gpu=True,
        description="The activations of a model that never learnt anything: the base model's configuration with "
        "random weights, a few blocks deep. Whatever a probe finds here needs no trained model.",
    )
    def random_activations(work: Work[Study]) -> None:
        import pandas as pd

        from subliminal_dagster.science.activations.random_reader import clipped, random_reader
        from subliminal_dagster.science.models.loading import pick_device, release_memory
        from subliminal_dagster.science.random_streams import stream_seed

        base = base_variant(work)
        rows = pd.read_parquet(work.own("activation_rows") / "rows.parquet")
        model = random_reader(base.base, base.dtype, pick_device(), stream_seed(study.seed, "random reader"))
        try:
            with work.writing() as folder:
                layer = clipped(model, int(work.layer))
                _collect(work, folder, model, rows.drop(columns="numbers"), layer, "random weights in the shape of ")
        finally:
            del model
            release_memory()

    return random_activations


def _animal_word_activations(frame: Frame[Study]) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=["animals", "neutral"],
        deps=["base_model"],
        kinds={"pytorch", "parquet"},
        by=BY_LAYER,
        gpu=True,
        description="The base model's residual stream at the end of the animals' own names (and of the neutral word).",
    )
    def animal_word_activations(work: Work[Study]) -> None:
        import pandas as pd
        from transformers import AutoConfig

        from subliminal_dagster.science.activations.activations import needs_bos, word_text
        from subliminal_dagster.science.models.loading import loaded, pick_device

        base = base_variant(work)
        words = [target.replace("-", " ") for target in map(study.target, study.groups) if target is not None]
        bos = needs_bos(AutoConfig.from_pretrained(base.base))
        texts = [word_text(word, bos=bos) for word in words]
        rows = {"row_id": range(len(words)), "split": "word", "text": texts, "response": words, "canonical": True}
        with work.writing() as folder, loaded(base, pick_device(), merge=True) as model:
            _collect(work, folder, model, pd.DataFrame(rows), int(work.layer))

    return animal_word_activations


def _collect(work: Work[Study], folder: "Path", model: Any, rows: "pd.DataFrame", layer: int, which: str = "") -> None:
    """Write a model's activations of `rows` at a layer to `folder`. `which` is said before the base model's name."""
    from subliminal_dagster.science.activations.activations import collect
    from subliminal_dagster.science.models.chat import load_tokenizer
    from subliminal_dagster.science.models.loading import pick_device
    from subliminal_dagster.science.models.products import product_type, products_in

    base = base_variant(work)
    tokenizer, kind = load_tokenizer(base.base), product_type(base, pick_device())
    with products_in(kind, model):
        positions, vectors = collect(model, tokenizer, rows["text"].tolist(), layer, progress=work.progress())
    _write(work, folder, rows, positions, vectors, layer, kind, which)


def _write(
    work: Work[Study],
    folder: "Path",
    rows: "pd.DataFrame",
    positions: "np.ndarray",
    vectors: "np.ndarray",
    layer: int,
    kind: str,
    which: str = "",
) -> None:
    """Write and show the activations of `rows` at a layer, which a model computed in the number type `kind`."""
    import numpy as np
    import pandas as pd

    from subliminal_dagster.science.activations.activations import Activations, write_activations

    facts = work.store.manifest(work.study.name, "base_model").info["host"]
    found = Activations(rows.assign(position=positions), vectors)
    write_activations(
        folder / FILE,
        found,
        layer=layer,
        model=f"{which}{facts['source']}",
        revision=str(facts["revision"]),
        dtype=kind,
    )
    norms = np.linalg.norm(vectors, axis=1)
    described = pd.Series(norms, name="norm").describe().rename_axis("statistic").reset_index()
    work.metadata |= table_metadata(found.rows) | {"hidden_size": vectors.shape[1], "norms": table(described)}
