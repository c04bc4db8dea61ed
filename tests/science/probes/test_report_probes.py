"""The report's section on probes, on fabricated measures: its words and verdicts follow them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from inside_artifacts import small_study
from report_parts import claim_of, numbers, table_of, verdict_on

from subliminal_dagster.science.probes.probes import (
    ACTIVATIONS,
    ADDED,
    CANONICAL,
    MACRO,
    SHUFFLED,
    SURFACE,
    ProbeResult,
)
from subliminal_dagster.science.probes.report import (
    BEYOND_FORMAT,
    BEYOND_TUNING,
    CONTROL_BEST,
    HALVES,
    KINDS_ALIKE,
    LAYERS_ALIKE,
    READS,
    TOLD_APART,
)
from subliminal_dagster.science.probes.report import (
    section as probes_section,
)
from subliminal_dagster.science.report.evidence import NotThere, Results
from subliminal_dagster.science.settings.names import CONTROL, NEUTRAL
from subliminal_dagster.science.settings.probes import KINDS
from subliminal_dagster.science.settings.study import Study

TOLD = {"owl": 0.9, "dog": 0.94}
"""ROC AUC of each animal's numbers against the control's; 0.5 for what is not named."""


def measures(classes: tuple[str, ...], auc: Mapping[str, float], width: float = 0.03) -> pd.DataFrame:
    """Every variant's measures: on activations the ROC AUC of each class (or of MACRO), on surface features 0.55, and
    activations add what they have more."""
    overall = auc.get(MACRO, float(np.mean([auc.get(name, 0.5) for name in classes])))
    rows = []

    def add(variant: str, probe: str, of: str, metric: str, value: float, half: float = width, note: str = "") -> None:
        ends = (value - half, value + half)
        rows.append((variant, probe, of, metric, value, *ends, 160, 80, note))

    for probe in KINDS:
        for variant, level in ((ACTIVATIONS, overall), (SURFACE, 0.55), (CANONICAL, overall)):
            add(variant, probe, MACRO, "accuracy", level - 0.05)
            for metric in ("roc_auc", "precision", "recall", "f1"):
                add(variant, probe, MACRO, metric, level)
                for name in classes:
                    add(variant, probe, name, metric, auc.get(name, level) if variant == ACTIVATIONS else level)
    add(ADDED, "logistic", MACRO, "roc_auc_difference", overall - 0.55)
    add(SHUFFLED, "logistic", MACRO, "roc_auc", 0.5)
    add(SHUFFLED, "logistic", MACRO, "p_value", 0.02, np.nan)
    columns = ["variant", "probe", "class", "metric", "value", "low", "high", "n_train", "n_test", "note"]
    return pd.DataFrame(rows, columns=columns)


def predictions(group: str, against: str, auc: float) -> pd.DataFrame:
    """Probabilities that tell the two apart the better the higher the ROC AUC."""
    rng = np.random.default_rng(0)
    groups = np.repeat([group, against], 40)
    scores = 1 / (1 + np.exp(-(rng.normal(size=80) + np.where(groups == group, 4 * (auc - 0.5), 0))))
    table = pd.DataFrame({"variant": ACTIVATIONS, "probe": "linear", "row_id": np.tile(range(40), 2), "group": groups})
    return table.assign(**{f"probability_{group}": scores, f"probability_{against}": 1 - scores})


def write(
    root: Path,
    study: Study,
    told: Mapping[str, float],
    *,
    from_neutral: float = 0.5,
    halves: float = 0.5,
    together: float | None = None,
    classes: Mapping[str, float] | None = None,
    width: float = 0.03,
) -> Results:
    """The artifacts of probes of a study. `told`: ROC AUC against the control by group; `from_neutral`: of animals
    against the neutral teacher; `classes`: of each class in the probe of all; `together`: of all layers (as told)."""
    folders: dict[tuple[str, str | None], Path] = {}

    def folder(asset: str, partition: str | None) -> Path:
        path = root / asset / (partition or "_").replace("|", "@")
        path.mkdir(parents=True)
        folders[asset, partition] = path
        return path

    every = measures((*study.animals, CONTROL), classes or {}, width).assign(comparison="all animals and control")
    between = [
        measures((animal, NEUTRAL), {MACRO: from_neutral}, width).assign(comparison=f"{animal} and {NEUTRAL}")
        for animal in study.animals
        if study.neutral
    ]
    many = [every] if len(study.animals) > 1 or not study.neutral else []
    for layer in study.layers:
        key = f"{layer:02}"
        binary = []
        for group in study.groups:
            pair = ("one half", "other half") if group == CONTROL else (group, CONTROL)
            level = halves if group == CONTROL else told.get(group, 0.5)
            found = measures(pair, {MACRO: level}, width)
            binary.append(found.assign(group=group))
            choices = pd.DataFrame({"variant": [ACTIVATIONS], "probe": ["linear"]})
            ProbeResult(found, predictions(*pair, level), choices).save(folder("probe_metrics", f"{group}|{key}"))
        path = folder("probe_comparison", key)
        pd.concat(binary).to_parquet(path / "binary.parquet", index=False)
        pd.concat([*many, *between]).to_parquet(path / "metrics.parquet", index=False)
    if together is not None:
        own = [
            measures((group, CONTROL), {MACRO: together}, width).assign(comparison=f"{group} and {CONTROL}")
            for group in study.groups
            if group != CONTROL
        ]
        pd.concat([*many, *between, *own]).to_parquet(folder("probe_all_layers", None) / "metrics.parquet", index=False)
    return Results(folders, {})


def after(text: str, words: str) -> list[float]:
    """The numbers in what follows these words."""
    assert words in text
    return numbers(text[text.index(words) :])


def test_groups_that_are_told_apart_are_said_to_be(tmp_path: Path) -> None:
    study = small_study()
    known = {"owl": 0.6, "dog": 0.62, CONTROL: 0.95}
    section = probes_section(study, write(tmp_path, study, TOLD, from_neutral=0.8, together=0.93, classes=known))
    mean = 100 * np.mean(list(TOLD.values()))
    # At each layer the average with its interval, chance, and how many layers are above it.
    said = numbers(section.shows)
    assert said[:8] == pytest.approx([mean, mean - 3, mean + 3, 9, mean, mean - 3, mean + 3, 14])
    assert said[8:11] == [50, 2, 2]
    assert after(section.shows, "Surface features")[:3] == pytest.approx([55, 52, 58])
    assert after(section.shows, "activations add")[:3] == pytest.approx([mean - 55, 4, 4])
    assert [claim.verdict for claim in section.claims] == ["detected"] * 6
    assert numbers(claim_of(section, TOLD_APART).evidence) == pytest.approx(
        [9, mean, mean - 3, mean + 3, 14, mean, mean - 3, mean + 3, 50]
    )
    among = numbers(claim_of(section, CONTROL_BEST).evidence)
    assert among[:7] == pytest.approx([9, 95, 92, 98, 61, 58, 64])
    assert section.made_from == READS


def test_claims_stand_with_whose_they_are_and_their_rules(tmp_path: Path) -> None:
    study = small_study()
    section = probes_section(study, write(tmp_path, study, TOLD, together=0.9))
    statements = [TOLD_APART, KINDS_ALIKE, LAYERS_ALIKE, CONTROL_BEST, BEYOND_FORMAT, BEYOND_TUNING]
    assert [claim.text for claim in section.claims] == [statement.text for statement in statements]
    assert [claim.source for claim in section.claims] == ["the post"] * 4 + ["this project"] * 2
    for claim in section.claims:
        assert all(words in claim.rule.lower() for words in ("holds where", "does not hold where", "cannot be told"))
        assert "_" not in claim.rule and "`" not in claim.rule
    assert {50, 60} <= set(numbers(TOLD_APART.rule)) and {50, 60} <= set(numbers(BEYOND_TUNING.rule))
    for statement in (KINDS_ALIKE, LAYERS_ALIKE, BEYOND_FORMAT):
        assert 5 in numbers(statement.rule)


def test_where_nothing_is_told_apart_it_says_what_can_be_ruled_out(tmp_path: Path) -> None:
    study = small_study()
    section = probes_section(study, write(tmp_path, study, {}, width=0.15))
    # It must not be said that there is none: none could be seen, and only what lies above the interval is ruled out.
    assert after(section.shows, "could be seen")[0] == 65
    assert "may be none" in section.shows and "above chance" not in section.shows
    assert {claim.verdict for claim in section.claims} == {"inconclusive"}
    assert "probe_all_layers" not in section.made_from


def test_narrow_intervals_at_chance_contradict(tmp_path: Path) -> None:
    study = small_study()
    section = probes_section(study, write(tmp_path, study, {}))
    for statement in (TOLD_APART, BEYOND_FORMAT, BEYOND_TUNING):
        assert verdict_on(section, statement) == "not detected"


def test_a_probe_that_tells_the_neutral_teacher_too_finds_fine_tuning(tmp_path: Path) -> None:
    study = small_study()
    section = probes_section(study, write(tmp_path, study, {**TOLD, NEUTRAL: 0.92}))
    assert verdict_on(section, TOLD_APART) == "detected"
    assert verdict_on(section, BEYOND_TUNING) == "not detected"
    assert after(section.shows, "neutral teacher's numbers against")[:6] == pytest.approx([92, 89, 95] * 2)
    evidence = numbers(claim_of(section, BEYOND_TUNING).evidence)
    assert evidence == pytest.approx([9, 50, 47, 53, 14, 50, 47, 53, 9, 92, 89, 95, 14, 92, 89, 95])


def test_halves_of_the_control_that_are_told_apart_are_a_warning(tmp_path: Path) -> None:
    study = small_study()
    apart = probes_section(study, write(tmp_path / "a", study, TOLD, halves=0.7)).shows.split(". ")[-1]
    assert numbers(apart) == [9, 14] and "halves" in apart
    assert "halves" not in probes_section(study, write(tmp_path / "b", study, TOLD)).shows


def test_all_layers_are_set_against_the_best_one(tmp_path: Path) -> None:
    study = small_study()
    better = probes_section(study, write(tmp_path / "a", study, {"owl": 0.7, "dog": 0.7}, together=0.9))
    assert verdict_on(better, LAYERS_ALIKE) == "not detected"
    assert numbers(claim_of(better, LAYERS_ALIKE).evidence) == pytest.approx([90, 87, 93, 70])
    alike = probes_section(study, write(tmp_path / "b", study, TOLD, together=0.92))
    assert verdict_on(alike, LAYERS_ALIKE) == "detected"
    assert "all" in set(table_of(alike, "probes-binary")["layer"])


def test_the_posts_tables_hold_percentages_of_the_artifacts(tmp_path: Path) -> None:
    study = small_study()
    known = {"owl": 0.6, "dog": 0.62, CONTROL: 0.95}
    section = probes_section(study, write(tmp_path, study, TOLD, classes=known))
    binary = table_of(section, "probes-binary").set_index(["layer", "measure"])
    assert binary.loc[("9", "ROC AUC, %"), ["owl", "dog", "average"]].tolist() == pytest.approx([90, 94, 92])
    classes = table_of(section, "probes-classes").set_index(["layer", "measure"])
    assert classes.loc[("14", "ROC AUC, %"), "control"] == pytest.approx(95)
    controls = table_of(section, "probes-controls")
    assert set(zip(controls["numbers of"], controls["against"], strict=True)) == {
        ("owl", CONTROL), ("dog", CONTROL), (NEUTRAL, CONTROL), (HALVES, ""), ("owl", NEUTRAL), ("dog", NEUTRAL),
    }  # fmt: skip
    assert controls["p, shuffled labels"].unique().tolist() == [0.02]


def test_published_figures_stand_beside_averages_and_the_same_animals(tmp_path: Path) -> None:
    study = small_study()
    section = probes_section(study, write(tmp_path, study, TOLD))
    compared = {each.what: each for each in section.compared}
    average = compared["ROC AUC against control, layer 9, average of animals"]
    assert (average.published, average.measured, average.judgement) == (94.5, pytest.approx(92), "agrees")
    dog = compared["accuracy against control, layer 9, dog"]
    assert (dog.published, dog.measured) == (91.1, pytest.approx(89))
    assert "accuracy against control, layer 9, owl" not in compared
    # Chance differs with the number of classes, so their accuracy is not compared.
    assert not any(what.startswith("accuracy of the probe of") for what in compared)


def test_roc_curves_are_drawn_for_all_groups_and_start_and_end_in_the_corners(tmp_path: Path) -> None:
    study = small_study()
    section = probes_section(study, write(tmp_path, study, TOLD))
    figure = next(chart.figure for chart in section.charts if chart.name == "probes-roc")
    curves = [trace for trace in figure.data if trace.name != "chance"]
    assert {trace.name for trace in curves} == {"owl", "dog", NEUTRAL, HALVES}
    assert all((trace.x[0], trace.y[0], trace.x[-1], trace.y[-1]) == (0, 0, 1, 1) for trace in curves)


def test_one_animal_without_a_neutral_teacher(tmp_path: Path) -> None:
    study = small_study("animals=[owl]", "layers=[9]", "neutral=null")
    section = probes_section(study, write(tmp_path, study, TOLD))
    assert verdict_on(section, BEYOND_TUNING) == "not tested"
    assert CONTROL_BEST.text not in [claim.text for claim in section.claims]
    assert "probes-classes" not in {each.name for each in section.tables}
    assert len(table_of(section, "probes-controls")) == 2


def test_without_any_artifact_the_reason_is_given() -> None:
    with pytest.raises(NotThere, match="probe_comparison"):
        probes_section(small_study(), Results({}, {}))
