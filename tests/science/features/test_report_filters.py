"""The report's section on single features as filters, on fabricated artifacts."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from inside_artifacts import Artifacts, small_study
from sklearn.metrics import balanced_accuracy_score

from subliminal_dagster.science.features.report_filters import filters_section
from subliminal_dagster.science.report.evidence import NotThere, Results, Section

RAISED = dict.fromkeys([0, 20, 21, 22], 0.8)
BOTH_ANIMALS = {"owl": RAISED, "dog": RAISED}


def section_of(artifacts: Artifacts) -> Section:
    artifacts.write_filters()
    return filters_section(artifacts.study, artifacts.results)


@pytest.fixture(scope="module")
def different(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifacts, Section]:
    artifacts = Artifacts(tmp_path_factory.mktemp("different"), small_study(), BOTH_ANIMALS)
    return artifacts, section_of(artifacts)


def table(section: Section, name: str) -> pd.DataFrame:
    return next(each.frame for each in section.tables if each.name == name)


def against_control(artifacts: Artifacts, layer: int, feature: int) -> float:
    """Balanced accuracy, in percent, on the animals' and the control's test rows."""
    truth, called = [], []
    for group in (*artifacts.study.animals, "control"):
        features = artifacts.features[layer][group]
        fires = features.matrix.toarray()[(features.rows["split"] == "test").to_numpy(), feature] > 0
        called += fires.tolist()
        truth += [group != "control"] * len(fires)
    return 100 * float(balanced_accuracy_score(truth, called))


def test_the_best_feature_on_analysis_rows_is_judged_on_test_rows(different: tuple[Artifacts, Section]) -> None:
    artifacts, section = different
    rows = table(section, "filters-labels")
    for row in rows[rows["label"] == "all"].to_dict("records"):
        expected = against_control(artifacts, row["layer"], int(row["feature"].partition("_")[2]))
        assert row["against control alone, %"] == pytest.approx(expected)
        assert f"at layer {row['layer']} ({row['feature']})" in section.shows
    assert "above chance (50 %) at 2 of 2 layers" in section.shows
    assert [claim.verdict for claim in section.claims][::2] == ["holds", "holds"]


def test_where_no_feature_tells_groups_apart_nothing_is_claimed(tmp_path: Path) -> None:
    section = section_of(Artifacts(tmp_path, small_study()))
    assert "no difference could be seen; more than" in section.shows
    assert "holds" not in [claim.verdict for claim in section.claims]


def test_a_filter_that_fires_on_the_neutral_teacher_as_well_is_none_of_animals(tmp_path: Path) -> None:
    section = section_of(Artifacts(tmp_path, small_study(), {**BOTH_ANIMALS, "neutral": RAISED}))
    claim = section.claims[-1]
    assert claim.verdict == "does not hold"
    assert section.claims[0].verdict == "holds"


def test_a_feature_of_one_animal_alone_contradicts_that_there_is_none(tmp_path: Path) -> None:
    section = section_of(Artifacts(tmp_path, small_study(), {"owl": {40: 0.95}}))
    claim = next(claim for claim in section.claims if claim.text.startswith("No single feature"))
    assert claim.verdict == "does not hold"
    assert "owl, layer" in claim.evidence


def test_categories_come_from_the_composition_where_it_is_there(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, small_study(), BOTH_ANIMALS)
    before = section_of(artifacts)
    assert set(table(before, "filters-category")["category"]) == {"uncategorised"}
    artifacts.write_composition([0], steering=False)
    after = filters_section(artifacts.study, artifacts.results)
    assert "animals" in set(table(after, "filters-category")["category"])
    assert "about 0" in set(table(after, "filters-top")["description"]) | set(
        table(after, "filters-labels")["description"]
    )


def test_published_figures_are_compared_with_what_was_chosen_without_test_rows(
    different: tuple[Artifacts, Section],
) -> None:
    artifacts, section = different
    best = section.compared[0]
    assert best.published == 87.1
    row = table(section, "filters-labels").query("label == 'all' and layer == 9").iloc[0]
    assert best.measured == pytest.approx(row["against control alone, %"])
    assert best.no_effect == 50
    dog = next(each for each in section.compared if "chosen features for dog" in each.what)
    selected = pd.concat(
        [pd.read_parquet(artifacts.folders["feature_filters", key] / "selected.parquet") for key in ("09", "14")]
    )
    assert dog.measured == pytest.approx(100 * selected.loc[selected["label"] == "dog", "balanced_accuracy"].mean())


def test_one_animal_without_a_neutral_teacher_stands_for_itself(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, small_study("animals=[owl]", "layers=[9]", "neutral=null"), BOTH_ANIMALS)
    section = section_of(artifacts)
    assert "told owl's numbers best" in section.shows
    assert [claim.verdict for claim in section.claims] == ["holds", "not tested"]


def test_without_any_artifact_the_reason_is_given() -> None:
    with pytest.raises(NotThere, match="feature_filters"):
        filters_section(small_study(), Results({}, {}))
