"""The report's section on SAE features, on fabricated artifacts: what it says is what they hold."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from inside_artifacts import WORD, Artifacts, small_study
from report_parts import as_written, claim_of, numbers, table_of, verdict_on
from scipy.stats import ttest_ind

from subliminal_dagster.science.features.report import (
    ANIMAL,
    DUE_TO_ANIMAL,
    ERROR,
    HALVES,
    L0,
    NEW,
    PROMOTED,
    READS,
    Features,
    Layer,
    claims,
)
from subliminal_dagster.science.features.report import (
    section as features_section,
)
from subliminal_dagster.science.features.shifts import FeatureShifts, l0_counts
from subliminal_dagster.science.report.evidence import NotThere, Results, Section
from subliminal_dagster.science.settings.names import CONTROL
from subliminal_dagster.science.statistics import smallest_detectable

RAISED = dict.fromkeys([0, 1, 20, 21, 22, 23, 30, 31], 0.7)
"""Features that a teacher's numbers activate far more often than the control's."""

ANIMALS = "animals=[owl, dog, cat]"
DIFFERENT = dict.fromkeys(("owl", "dog", "cat"), RAISED)


def section_of(artifacts: Artifacts) -> Section:
    artifacts.write_features()
    return features_section(artifacts.study, artifacts.results)


@pytest.fixture(scope="module")
def different(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifacts, Section]:
    root = tmp_path_factory.mktemp("different")
    artifacts = Artifacts(root, small_study(ANIMALS), DIFFERENT, {"owl": 0.15, "dog": 0.155, "cat": 0.16})
    return artifacts, section_of(artifacts)


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifacts, Section]:
    artifacts = Artifacts(tmp_path_factory.mktemp("alike"), small_study(ANIMALS))
    return artifacts, section_of(artifacts)


def of_animals(artifacts: Artifacts) -> list[FeatureShifts]:
    return [artifacts.shifts[layer][animal] for layer in artifacts.study.layers for animal in artifacts.study.animals]


def summaries(artifacts: Artifacts) -> pd.DataFrame:
    return pd.concat([shifts.summary for shifts in of_animals(artifacts)])


def part(text: str, beginning: str) -> str:
    """The text from the first place where this stands."""
    assert beginning in text
    return text[text.index(beginning) :]


def test_what_differs_is_said_with_the_numbers_of_the_artifacts(different: tuple[Artifacts, Section]) -> None:
    artifacts, section = different
    found = summaries(artifacts)
    for statement, name, beginning in ((PROMOTED, "promoted", "promote "), (NEW, "new", "newly activate ")):
        means = [as_written(found[name].mean()), as_written(found[f"{name}_null_mean"].mean())]
        assert numbers(claim_of(section, statement).evidence)[:2] == means
        assert numbers(part(section.shows, beginning))[:2] == means
    assert numbers(part(section.shows, "promote "))[2:4] == [6, 6]
    assert numbers(section.method)[:2] == [60, 60]
    errors = found["error_mean_own"] / found["error_mean_control"] - 1
    for text in (claim_of(section, ERROR).evidence, part(section.shows, "error ")):
        assert numbers(text)[0] == as_written(100 * errors.mean(), 2) > 0
    assert numbers(part(claim_of(section, ERROR).evidence, "significantly"))[:3] == [6, 0, 6]
    verdicts = {statement: verdict_on(section, statement) for statement in (PROMOTED, DUE_TO_ANIMAL, ERROR)}
    assert set(verdicts.values()) == {"detected"}
    assert verdict_on(section, NEW) == "inconclusive"
    # The features that are raised are partly those of the word.
    assert verdict_on(section, ANIMAL) != "detected"


def test_claims_stand_in_the_posts_order_with_whose_they_are_and_their_rules(
    different: tuple[Artifacts, Section],
) -> None:
    _, section = different
    statements = [PROMOTED, NEW, ANIMAL, L0, ERROR, DUE_TO_ANIMAL]
    assert [claim.text for claim in section.claims] == [statement.text for statement in statements]
    assert [claim.source for claim in section.claims] == ["the post"] * 5 + ["this project"]
    for claim in section.claims:
        assert "Detected where" in claim.rule and "inconclusive" in claim.rule
        assert "_" not in claim.rule and "`" not in claim.rule
    assert (
        1.25 in numbers(PROMOTED.rule)
        and 1.25 in numbers(ANIMAL.rule)
        and 5 in numbers(L0.rule)
        and set(section.made_from) < set(READS)
    )


def test_where_nothing_differs_it_says_what_could_have_been_seen(alike: tuple[Artifacts, Section]) -> None:
    artifacts, section = alike
    found = summaries(artifacts)
    assert "more than chance" not in section.shows
    # It must not be said that there is nothing: it could not be seen.
    assert section.shows.count("no excess could be seen") >= 2
    assert numbers(part(section.shows, "promote "))[2] == as_written(found["promoted_null_q95"].mean())
    l0 = part(section.shows, "L0:")
    assert "no difference from the control's could be seen" in l0
    smallest = [
        smallest_detectable(
            float(np.hypot(own.std(ddof=1) / len(own) ** 0.5, control.std(ddof=1) / len(control) ** 0.5)),
            len(own) + len(control) - 1,
            level=shifts.summary["level_strict"].iloc[0],
        )
        / control.mean()
        for layer in artifacts.study.layers
        for animal in artifacts.study.animals
        for shifts in [artifacts.shifts[layer][animal]]
        for own, control in [(shifts.per_row["l0"], l0_counts(artifacts.features[layer][CONTROL]))]
    ]
    assert numbers(l0)[1] == as_written(100 * float(np.mean(smallest)), 2)
    assert numbers(claim_of(section, L0).evidence)[-1] == numbers(l0)[1]
    for statement in (PROMOTED, NEW, L0, ERROR, DUE_TO_ANIMAL):
        assert verdict_on(section, statement) in ("inconclusive", "not detected")


def test_what_a_neutral_teacher_promotes_as_well_is_not_detected(tmp_path: Path) -> None:
    section = section_of(Artifacts(tmp_path, small_study(ANIMALS), {**DIFFERENT, "neutral": RAISED}))
    # More than chance in every comparison, and no more than any group shows.
    assert numbers(part(section.shows, "promote "))[2:4] == [6, 6]
    for statement in (PROMOTED, DUE_TO_ANIMAL):
        assert verdict_on(section, statement) in ("inconclusive", "not detected")


def test_two_animals_decide_nothing_about_teachers(tmp_path: Path) -> None:
    section = section_of(Artifacts(tmp_path, small_study(), DIFFERENT))
    assert {claim.verdict for claim in section.claims} == {"inconclusive"}


def test_the_posts_table_is_that_of_the_summaries(different: tuple[Artifacts, Section]) -> None:
    artifacts, section = different
    shown = table_of(section, "features-layer-14").set_index("numbers of")
    assert list(shown.index) == ["average", "owl", "dog", "cat", "neutral", HALVES]
    summary = artifacts.shifts[14]["dog"].summary.iloc[0]
    assert shown.loc["dog", "promoted a row"] == pytest.approx(summary["promoted_per_row"])
    assert shown.loc["dog", "rows with animal, %"] == pytest.approx(100 * summary["animal_rows"])
    assert shown.loc["average", "promoted a row"] == pytest.approx(
        shown.loc[["owl", "dog", "cat"], "promoted a row"].mean()
    )


def test_differences_of_l0_are_those_of_welchs_test(different: tuple[Artifacts, Section]) -> None:
    artifacts, section = different
    rows = table_of(section, "features-l0-error")
    row = rows[(rows["layer"] == 9) & (rows["numbers of"] == "owl")].iloc[0]
    own, control = (l0_counts(artifacts.features[9][group]) for group in ("owl", CONTROL))
    reference = ttest_ind(own, control, equal_var=False)
    interval = reference.confidence_interval(0.95)
    assert row["L0 difference"] == pytest.approx(own.mean() - control.mean())
    assert (row["L0 low"], row["L0 high"]) == pytest.approx((interval.low, interval.high))
    assert row["L0 p"] == pytest.approx(reference.pvalue)
    assert set(rows.loc[rows["numbers of"] == "the word dog", "L0 mean"]) == {len(WORD)}


def test_top_features_stand_with_the_largest_t_first_and_what_is_known_of_them(
    different: tuple[Artifacts, Section],
) -> None:
    artifacts, section = different
    top = table_of(section, "features-top-promoted")
    assert top["mean t"].is_monotonic_decreasing
    assert len(top) == artifacts.study.features.top
    best = top["feature"].iloc[0]
    assert int(best.partition("_")[2]) in RAISED
    assert "description" not in top
    artifacts.write_composition([0], steering=False)
    known = table_of(features_section(artifacts.study, artifacts.results), "features-top-promoted").set_index("feature")
    assert known.loc[best, "description"] == f"about {best.partition('_')[2]}"


def test_published_figures_stand_beside_the_same_layer_and_animal(different: tuple[Artifacts, Section]) -> None:
    artifacts, section = different
    compared = {each.what: each for each in section.compared}
    own = compared["promoted features a row, layer 9, dog"]
    per_row = artifacts.shifts[9]["dog"].per_row["promoted"]
    assert (own.published, own.measured) == (36.4, pytest.approx(per_row.mean()))
    assert own.no_effect == pytest.approx(artifacts.shifts[9]["dog"].summary["promoted_per_row_null_mean"].iloc[0])
    assert own.judgement == "differs"
    assert compared["L0 of the animals' words, layer 9"].measured == len(WORD)
    # The post's layer 20 is not one of this study's.
    assert not any("layer 20" in what or "owl" in what for what in compared)


def test_charts_say_in_words_what_they_show(different: tuple[Artifacts, Section]) -> None:
    artifacts, section = different
    promoted = next(chart for chart in section.charts if chart.name == "features-promoted")
    means = {
        column: sum(artifacts.shifts[layer]["owl"].summary[column].iloc[0] for layer in (9, 14)) / 2
        for column in ("promoted", "promoted_null_mean")
    }
    assert numbers(part(promoted.alt, "owl"))[:2] == [as_written(mean) for mean in means.values()]
    bars = [trace for trace in promoted.figure.data if trace.name == "promoted"]
    assert list(bars[0].x) == [artifacts.shifts[9][group].summary["promoted"].iloc[0] for group in bars[0].y]


def test_a_layer_that_is_not_there_is_named_with_the_reason(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, small_study(ANIMALS), DIFFERENT)
    artifacts.write_features()
    folders = {place: folder for place, folder in artifacts.folders.items() if place != ("feature_tables", "14")}
    missing = {("feature_tables", "14"): "its SAE failed its gate"}
    section = features_section(artifacts.study, Results(folders, missing))
    assert "Layer 14" in section.method and "its SAE failed its gate" in section.method
    assert numbers(part(section.shows, "promote "))[2:4] == [3, 3]


def test_without_any_artifact_the_reason_is_given() -> None:
    with pytest.raises(NotThere, match="there is no SAE"):
        features_section(small_study(ANIMALS), Results({}, {("feature_tables", "09"): "there is no SAE"}))


def test_a_study_of_one_animal_without_a_neutral_teacher(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, small_study("animals=[owl]", "layers=[9]", "neutral=null"), DIFFERENT)
    section = section_of(artifacts)
    assert verdict_on(section, DUE_TO_ANIMAL) == "not tested"
    assert "neutral" not in section.shows


FIVE = ["bear", "cat", "lion", "owl", "wolf"]
"""As many animals as the bundled study has."""


def drawn(rng: np.random.Generator, times: float, percent: float, odds: float) -> Features:
    """What is found in a study in which all groups are alike but for what is peculiar to each: how many `times` as many
    features an animal's numbers promote, by how many `percent` their L0 and error are higher, and by what factor the
    `odds` of promoted features are higher to be the animal's."""
    peculiar = {group: rng.normal(0, 0.25) for group in [*FIVE, "neutral"]}
    of_control = rng.normal(0, 0.25), rng.normal(0, 1.0)
    rows, layers = [], {}
    for layer in (9, 20):
        word, shared = np.arange(500) < 60, rng.normal(size=500)
        shifts = {}
        for group in [*FIVE, "neutral", HALVES]:
            row = {"layer": layer, "group": group, "l0_mean_control": 40.0, "error_mean_control": 0.1}
            excess = of_control[0] + peculiar[group] + np.log(times) * (group != "neutral") if group != HALVES else 0
            for name, chance in (("promoted", 18.0), ("new", 60.0)):
                row |= {name: rng.poisson(chance * np.exp(excess)), f"{name}_null_mean": chance}
            for name, mean in (("l0", 40.0), ("error", 0.1)):
                off = of_control[1] + 6 * peculiar.get(group, 0) + rng.normal(0, 1.5) + percent * (group in FIVE)
                row |= {
                    f"{name}_difference": mean * off / 100,
                    f"{name}_detectable": mean / 20,
                    f"{name}_differs": False,
                }
                row |= {f"{name}_low": mean * (off - 3.6) / 100, f"{name}_high": mean * (off + 3.6) / 100}
            rows.append(row)
            if group in FIVE:
                score = 0.5 * shared + 0.87 * rng.normal(size=500) + np.log(odds) * word / 1.6
                marked = {"promoted": score > 1, "new": score > 2, "animal": word}
                nothing = pd.DataFrame()
                shifts[group] = FeatureShifts(pd.DataFrame(marked), nothing, nothing, nothing)
        layers[layer] = Layer(shifts, pd.DataFrame(), {}, pd.DataFrame(), pd.DataFrame(), {})
    return Features(layers, pd.DataFrame(rows), FIVE)


def verdicts(studies: int, **effect: float) -> dict[str, Counter[str]]:
    rng = np.random.default_rng(1)
    found: dict[str, Counter[str]] = {}
    for _ in range(studies):
        for claim in claims(drawn(rng, **effect)):
            found.setdefault(claim.text, Counter())[claim.verdict] += 1
    return found


def test_claims_are_rarely_made_of_nothing_and_made_of_what_is_there() -> None:
    # 5 %, and three standard errors of 100 studies.
    rarely = 100 * (0.05 + 3 * (0.05 * 0.95 / 100) ** 0.5)
    null = verdicts(100, times=1, percent=0, odds=1)
    for statement in (PROMOTED, NEW, L0, ERROR, DUE_TO_ANIMAL):
        counts = null[statement.text]
        assert counts["detected"] + counts["opposite"] < rarely, (statement.text, counts)
    # That features of the animal are no more frequent is right of nothing, and wrong where they are.
    assert null[ANIMAL.text]["opposite"] < rarely
    assert verdicts(25, times=1, percent=0, odds=1.25)[ANIMAL.text]["detected"] < 5
    there = verdicts(20, times=4, percent=20, odds=4)
    for statement in (PROMOTED, NEW, L0, ERROR, DUE_TO_ANIMAL):
        assert there[statement.text]["detected"] > 15, (statement.text, there[statement.text])
    assert there[ANIMAL.text]["opposite"] > 15
