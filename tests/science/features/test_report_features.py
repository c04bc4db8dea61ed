"""The report's section on SAE features, on fabricated artifacts: what it says is what they hold."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from inside_artifacts import WORD, Artifacts, small_study
from scipy.stats import ttest_ind

from subliminal_dagster.science.features.report import HALVES, features_section
from subliminal_dagster.science.features.shifts import FeatureShifts, l0_counts
from subliminal_dagster.science.report.evidence import NotThere, Results, Section
from subliminal_dagster.science.settings.names import CONTROL

RAISED = dict.fromkeys([0, 1, 20, 21, 22, 23, 30, 31], 0.7)
"""Features that a teacher's numbers activate far more often than the control's."""

DIFFERENT = {"owl": RAISED, "dog": RAISED}


def section_of(artifacts: Artifacts) -> Section:
    artifacts.write_features()
    return features_section(artifacts.study, artifacts.results)


@pytest.fixture(scope="module")
def different(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifacts, Section]:
    root = tmp_path_factory.mktemp("different")
    artifacts = Artifacts(root, small_study(), DIFFERENT, {"owl": 0.2, "dog": 0.2})
    return artifacts, section_of(artifacts)


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifacts, Section]:
    artifacts = Artifacts(tmp_path_factory.mktemp("alike"), small_study())
    return artifacts, section_of(artifacts)


def table(section: Section, name: str) -> pd.DataFrame:
    return next(each.frame for each in section.tables if each.name == name)


def verdicts(section: Section) -> list[str]:
    return [claim.verdict for claim in section.claims]


def of_animals(artifacts: Artifacts) -> list[FeatureShifts]:
    return [artifacts.shifts[layer][animal] for layer in artifacts.study.layers for animal in artifacts.study.animals]


def test_what_differs_is_said_with_the_numbers_of_the_artifacts(different: tuple[Artifacts, Section]) -> None:
    artifacts, section = different
    summaries = pd.concat([shifts.summary for shifts in of_animals(artifacts)])
    assert f"promote {summaries['promoted'].mean():.3g} features on average" in section.shows
    assert (
        f"where chance gives {summaries['promoted_null_mean'].mean():.3g}: more than chance in 4 of 4" in section.shows
    )
    assert "Reconstruction error differs from the control's by +" in section.shows
    assert "60 of an animal, 60 of the control" in section.method
    assert verdicts(section) == ["holds", "cannot tell", "does not hold", "holds", "holds", "cannot tell"]


def test_where_nothing_differs_it_says_what_could_have_been_seen(alike: tuple[Artifacts, Section]) -> None:
    _, section = alike
    assert "no excess could be seen, for which it takes more than" in section.shows
    assert "L0: no difference from the control's could be seen; the smallest detectable is" in section.shows
    assert "more than chance" not in section.shows
    assert "holds" not in verdicts(section)
    assert verdicts(section)[-1] == "cannot tell"


def test_a_neutral_teacher_that_promotes_as_much_contradicts_that_it_is_the_animal(tmp_path: Path) -> None:
    section = section_of(Artifacts(tmp_path, small_study(), {**DIFFERENT, "neutral": RAISED}))
    assert verdicts(section)[0] == "holds"
    assert verdicts(section)[-1] == "does not hold"


def test_the_posts_table_is_that_of_the_summaries(different: tuple[Artifacts, Section]) -> None:
    artifacts, section = different
    shown = table(section, "features-layer-14").set_index("numbers of")
    assert list(shown.index) == ["average", "owl", "dog", "neutral", HALVES]
    summary = artifacts.shifts[14]["dog"].summary.iloc[0]
    assert shown.loc["dog", "promoted a row"] == pytest.approx(summary["promoted_per_row"])
    assert shown.loc["dog", "rows with animal, %"] == pytest.approx(100 * summary["animal_rows"])
    assert shown.loc["average", "promoted a row"] == pytest.approx(shown.loc[["owl", "dog"], "promoted a row"].mean())


def test_differences_of_l0_are_those_of_welchs_test(different: tuple[Artifacts, Section]) -> None:
    artifacts, section = different
    rows = table(section, "features-l0-error")
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
    top = table(section, "features-top-promoted")
    assert top["mean t"].is_monotonic_decreasing
    assert len(top) == artifacts.study.features.top
    assert {"9_20", "14_22"} <= set(top["feature"])
    assert "description" not in top
    artifacts.write_composition([0], steering=False)
    known = table(features_section(artifacts.study, artifacts.results), "features-top-promoted").set_index("feature")
    assert known.loc["9_20", "description"] == "about 20"


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
    mean = sum(artifacts.shifts[layer]["owl"].summary["promoted"].iloc[0] for layer in (9, 14)) / 2
    assert f"owl {mean:.3g} (" in promoted.alt
    bars = [trace for trace in promoted.figure.data if trace.name == "promoted"]
    assert list(bars[0].x) == [artifacts.shifts[9][group].summary["promoted"].iloc[0] for group in bars[0].y]


def test_a_layer_that_is_not_there_is_named_with_the_reason(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, small_study(), DIFFERENT)
    artifacts.write_features()
    folders = {place: folder for place, folder in artifacts.folders.items() if place != ("feature_tables", "14")}
    missing = {("feature_tables", "14"): "its SAE failed its gate"}
    section = features_section(artifacts.study, Results(folders, missing))
    assert "Layer 14 is not shown: its SAE failed its gate." in section.method
    assert "more than chance in 2 of 2 comparisons" in section.shows


def test_without_any_artifact_the_reason_is_given() -> None:
    with pytest.raises(NotThere, match="there is no SAE"):
        features_section(small_study(), Results({}, {("feature_tables", "09"): "there is no SAE"}))


def test_a_study_of_one_animal_without_a_neutral_teacher(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, small_study("animals=[owl]", "layers=[9]", "neutral=null"), DIFFERENT)
    section = section_of(artifacts)
    assert verdicts(section)[-1] == "not tested"
    assert "neutral teacher's numbers promote" not in section.shows
