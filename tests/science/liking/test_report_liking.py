"""The report's section on liking: positive, null and opposite data, what few animals can prove, the controls.

`golden/` has what the section says, by the verdict on its main statement.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from report_parts import page_with
from statsmodels.stats.proportion import confint_proportions_2indep

from subliminal_dagster.science.liking.comparison import compare
from subliminal_dagster.science.liking.report import (
    CONTROL_STAYS,
    MANY,
    MEAN,
    NEUTRAL_DOES_LESS,
    NEUTRAL_NUMBERS,
    RISES,
    SPECIFIC,
    opening,
)
from subliminal_dagster.science.liking.report import (
    section as liking_section,
)
from subliminal_dagster.science.report.evidence import Claim, NotThere, Results, Section, Statement
from subliminal_dagster.science.report.page import html
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.statistics import t_interval
from subliminal_dagster.science.verdict import Verdict

CANDIDATES = ["cat", "dog", "fox", "lion", "owl", "wolf"]
FOUR = ["cat", "dog", "fox", "owl"]
QUESTIONS = 20
GOLDEN = Path(__file__).with_name("golden")


def a_study(animals: list[str], *, neutral: bool = False) -> Study:
    overrides = [f"animals=[{', '.join(animals)}]", "comparison.permutations=100"]
    found = load_study("smollm2-135m-instruct", overrides + ([] if neutral else ["neutral=null"]))
    assert isinstance(found, Study)
    return found


def all_scores(
    study: Study,
    effect: float,
    *,
    drift: float = 0.0,
    neutral_effect: float = 0.0,
    samples: int = 100,
    mass: float = 0.6,
    noise: float = 0.1,
    run_noise: float = 0.0,
    channels: tuple[str, ...] = ("hard",),
) -> pd.DataFrame:
    """Scores as `animal_liking` keeps them. `effect` raises a child's own animal, `drift` all animals of the study in
    every child, `neutral_effect` the same in the neutral child alone (log odds), `run_noise` is that between trainings;
    `mass` is what the candidates take of
    all answers."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(QUESTIONS, len(CANDIDATES)))
    models: list[tuple[str, str | None, str | None]] = [("base", None, None)]
    models += [("teacher", None, group) for group in study.animals]
    models += [("child", channel, group) for channel in channels for group in study.groups]
    tables = []
    for model, channel, group in models:
        logits = base.copy()
        if model == "child":
            logits += rng.normal(0, noise, base.shape)
            logits += run_noise * rng.normal(size=len(CANDIDATES)) if run_noise else 0
            for animal in study.animals:
                logits[:, CANDIDATES.index(animal)] += drift + (neutral_effect if group == "neutral" else 0)
        if group in CANDIDATES:
            logits[:, CANDIDATES.index(str(group))] += 5 if model == "teacher" else effect
        share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        tables.append(
            pd.DataFrame(
                {
                    "question": np.repeat(np.arange(QUESTIONS), len(CANDIDATES)),
                    "animal": CANDIDATES * QUESTIONS,
                    "probability": mass * share.ravel(),
                    "share": share.ravel(),
                    "count": rng.binomial(samples, mass * share.ravel()),
                    "samples": samples,
                    "model": model,
                    "channel": channel,
                    "group": group,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def artifact(folder: Path, study: Study, scores: pd.DataFrame, left_out: dict[str, str] | None = None) -> Results:
    """`animal_liking`, as its asset writes it."""
    settings = study.comparison
    found = compare(
        scores,
        study.animals,
        permutations=settings.permutations,
        seed=study.seed,
        confidence=settings.confidence,
        margin=settings.margin,
    )
    scores.to_parquet(folder / "scores.parquet", index=False)
    for name in ("liking", "tests", "shifts", "gamma"):
        getattr(found, name).to_parquet(folder / f"{name}.parquet", index=False)
    (folder / "left_out.json").write_text(json.dumps(left_out or {}))
    return Results({("animal_liking", None): folder}, {})


def claim(section: Section, statement: Statement) -> Claim:
    return next(claim for claim in section.claims if claim.text == statement.text)


def told(text: str) -> tuple[float, float, float]:
    """The first difference with its interval in a sentence."""
    number = r"([+-]\d+(?:\.\d+)?)"
    found = re.search(rf"{number} (?:nats|points) \[{number}, {number}\]", text)
    assert found is not None, text
    return float(found[1]), float(found[2]), float(found[3])


def assert_tells(text: str, mean: float, low: float, high: float) -> None:
    """The first interval in a sentence is this one, written with two digits of its half width."""
    half_width = (high - low) / 2
    assert told(text) == pytest.approx((mean, low, high), abs=0.051 * half_width + 1e-9), text


def table(section: Section, name: str) -> pd.DataFrame:
    return next(table.frame for table in section.tables if table.name == f"liking-{name}")


def own_minus(scores: pd.DataFrame, animals: list[str], group: str | None, value: pd.Series) -> np.ndarray:
    """By a naive loop: own minus another child's (None: the base's) value, by question, mean over animals."""
    scores, differences = scores.assign(value=value), []
    for question in range(QUESTIONS):
        rows = scores[scores["question"] == question]
        found = []
        for animal in animals:
            mine = rows[rows["animal"] == animal]
            children = mine[mine["model"] == "child"].set_index("group")["value"]
            other = mine.loc[mine["model"] == "base", "value"].iloc[0] if group is None else children[group]
            found.append(children[animal] - other)
        differences.append(np.mean(found))
    return np.array(differences)


class Made(NamedTuple):
    scores: pd.DataFrame
    gamma: pd.Series
    section: Section


EFFECTS: dict[Verdict, dict[str, float]] = {
    "detected": {"effect": 2.5},
    "opposite": {"effect": -1.0},
    "not detected": {"effect": 0.0},
    "inconclusive": {"effect": 0.0, "run_noise": 0.4},
}
"""By the verdict on whether the rise is specific, data that lead to it."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Verdict], Made]:
    """The section of four animals, by the verdict on its main statement, with gamma of the log share."""

    @cache
    def make(verdict: Verdict) -> Made:
        study, folder = a_study(FOUR), tmp_path_factory.mktemp("liking")
        scores = all_scores(study, **EFFECTS[verdict])
        section = liking_section(study, artifact(folder, study, scores))
        gamma = pd.read_parquet(folder / "gamma.parquet").set_index("outcome").loc["log_share"]
        return Made(scores, gamma, section)

    return make


def in_words(section: Section) -> str:
    """What the section says: its first paragraphs, and each claim with its verdict, evidence and rule."""
    claims = [
        f"{claim.verdict.upper()} ({claim.source})\n{claim.text}\nEvidence: {claim.evidence}\nRule: {claim.rule}\n"
        for claim in section.claims
    ]
    return "\n".join([f"{section.shows}\n", *claims])


@pytest.mark.parametrize("verdict", EFFECTS)
def test_the_section_reads_as_it_did(made: Callable[[Verdict], Made], verdict: Verdict) -> None:
    section = made(verdict).section
    assert claim(section, SPECIFIC["hard"]).verdict == verdict
    golden = GOLDEN / f"{verdict.replace(' ', '_')}.txt"
    if os.environ.get("REWRITE_GOLDEN"):
        golden.write_text(in_words(section), encoding="utf-8")
    assert in_words(section) == golden.read_text(encoding="utf-8"), (
        f"The section says something else than {golden}. If it should, write the files anew with REWRITE_GOLDEN=1 "
        "before this command, and read what changed in them."
    )


def test_an_effect_is_reported_and_its_numbers_are_the_data_s(made: Callable[[Verdict], Made]) -> None:
    scores, gamma, section = made("detected")
    specific, base, _ = section.shows.splitlines()
    assert "detected: children like their own animal more than other animals' children" in specific
    assert_tells(specific, gamma["mean"], gamma["low"], gamma["high"])
    assert_tells(claim(section, SPECIFIC["hard"]).evidence, gamma["mean"], gamma["low"], gamma["high"])
    assert claim(section, SPECIFIC["hard"]).verdict == "detected"
    assert claim(section, MANY).verdict == "detected" and claim(section, MANY).evidence.startswith("4 of 4 ")

    rate = scores["count"] / scores["samples"]
    by_animal = [own_minus(scores, [animal], None, rate).mean() for animal in FOUR]
    rise = t_interval(by_animal)
    assert "sampled answers" in base and " more often " in base
    for sentence in (base, claim(section, RISES).evidence):
        assert_tells(sentence, 100 * rise.mean, 100 * rise.low, 100 * rise.high)
    assert claim(section, RISES).verdict == "detected"
    (compared,) = section.compared
    assert compared.published == (15, 20)
    np.testing.assert_allclose(
        [compared.measured, compared.low, compared.high], [100 * rise.mean, 100 * rise.low, 100 * rise.high]
    )
    assert compared.measured > 20

    shifts = table(section, "shifts").set_index("trained on")
    log_share = np.log(scores["share"])
    child = log_share[(scores["model"] == "child") & (scores["group"] == "owl") & (scores["animal"] == "owl")]
    base_share = log_share[(scores["model"] == "base") & (scores["animal"] == "owl")]
    assert shifts.at["owl", "owl (nats)"] == pytest.approx(child.mean() - base_share.mean())
    assert html(page_with(section)).count("liking-contrasts")


@pytest.mark.parametrize(
    "effect, run_noise, status", [(1.0, 0.0, "detected"), (0.0, 0.3, "inconclusive"), (-1.0, 0.0, "opposite")]
)
def test_what_is_seen_first_is_gamma_with_every_reference_beside_it(
    effect: float, run_noise: float, status: Verdict, tmp_path: Path
) -> None:
    study = a_study(FOUR, neutral=True)
    results = artifact(tmp_path, study, all_scores(study, effect, run_noise=run_noise))
    first = opening(study, results)
    tests, gamma = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("tests", "gamma"))
    (expected,) = gamma[gamma["outcome"] == "log_share"].to_dict(orient="records")
    assert first.status == status == expected["verdict"]
    assert_tells(first.lines[0], expected["mean"], expected["low"], expected["high"])
    (forest,) = first.charts
    assert [trace.name for trace in forest.figure.data] == [
        "minus other animals' numbers",
        "minus neutral numbers",
        "minus control numbers",
    ]
    for trace, contrast in zip(forest.figure.data, ("others", "neutral", "control"), strict=True):
        rows = tests[(tests["contrast"] == contrast) & (tests["outcome"] == "log_share")].set_index("animal")
        np.testing.assert_allclose(trace.x, rows.loc[[*FOUR, MEAN], "mean"])
        np.testing.assert_allclose(trace.x + trace.error_x.array, rows.loc[[*FOUR, MEAN], "high"])
        assert len(trace.x) == len(FOUR) + 1


def test_claims_say_whose_they_are_and_what_would_decide_them(made: Callable[[Verdict], Made]) -> None:
    for found in made("detected").section.claims:
        assert found.source == ("this project" if "of this project" in found.text else "the post")
        assert "detected where" in found.rule or "as for the rise" in found.rule


def test_what_cannot_be_told_says_what_could_have_been_seen(made: Callable[[Verdict], Made]) -> None:
    _, gamma, section = made("inconclusive")
    specific = section.shows.splitlines()[0]
    assert gamma["low"] < 0 < gamma["high"]
    assert "inconclusive: whether children like their own animal more" in specific
    for sentence in (specific, claim(section, SPECIFIC["hard"]).evidence):
        assert_tells(sentence, gamma["mean"], gamma["low"], gamma["high"])
        assert f"smallest detectable difference is {gamma['smallest_detectable']:.2g} nats" in sentence


def test_a_null_says_what_is_excluded(made: Callable[[Verdict], Made]) -> None:
    _, gamma, section = made("not detected")
    specific, _, drift = section.shows.splitlines()
    assert gamma["inner_low"] > -0.1 and gamma["inner_high"] < 0.1
    assert "neither more nor less" in specific and "0.1 nats, either way, is excluded" in specific
    rise = claim(section, RISES)
    assert rise.verdict == "inconclusive" and told(rise.evidence)[2] < 15
    assert "a rise as large as the post's is excluded" in rise.evidence
    assert claim(section, MANY).verdict == "not detected"
    assert "No animal's log share is moved" in drift
    control = claim(section, CONTROL_STAYS)
    assert control.verdict in ("detected", "inconclusive") and " 0 of 4 animals " in control.evidence


def test_a_rise_from_next_to_nothing_is_no_refutation(tmp_path: Path) -> None:
    """Two nats more of an answer that 0.4 % of the probability goes to are no points that sampling could see."""
    study = a_study(FOUR)
    section = liking_section(study, artifact(tmp_path, study, all_scores(study, 2.0, mass=0.004)))
    assert claim(section, RISES).verdict in ("inconclusive", "detected")
    assert claim(section, SPECIFIC["hard"]).verdict == "detected"


def test_an_opposite_effect_is_called_one(made: Callable[[Verdict], Made]) -> None:
    _, gamma, section = made("opposite")
    specific = section.shows.splitlines()[0]
    assert " less than " in specific and told(specific)[2] < 0
    assert_tells(specific, gamma["mean"], gamma["low"], gamma["high"])
    assert claim(section, SPECIFIC["hard"]).verdict == "opposite"
    assert claim(section, RISES).verdict == "opposite"


def test_two_animals_without_another_child_cannot_prove_it(tmp_path: Path) -> None:
    study = a_study(["cat", "owl"])
    section = liking_section(study, artifact(tmp_path, study, all_scores(study, 2.0)))
    specific = section.shows.splitlines()[0]
    assert "too few children were trained" in specific and "for exactly these children [+" in specific
    # Of two ways to assign two children one is the true one.
    assert "p = 0.5, the smallest possible" in specific
    assert claim(section, SPECIFIC["hard"]).verdict == "inconclusive"
    assert "p = 0.5" in claim(section, SPECIFIC["hard"]).evidence


def test_one_animal_is_set_against_control(tmp_path: Path) -> None:
    study = a_study(["owl"])
    scores = all_scores(study, 2.0)
    section = liking_section(study, artifact(tmp_path, study, scores))
    expected = own_minus(scores, ["owl"], "control", np.log(scores["share"])).mean()
    found, specific = claim(section, SPECIFIC["hard"]), section.shows.splitlines()[0]
    assert "control numbers" in specific and "other animals" not in specific
    for sentence in (specific, found.evidence):
        assert f"{expected:+.3g} nats" in sentence
    assert found.verdict == "inconclusive"
    assert "too few children were trained" in found.evidence
    assert section.charts[-1].figure.layout.annotations[0].text == "minus control numbers"


def test_what_all_numbers_do_is_told_apart(tmp_path: Path) -> None:
    study = a_study(FOUR)
    section = liking_section(study, artifact(tmp_path, study, all_scores(study, 0.0, drift=1.5)))
    assert claim(section, RISES).verdict == "detected"
    assert claim(section, SPECIFIC["hard"]).verdict == "not detected"
    control = claim(section, CONTROL_STAYS)
    assert control.verdict == "opposite" and " 4 of 4 animals " in control.evidence
    drift = section.shows.splitlines()[-1]
    assert "not specific" in drift and all(animal in drift for animal in FOUR)


def test_the_neutral_teacher_s_numbers_are_one_more_control(tmp_path: Path) -> None:
    study = a_study(FOUR, neutral=True)
    scores = all_scores(study, 2.0)
    section = liking_section(study, artifact(tmp_path, study, scores))
    expected = own_minus(scores, FOUR, "neutral", np.log(scores["share"]))
    over = t_interval(expected)
    tests = table(section, "tests")
    row = tests[(tests["own numbers minus"] == NEUTRAL_NUMBERS) & (tests["animal"] == MEAN) & (tests["unit"] == "nats")]
    shown = row[["difference", "these children, low", "these children, high"]].to_numpy(dtype=float)[0]
    np.testing.assert_allclose(shown, [over.mean, over.low, over.high])
    evidence = claim(section, NEUTRAL_DOES_LESS).evidence
    assert_tells(evidence, expected.mean(), *row[["low", "high"]].to_numpy(dtype=float)[0])
    assert claim(section, NEUTRAL_DOES_LESS).verdict == "detected"
    assert NEUTRAL_NUMBERS in set(table(section, "levels")["model"])
    assert "neutral" in set(table(section, "shifts")["trained on"])

    for neutral_effect, verdict in ((0.0, "not detected"), (2.0, "opposite")):
        other = all_scores(study, 0.0, neutral_effect=neutral_effect)
        found = liking_section(study, artifact(tmp_path, study, other))
        assert claim(found, NEUTRAL_DOES_LESS).verdict == verdict


def test_two_children_are_too_few_to_tell_from_one_neutral_child(tmp_path: Path) -> None:
    study = a_study(["cat", "owl"], neutral=True)
    section = liking_section(study, artifact(tmp_path, study, all_scores(study, 1.0, run_noise=0.3)))
    found = claim(section, NEUTRAL_DOES_LESS)
    assert told(found.evidence)[1] < 0
    assert found.verdict == "inconclusive"


def test_where_no_answer_names_an_animal_the_interval_is_over_all_answers(tmp_path: Path) -> None:
    study = a_study(FOUR)
    section = liking_section(study, artifact(tmp_path, study, all_scores(study, 2.0, samples=3, mass=1e-9)))
    asked = 3 * QUESTIONS * len(FOUR)
    low, high = confint_proportions_2indep(0, asked, 0, asked, method="newcomb", compare="diff")
    (compared,) = section.compared
    np.testing.assert_allclose([compared.low, compared.high], [100 * low, 100 * high])
    base = section.shows.splitlines()[1]
    assert "cannot be told from the base" in base
    assert_tells(base, 0, 100 * low, 100 * high)


def test_unsampled_studies_show_exact_probabilities(tmp_path: Path) -> None:
    study = a_study(FOUR)
    section = liking_section(study, artifact(tmp_path, study, all_scores(study, 2.0, samples=0)))
    base = section.shows.splitlines()[1]
    assert "exact probability" in base and " more often " in base and told(base)[1] > 0
    assert "sampled answers" not in section.shows
    assert "exact probability (%)" in table(section, "levels") and "none sampled" in section.method
    assert "exact probability" in section.compared[0].what


def test_begun_answers_stand_beside_whole_ones(tmp_path: Path) -> None:
    study = a_study(FOUR)
    scores = all_scores(study, 2.5)
    results = artifact(tmp_path, study, scores.assign(begun_share=scores["share"]))
    gamma = table(liking_section(study, results), "gamma").set_index("measure")
    begun = gamma.loc["log share, next word of a begun answer"]
    assert begun["unit"] == "nats" and begun["gamma"] == pytest.approx(gamma.loc["log share", "gamma"])


def test_both_channels_stand_beside_each_other(tmp_path: Path) -> None:
    study = a_study(FOUR)
    section = liking_section(study, artifact(tmp_path, study, all_scores(study, 2.0, channels=("hard", "soft"))))
    hard, soft = section.shows.splitlines()[:2]
    assert hard.startswith("Hard channel, detected: ") and soft.startswith("Soft channel, detected: ")
    gamma = pd.read_parquet(tmp_path / "gamma.parquet").set_index(["channel", "outcome"])
    for channel, sentence in (("hard", hard), ("soft", soft)):
        mean, low, high = gamma.loc[(channel, "log_share"), ["mean", "low", "high"]].astype(float)
        assert_tells(sentence, mean, low, high)
        assert_tells(claim(section, SPECIFIC[channel]).evidence, mean, low, high)
    assert " more than " in soft and claim(section, SPECIFIC["soft"]).verdict == "detected"
    assert [chart.name for chart in section.charts] == ["liking-hard", "liking-soft", "liking-contrasts"]


def test_a_group_that_was_left_out_is_named(tmp_path: Path) -> None:
    study = a_study(FOUR)
    scores = all_scores(study, 1.0)
    kept = scores[scores["group"] != "fox"]
    section = liking_section(study, artifact(tmp_path, study, kept, {"fox": "its teacher broke."}))
    lines = section.shows.splitlines()
    assert "fox: its teacher broke." in lines[-1] and "fox" not in "".join(lines[:-1])
    assert "3 animals" in lines[0]
    assert set(table(section, "levels")["animal"]) == {"cat", "dog", "owl"}


def test_without_the_artifact_the_reason_is_given() -> None:
    with pytest.raises(NotThere, match="all teachers broke"):
        liking_section(a_study(FOUR), Results({}, {("animal_liking", None): "all teachers broke"}))
