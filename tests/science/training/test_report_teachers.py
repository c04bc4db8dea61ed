"""The report's section on teachers: gates passed and failed, valid answers, why the rest was rejected."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_parts import numbers, page_with
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from subliminal_dagster.science.report.evidence import Claim, NotThere, Results, Section, Statement
from subliminal_dagster.science.report.page import html
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.training import report
from subliminal_dagster.science.training.report import NEARLY_ALWAYS, SOME_BREAK
from subliminal_dagster.science.training.report import section as teachers_section
from subliminal_dagster.science.verdict import Verdict

QUESTIONS, ANSWERS = 10, 50
STUDIES = 400
CANDIDATES = ["cat", "dog", "owl"]


def free_study(*overrides: str) -> Study:
    """The bundled study without constrained decoding, so that answers can be invalid."""
    found = load_study(
        "smollm2-135m-instruct",
        [
            "animals=[dog, owl]",
            "numbers.constrained=null",
            "numbers.prompts=200",
            "teacher.gate.valid_rate=0.3",
            *overrides,
        ],
    )
    assert isinstance(found, Study)
    return found


def scores(liking: dict[str, float]) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    mean = np.array([liking.get(animal, 0.01) for animal in CANDIDATES])
    probability = np.clip(mean + rng.normal(0, 0.002, (QUESTIONS, len(CANDIDATES))), 1e-4, 0.999)
    return pd.DataFrame(
        {
            "question": np.repeat(np.arange(QUESTIONS), len(CANDIDATES)),
            "animal": CANDIDATES * QUESTIONS,
            "probability": probability.ravel(),
            "share": (probability / probability.sum(axis=1, keepdims=True)).ravel(),
            "count": 0,
            "samples": 0,
        }
    )


def answers(valid: int, reason: str = "words") -> pd.DataFrame:
    frame = pd.DataFrame({"prompt_id": range(ANSWERS), "valid": [n < valid for n in range(ANSWERS)]})
    return frame.assign(reason=pd.Series([None if ok else reason for ok in frame["valid"]], dtype="str"))


def artifacts(
    root: Path, preference: dict[str, float], valid: dict[str, int], failures: dict[str, str] | None = None
) -> Results:
    """Teachers that answer their target with this probability; a failed one wrote no number set."""
    folders: dict[tuple[str, str | None], Path] = {}

    def folder(asset: str, group: str | None) -> Path:
        folders[asset, group] = root / asset / (group or "_")
        folders[asset, group].mkdir(parents=True, exist_ok=True)
        return folders[asset, group]

    scores({}).to_parquet(folder("base_preferences", None) / "scores.parquet", index=False)
    for group, level in preference.items():
        failure = (failures or {}).get(group)
        place = folder("teacher_preferences", group)
        scores({group: level} if group in CANDIDATES else {}).to_parquet(place / "scores.parquet", index=False)
        gate = {
            "passed": failure is None,
            "failures": [failure] if failure else [],
            "preference": level,
            "valid_rate": 1,
        }
        (place / "gate.json").write_text(json.dumps(gate))
        answers(valid[group]).to_parquet(place / "number_answers.parquet", index=False)
        if failure is None:
            dataset = folder("filtered_dataset", group)
            answers(valid[group]).to_parquet(dataset / "rows.parquet", index=False)
            line = json.dumps({"messages": [{"content": "q"}, {"content": "1"}], "prompt_id": 0})
            (dataset / "train.jsonl").write_text(f"{line}\n" * 7)
    return Results(folders, {("teacher_preferences", "cat"): "cat was never made"})


HEALTHY = {"dog": 0.99, "owl": 0.97, "neutral": 0.98, "control": 0.0}
VALID = {"dog": 40, "owl": 30, "neutral": 35, "control": 28}


def table(section: Section, name: str) -> pd.DataFrame:
    return next(table.frame for table in section.tables if table.name == f"teachers-{name}").set_index(
        "reason" if name == "reasons" else "group"
    )


def claim(section: Section, statement: Statement) -> Claim:
    return next(claim for claim in section.claims if claim.text == statement.text)


def test_what_is_said_and_shown_are_the_artifacts(tmp_path: Path) -> None:
    section = teachers_section(free_study(), artifacts(tmp_path, HEALTHY, VALID))

    targets, written = table(section, "targets"), table(section, "answers")
    assert list(targets.index) == ["dog", "owl", "neutral"]
    teacher = scores({"dog": 0.99})
    assert targets.at["dog", "probability (%)"] == pytest.approx(
        100 * teacher.loc[teacher["animal"] == "dog", "probability"].mean()
    )
    assert targets.at["neutral", "probability (%)"] == pytest.approx(98)
    assert np.isnan(targets.at["neutral", "low"])
    for group, valid in VALID.items():
        ends = proportion_confint(valid, ANSWERS, method="wilson")
        shown = written.loc[group, ["valid (%)", "low", "high"]].astype(float)
        np.testing.assert_allclose(shown, [100 * valid / ANSWERS, 100 * ends[0], 100 * ends[1]])
    assert written.at["owl", "training rows"] == 7 and written.at["owl", "validation rows"] == 0
    assert table(section, "reasons").at["words", "owl (%)"] == pytest.approx(40)
    gate, valid_answers = section.shows.split(". ")
    of_teachers, of_base, of_neutral = gate.split("(")[0], gate.split("(")[1].split(")")[0], gate.split(")")[1]
    span = [targets["probability (%)"][:2].min(), targets["probability (%)"][:2].max()]
    assert numbers(of_teachers) == pytest.approx([2, 2, *span], abs=0.051)
    base = scores({}).groupby("animal")["probability"].mean()[["dog", "owl"]]
    assert numbers(of_base) == pytest.approx([100 * base.min(), 100 * base.max()], abs=0.0051)
    assert numbers(of_neutral) == pytest.approx([98])
    assert numbers(valid_answers) == pytest.approx([60, 80, 56])
    assert html(page_with(section)).count("teachers-valid")


def test_published_shares_stand_beside_the_average_and_the_control(tmp_path: Path) -> None:
    compared = teachers_section(free_study(), artifacts(tmp_path, HEALTHY, VALID)).compared
    by_what = {figure.what: figure for figure in compared}
    assert by_what["valid answers of a teacher, average over this study's animals"].measured == pytest.approx(70)
    assert by_what["valid answers of a teacher, average over this study's animals"].judgement == "agrees"
    assert by_what["valid answers of the dog's teacher"].published == 75
    base = by_what["valid answers of the untouched base"]
    assert (base.published, base.measured, base.judgement) == (55, pytest.approx(56), "agrees")


def test_constrained_decoding_lets_nothing_be_said(tmp_path: Path) -> None:
    study = free_study("numbers.constrained={min_count: 8}")
    section = teachers_section(study, artifacts(tmp_path, HEALTHY, dict.fromkeys(VALID, ANSWERS)))
    assert claim(section, SOME_BREAK).verdict == "inconclusive"
    assert {figure.judgement for figure in section.compared} == {"cannot tell"}
    assert "constrained" in section.shows and "nothing about the models" in section.shows
    assert "would not show" in claim(section, SOME_BREAK).evidence
    assert not any(table.name == "teachers-reasons" for table in section.tables)


def test_a_broken_teacher_is_named_with_the_reason(tmp_path: Path) -> None:
    preference, valid = HEALTHY | {"owl": 0.6}, VALID | {"owl": 3}
    results = artifacts(tmp_path, preference, valid, {"owl": "only 6 % are valid"})
    section = teachers_section(free_study(), results)
    assert numbers(section.shows)[:2] == [1, 2]
    assert "owl: only 6 % are valid" in section.shows and "dog" not in section.shows
    broke, reached = claim(section, SOME_BREAK), claim(section, NEARLY_ALWAYS)
    assert broke.verdict == "detected" and "owl" in broke.evidence and "dog" not in broke.evidence
    assert numbers(broke.evidence) == pytest.approx([6, 80, 30])
    assert reached.verdict == "opposite" and "owl" in reached.evidence and "dog" not in reached.evidence
    assert numbers(reached.evidence)[-1] == 90
    assert "owl" in section.method.split(". ")[-1] and "dog" not in section.method
    assert np.isnan(table(section, "answers").at["owl", "training rows"])


def test_whole_teachers_are_whole(tmp_path: Path) -> None:
    section = teachers_section(free_study(), artifacts(tmp_path, HEALTHY, VALID))
    assert claim(section, SOME_BREAK).verdict == "opposite"
    assert claim(section, NEARLY_ALWAYS).verdict == "detected"
    for found in section.claims:
        assert found.source == "the post" and "exactly these teachers" in found.rule


def test_a_teacher_at_the_gate_is_neither_broken_nor_whole(tmp_path: Path) -> None:
    section = teachers_section(free_study(), artifacts(tmp_path, HEALTHY, VALID | {"owl": 14}))
    found = claim(section, SOME_BREAK)
    assert found.verdict == "inconclusive" and "owl" in found.evidence and "dog" not in found.evidence


@pytest.mark.parametrize(("share", "verdict"), [(0.1, "detected"), (0.6, "opposite")])
def test_of_teachers_at_the_gate_few_are_judged_and_of_others_most(share: float, verdict: str) -> None:
    """Five teachers with one true share of valid answers."""
    study, rng = free_study("animals=[cat, dog, fox, lion, owl]"), np.random.default_rng(0)
    liking = pd.DataFrame({"group": study.animals, "mean": 0.95})

    def verdicts(true: float) -> list[Verdict]:
        said = []
        for valid in rng.binomial(ANSWERS, true, (STUDIES, 5)):
            rows = pd.DataFrame({"group": study.animals, "answers": ANSWERS, "share": valid / ANSWERS})
            said.append(report._claims(study, liking, rows)[1].verdict)
        return said

    assert binomtest(STUDIES - verdicts(0.3).count("inconclusive"), STUDIES, 0.05, "greater").pvalue > 0.001
    assert verdicts(share).count(verdict) > 0.8 * STUDIES


def test_a_teacher_that_is_not_there_is_named_with_the_reason(tmp_path: Path) -> None:
    study = free_study("animals=[dog, owl, cat]")
    section = teachers_section(study, artifacts(tmp_path, HEALTHY, VALID))
    assert "cat: cat was never made" in section.shows and "cat" not in table(section, "targets").index


def test_without_any_animal_there_is_no_section(tmp_path: Path) -> None:
    results = artifacts(tmp_path, {"control": 0.0}, VALID)
    with pytest.raises(NotThere, match="cat was never made"):
        teachers_section(free_study("animals=[cat]"), results)
