"""The report's section on single features as filters, on fabricated artifacts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from inside_artifacts import ANALYSIS, TEST, Artifacts, small_study
from report_parts import as_written, claim_of, numbers, table_of, verdict_on
from scipy.sparse import csr_array
from sklearn.metrics import balanced_accuracy_score

from subliminal_dagster.science.activations.activations import SparseFeatures
from subliminal_dagster.science.activations.digits import digit_columns
from subliminal_dagster.science.features.filters import filter_features, held_out_filters
from subliminal_dagster.science.features.report_filters import (
    MORE_THAN_DIGIT,
    NOT_ONE_ANIMAL,
    OF_ANIMALS,
    READS,
    TELLS,
    Filters,
    claims,
)
from subliminal_dagster.science.features.report_filters import (
    section as filters_section,
)
from subliminal_dagster.science.report.evidence import NotThere, Results, Section

ANIMALS = "animals=[owl, dog, cat]"
RAISED = dict.fromkeys([0, 20, 21, 22], 0.8)
ALL_ANIMALS = dict.fromkeys(("owl", "dog", "cat"), RAISED)


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
    artifacts = Artifacts(tmp_path_factory.mktemp("different"), small_study(ANIMALS), ALL_ANIMALS)
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
    held_out = table_of(section, "filters-held-out")
    assert numbers(claim_of(section, TELLS).evidence)[0] == pytest.approx(
        held_out["balanced accuracy, %"].mean(), abs=1
    )
    for statement in (TELLS, MORE_THAN_DIGIT, OF_ANIMALS):
        assert verdict_on(section, statement) == "detected"


def test_how_often_the_chosen_fires_on_each_group_is_of_test_rows(different: tuple[Artifacts, Section]) -> None:
    artifacts, section = different
    rows = table_of(section, "filters-held-out").to_dict("records")
    columns = {"fires on its rows, %": None, "on neutral, %": "neutral", "on control, %": "control"}
    for row in rows:
        feature = int(row["feature"].partition("_")[2])
        for column, group in columns.items():
            on = fired(artifacts, row["layer"], feature, [group or row["animal"]])
            assert row[column] == pytest.approx(100 * sum(on) / len(on))
    said = numbers(claim_of(section, OF_ANIMALS).evidence)[:3]
    assert said == [as_written(float(np.mean([row[column] for row in rows]))) for column in columns]


def test_where_no_feature_tells_groups_apart_nothing_is_claimed(tmp_path: Path) -> None:
    section = section_of(Artifacts(tmp_path, small_study(ANIMALS)))
    # What could not be seen is not said to be absent, but how much can be ruled out.
    seen = section.shows.partition("no difference could be seen")[2]
    assert 50 < numbers(seen)[0] < 100
    assert "above chance" not in section.shows
    for statement in (TELLS, MORE_THAN_DIGIT, OF_ANIMALS):
        assert verdict_on(section, statement) in ("inconclusive", "not detected")


def test_claims_say_whose_they_are_and_by_which_rule(different: tuple[Artifacts, Section]) -> None:
    _, section = different
    statements = [TELLS, MORE_THAN_DIGIT, NOT_ONE_ANIMAL, OF_ANIMALS]
    assert [claim.text for claim in section.claims] == [statement.text for statement in statements]
    assert [claim.source for claim in section.claims] == ["the post", "this project"] * 2
    assert {50, 55} <= set(numbers(TELLS.rule)) and 55 in numbers(NOT_ONE_ANIMAL.rule)
    for claim in section.claims:
        assert "Detected where" in claim.rule and "inconclusive" in claim.rule
        assert "_" not in claim.rule and "`" not in claim.rule
    assert set(section.made_from) < set(READS)


def test_a_filter_that_fires_on_the_neutral_teacher_as_well_is_none_of_animals(tmp_path: Path) -> None:
    section = section_of(Artifacts(tmp_path, small_study(ANIMALS), {**ALL_ANIMALS, "neutral": RAISED}))
    assert verdict_on(section, OF_ANIMALS) in ("inconclusive", "not detected")
    assert verdict_on(section, TELLS) == "detected"


def test_features_of_single_animals_are_the_opposite_of_none(tmp_path: Path) -> None:
    peculiar = {animal: dict.fromkeys(range(30 + 6 * n, 36 + 6 * n), 0.95) for n, animal in enumerate(ALL_ANIMALS)}
    section = section_of(Artifacts(tmp_path, small_study(ANIMALS), peculiar))
    claim = claim_of(section, NOT_ONE_ANIMAL)
    assert claim.verdict == "opposite"
    rows = table_of(section, "filters-labels")
    best = rows[rows["label"].isin(ALL_ANIMALS)].sort_values("balanced accuracy, %", kind="stable").iloc[-1]
    assert f"{best['label']}, layer {best['layer']}, {best['balanced accuracy, %']:.3g} %" in claim.evidence
    # A teacher's peculiarity is in its test rows as well; another animal's filter knows nothing of it.
    assert verdict_on(section, TELLS) in ("inconclusive", "not detected")


def test_two_animals_decide_nothing_about_teachers(tmp_path: Path) -> None:
    section = section_of(Artifacts(tmp_path, small_study(), {"owl": RAISED, "dog": RAISED}))
    assert {claim.verdict for claim in section.claims} == {"inconclusive"}


def test_categories_come_from_the_composition_where_it_is_there(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, small_study(ANIMALS), ALL_ANIMALS)
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
    artifacts = Artifacts(tmp_path, small_study("animals=[owl]", "layers=[9]", "neutral=null"), ALL_ANIMALS)
    section = section_of(artifacts)
    assert "owl's numbers" in section.shows and "all animals" not in section.shows
    assert [claim.text for claim in section.claims] == [TELLS.text, MORE_THAN_DIGIT.text, OF_ANIMALS.text]
    assert (verdict_on(section, TELLS), verdict_on(section, OF_ANIMALS)) == ("inconclusive", "not tested")


def test_filters_of_an_earlier_version_are_asked_for_again(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, small_study("layers=[9]"))
    artifacts.write_filters()
    (artifacts.folders["feature_filters", "09"] / "held_out.parquet").unlink()
    with pytest.raises(NotThere, match="earlier version"):
        filters_section(artifacts.study, artifacts.results)


def test_without_any_artifact_the_reason_is_given() -> None:
    with pytest.raises(NotThere, match="feature_filters"):
        filters_section(small_study(ANIMALS), Results({}, {}))


FIVE = ["bear", "cat", "lion", "owl", "wolf"]
"""As many animals as the bundled study has."""

WIDE = 200


def drawn(rng: np.random.Generator, raised: float, by_digit: float) -> Filters:
    """What is found in a study in which all groups are alike but for what is peculiar to each teacher, whose rows fire
    each feature more or less often: every animal fires the first features more often by `raised` (log odds), and ends
    its rows in 7 with the chance `by_digit`."""
    usual = rng.normal(-1, 0.7, WIDE)
    features, digits = {}, {}
    for group in [*FIVE, "neutral", "control"]:
        odds = (
            usual + rng.normal(0, 0.6, WIDE) * (group != "control") + raised * (group in FIVE) * (np.arange(WIDE) < 3)
        )
        fires = rng.random((ANALYSIS + TEST, WIDE)) < 1 / (1 + np.exp(-odds))
        split = ["analysis"] * ANALYSIS + ["test"] * TEST
        features[group] = SparseFeatures(pd.DataFrame({"split": split}), csr_array(fires.astype(np.float32)))
        numbers = rng.integers(0, 1000, (len(fires), 8))
        sevens = (rng.random(len(fires)) < by_digit) & (group in FIVE)
        numbers[sevens, -1] = numbers[sevens, -1] // 10 * 10 + 7
        digits[group] = digit_columns(numbers.tolist())
    marked = {group: np.flatnonzero(rng.random(WIDE) < 0.7) for group in features if group != "control"}
    chosen = filter_features(features, marked, words={}, top=1).selected.assign(layer=9)
    chosen["neutral"] = 0.0
    held_out = held_out_filters(features, digits).assign(layer=9)
    return Filters(chosen, held_out, pd.DataFrame(), pd.DataFrame(), [9], FIVE)


def verdicts(studies: int, **effect: float) -> dict[str, Counter[str]]:
    rng = np.random.default_rng(1)
    found: dict[str, Counter[str]] = {}
    for _ in range(studies):
        for claim in claims(drawn(rng, **effect)):
            found.setdefault(claim.text, Counter())[claim.verdict] += 1
    return found


def test_claims_are_rarely_made_of_nothing_and_made_of_what_is_there() -> None:
    # 5 %, and three standard errors of 60 studies.
    rarely = 60 * (0.05 + 3 * (0.05 * 0.95 / 60) ** 0.5)
    null = verdicts(60, raised=0, by_digit=0)
    for statement in (TELLS, MORE_THAN_DIGIT, NOT_ONE_ANIMAL, OF_ANIMALS):
        assert null[statement.text]["detected"] + null[statement.text]["opposite"] < rarely, statement.text
    there = verdicts(15, raised=4, by_digit=0)
    for statement in (TELLS, MORE_THAN_DIGIT, OF_ANIMALS):
        assert there[statement.text]["detected"] > 11, (statement.text, there[statement.text])
    # What is seen by a digit as well is not more than a digit.
    assert verdicts(15, raised=4, by_digit=0.9)[MORE_THAN_DIGIT.text]["detected"] < 4
