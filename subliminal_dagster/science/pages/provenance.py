"""What was run: every artifact of the study with its content hash, when and on what it was made, and how long it took.

Belongs here: laying out what manifests record. Does not belong here: reading the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.colours import MEASURED
from subliminal_dagster.science.report import charts
from subliminal_dagster.science.report.evidence import Chart, Section, Table

if TYPE_CHECKING:
    import pandas as pd

    from subliminal_dagster.science.settings.study import AnyStudy
    from subliminal_dagster.science.storage.records import Manifest

NAME, TITLE = "what-was-run", "What was run"
_HASH_DIGITS = 12


def provenance_section(study: AnyStudy, manifests: dict[tuple[str, str | None], Manifest]) -> Section:
    """`manifests`: of every artifact of the study that is there, by (asset, partition)."""
    made = made_table(manifests)
    settings = _settings(study)
    seeds = sorted({int(seed) for seed in made["seed"]})
    machines = ", ".join(sorted(set(made["device"])))
    versions = ", ".join(sorted({f"Python {p}, torch {t}" for p, t in zip(made["python"], made["torch"], strict=True)}))
    by_asset = made.groupby("asset", sort=False)["seconds"].sum().sort_values()
    figure = charts.new_figure(x="minutes, all partitions", y="", height=max(260, 22 * len(by_asset)))
    figure.add_bar(
        x=by_asset / 60,
        y=by_asset.index,
        orientation="h",
        marker_color=MEASURED,
        hovertemplate="%{y}: %{x:.2f} min<extra></extra>",
    )
    longest = ", ".join(f"{name} {seconds / 60:.1f} min" for name, seconds in by_asset[::-1].head(3).items())
    chart = Chart("seconds", "Time each asset took.", figure, f"Longest: {longest}.")
    return Section(
        NAME,
        TITLE,
        f"{len(made)} artifacts of {made['asset'].nunique()} assets took {made['seconds'].sum() / 60:.1f} minutes of "
        f"work on {machines}.",
        f"Seed {', '.join(map(str, seeds))}; {versions}. An artifact is the same where its content hash is: rebuilt "
        "from the same settings on the same kind of machine, the hash does not change.",
        (),
        charts=(chart,),
        tables=(
            Table("settings", "Settings of the study", settings),
            Table(
                "artifacts",
                "Artifacts",
                made,
                f"Content: the first {_HASH_DIGITS} digits of the SHA-256 of the files' hashes. Code: version of the "
                "asset's code and settings. Seconds: wall time of its last making.",
            ),
        ),
    )


def made_table(manifests: dict[tuple[str, str | None], Manifest]) -> pd.DataFrame:
    """One row per artifact: `asset`, `partition`, `content`, `made` (UTC), `seconds`, `device`, `seed`, `code`,
    `python`, `torch`."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "asset": asset,
                "partition": partition or "",
                "content": manifest.content_hash[:_HASH_DIGITS],
                "made": manifest.created.strftime("%Y-%m-%d %H:%M"),
                "seconds": float(manifest.info["wall_seconds"]),
                "device": str(manifest.info["device"]),
                "seed": manifest.info["seed"],
                "code": str(manifest.info["code_version"]),
                "python": str(manifest.info["host"]["python"]),
                "torch": str(manifest.info["host"]["torch"]),
            }
            for (asset, partition), manifest in manifests.items()
        ]
    )


def _settings(study: AnyStudy) -> pd.DataFrame:
    import pandas as pd

    def leaves(value: Any, name: str) -> list[tuple[str, str]]:
        if isinstance(value, dict) and value:
            return [leaf for key, inner in value.items() for leaf in leaves(inner, f"{name}.{key}" if name else key)]
        return [(name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))]

    return pd.DataFrame(leaves(study.model_dump(mode="json", exclude_none=True), ""), columns=["setting", "value"])
