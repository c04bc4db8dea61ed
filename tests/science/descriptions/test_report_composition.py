"""The report's section on what features are about, on artifacts that the library's functions fabricate."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from inside_artifacts import Artifacts, small_study

from subliminal_dagster.science.descriptions.report import composition_section
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


def verdict(section: Section, beginning: str) -> str:
    return next(claim.verdict for claim in section.claims if claim.text.startswith(beginning))


def test_promoted_features_of_animals_are_said_to_be_more_frequent(artifacts: Artifacts) -> None:
    section = section_of(artifacts, RAISED)
    assert "Features of animals are more frequent than among the others that fire: odds ratio" in section.shows
    assert "significantly more in 4 and fewer in 0 of 4 comparisons" in section.shows
    assert verdict(section, "Features of animals") == "does not hold"
    assert verdict(section, "What subliminal numbers promote") != "holds"


def test_shares_and_kappa_in_the_text_are_those_of_the_artifacts(artifacts: Artifacts) -> None:
    section = section_of(artifacts, RAISED)
    tables = [
        pd.read_parquet(artifacts.folders["feature_composition", key] / "composition.parquet") for key in ("09", "14")
    ]
    rows = pd.concat(tables)
    mine = rows[rows["group"].isin(["owl", "dog"]) & (rows["category"] == "animals")]
    assert f"{100 * mine['share'].mean():.3g} % animals ({100 * mine['fired_share'].mean():.3g} %)" in section.shows
    facts = json.loads((artifacts.folders["feature_categories", "09"] / "agreement.json").read_text())
    judge = next(each.frame for each in section.tables if each.name == "composition-judge")
    assert judge.loc[0, "kappa"] == pytest.approx(facts["kappa"])
    assert facts["judge"] in section.shows


def test_where_categories_have_nothing_to_do_with_groups_no_difference_is_seen(artifacts: Artifacts) -> None:
    # Every fifth feature: two of the ten that are promoted, and ten of the other fifty.
    section = section_of(artifacts, list(range(0, 60, 5)))
    assert "No difference in features of animals could be seen: odds ratio" in section.shows
    assert verdict(section, "Features of animals") in ("holds", "cannot tell")
    assert verdict(section, "Where animals' numbers") == "cannot tell"


def test_a_neutral_teacher_that_marks_as_many_features_of_animals_contradicts(tmp_path: Path) -> None:
    rates = {**ONE_CATEGORY, "neutral": ONE_CATEGORY["owl"]}
    section = section_of(Artifacts(tmp_path, small_study(), rates), RAISED)
    assert verdict(section, "Where animals' numbers") == "does not hold"


def test_the_vectors_features_stand_beside_the_posts(artifacts: Artifacts) -> None:
    section = section_of(artifacts, [0, 1])
    made = pd.read_parquet(artifacts.folders["steering_by_category", "09"] / "owl.parquet").set_index("category")
    alone = made.drop("total")["first_only"]
    numbers = next(each for each in section.compared if each.what.startswith("numbers among the features of the sub"))
    assert numbers.measured == pytest.approx(100 * alone["numbers"] / alone.sum())
    assert numbers.published == pytest.approx(100 * 107 / 201, abs=0.05)
    steering = next(each.frame for each in section.tables if each.name == "composition-steering")
    assert len(steering) == 4 * len(made)
    assert verdict(section, "What the subliminal steering vector") == "holds"


def test_without_steering_vectors_there_is_only_the_composition(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, small_study("steering=null", "neutral=null"), ONE_CATEGORY)
    artifacts.write_composition(RAISED, steering=False)
    section = composition_section(artifacts.study, artifacts.results)
    assert section.compared == ()
    assert "steering_by_category" not in section.made_from
    assert verdict(section, "Where animals' numbers") == "not tested"


def test_all_sets_stand_beside_the_groups_in_the_chart(artifacts: Artifacts) -> None:
    section = section_of(artifacts, RAISED)
    bars = section.charts[0].figure.data
    assert list(bars[0].y) == ["all features", "features that fire", "control", "neutral", "owl", "dog"]
    assert [sum(trace.x[place] for trace in bars[:4]) for place in range(6)] == pytest.approx([100] * 6)


def test_an_artifact_that_was_not_asked_for_is_named() -> None:
    reason = {("feature_composition", "09"): "it is made on request"}
    with pytest.raises(NotThere, match="made on request"):
        composition_section(small_study(), Results({}, reason))
