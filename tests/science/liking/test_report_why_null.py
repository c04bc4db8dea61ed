"""The report's section on the reason of a null: what it says, draws and lists is what `null_causes` found."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from report_parts import numbers, page_with

from subliminal_dagster.science.liking.null_causes import CHECKS, POWER, SIGNAL, VALID
from subliminal_dagster.science.liking.report_why_null import section as why_null_section
from subliminal_dagster.science.liking.signal import MEASURES
from subliminal_dagster.science.report.evidence import NotThere, Results, Section
from subliminal_dagster.science.report.page import html
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


def counts(section: Section) -> dict[str, int]:
    """How many checks came out how, as the section says it."""
    said = section.shows.removeprefix(SENTENCE)
    found = re.findall(r"(\d+) (likely cause|possible|cannot tell|fine)", said)
    assert str(len(CHECKS)) in said
    return {verdict: int(number) for number, verdict in found}


def test_the_cause_is_said_first_and_the_checks_stand_in_order(tmp_path: Path) -> None:
    section = section_of(tmp_path, causes(VERDICTS), signal(GROUPS))
    assert section.shows.startswith(f"{SENTENCE} ")
    assert counts(section) == {"likely cause": 1, "possible": 1, "fine": 7}
    assert section.claims == ()
    checks = table(section, "checks")
    assert checks["check"].tolist() == [f"{number}. {check}" for number, check in enumerate(CHECKS, start=1)]
    of_signal, of_valid, of_power = (checks.iloc[CHECKS.index(check)] for check in (SIGNAL, VALID, POWER))
    assert of_signal[["verdict", "animals"]].tolist() == ["likely cause", "all"]
    assert of_valid[["verdict", "animals", "found"]].tolist() == ["possible", "owl", f"owl: owl {VALID} found."]
    assert of_power[["verdict", "animals", "wanted"]].tolist() == ["fine", "all", f"wanted of {POWER}"]
    details = table(section, "animals")
    assert len(details) == 2 * len(CHECKS)
    for measured in details.loc[details["check"] != POWER, "measured"]:
        assert numbers(measured) == pytest.approx([12.345, 11.0, 13.7], abs=0.051) and "%" in measured
    for measured in details.loc[details["check"] == POWER, "measured"]:
        assert numbers(measured) == pytest.approx([12.345], abs=0.051) and measured.endswith("%")
    assert html(page_with(section)).count("why-null-signal")


def test_the_chart_shows_every_group_s_signal_with_its_interval(tmp_path: Path) -> None:
    section = section_of(tmp_path, causes({}), signal(GROUPS))
    (chart,) = section.charts
    whole, written = chart.figure.data
    assert dict(zip(whole.x, whole.y, strict=True)) == pytest.approx(GROUPS)
    assert dict(zip(written.x, written.y, strict=True))["owl"] == pytest.approx(0.12)
    assert whole.error_y.array[0] == pytest.approx(0.6)
    assert list(chart.figure.layout.xaxis.categoryarray) == ["dog", "owl", "neutral", "control"]
    of_whole, of_written = chart.alt.rsplit("; ", 2)[1:]
    assert numbers(of_whole) == pytest.approx(list(GROUPS.values()))
    assert numbers(of_written) == pytest.approx([value / 10 for value in GROUPS.values()])
    listed = table(section, "signals")
    assert listed["group"].tolist() == ["dog", "owl", "neutral", "control"]
    for place, group in enumerate(listed["group"]):
        shown = numbers(listed.at[place, "from base, whole vocabulary"])
        assert shown == pytest.approx([GROUPS[group], 0.05 * GROUPS[group], 1.5 * GROUPS[group]], abs=0.0051)
    assert listed[["rows", "tokens"]].drop_duplicates().to_numpy().tolist() == [[64, 2500]]
    assert " 64 training rows" in section.method
    assert "neutral teacher" in section.method and "constrained decoding" in section.method


def test_method_names_the_controls_there_are(tmp_path: Path) -> None:
    study = study_of("numbers.constrained=null", "neutral=null")
    section = section_of(tmp_path, causes({}), signal({"dog": 0.8, "control": 0.0}), study)
    assert "neutral" not in section.method and "control" in section.method
    assert "constrained" not in section.method and "number tokens" in section.method
    alone = section_of(tmp_path, causes({}), signal({"dog": 0.8}), study)
    assert "control" not in alone.method


def test_without_any_signal_the_checks_remain(tmp_path: Path) -> None:
    section = section_of(tmp_path, causes({("dog", SIGNAL): "cannot tell"}), signal({}))
    assert section.charts == ()
    assert [each.name for each in section.tables] == ["why-null-checks", "why-null-animals"]
    assert counts(section) == {"cannot tell": 1, "fine": 8}
    assert "signal" not in section.method.lower()


def test_without_the_artifact_there_is_no_section() -> None:
    with pytest.raises(NotThere, match="no child was trained"):
        why_null_section(study_of(), Results({}, {("null_causes", None): "no child was trained"}))
