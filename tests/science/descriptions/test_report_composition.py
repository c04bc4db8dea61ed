"""The report's section on what features are about, on artifacts that the library's functions fabricate."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from inside_artifacts import Artifacts, small_study
from report_parts import as_written, claim_of, numbers, table_of, verdict_on

from subliminal_dagster.science.descriptions.judges import CATEGORIES
from subliminal_dagster.science.descriptions.report import (
    MOSTLY_NUMBERS,
    NO_MORE_ANIMALS,
    NOT_NEUTRAL,
    READS,
    VECTORS,
)
from subliminal_dagster.science.descriptions.report import (
    section as composition_section,
)
from subliminal_dagster.science.report.evidence import NotThere, Results, Section

RAISED = list(range(10, 20))
ONE_CATEGORY = {"owl": dict.fromkeys(RAISED, 0.8), "dog": dict.fromkeys(RAISED, 0.8)}
"""Ten features that both animals' numbers promote; the tests make them about animals, or not."""


def section_of(artifacts: Artifacts, animals: list[int]) -> Section:
    artifacts.write_composition(animals)
    return composition_section(artifacts.study, artifacts.results)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return Artifacts(tmp_path_factory.mktemp("composition"), small_study(), ONE_CATEGORY)


def composition(artifacts: Artifacts) -> pd.DataFrame:
    folders = [artifacts.folders["feature_composition", key] for key in ("09", "14")]
    return pd.concat([pd.read_parquet(folder / "composition.parquet") for folder in folders])


def about_animals(text: str) -> list[float]:
    """What is said of features of animals: the odds ratio, its ends, and how many are more, fewer, of all."""
    return numbers(text.partition("odds ratio")[2])[:3] + numbers(text.partition("significantly")[2])[:3]


def test_promoted_features_of_animals_are_said_to_be_more_frequent(artifacts: Artifacts) -> None:
    section = section_of(artifacts, RAISED)
    assert "more frequent" in section.shows
    ratio, low, high, more, fewer, of = about_animals(section.shows)
    assert 1 < low < ratio < high
    rows = composition(artifacts).query("group in ['owl', 'dog'] and category == 'animals'")
    assert (more, fewer, of) == ((rows["p_bh"] < 0.05).sum(), 0, len(rows)) == (4, 0, 4)
    claim = claim_of(section, NO_MORE_ANIMALS)
    assert claim.verdict == "not detected"
    assert about_animals(claim.evidence) == [ratio, low, high, more, fewer, of]
    assert verdict_on(section, MOSTLY_NUMBERS) != "detected"


def test_shares_and_kappa_in_the_text_are_those_of_the_artifacts(artifacts: Artifacts) -> None:
    section = section_of(artifacts, RAISED)
    mine = composition(artifacts).query("group in ['owl', 'dog']")
    said = re.findall(r"([\d.]+) % (\w+) \(([\d.]+) %\)", section.shows)
    assert {category for _, category, _ in said} == set(CATEGORIES)
    for share, category, of_fired in said:
        means = mine.loc[mine["category"] == category, ["share", "fired_share"]].mean()
        assert [float(share), float(of_fired)] == [as_written(100 * mean) for mean in means]
    facts = json.loads((artifacts.folders["feature_categories", "09"] / "agreement.json").read_text())
    judge = table_of(section, "composition-judge")
    assert judge.loc[0, "kappa"] == pytest.approx(facts["kappa"])
    assert numbers(section.shows.partition("kappa")[2]) == pytest.approx(
        [facts["kappa"], facts["low"], facts["high"]], abs=0.01
    )
    assert facts["judge"] in section.shows


def test_claims_say_whose_they_are_and_by_which_rule(artifacts: Artifacts) -> None:
    section = section_of(artifacts, RAISED)
    statements = [MOSTLY_NUMBERS, NO_MORE_ANIMALS, NOT_NEUTRAL, VECTORS]
    assert [claim.text for claim in section.claims] == [statement.text for statement in statements]
    assert [claim.source for claim in section.claims] == ["the post", "the post", "this project", "the post"]
    for claim in section.claims:
        assert "cannot be told" in claim.rule and "_" not in claim.rule and "`" not in claim.rule
    assert set(section.made_from) <= set(READS)


def test_where_categories_have_nothing_to_do_with_groups_no_difference_is_seen(artifacts: Artifacts) -> None:
    # Every fifth feature: two of the ten that are promoted, and ten of the other fifty.
    section = section_of(artifacts, list(range(0, 60, 5)))
    # That none could be seen, not that there is none.
    assert "No difference in features of animals could be seen" in section.shows
    ratio, low, high, more, fewer, of = about_animals(section.shows)
    assert low <= 1 <= high and low < ratio < high and (more, fewer, of) == (0, 0, 4)
    assert verdict_on(section, NO_MORE_ANIMALS) in ("detected", "inconclusive")
    assert verdict_on(section, NOT_NEUTRAL) == "inconclusive"


def test_a_neutral_teacher_that_marks_as_many_features_of_animals_contradicts(tmp_path: Path) -> None:
    rates = {**ONE_CATEGORY, "neutral": ONE_CATEGORY["owl"]}
    section = section_of(Artifacts(tmp_path, small_study(), rates), RAISED)
    assert verdict_on(section, NOT_NEUTRAL) == "not detected"


def test_the_vectors_features_stand_beside_the_posts(artifacts: Artifacts) -> None:
    section = section_of(artifacts, [0, 1])
    made = pd.read_parquet(artifacts.folders["steering_by_category", "09"] / "owl.parquet").set_index("category")
    alone = made.drop("total")["first_only"]
    numbers = next(each for each in section.compared if each.what.startswith("numbers among the features of the sub"))
    assert numbers.measured == pytest.approx(100 * alone["numbers"] / alone.sum())
    assert numbers.published == pytest.approx(100 * 107 / 201, abs=0.05)
    steering = table_of(section, "composition-steering")
    assert len(steering) == 4 * len(made)
    assert verdict_on(section, VECTORS) == "detected"


def test_without_steering_vectors_there_is_only_the_composition(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, small_study("steering=null", "neutral=null"), ONE_CATEGORY)
    artifacts.write_composition(RAISED, steering=False)
    section = composition_section(artifacts.study, artifacts.results)
    assert section.compared == ()
    assert "steering_by_category" not in section.made_from
    assert verdict_on(section, NOT_NEUTRAL) == "not tested"


def test_all_sets_stand_beside_the_groups_in_the_chart(artifacts: Artifacts) -> None:
    section = section_of(artifacts, RAISED)
    bars = section.charts[0].figure.data
    assert list(bars[0].y) == ["all features", "features that fire", "control", "neutral", "owl", "dog"]
    assert [sum(trace.x[place] for trace in bars[:4]) for place in range(6)] == pytest.approx([100] * 6)


def test_an_artifact_that_was_not_asked_for_is_named() -> None:
    reason = {("feature_composition", "09"): "it is made on request"}
    with pytest.raises(NotThere, match="made on request"):
        composition_section(small_study(), Results({}, reason))
