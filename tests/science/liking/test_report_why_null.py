"""The report's section on the reason of a null: what it says, draws and lists is what `null_causes` found."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from subliminal_dagster.science.liking.null_causes import CHECKS, POWER, SIGNAL, VALID
from subliminal_dagster.science.liking.report_why_null import why_null_section
from subliminal_dagster.science.liking.signal import MEASURES
from subliminal_dagster.science.report.evidence import NotThere, Results, Section
from subliminal_dagster.science.report.page import Page, html
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study

SENTENCE = "No difference could be seen. The likely cause is signal in the numbers (dog, owl)."


def study_of(*overrides: str) -> Study:
    found = load_study("smollm2-135m-instruct", ["animals=[dog, owl]", *overrides])
    assert isinstance(found, Study)
    return found


def causes(verdicts: dict[tuple[str, str], str]) -> pd.DataFrame:
    """Every check of both animals, fine but for `verdicts` by (animal, check)."""
    rows = [
        {
            "group": animal,
            "check": check,
            "value": 12.345,
            "low": 11.0 if check != POWER else float("nan"),
            "high": 13.7 if check != POWER else float("nan"),
            "unit": "%",
            "wanted": f"wanted of {check}",
            "verdict": verdicts.get((animal, check), "fine"),
            "sentence": f"{animal} {check} found.",
        }
        for animal in ("dog", "owl")
        for check in CHECKS
    ]
    return pd.DataFrame(rows)


def signal(groups: dict[str, float]) -> pd.DataFrame:
    rows = [
        {
            "group": group,
            "measure": measure,
            "mean": mean * (0.1 if measure == "kl_written" else 1),
            "low": mean * 0.05,
            "high": mean * 1.5,
            "rows": 64,
            "tokens": 2500,
        }
        for group, mean in groups.items()
        for measure in MEASURES
    ]
    columns = ["group", "measure", "mean", "low", "high", "rows", "tokens"]
    return pd.DataFrame(rows, columns=columns)


def section_of(folder: Path, table: pd.DataFrame, of_groups: pd.DataFrame, study: Study | None = None) -> Section:
    table.to_parquet(folder / "causes.parquet", index=False)
    of_groups.to_parquet(folder / "signal.parquet", index=False)
    facts = {"kind": "cause", "cause": SIGNAL, "sentence": SENTENCE}
    (folder / "facts.json").write_text(json.dumps(facts))
    return why_null_section(study or study_of(), Results({("null_causes", None): folder}, {}))


GROUPS = {"owl": 1.2, "dog": 0.8, "neutral": 0.4, "control": 0.0}
VERDICTS = {("dog", SIGNAL): "likely cause", ("owl", SIGNAL): "likely cause", ("owl", VALID): "possible"}


def table(section: Section, name: str) -> pd.DataFrame:
    return next(each.frame for each in section.tables if each.name == f"why-null-{name}")


def test_the_cause_is_said_first_and_the_checks_stand_in_order(tmp_path: Path) -> None:
    section = section_of(tmp_path, causes(VERDICTS), signal(GROUPS))
    assert section.shows == (
        f"{SENTENCE} Of 9 checks, by the animal that fares worst: 1 likely cause, 1 possible and 7 fine."
    )
    checks = table(section, "checks")
    assert checks["check"].tolist() == [f"{number}. {check}" for number, check in enumerate(CHECKS, start=1)]
    of_signal, of_valid, of_power = (checks.iloc[CHECKS.index(check)] for check in (SIGNAL, VALID, POWER))
    assert of_signal[["verdict", "animals"]].tolist() == ["likely cause", "all"]
    assert of_valid[["verdict", "animals", "found"]].tolist() == ["possible", "owl", f"owl: owl {VALID} found."]
    assert of_power[["verdict", "animals", "wanted"]].tolist() == ["fine", "all", f"wanted of {POWER}"]
    details = table(section, "animals")
    assert len(details) == 2 * len(CHECKS)
    assert details["measured"].iloc[0] == "12.3 % [11.0, 13.7]"
    assert details.loc[details["check"] == POWER, "measured"].tolist() == ["12.3 %", "12.3 %"]
    assert html(Page("t", "f", "v", section.claims, [section], {})).count("why-null-signal")


def test_the_chart_shows_every_group_s_signal_with_its_interval(tmp_path: Path) -> None:
    section = section_of(tmp_path, causes({}), signal(GROUPS))
    (chart,) = section.charts
    whole, written = chart.figure.data
    assert dict(zip(whole.x, whole.y, strict=True)) == pytest.approx(GROUPS)
    assert dict(zip(written.x, written.y, strict=True))["owl"] == pytest.approx(0.12)
    assert whole.error_y.array[0] == pytest.approx(0.6)
    assert list(chart.figure.layout.xaxis.categoryarray) == ["dog", "owl", "neutral", "control"]
    assert "owl 1.2, dog 0.8" in chart.alt and "tokens that could be written: owl 0.12" in chart.alt
    listed = table(section, "signals")
    assert listed["group"].tolist() == ["dog", "owl", "neutral", "control"]
    assert listed.at[0, "from base, whole vocabulary"] == "0.80 [0.04, 1.20]"
    assert "first 64 training rows" in section.method
    assert "any fine-tuning does" in section.method and "constrained decoding lets through" in section.method


def test_method_names_the_controls_there_are(tmp_path: Path) -> None:
    study = study_of("numbers.constrained=null", "neutral=null")
    section = section_of(tmp_path, causes({}), signal({"dog": 0.8, "control": 0.0}), study)
    assert "neutral" not in section.method and "it carries none" in section.method
    assert "(number tokens)" in section.method


def test_without_any_signal_the_checks_remain(tmp_path: Path) -> None:
    section = section_of(tmp_path, causes({("dog", SIGNAL): "cannot tell"}), signal({}))
    assert section.charts == ()
    assert [each.name for each in section.tables] == ["why-null-checks", "why-null-animals"]
    assert "1 cannot tell and 8 fine" in section.shows
    assert "Signal:" not in section.method


def test_without_the_artifact_there_is_no_section() -> None:
    with pytest.raises(NotThere, match="no child was trained"):
        why_null_section(study_of(), Results({}, {("null_causes", None): "no child was trained"}))
