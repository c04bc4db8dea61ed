"""The comparison of all groups of a study."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from subliminal_dagster.assets.child import PREFIX
from subliminal_dagster.assets.declared import asset
from subliminal_dagster.assets.gathered import write_left_out
from subliminal_dagster.assets.shared import image, table
from subliminal_dagster.execution.work import Work
from subliminal_dagster.partitions import partition_key
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.science.settings.study import Study

if TYPE_CHECKING:
    import pandas as pd

STAGE = "results"


def liking_assets(frame: Frame[Study]) -> list[dg.AssetsDefinition]:
    """`animal_liking`."""
    return [_animal_liking(frame)]


def _animal_liking(frame: Frame[Study]) -> dg.AssetsDefinition:
    study = frame.study
    scored = [f"{PREFIX[channel]}preference_scores" for channel in study.child.channels]

    @asset(
        frame,
        STAGE,
        reads=["seed", "animals", "replicates", "child.channels", "comparison"],
        deps=["base_preferences", "teacher_preferences", *scored],
        kinds={"pandas", "statsmodels"},
        gpu=False,
        all_replicates=True,
        description="How each animal is liked by the child of its own numbers, of other animals' numbers, of control "
        "numbers and by the base model, with intervals, tests and the specificity contrast gamma.",
    )
    def animal_liking(work: Work[Study]) -> None:
        from subliminal_dagster.science.figures import png
        from subliminal_dagster.science.liking.comparison import compare
        from subliminal_dagster.science.liking.figure import figure

        scores = _all_scores(work)
        result = compare(
            scores,
            study.animals,
            permutations=study.comparison.permutations,
            seed=study.seed,
            confidence=study.comparison.confidence,
            margin=study.comparison.margin,
        )
        with work.writing() as folder:
            scores.to_parquet(folder / "scores.parquet", index=False)
            for name in ("liking", "tests", "shifts", "gamma"):
                getattr(result, name).to_parquet(folder / f"{name}.parquet", index=False)
            (folder / "verdicts.json").write_text(json.dumps(result.verdicts, indent=2) + "\n")
            picture = png(figure(result, study.name), study.category.about)
            (folder / "animal_liking.png").write_bytes(picture)
            write_left_out(work, folder)
            work.metadata |= {
                "figure": image(picture),
                **{
                    f"verdict_{channel}": study.category.about(verdict["sentence"])
                    for channel, verdict in result.verdicts.items()
                },
                "gamma": table(result.gamma),
                "tests": table(result.tests),
                "liking": table(result.liking),
            }

    return animal_liking


def _all_scores(work: Work[Study]) -> "pd.DataFrame":
    """The scores of base, teachers and children; a group that a gate refused is left out."""
    import pandas as pd

    def scores(folder: Path, model: str, channel: str | None, group: str | None, replicate: int = 1) -> "pd.DataFrame":
        rows = pd.read_parquet(folder / "scores.parquet")
        return rows.assign(model=model, channel=channel, group=group, replicate=replicate)

    found = [scores(work.read("base_preferences"), "base", None, None)]
    for group in work.study.groups:
        if group in work.left_out:
            continue
        found.append(scores(work.own("teacher_preferences", group), "teacher", None, group))
        for channel in work.study.child.channels:
            for replicate in range(1, work.study.replicates + 1):
                partition = partition_key(group, str(replicate))
                child = work.read(f"{PREFIX[channel]}preference_scores", partition)
                found.append(scores(child, "child", channel, group, replicate))
    return pd.concat(found, ignore_index=True)
