"""The effect against superposition, of all studies in which both were measured."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from subliminal_dagster.assets.comparison import ALL_STUDIES
from subliminal_dagster.assets.report import STAGE
from subliminal_dagster.assets.shared import image, table
from subliminal_dagster.partitions import layer_key
from subliminal_dagster.planning.code_slice import code_slice
from subliminal_dagster.planning.recipe import Recipe
from subliminal_dagster.resources import StoreResource
from subliminal_dagster.science.settings.dial import DialStudy
from subliminal_dagster.science.settings.study import AnyStudy, Study
from subliminal_dagster.science.storage.records import DamagedArtifact, MissingArtifact
from subliminal_dagster.science.storage.store import ArtifactStore

if TYPE_CHECKING:
    import pandas as pd

SUPERPOSITION = dg.AssetKey([ALL_STUDIES, "superposition"])


def superposition_asset(studies: Sequence[AnyStudy]) -> dg.AssetsDefinition:
    """`all_studies/superposition`, of whatever was measured. It belongs to no study, so no plan makes it: `compare` or
    the UI does."""

    def superposition(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
        import pandas as pd

        from subliminal_dagster.science.dial.dose import COLUMNS, dose_figure
        from subliminal_dagster.science.figures import png

        artifacts = store.create()
        found = [pd.DataFrame(columns=COLUMNS)]
        missing: dict[str, str] = {}
        read: dict[str, str] = {}
        for study in studies:
            try:
                rows, hashes = _rows(artifacts, study)
            except (MissingArtifact, DamagedArtifact) as error:
                missing[study.name] = str(error)
                continue
            if len(rows):
                found.append(rows)
                read |= hashes
        doses = pd.concat([part for part in found if len(part)] or found, ignore_index=True)
        with artifacts.write(ALL_STUDIES, "superposition", None) as draft:
            doses.to_parquet(draft.path / "doses.parquet", index=False)
            picture = png(dose_figure(doses))
            (draft.path / "doses.png").write_bytes(picture)
            draft.info["upstream"] = read
        written = draft.artifact
        return dg.MaterializeResult(
            metadata={"figure": image(picture), "doses": table(doses), "missing": missing},
            data_version=dg.DataVersion(written.content_hash),
        )

    return dg.asset(
        key=SUPERPOSITION,
        group_name=STAGE,
        deps=[dg.AssetKey([study.name, name]) for study in studies for name in _reads(study)],
        kinds={"pandas", "matplotlib"},
        description="Superposition and gamma of all studies in which both were measured: cells of a dial, layers of "
        "language models.",
        code_version=Recipe({}, code_slice(superposition)).version,
    )(superposition)


def _reads(study: AnyStudy) -> list[str]:
    if isinstance(study, DialStudy):
        return ["summary"]
    measured = isinstance(study, Study) and study.layers and study.interference and study.sae and study.steering
    return ["interference", "animal_liking"] if measured else []


def _rows(artifacts: ArtifactStore, study: AnyStudy) -> tuple["pd.DataFrame", dict[str, str]]:
    """A study's rows, none where it measures no superposition, and the content hashes of what was read."""
    import pandas as pd

    from subliminal_dagster.science.dial.dose import COLUMNS, dial_rows, model_rows

    if not _reads(study):
        return pd.DataFrame(columns=COLUMNS), {}
    if isinstance(study, DialStudy):
        summary = artifacts.read(study.name, "summary")
        return dial_rows(study.name, pd.read_parquet(summary.path / "effects.parquet")), {
            f"{study.name}/summary": summary.content_hash
        }
    liking = artifacts.read(study.name, "animal_liking")
    gamma = pd.read_parquet(liking.path / "gamma.parquet")
    gamma = gamma[(gamma["contrast"] == "others") & (gamma["outcome"] == "log_share")]
    by_layer, read = {}, {f"{study.name}/animal_liking": liking.content_hash}
    for layer in map(layer_key, study.layers):
        held = artifacts.read(study.name, "interference", layer)
        figures = pd.read_parquet(held.path / "superposition.parquet")
        by_layer[layer] = float(figures["used_per_effective_dimension"].iloc[0])
        read[f"{study.name}/interference/{layer}"] = held.content_hash
    return model_rows(study.name, by_layer, gamma), read
