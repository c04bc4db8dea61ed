"""What studies found, read from their artifacts, for a terminal.

Belongs here: the verdict of one study, what its models wrote, and the same study with several seeds together. Does not
belong here: how these are worked out (`science.liking`, `science.preferences.words`), pages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from subliminal_dagster.planning.priority import VERDICT
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.study import AnyStudy, Study
from subliminal_dagster.science.storage.records import MissingArtifact
from subliminal_dagster.science.storage.store import ArtifactStore
from subliminal_dagster.science.verdict import verdict

_MAY_DIFFER = {"name", "description", "seed"}


def no_result(study: AnyStudy, given: str) -> UserError:
    """The error for whoever asks for a result that is not there yet; `given`: how a command names the study."""
    return UserError(f"{study.name} has no result yet: make it with 'subliminal-dagster run --study {given}'.")


def verdict_lines(store: ArtifactStore, study: AnyStudy) -> list[str]:
    """What `verdicts` gives, as sentences, each of which names its channel."""
    found = verdicts(store, study)
    return [*(each["sentence"] for each in found["channels"].values()), *_left_out_lines(found)]


def evidence_lines(store: ArtifactStore, study: Study) -> list[str]:
    """Each channel's verdict above its evidence, worded as on the report's first screen, and who was left out.

    Raises MissingArtifact or DamagedArtifact where there is none to be read.
    """
    from subliminal_dagster.science.liking.report import evidence
    from subliminal_dagster.science.report.evidence import Results

    place = (VERDICT, None)
    results = Results({place: store.read(study.name, *place).path}, {})
    lines = []
    for channel, (found, sentences) in evidence(study, results).items():
        lines += [f"{channel.capitalize()} channel: {found}", *(f"  {sentence}" for sentence in sentences)]
    return [*map(study.category.about, lines), *_left_out_lines(verdicts(store, study))]


def _left_out_lines(found: Mapping[str, Any]) -> list[str]:
    return [f"left out: {group}: {reason}" for group, reason in found["left_out"].items()]


def verdicts(store: ArtifactStore, study: AnyStudy) -> dict[str, Any]:
    """The verdict of all `channels`, by name, and the groups that a gate kept out of it (`left_out`), with its reasons.

    Raises MissingArtifact or DamagedArtifact where there is none to be read.
    """
    folder = store.read(study.name, VERDICT).path
    channels = _read(folder, "verdicts.json")
    for found in channels.values():
        found["sentence"] = study.category.about(found["sentence"])
    return {"channels": channels, "left_out": _read(folder, "left_out.json")}


def words_written(store: ArtifactStore, study: Study) -> str:
    """The first numbers and answers that the models of a study wrote. Raises NotThere where there is none."""
    from subliminal_dagster.science.preferences.report_words import READS
    from subliminal_dagster.science.preferences.words import as_text, gather
    from subliminal_dagster.science.report.evidence import Results

    there = [(asset, partition) for asset in READS for partition in store.partitions(study.name, asset)]
    results = Results({place: store.read(study.name, *place).path for place in there}, {})
    return as_text(gather(study, results), study.category)


def combine_studies(store: ArtifactStore, studies: Sequence[AnyStudy]) -> dict[str, Any]:
    """The gamma of studies that differ in their seed alone, in nats of log share, by channel.

    Gives JSON-able `studies` (their names) and `channels`: by name the `runs` (study, seed, gamma, se, low, high, and
    left_out: the groups that a gate refused) and `combined` (as `combine_seeds` gives it, and the verdict).
    Raises UserError where there are fewer than two, they differ in anything else, one has no comparison yet, or their
    gammas are not the same contrast.
    """
    from subliminal_dagster.science.liking.comparison import combine_seeds

    same = _differing_in_seed_alone(studies)
    runs: dict[str, list[dict[str, Any]]] = {}
    for study in same:
        for channel, run in _gammas(store, study).items():
            runs.setdefault(channel, []).append(run)
    channels = {}
    for channel, found in runs.items():
        contrasts = {str(run["contrast"]): str(run["study"]) for run in found}
        if len(contrasts) > 1:
            told = " and ".join(f"{contrast} in {study}" for contrast, study in contrasts.items())
            raise UserError(f"Gamma of the {channel} channel is set against {told}, which cannot be combined.")
        combined = combine_seeds(
            [(run["seed"], run["gamma"], run["se"]) for run in found], confidence=same[0].comparison.confidence
        )
        word = verdict(combined.low, combined.high)
        channels[channel] = {"runs": found, "combined": asdict(combined) | {"verdict": word}}
    return {"studies": [study.name for study in same], "channels": channels}


def combined_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What `combine_studies` gives, as a table per channel."""
    width = max(len(name) for name in found["studies"])
    for channel, content in found["channels"].items():
        combined = content["combined"]
        yield f"{channel} channel, gamma in nats of log share (a run's interval is over questions, for its children)"
        yield f"  {'study':{width}} {'seed':>6} {'gamma':>8}  interval"
        for run in content["runs"]:
            lost = f"  without {', '.join(run['left_out'])}" if run["left_out"] else ""
            row = f"  {run['study']:{width}} {run['seed']:6} {run['gamma']:+8.3f}"
            yield f"{row}  [{run['low']:+.3f}, {run['high']:+.3f}]{lost}"
        yield (
            f"  {combined['verdict']}: mean over {combined['seeds']} seeds {combined['mean']:+.3f} "
            f"[{combined['low']:+.3f}, {combined['high']:+.3f}], p {combined['p']:.2g}; between seeds SD "
            f"{combined['between_sd']:.3f}, within a run SE {combined['within_se']:.3f}"
        )


def _differing_in_seed_alone(studies: Sequence[AnyStudy]) -> list[Study]:
    others = [study.name for study in studies if not isinstance(study, Study)]
    if others:
        raise UserError(f"The study {others[0]} has no animals, so there is no gamma to combine.")
    same = [study for study in studies if isinstance(study, Study)]
    if len(same) < 2:
        raise UserError("Give two studies at least that differ in their seed, such as STUDY STUDY-seed2 STUDY-seed3.")
    first = same[0]
    for other in same[1:]:
        ours, theirs = (study.model_dump(mode="json", exclude=_MAY_DIFFER) for study in (first, other))
        difference = next(_differences(ours, theirs), None)
        if difference is not None:
            field, one, two = difference
            raise UserError(
                f"{first.name} and {other.name} differ in more than their seed: {field} is {one!r:.80} and {two!r:.80}."
            )
    return same


def _differences(one: Any, two: Any, field: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The settings in which two studies differ, with the value of either."""
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        for name in dict.fromkeys([*one, *two]):
            yield from _differences(one.get(name), two.get(name), f"{field}.{name}".lstrip("."))
    elif one != two:
        yield field, one, two


def _gammas(store: ArtifactStore, study: Study) -> dict[str, dict[str, Any]]:
    """A study's gamma of every channel."""
    import pandas as pd

    from subliminal_dagster.science.liking.comparison import PRIMARY_OUTCOME

    try:
        folder = store.read(study.name, VERDICT).path
    except MissingArtifact:
        raise no_result(study, study.name) from None
    table = pd.read_parquet(folder / "gamma.parquet")
    rows = table[table["outcome"] == PRIMARY_OUTCOME]
    return {
        str(row["channel"]): {
            "study": study.name,
            "seed": study.seed,
            "contrast": str(row["contrast"]),
            "gamma": float(row["mean"]),
            **{name: float(row[name]) for name in ("se", "low", "high")},
            "left_out": sorted(_read(folder, "left_out.json")),
        }
        for row in rows.to_dict("records")
    }


def _read(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    return content
