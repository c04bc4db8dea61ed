"""The report's section on probes, on fabricated measures: its words and verdicts follow them."""

from __future__ import annotations

from collections import Counter
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
    RANDOM,
    READERS,
    SHUFFLED,
    SURFACE,
    ProbeResult,
    beyond,
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
    Probes,
    claims,
)
from subliminal_dagster.science.probes.report import (
    section as probes_section,
)
from subliminal_dagster.science.report.evidence import NotThere, Results
from subliminal_dagster.science.report.layers import Interval
from subliminal_dagster.science.settings.names import CONTROL, NEUTRAL
from subliminal_dagster.science.settings.probes import KINDS
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.statistics import t_interval

ANIMALS = "animals=[owl, dog, cat]"
TOLD = {"owl": 0.9, "dog": 0.94, "cat": 0.92}
"""ROC AUC of each animal's numbers against the control's; about 0.5 for what is not named."""

APART = {"owl": -0.012, "dog": 0.012, "cat": 0.0}
"""By how much the animals' figures differ where nothing is said of them."""


def measures(
    classes: tuple[str, ...], auc: Mapping[str, float], width: float = 0.03, random: float = 0.55
) -> pd.DataFrame:
    """Every variant's measures: on activations the ROC AUC of each class (or of MACRO), 0.55 by every reader but that
    of random weights, and activations beat each by what they have more. Other kinds of probe do as well, or almost."""
    overall = auc.get(MACRO, float(np.mean([auc.get(name, 0.5) for name in classes])))
    jitter = APART.get(classes[0], 0.0)
    rows = []

    def add(variant: str, probe: str, of: str, metric: str, value: float, half: float = width, note: str = "") -> None:
        ends = (value - half, value + half)
        rows.append((variant, probe, of, metric, value, *ends, 160, 80, note))

    for probe in KINDS:
        own = overall if probe == "linear" else overall + jitter
        for variant, level in ((ACTIVATIONS, own), (SURFACE, 0.55), (RANDOM, random), (CANONICAL, overall)):
            add(variant, probe, MACRO, "accuracy", level - 0.05)
            for metric in ("roc_auc", "precision", "recall", "f1"):
                add(variant, probe, MACRO, metric, level)
                for name in classes:
                    add(variant, probe, name, metric, auc.get(name, level) if variant == ACTIVATIONS else level)
    for reader in READERS:
        level = random if reader == RANDOM else 0.55
        if reader not in (SURFACE, RANDOM):
            add(reader, "logistic", MACRO, "roc_auc", level)
        add(beyond(reader), "logistic", MACRO, "roc_auc_difference", overall - level)
    add(ADDED, "logistic", MACRO, "roc_auc_difference", overall - max(0.55, random))
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
    random: float = 0.55,
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
        measures((animal, NEUTRAL), {MACRO: from_neutral + APART.get(animal, 0)}, width).assign(
            comparison=f"{animal} and {NEUTRAL}"
        )
        for animal in study.animals
        if study.neutral
    ]
    many = [every] if len(study.animals) > 1 or not study.neutral else []
    for layer in study.layers:
        key = f"{layer:02}"
        binary = []
        for group in study.groups:
            pair = ("one half", "other half") if group == CONTROL else (group, CONTROL)
            level = halves if group == CONTROL else told.get(group, 0.5 + APART.get(group, 0))
            found = measures(pair, {MACRO: level}, width, random)
            binary.append(found.assign(group=group))
            choices = pd.DataFrame({"variant": [ACTIVATIONS], "probe": ["linear"]})
            ProbeResult(found, predictions(*pair, level), choices).save(folder("probe_metrics", f"{group}|{key}"))
        path = folder("probe_comparison", key)
        pd.concat(binary).to_parquet(path / "binary.parquet", index=False)
        pd.concat([*many, *between]).to_parquet(path / "metrics.parquet", index=False)
    if together is not None:
        own = [
            measures((group, CONTROL), {MACRO: together + APART.get(group, 0)}, width).assign(
                comparison=f"{group} and {CONTROL}"
            )
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
    study = small_study(ANIMALS)
    known = {"owl": 0.6, "dog": 0.62, "cat": 0.61, CONTROL: 0.95}
    section = probes_section(study, write(tmp_path, study, TOLD, from_neutral=0.8, together=0.93, classes=known))
    mean = 100 * np.mean(list(TOLD.values()))
    # At each layer the average with its interval, chance, and how many layers are above it.
    said = numbers(section.shows)
    assert said[:8] == pytest.approx([mean, mean - 3, mean + 3, 9, mean, mean - 3, mean + 3, 14])
    assert said[8:11] == [50, 2, 2]
    assert after(section.shows, "Without a trained model")[:4] == pytest.approx([9, 55, 52, 58])
    assert after(section.shows, "in 6 of")[:2] == [6, 6]
    assert [claim.verdict for claim in section.claims] == ["detected"] * 6
    half = t_interval([90, 94, 92]).high - mean
    # The wider ends of the interval over animals and of that over rows, which is 3 points either way.
    evidence = numbers(claim_of(section, TOLD_APART).evidence)
    assert evidence[:4] == pytest.approx([50, mean, mean - half, mean + half], abs=0.1)
    assert evidence[4:8] == pytest.approx([9, mean, mean - 3, mean + 3])
    among = numbers(claim_of(section, CONTROL_BEST).evidence)
    assert among[:7] == pytest.approx([9, 95, 92, 98, 61, 58, 64])
    assert section.made_from == READS


def test_claims_stand_with_whose_they_are_and_their_rules(tmp_path: Path) -> None:
    study = small_study(ANIMALS)
    section = probes_section(study, write(tmp_path, study, TOLD, together=0.9))
    statements = [TOLD_APART, KINDS_ALIKE, LAYERS_ALIKE, CONTROL_BEST, BEYOND_FORMAT, BEYOND_TUNING]
    assert [claim.text for claim in section.claims] == [statement.text for statement in statements]
    assert [claim.source for claim in section.claims] == ["the post"] * 4 + ["this project"] * 2
    for claim in section.claims:
        assert all(
            words in claim.rule for words in ("Animals are the units (3 or more", "Detected where", "inconclusive")
        )
        assert "_" not in claim.rule and "`" not in claim.rule
    assert {50, 60} <= set(numbers(TOLD_APART.rule))
    for statement in (KINDS_ALIKE, LAYERS_ALIKE, CONTROL_BEST, BEYOND_TUNING):
        assert 5 in numbers(statement.rule)
    for reader in READERS:
        assert reader in BEYOND_FORMAT.rule and reader in claim_of(section, BEYOND_FORMAT).evidence


def test_where_nothing_is_told_apart_it_says_what_can_be_ruled_out(tmp_path: Path) -> None:
    study = small_study(ANIMALS)
    section = probes_section(study, write(tmp_path, study, {}, width=0.15))
    # It must not be said that there is none: none could be seen, and only what lies above the interval is ruled out.
    assert after(section.shows, "could be seen")[0] == 65
    assert "in 0 of 6 comparisons" in section.shows and "above chance" not in section.shows
    assert verdict_on(section, TOLD_APART) == verdict_on(section, BEYOND_FORMAT) == "inconclusive"
    assert "probe_all_layers" not in section.made_from


def test_narrow_intervals_at_chance_exclude_a_pattern(tmp_path: Path) -> None:
    study = small_study(ANIMALS)
    section = probes_section(study, write(tmp_path, study, {}))
    assert verdict_on(section, TOLD_APART) == verdict_on(section, BEYOND_TUNING) == "not detected"
    assert verdict_on(section, BEYOND_FORMAT) == "inconclusive"


def test_what_a_reader_of_random_weights_sees_as_well_is_not_more_than_format(tmp_path: Path) -> None:
    study = small_study(ANIMALS)
    section = probes_section(study, write(tmp_path, study, TOLD, random=0.91))
    assert verdict_on(section, TOLD_APART) == "detected"
    assert verdict_on(section, BEYOND_FORMAT) == "inconclusive"
    assert "in 0 of 6 comparisons" in section.shows


def test_a_probe_that_tells_the_neutral_teacher_too_does_not_find_the_animal(tmp_path: Path) -> None:
    study = small_study(ANIMALS)
    section = probes_section(study, write(tmp_path, study, {**TOLD, NEUTRAL: 0.92}, from_neutral=0.8))
    assert verdict_on(section, TOLD_APART) == "detected"
    # One neutral teacher: that its numbers differ from the animals' may be of its own run.
    assert verdict_on(section, BEYOND_TUNING) == "inconclusive"
    assert after(section.shows, "neutral teacher's numbers against")[:6] == pytest.approx([92, 89, 95] * 2)
    evidence = claim_of(section, BEYOND_TUNING).evidence
    assert after(evidence, "an animal's numbers are told")[:8] == pytest.approx([9, 92, 89, 95, 14, 92, 89, 95])
    better = probes_section(
        study, write(tmp_path / "b", study, {name: 0.5 + APART[name] for name in TOLD} | {NEUTRAL: 0.8})
    )
    assert verdict_on(better, BEYOND_TUNING) == "opposite"


def test_two_animals_decide_nothing_about_teachers(tmp_path: Path) -> None:
    study = small_study()
    section = probes_section(study, write(tmp_path, study, TOLD, from_neutral=0.8, together=0.93))
    assert {claim.verdict for claim in section.claims} == {"inconclusive"}
    assert "owl 90 and dog 94 (fewer than 3 animals" in claim_of(section, TOLD_APART).evidence


def test_halves_of_the_control_that_are_told_apart_are_a_warning(tmp_path: Path) -> None:
    study = small_study(ANIMALS)
    apart = probes_section(study, write(tmp_path / "a", study, TOLD, halves=0.7)).shows.split(". ")[-1]
    assert numbers(apart) == [9, 14] and "halves" in apart
    assert "halves" not in probes_section(study, write(tmp_path / "b", study, TOLD)).shows


def test_all_layers_are_set_against_the_best_one(tmp_path: Path) -> None:
    study = small_study(ANIMALS)
    low = {name: level - 0.22 for name, level in TOLD.items()}
    better = probes_section(study, write(tmp_path / "a", study, low, together=0.9))
    assert verdict_on(better, LAYERS_ALIKE) == "opposite"
    assert numbers(claim_of(better, LAYERS_ALIKE).evidence)[0] == pytest.approx(20)
    alike = probes_section(study, write(tmp_path / "b", study, TOLD, together=0.91))
    assert verdict_on(alike, LAYERS_ALIKE) == "detected"
    assert "all" in set(table_of(alike, "probes-binary")["layer"])


def test_the_posts_tables_hold_percentages_of_the_artifacts(tmp_path: Path) -> None:
    study = small_study(ANIMALS)
    known = {"owl": 0.6, "dog": 0.62, "cat": 0.61, CONTROL: 0.95}
    section = probes_section(study, write(tmp_path, study, TOLD, classes=known))
    binary = table_of(section, "probes-binary").set_index(["layer", "measure"])
    assert binary.loc[("9", "ROC AUC, %"), ["owl", "dog", "cat", "average"]].tolist() == pytest.approx([90, 94, 92, 92])
    classes = table_of(section, "probes-classes").set_index(["layer", "measure"])
    assert classes.loc[("14", "ROC AUC, %"), "control"] == pytest.approx(95)
    controls = table_of(section, "probes-controls")
    assert set(zip(controls["numbers of"], controls["against"], strict=True)) == {
        *((animal, against) for animal in TOLD for against in (CONTROL, NEUTRAL)), (NEUTRAL, CONTROL), (HALVES, ""),
    }  # fmt: skip
    assert controls["p, shuffled labels"].unique().tolist() == [0.02]


def test_published_figures_stand_beside_averages_and_the_same_animals(tmp_path: Path) -> None:
    study = small_study(ANIMALS)
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
    study = small_study(ANIMALS)
    section = probes_section(study, write(tmp_path, study, TOLD))
    figure = next(chart.figure for chart in section.charts if chart.name == "probes-roc")
    curves = [trace for trace in figure.data if trace.name != "chance"]
    assert {trace.name for trace in curves} == {*TOLD, NEUTRAL, HALVES}
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
        probes_section(small_study(ANIMALS), Results({}, {}))


FIVE = ["bear", "cat", "lion", "owl", "wolf"]
"""As many animals as the bundled study has."""


def drawn(rng: np.random.Generator, effect: Mapping[str, float]) -> Probes:
    """Measures of a study in which every figure is chance besides `effect` (points, by statement): what the control's
    rows are by chance is in all of its comparisons, every teacher has a peculiarity of its own, and every comparison
    the noise of its rows."""
    known: dict[tuple[str, ...], Interval] = {}

    def add(layer: str, group: str, variant: str, probe: str, of: str, metric: str, value: float) -> None:
        against = "every class" if group == "every class" else CONTROL
        known[layer, group, against, variant, probe, of, metric] = Interval(value, value - 9, value + 9)

    teacher = {group: rng.normal(0, 4) for group in [*FIVE, NEUTRAL]}
    of_control = rng.normal(0, 2.5)
    for layer in ("9", "20", "all"):
        shared = of_control + rng.normal(0, 0.7)
        for group in [*FIVE, NEUTRAL]:
            area = 50 + shared + teacher[group] + rng.normal(0, 3.5)
            area += effect.get("told", 0) * (group != NEUTRAL) + effect.get("all layers", 0) * (layer == "all")
            add(layer, group, ACTIVATIONS, "linear", MACRO, "roc_auc", area)
            for kind in ("logistic", "trees"):
                add(layer, group, ACTIVATIONS, kind, MACRO, "roc_auc", area + rng.normal(effect.get("kinds", 0), 1.5))
            for reader in READERS:
                difference = shared + teacher[group] + rng.normal(effect.get("told", 0), 3.5)
                add(layer, group, beyond(reader), "logistic", MACRO, "roc_auc_difference", difference)
        for name in [*FIVE, CONTROL]:
            area = rng.normal(50 + effect.get("told", 0) * (name == CONTROL), 4)
            add(layer, "every class", ACTIVATIONS, "linear", name, "roc_auc", area)
    return Probes(pd.DataFrame(), known, {}, ["9", "20", "all"], FIVE)


def verdicts(effect: Mapping[str, float], studies: int = 300) -> dict[str, Counter[str]]:
    rng = np.random.default_rng(1)
    found: dict[str, Counter[str]] = {}
    for _ in range(studies):
        for claim in claims(drawn(rng, effect)):
            found.setdefault(claim.text, Counter())[claim.verdict] += 1
    return found


def test_claims_are_rarely_made_of_nothing_and_made_of_what_is_there() -> None:
    # 5 %, and three standard errors of 300 studies.
    rarely = 300 * (0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5)
    null = verdicts({})
    for statement in (TOLD_APART, CONTROL_BEST, BEYOND_FORMAT, BEYOND_TUNING):
        assert null[statement.text]["detected"] + null[statement.text]["opposite"] < rarely, statement.text
        assert null[statement.text]["opposite"] < rarely / 2
    # Of nothing, that there is hardly a difference is right: it is wrong where there is one as large as the margin.
    margin = verdicts({"kinds": 5, "all layers": 5})
    for statement in (KINDS_ALIKE, LAYERS_ALIKE):
        assert null[statement.text]["opposite"] < rarely / 2 and margin[statement.text]["detected"] < rarely
        assert margin[statement.text]["opposite"] < rarely
    there = verdicts({"told": 30, "all layers": 30, "kinds": 12}, 60)
    for statement in (TOLD_APART, CONTROL_BEST, BEYOND_FORMAT, BEYOND_TUNING):
        assert there[statement.text]["detected"] > 50, statement.text
    for statement in (KINDS_ALIKE, LAYERS_ALIKE):
        assert there[statement.text]["opposite"] > 40, statement.text
    assert null[KINDS_ALIKE.text]["detected"] > 200
