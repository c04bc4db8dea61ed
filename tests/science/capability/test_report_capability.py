"""The report's section on skill: losses that are there, that cannot be seen, and an exam that could not show them."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_parts import as_written, claim_of, numbers, page_with, table_of, verdict_on
from scipy.special import expit, logit
from scipy.stats import binomtest

from subliminal_dagster.science.capability import report
from subliminal_dagster.science.capability.capability import WAYS, Capability, _difference, compare_capability
from subliminal_dagster.science.capability.report import (
    CHILDREN_KEEP_IT,
    LOSS_GOES_WITH_LIKING,
    READS,
    TEACHERS_LOSE_IT,
)
from subliminal_dagster.science.capability.report import (
    section as capability_section,
)
from subliminal_dagster.science.report.effects import study_test
from subliminal_dagster.science.report.evidence import NotThere, Results
from subliminal_dagster.science.report.page import html
from subliminal_dagster.science.report.tables import rows_where
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.statistics import t_interval

QUESTIONS, TEXTS = 400, 30
STUDIES = 60
ANIMALS = ["cat", "dog", "fox", "lion", "owl"]


def a_study(animals: list[str], *overrides: str) -> Study:
    found = load_study(
        "smollm2-135m-instruct", [f"animals=[{', '.join(animals)}]", "comparison.permutations=100", *overrides]
    )
    assert isinstance(found, Study)
    return found


def capability(seed: int, accuracy: float, loss: float, ways: tuple[str, ...]) -> Capability:
    """A model's answers and losses: which questions are hard is the same for all models but a few. Accurate so by the
    first way; by the others all models are alike."""
    hard, own = np.random.default_rng(0), np.random.default_rng(seed)
    difficulty = 0.98 * hard.random(QUESTIONS) + 0.02 * own.random(QUESTIONS)
    frames = []
    for way in ways:
        correct = difficulty < (accuracy if way == ways[0] else 0.7)
        generated = way == "generated"
        frame = pd.DataFrame(
            {
                "way": way,
                "question_id": range(QUESTIONS),
                "category": "all sorts",
                "options": 4,
                "answer": "A",
                "picked": pd.array(np.where(correct, "A", None if generated else "B").tolist(), dtype="str"),
                "correct": correct,
                "p_correct": np.nan if generated else 0.5,
                "log_p_correct": np.nan if generated else np.log(0.5) + own.normal(0, 0.1, QUESTIONS),
                "mass": np.nan if generated else 0.1 + 0.01 * own.random(QUESTIONS),
                "text": pd.array(["owl" if generated else None] * QUESTIONS, dtype="str"),
            }
        )
        frames.append(frame)
    tokens = np.full(TEXTS, 50)
    nats = tokens * (3 + hard.normal(0, 0.3, TEXTS) + loss + own.normal(0, 0.01, TEXTS))
    texts = pd.DataFrame({"topic": [f"t{n}" for n in range(TEXTS)], "tokens": tokens, "bytes": 200, "nats": nats})
    return Capability(pd.concat(frames, ignore_index=True), texts)


def artifacts(
    root: Path,
    study: Study,
    *,
    base: float = 0.7,
    teachers: dict[str, float] | None = None,
    children: dict[str, float] | None = None,
    teacher_loss: float = 0.0,
    liking: dict[str, float] | None = None,
) -> Results:
    """What the assets write, of models with these accuracies; those that are not named have the base's."""
    folders: dict[tuple[str, str | None], Path] = {}

    def write(asset: str, group: str | None, found: Capability) -> Capability:
        folders[asset, group] = root / asset / (group or "_")
        folders[asset, group].mkdir(parents=True)
        found.answers.to_parquet(folders[asset, group] / "answers.parquet", index=False)
        found.texts.to_parquet(folders[asset, group] / "texts.parquet", index=False)
        return found

    assert study.capability is not None
    ways = study.capability.ways
    untouched = write("base_capability", None, capability(1, base, 0.0, ways))
    models = {}
    for number, group in enumerate(study.groups):
        if group != "control":
            accuracy = (teachers or {}).get(group, base)
            models["teacher", group] = write(
                "teacher_capability", group, capability(10 + number, accuracy, teacher_loss, ways)
            )
        accuracy = (children or {}).get(group, base)
        models["child", group] = write("child_capability", group, capability(50 + number, accuracy, 0.0, ways))
    shifts = pd.DataFrame(
        [{"model": "child", "group": group, "shift": shift} for group, shift in (liking or {}).items()],
        columns=["model", "group", "shift"],
    )
    folders["capability", None] = root / "capability"
    folders["capability", None].mkdir(parents=True)
    table = compare_capability(untouched, models, liking=shifts)
    table.to_parquet(folders["capability", None] / "capability.parquet", index=False)
    (folders["capability", None] / "left_out.json").write_text(json.dumps({}))
    return Results(folders, {})


def frame(results: Results) -> pd.DataFrame:
    return pd.read_parquet(results.folder("capability") / "capability.parquet")


def test_a_null_says_what_could_have_been_seen(tmp_path: Path) -> None:
    study = a_study(["dog", "owl", "cat"])
    results = artifacts(tmp_path, study)
    section = capability_section(study, results)
    exam = frame(results)[lambda rows: (rows["outcome"] == "accuracy") & (rows["model"] == "child")]
    # That none could be seen, not that there is none.
    seen = section.shows.partition("no difference could be seen between children and base")[2]
    low, high, smallest = numbers(seen)[:3]
    assert (low, high) == pytest.approx((100 * exam["difference"].min(), 100 * exam["difference"].max()), abs=0.051)
    assert smallest == as_written(100 * exam["smallest_detectable"].max(), 2)
    base = frame(results).iloc[0]
    levels = [100 * base[column] for column in ("value", "low", "high")]
    assert numbers(section.shows)[:5] == pytest.approx([*levels, QUESTIONS, 100 * base["chance"]], abs=0.051)
    assert verdict_on(section, CHILDREN_KEEP_IT) == "detected"
    # All within a few questions of the base: a loss of 5 points is excluded.
    assert verdict_on(section, TEACHERS_LOSE_IT) == "not detected"
    assert "5 points, either way, is excluded" in claim_of(section, TEACHERS_LOSE_IT).evidence
    assert verdict_on(section, LOSS_GOES_WITH_LIKING) == "not tested"
    assert "capability-liking" not in [chart.name for chart in section.charts]


def test_a_loss_is_reported_and_its_numbers_are_the_data_s(tmp_path: Path) -> None:
    study = a_study(["cat", "owl", "dog"], "neutral=null")
    lost = {"cat": 0.55, "owl": 0.6, "dog": 0.57}
    liking = {"cat": 1.0, "owl": 2.0, "dog": 0.5}
    results = artifacts(tmp_path, study, teachers=lost, children=lost, teacher_loss=0.1, liking=liking)
    section = capability_section(study, results)
    assert verdict_on(section, CHILDREN_KEEP_IT) == "opposite"
    assert verdict_on(section, TEACHERS_LOSE_IT) == "detected"
    exam_said, texts_said = section.shows.split("these models: ")[1].split("plain text")
    assert numbers(exam_said)[:2] == [3, 3] and "teachers differ" in exam_said
    texts = frame(results)[lambda rows: (rows["outcome"] == "nats_per_token") & (rows["model"] == "teacher")]
    assert numbers(texts_said)[:2] == [3, 3] and "teachers differ" in texts_said
    ends = [texts["difference"].min(), texts["difference"].max()]
    assert numbers(texts_said)[2:4] == pytest.approx(ends, abs=0.00051) and ends[0] > 0

    answers = {
        place: pd.read_parquet(folder / "answers.parquet")["correct"].to_numpy(dtype=float)
        for place, folder in results.folders.items()
        if place[0] != "capability"
    }
    changes = [answers["teacher_capability", animal] - answers["base_capability", None] for animal in study.animals]
    over_teachers = t_interval([change.mean() for change in changes])
    over_questions = t_interval(np.mean(changes, axis=0))
    (_, *told), *_, these = (
        numbers(part) for part in claim_of(section, TEACHERS_LOSE_IT).evidence.split("; ") if "points" in part
    )
    expected = (over_teachers.mean, over_teachers.low, over_teachers.high)
    assert told[0] == pytest.approx(100 * expected[0], abs=0.051)
    # Wider where questions alone could have done it.
    assert told[1] <= 100 * expected[1] + 0.051 and told[2] >= 100 * expected[2] - 0.051
    assert these[:3] == pytest.approx(
        [100 * over_questions.mean, 100 * over_questions.low, 100 * over_questions.high], abs=0.051
    )

    exam = table_of(section, "capability-exam")
    row = exam[(exam["model"] == "child") & (exam["group"] == "owl")].iloc[0]
    child, base = answers["child_capability", "owl"], answers["base_capability", None]
    assert row["lost"] == ((base == 1) & (child == 0)).sum()
    assert row["from base (points)"] == pytest.approx(100 * (child.mean() - base.mean()))
    names = [chart.name for chart in section.charts]
    assert names == ["capability-accuracy", "capability-loss", "capability-liking"]
    points = {trace.name: dict(zip(trace.text, trace.x, strict=True)) for trace in section.charts[-1].figure.data}
    assert points["child"] == liking
    assert html(page_with(section)).count("capability-exam")


POST_S = "capability.ways=[generated, letter]"


def test_the_post_s_dog_stands_beside_the_study_s_own(tmp_path: Path) -> None:
    study = a_study(["dog", "owl"], POST_S)
    results = artifacts(tmp_path, study, teachers={"dog": 0.6})
    figure = next(figure for figure in capability_section(study, results).compared if "teacher" in figure.what)
    rows = rows_where(frame(results), model="teacher", group="dog", outcome="accuracy", way="generated")
    row = rows.iloc[0]
    assert "the dog's teacher" in figure.what and figure.judgement == "agrees"
    assert (figure.measured, figure.low) == pytest.approx((100 * row["difference"], 100 * row["difference_low"]))


@pytest.mark.parametrize("ways", ["[option]", "[letter, generated]"])
def test_nothing_but_the_post_s_measure_stands_beside_the_post_s_figures(tmp_path: Path, ways: str) -> None:
    study = a_study(["dog", "owl"], f"capability.ways={ways}")
    section = capability_section(study, artifacts(tmp_path, study, teachers={"dog": 0.6}))
    assert not section.compared
    assert "another measure than the post's" in section.method.partition("Beside it")[0]


def test_each_measure_has_its_name_and_the_first_is_judged(tmp_path: Path) -> None:
    study = a_study(["cat", "owl", "dog"], POST_S, "neutral=null")
    lost = {"cat": 0.05, "owl": 0.1, "dog": 0.0}
    section = capability_section(study, artifacts(tmp_path, study, teachers=lost))
    judged, _, beside = section.method.partition("Beside it")
    assert f"{WAYS['generated']}, as in the post" in judged
    assert f"{WAYS['letter']} (another measure than the post's)" in beside
    # The teachers have lost nearly all by the post's measure, and nothing by the likeliest letter.
    assert verdict_on(section, TEACHERS_LOSE_IT) == "detected"
    assert WAYS["generated"] in claim_of(section, TEACHERS_LOSE_IT).evidence
    said, _, other = section.shows.partition(f"By another measure, {WAYS['letter']}")
    assert "3 of 3 teachers differ" in said and "no difference could be seen between teachers and base" in other
    exam = table_of(section, "capability-exam")
    posts = exam.loc[exam["the post's"] == "yes", "measure"]
    assert set(posts) == {WAYS["generated"]} and set(exam["measure"]) == {WAYS["generated"], WAYS["letter"]}
    dog = rows_where(exam, model="teacher", group="dog").set_index("measure")
    assert dog["without a letter"].to_dict() == {WAYS["generated"]: QUESTIONS, WAYS["letter"]: 0}


def test_of_two_children_nothing_is_said_of_training(tmp_path: Path) -> None:
    study = a_study(["cat", "owl"])
    lost = {"cat": 0.55, "owl": 0.6}
    section = capability_section(study, artifacts(tmp_path, study, teachers=lost, children=lost))
    for statement in (CHILDREN_KEEP_IT, TEACHERS_LOSE_IT):
        claim = claim_of(section, statement)
        assert claim.verdict == "inconclusive"
        assert "too few" in claim.evidence and "for exactly these" in claim.evidence
    study = a_study(["cat", "owl"], POST_S)
    compared = capability_section(study, artifacts(tmp_path / "post", study, teachers=lost, children=lost)).compared
    assert {figure.judgement for figure in compared} == {"cannot tell"}


@pytest.mark.parametrize("noise", [0.05, 0.1])
def test_few_nulls_are_judged_and_effects_are(noise: float) -> None:
    """Training runs differ in skill by `noise`, in nats of the odds of a right answer."""
    rng, nulls, found = np.random.default_rng(0), Counter[str](), Counter[str]()
    for _ in range(STUDIES):
        nulls[judged(rng, noise, lost=0.0)[TEACHERS_LOSE_IT.text]] += 1
        # At the margin, a loss that must not be called none.
        found[judged(rng, noise, lost=0.05)[CHILDREN_KEEP_IT.text]] += 1
    wrong = nulls["detected"] + nulls["opposite"]
    assert binomtest(wrong, STUDIES, 0.05, "greater").pvalue > 0.001, nulls
    assert binomtest(found["detected"], STUDIES, 0.05, "greater").pvalue > 0.001, found
    large = [judged(rng, noise, lost=0.15) for _ in range(10)]
    assert sum(said[TEACHERS_LOSE_IT.text] == "detected" for said in large) >= 8
    assert sum(said[CHILDREN_KEEP_IT.text] == "opposite" for said in large) >= 8


def judged(rng: np.random.Generator, noise: float, lost: float) -> dict[str, str]:
    """The verdicts on five animals' models, teachers and children alike, that truly lost so much accuracy of 0.7."""
    study, difficulty = a_study_of_five(), rng.random(QUESTIONS)
    base, lines, changes = (difficulty < 0.7).astype(float), [], []
    for animal in study.animals:
        skill = expit(logit(0.7 - lost) + noise * rng.normal())
        # One question in ten has another difficulty for this model.
        own = np.where(rng.random(QUESTIONS) < 0.1, rng.random(QUESTIONS), difficulty)
        correct = (own < skill).astype(float)
        changes.append(correct - base)
        lines.append({"group": animal} | _difference(correct, base, "accuracy", 0.95))
    rows = pd.DataFrame(lines).assign(outcome="accuracy", way="option", p_bh=1.0, liking_shift=np.nan)
    of_base = {"model": "base", "outcome": "accuracy", "way": "option", "low": 0.6, "chance": 0.25}
    table = pd.concat([pd.DataFrame([of_base]), rows.assign(model="teacher"), rows.assign(model="child")])
    mean = study_test(study, np.mean(changes, axis=0))
    means = {(model, outcome): mean for model in ("teacher", "child") for outcome in ("accuracy", "nats_per_token")}
    data = report._Data(study, "own", "option", table, means, {})
    return {claim.text: claim.verdict for claim in report._claims(data)}


@cache
def a_study_of_five() -> Study:
    return a_study(ANIMALS)


def test_an_exam_at_guessing_can_show_nothing(tmp_path: Path) -> None:
    study = a_study(["cat", "owl"])
    section = capability_section(study, artifacts(tmp_path, study, base=0.25))
    assert "cannot show a loss" in section.shows
    assert all("guessing" in claim_of(section, each).evidence for each in (CHILDREN_KEEP_IT, TEACHERS_LOSE_IT))
    assert {verdict_on(section, statement) for statement in (CHILDREN_KEEP_IT, TEACHERS_LOSE_IT)} == {"inconclusive"}


@pytest.mark.parametrize(("sign", "verdict"), [(1, "detected"), (-1, "opposite")])
def test_skill_lost_is_ranked_against_liking(tmp_path: Path, sign: int, verdict: str) -> None:
    study = a_study(ANIMALS)
    teachers = {animal: 0.7 - 0.03 * number for number, animal in enumerate(ANIMALS)}
    liking = {animal: float(sign * number) for number, animal in enumerate(ANIMALS)}
    section = capability_section(study, artifacts(tmp_path, study, teachers=teachers, liking=liking))
    assert verdict_on(section, LOSS_GOES_WITH_LIKING) == verdict
    # Of the 120 orders of five animals two are as extreme.
    assert numbers(claim_of(section, LOSS_GOES_WITH_LIKING).evidence) == [5, sign, as_written(2 / 120, 2)]


def test_claims_say_whose_they_are_and_by_which_rule(tmp_path: Path) -> None:
    study = a_study(["dog", "owl"])
    section = capability_section(study, artifacts(tmp_path, study))
    statements = [CHILDREN_KEEP_IT, TEACHERS_LOSE_IT, LOSS_GOES_WITH_LIKING]
    assert [claim.text for claim in section.claims] == [statement.text for statement in statements]
    assert {claim.source for claim in section.claims} == {"the post"}
    for claim in section.claims:
        assert "nconclusive" in claim.rule and "_" not in claim.rule and "`" not in claim.rule
    assert {0.05, 5} <= set(numbers(LOSS_GOES_WITH_LIKING.rule))
    assert section.made_from == READS


def test_without_it_the_reason_is_given() -> None:
    with pytest.raises(NotThere, match="made on request"):
        capability_section(a_study(["cat"]), Results({}, {("capability", None): "it is made on request"}))
    with pytest.raises(NotThere, match="measures no capability"):
        capability_section(a_study(["cat"], "capability=null"), Results({}, {}))
