"""The report's section on what features are about, on artifacts that the library's functions fabricate."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from inside_artifacts import Artifacts, small_study
from report_parts import as_written, claim_of, numbers, table_of, verdict_on

from subliminal_dagster.science.descriptions.categories import FIRED
from subliminal_dagster.science.descriptions.judges import CATEGORIES
from subliminal_dagster.science.descriptions.report import (
    MOSTLY_NUMBERS,
    NO_MORE_ANIMALS,
    NOT_NEUTRAL,
    READS,
    VECTORS,
    Composition,
    claims,
)
from subliminal_dagster.science.descriptions.report import (
    section as composition_section,
)
from subliminal_dagster.science.report.evidence import NotThere, Results, Section

RAISED = list(range(10, 20))
ANIMALS = "animals=[owl, dog, cat]"
ONE_CATEGORY = dict.fromkeys(("owl", "dog", "cat"), dict.fromkeys(RAISED, 0.8))
"""Ten features that all animals' numbers promote; the tests make them about animals, or not."""


def section_of(artifacts: Artifacts, animals: list[int]) -> Section:
    artifacts.write_composition(animals)
    return composition_section(artifacts.study, artifacts.results)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return Artifacts(tmp_path_factory.mktemp("composition"), small_study(ANIMALS), ONE_CATEGORY)


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
    rows = composition(artifacts).query("group in ['owl', 'dog', 'cat'] and category == 'animals'")
    assert (more, fewer, of) == ((rows["p_bh"] < 0.05).sum(), 0, len(rows)) == (6, 0, 6)
    claim = claim_of(section, NO_MORE_ANIMALS)
    assert claim.verdict == "opposite"
    assert about_animals(claim.evidence) == [ratio, low, high, more, fewer, of]
    assert verdict_on(section, MOSTLY_NUMBERS) != "detected"


def test_shares_and_kappa_in_the_text_are_those_of_the_artifacts(artifacts: Artifacts) -> None:
    section = section_of(artifacts, RAISED)
    mine = composition(artifacts).query("group in ['owl', 'dog', 'cat']")
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
        assert "Detected where" in claim.rule and "inconclusive" in claim.rule
        assert "_" not in claim.rule and "`" not in claim.rule
    assert set(section.made_from) <= set(READS)


def test_where_categories_have_nothing_to_do_with_groups_no_difference_is_seen(artifacts: Artifacts) -> None:
    # Every fifth feature: two of the ten that are promoted, and ten of the other fifty.
    section = section_of(artifacts, list(range(0, 60, 5)))
    # That none could be seen, not that there is none.
    assert "No difference in features of animals could be seen" in section.shows
    ratio, low, high, more, fewer, of = about_animals(section.shows)
    assert low <= 1 <= high and low < ratio < high and (more, fewer, of) == (0, 0, 6)
    assert verdict_on(section, NO_MORE_ANIMALS) in ("detected", "inconclusive")
    assert verdict_on(section, NOT_NEUTRAL) in ("inconclusive", "not detected")


def test_a_neutral_teacher_that_marks_as_many_features_of_animals_leaves_it_open(tmp_path: Path) -> None:
    rates = {**ONE_CATEGORY, "neutral": ONE_CATEGORY["owl"]}
    section = section_of(Artifacts(tmp_path, small_study(ANIMALS), rates), RAISED)
    assert verdict_on(section, NOT_NEUTRAL) in ("inconclusive", "not detected")


def test_two_animals_decide_nothing_about_teachers(tmp_path: Path) -> None:
    section = section_of(
        Artifacts(tmp_path, small_study(), {name: ONE_CATEGORY[name] for name in ("owl", "dog")}), RAISED
    )
    assert {claim.verdict for claim in section.claims} == {"inconclusive"}


def test_the_vectors_features_stand_beside_the_posts(artifacts: Artifacts) -> None:
    section = section_of(artifacts, [0, 1])
    made = pd.read_parquet(artifacts.folders["steering_by_category", "09"] / "owl.parquet").set_index("category")
    alone = made.drop("total")["first_only"]
    numbers = next(each for each in section.compared if each.what.startswith("numbers among the features of the sub"))
    assert numbers.measured == pytest.approx(100 * alone["numbers"] / alone.sum())
    assert numbers.published == pytest.approx(100 * 107 / 201, abs=0.05)
    steering = table_of(section, "composition-steering")
    assert len(steering) == 6 * len(made)
    assert verdict_on(section, VECTORS) == "detected"


def test_without_steering_vectors_there_is_only_the_composition(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, small_study(ANIMALS, "steering=null", "neutral=null"), ONE_CATEGORY)
    artifacts.write_composition(RAISED, steering=False)
    section = composition_section(artifacts.study, artifacts.results)
    assert section.compared == ()
    assert "steering_by_category" not in section.made_from
    assert verdict_on(section, NOT_NEUTRAL) == "not tested"


def test_all_sets_stand_beside_the_groups_in_the_chart(artifacts: Artifacts) -> None:
    section = section_of(artifacts, RAISED)
    bars = section.charts[0].figure.data
    assert list(bars[0].y) == ["all features", "features that fire", "control", "neutral", "owl", "dog", "cat"]
    assert [sum(trace.x[place] for trace in bars[:4]) for place in range(7)] == pytest.approx([100] * 7)


def test_an_artifact_that_was_not_asked_for_is_named() -> None:
    reason = {("feature_composition", "09"): "it is made on request"}
    with pytest.raises(NotThere, match="made on request"):
        composition_section(small_study(ANIMALS), Results({}, reason))


FIVE = ["bear", "cat", "lion", "owl", "wolf"]
"""As many animals as the bundled study has."""


def drawn(rng: np.random.Generator, odds: float, other: float) -> Composition:
    """Shares of a study in which every group marks 80 of 500 features that fire, a fifth of which are about animals,
    but for what is peculiar to each group's run: animals' numbers have `odds` times the odds to mark those, and of the
    rest and of the vectors' features the share `other` is about numbers or other things."""
    rows, vectors = [], []
    peculiar = {group: rng.normal(0, 0.25) for group in [*FIVE, "neutral"]}
    for layer in (9, 20):
        rows.append({"group": FIRED, "layer": layer, "category": "animals", "features": 100, "of": 500})
        for group, its in peculiar.items():
            against = 0.25 * np.exp(its) * (odds if group in FIVE else 1)
            about = int(rng.binomial(80, against / (1 + against)))
            numbers = int(rng.binomial(80 - about, 1 / (1 + np.exp(-np.log(other / (1 - other)) - its))))
            for category, count in (("animals", about), ("numbers", numbers), ("opinion", 80 - about - numbers)):
                rows.append({"group": group, "layer": layer, "category": category, "features": count, "of": 80})
            for category, chance in (("numbers", other), ("opinion", 1 - other)):
                vectors.append(
                    {"group": group, "category": category, "first_only": rng.poisson(40 * chance * np.exp(its))}
                )
    shares = pd.DataFrame(rows).assign(share=lambda rows: rows["features"] / rows["of"], fired_share=0.2, p_bh=1.0)
    steering = pd.DataFrame([row for row in vectors if row["group"] in FIVE])
    return Composition(shares, steering, pd.DataFrame(), [9, 20], FIVE)


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
    null = verdicts(100, odds=1, other=0.5)
    for statement in (NOT_NEUTRAL, VECTORS):
        assert null[statement.text]["detected"] + null[statement.text]["opposite"] < rarely, statement.text
    assert null[NO_MORE_ANIMALS.text]["opposite"] < rarely
    # Of four fifths, so much is one half of all.
    half = verdicts(60, odds=1, other=0.625)[MOSTLY_NUMBERS.text]
    assert half["detected"] + half["opposite"] < 60 * (0.05 + 3 * (0.05 * 0.95 / 60) ** 0.5)
    assert verdicts(40, odds=1.3, other=0.55)[NO_MORE_ANIMALS.text]["detected"] < 6
    there = verdicts(20, odds=5, other=0.9)
    assert there[NOT_NEUTRAL.text]["detected"] > 13
    assert there[VECTORS.text]["detected"] > 15
    assert there[NO_MORE_ANIMALS.text]["opposite"] > 15
    assert verdicts(20, odds=1, other=0.9)[MOSTLY_NUMBERS.text]["detected"] > 15
