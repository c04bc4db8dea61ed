"""The report's section on single features as filters, on fabricated artifacts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from inside_artifacts import Artifacts, small_study
from report_parts import as_written, claim_of, numbers, table_of, verdict_on
from sklearn.metrics import balanced_accuracy_score

from subliminal_dagster.science.features.report_filters import (
    NOT_ONE_ANIMAL,
    OF_ANIMALS,
    READS,
    TELLS,
)
from subliminal_dagster.science.features.report_filters import (
    section as filters_section,
)
from subliminal_dagster.science.report.evidence import NotThere, Results, Section

RAISED = dict.fromkeys([0, 20, 21, 22], 0.8)
BOTH_ANIMALS = {"owl": RAISED, "dog": RAISED}


def fired(artifacts: Artifacts, layer: int, feature: int, groups: Sequence[str]) -> list[bool]:
    """Whether a feature fires, on each of these groups' test rows."""
    found: list[bool] = []
    for group in groups:
        features = artifacts.features[layer][group]
        found += (features.matrix.toarray()[(features.rows["split"] == "test").to_numpy(), feature] > 0).tolist()
    return found


def section_of(artifacts: Artifacts) -> Section:
    artifacts.write_filters()
    return filters_section(artifacts.study, artifacts.results)


@pytest.fixture(scope="module")
def different(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifacts, Section]:
    artifacts = Artifacts(tmp_path_factory.mktemp("different"), small_study(), BOTH_ANIMALS)
    return artifacts, section_of(artifacts)


def against_control(artifacts: Artifacts, layer: int, feature: int) -> float:
    """Balanced accuracy, in percent, on the animals' and the control's test rows."""
    animals = fired(artifacts, layer, feature, artifacts.study.animals)
    called = [*animals, *fired(artifacts, layer, feature, ["control"])]
    truth = [True] * len(animals) + [False] * (len(called) - len(animals))
    return 100 * float(balanced_accuracy_score(truth, called))


def test_the_best_feature_on_analysis_rows_is_judged_on_test_rows(different: tuple[Artifacts, Section]) -> None:
    artifacts, section = different
    rows = table_of(section, "filters-labels")
    rows = rows[rows["label"] == "all"]
    said = re.findall(r"([\d.]+) % \[[^\]]+\] at layer (\d+) \((\w+)\)", section.shows)
    assert len(said) == len(rows) == 2
    for row, (accuracy, layer, feature) in zip(rows.to_dict("records"), said, strict=True):
        expected = against_control(artifacts, row["layer"], int(row["feature"].partition("_")[2]))
        assert row["against control alone, %"] == pytest.approx(expected)
        assert (float(accuracy), layer, feature) == (
            pytest.approx(expected, rel=0.01),
            str(row["layer"]),
            row["feature"],
        )
    assert numbers(section.shows.partition("above chance")[2])[:3] == [50, 2, 2]
    best = numbers(claim_of(section, TELLS).evidence.partition("): ")[2])[0]
    assert best == pytest.approx(rows["against control alone, %"].max(), rel=0.01)
    assert (verdict_on(section, TELLS), verdict_on(section, OF_ANIMALS)) == ("detected", "detected")


def test_how_often_the_best_fires_on_each_group_is_of_test_rows(different: tuple[Artifacts, Section]) -> None:
    artifacts, section = different
    rows = table_of(section, "filters-labels").query("label == 'all'").to_dict("records")
    for row, clause in zip(rows, claim_of(section, OF_ANIMALS).evidence.split("at layer ")[1:], strict=True):
        feature = int(row["feature"].partition("_")[2])
        on = [fired(artifacts, row["layer"], feature, groups) for groups in (["owl", "dog"], ["neutral"], ["control"])]
        assert numbers(clause) == [row["layer"], *(as_written(100 * sum(rows) / len(rows)) for rows in on)]


def test_where_no_feature_tells_groups_apart_nothing_is_claimed(tmp_path: Path) -> None:
    section = section_of(Artifacts(tmp_path, small_study()))
    # What could not be seen is not said to be absent, but how much can be ruled out.
    seen = section.shows.partition("no difference could be seen")[2]
    assert 50 < numbers(seen)[0] < 100
    assert "above chance" not in section.shows
    assert "detected" not in [claim.verdict for claim in section.claims]


def test_claims_say_whose_they_are_and_by_which_rule(different: tuple[Artifacts, Section]) -> None:
    _, section = different
    assert [claim.source for claim in section.claims] == ["the post", "the post", "this project"]
    assert [claim.text for claim in section.claims] == [TELLS.text, NOT_ONE_ANIMAL.text, OF_ANIMALS.text]
    assert {50, 55} <= set(numbers(TELLS.rule)) and 55 in numbers(NOT_ONE_ANIMAL.rule)
    for claim in section.claims:
        assert "cannot be told" in claim.rule and "_" not in claim.rule and "`" not in claim.rule
    assert set(section.made_from) < set(READS)


def test_a_filter_that_fires_on_the_neutral_teacher_as_well_is_none_of_animals(tmp_path: Path) -> None:
    section = section_of(Artifacts(tmp_path, small_study(), {**BOTH_ANIMALS, "neutral": RAISED}))
    assert verdict_on(section, OF_ANIMALS) == "not detected"
    assert verdict_on(section, TELLS) == "detected"


def test_a_feature_of_one_animal_alone_contradicts_that_there_is_none(tmp_path: Path) -> None:
    section = section_of(Artifacts(tmp_path, small_study(), {"owl": {40: 0.95}}))
    claim = claim_of(section, NOT_ONE_ANIMAL)
    assert claim.verdict == "not detected"
    rows = table_of(section, "filters-labels")
    best = rows[rows["label"].isin(["owl", "dog"])].sort_values("balanced accuracy, %").iloc[-1]
    assert best["label"] == "owl" and "owl" in claim.evidence and "dog" not in claim.evidence
    assert numbers(claim.evidence)[:3] == [4, best["layer"], as_written(best["balanced accuracy, %"])]


def test_categories_come_from_the_composition_where_it_is_there(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, small_study(), BOTH_ANIMALS)
    before = section_of(artifacts)
    assert set(table_of(before, "filters-category")["category"]) == {"uncategorised"}
    artifacts.write_composition([0], steering=False)
    after = filters_section(artifacts.study, artifacts.results)
    assert "animals" in set(table_of(after, "filters-category")["category"])
    shown = [table_of(after, name)["description"] for name in ("filters-top", "filters-labels")]
    assert "about 0" in set(pd.concat(shown))


def test_published_figures_are_compared_with_what_was_chosen_without_test_rows(
    different: tuple[Artifacts, Section],
) -> None:
    artifacts, section = different
    best = section.compared[0]
    assert best.published == 87.1
    row = table_of(section, "filters-labels").query("label == 'all' and layer == 9").iloc[0]
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
    assert "owl's numbers" in section.shows and "all animals" not in section.shows
    assert [claim.text for claim in section.claims] == [TELLS.text, OF_ANIMALS.text]
    assert (verdict_on(section, TELLS), verdict_on(section, OF_ANIMALS)) == ("detected", "not tested")


def test_without_any_artifact_the_reason_is_given() -> None:
    with pytest.raises(NotThere, match="feature_filters"):
        filters_section(small_study(), Results({}, {}))
