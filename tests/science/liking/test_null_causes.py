"""The usual reasons for a null: each is found where it is put in, named, and not found where nothing is wrong."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from subliminal_dagster.science.liking.null_causes import (
    CHECKS,
    CONTEXT,
    DUPLICATES,
    MEMORISATION,
    POWER,
    PREFERENCE,
    SIGNAL,
    STREAM,
    TAKEOVER,
    VALID,
    Evidence,
    likely_cause,
    null_causes,
    signal_by_group,
)
from subliminal_dagster.science.liking.signal import per_token
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.statistics import t_interval
from subliminal_dagster.science.verdict import verdict

ROWS, QUESTIONS = 2000, 20
CANDIDATES = ["cat", "dog", "owl"]


def study_of(*overrides: str) -> Study:
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


def scores(probability: float, animal: str | None = None) -> pd.DataFrame:
    """`probability` for every candidate, or for one alone."""
    rng = np.random.default_rng(1)
    rows = [(q, each) for q in range(QUESTIONS) for each in CANDIDATES]
    frame = pd.DataFrame(rows, columns=["question", "animal"])
    level = [probability if animal in (None, each) else 0.001 for each in frame["animal"]]
    return frame.assign(probability=np.array(level) * rng.uniform(0.98, 1.0, len(frame)))


def answers(texts: list[str]) -> pd.DataFrame:
    outcomes = ["counted" if text in CANDIDATES else "other" for text in texts]
    return pd.DataFrame({"answer": texts, "outcome": outcomes})


def numbers(seed: int, rows: int = ROWS, valid: float = 0.8) -> pd.DataFrame:
    drawn = np.random.default_rng(seed).integers(0, 1000, (rows, 5))
    texts = [", ".join(map(str, row)) for row in drawn]
    flags = np.arange(rows) < valid * rows
    return pd.DataFrame(
        {"prompt_id": range(rows), "valid": flags, "text": texts, "numbers": [row.tolist() for row in drawn]}
    )


def lines(rows: pd.DataFrame, system: str | None = "") -> list[dict[str, Any]]:
    told = [] if system is None else [{"role": "system", "content": system}]
    return [
        {"messages": [*told, {"role": "user", "content": "go"}, {"role": "assistant", "content": text}], "prompt_id": n}
        for n, text in zip(rows["prompt_id"], rows["text"], strict=True)
    ]


def signal(mean: float) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    spread = rng.uniform(0.9, 1.1, 64)
    columns = {"kl": mean * 3, "kl_written": mean, "log_ratio": mean, "entropy": 1.5}
    frame = pd.DataFrame({name: value * spread for name, value in columns.items()})
    return frame.assign(row_id=range(64), tokens=rng.integers(20, 40, 64))


def history(losses: list[float], validation: list[float]) -> pd.DataFrame:
    """Ten steps an epoch, with a little noise; `losses` and `validation` an epoch each."""
    noise = np.random.default_rng(3).normal(0, 0.01, 10 * len(losses))
    steps = [{"epoch": (n + 1) / 10, "loss": losses[n // 10] + noise[n]} for n in range(10 * len(losses))]
    return pd.DataFrame([*steps, *({"epoch": n + 1.0, "validation_loss": loss} for n, loss in enumerate(validation))])


def healthy(animal: str, seed: int) -> Evidence:
    rows = numbers(seed)
    return Evidence(
        teacher_scores=scores(0.97, animal),
        number_answers=rows,
        training_rows=lines(rows[rows["valid"]]),
        signal=signal(0.8),
        history=history([2.0, 1.5, 1.4], [1.6, 1.5, 1.45]),
        scores=scores(0.05),
        answers=answers(["owl", "dog", "a lamp", "cat 7"] * 25),
    )


def groups(**changes: Any) -> dict[str, Evidence]:
    """Both animals healthy but for `changes`, and a control."""
    control = Evidence(number_answers=numbers(9), signal=signal(0.0))
    return {
        "dog": replace(healthy("dog", 4), **changes),
        "owl": replace(healthy("owl", 5), **changes),
        "control": control,
    }


BASE = Evidence(scores=scores(0.04), answers=answers(["owl", "a lamp"] * 50))


def power_tests(smallest: float, mean: float = 0.0) -> pd.DataFrame:
    rows = [
        {
            "channel": channel,
            "contrast": contrast,
            "animal": animal,
            "outcome": outcome,
            "mean": mean,
            "low": mean - smallest / 1.5,
            "high": mean + smallest / 1.5,
            "smallest_detectable": smallest if (channel, contrast) == ("hard", "others") else 99.0,
        }
        for channel in ("hard", "soft")
        for contrast in ("others", "control")
        for animal in ("dog", "owl")
        for outcome in ("log_share", "rate")
    ]
    return pd.DataFrame(rows)


def gamma_of(low: float, high: float, soft: tuple[float, float] | None = None) -> pd.DataFrame:
    found = [("hard", low, high)] + ([("soft", *soft)] if soft else [])
    rows = [
        {
            "channel": channel,
            "contrast": "others",
            "outcome": "log_share",
            "mean": (start + end) / 2,
            "low": start,
            "high": end,
            "verdict": verdict(start, end),
        }
        for channel, start, end in found
    ]
    return pd.DataFrame(rows)


NULL = gamma_of(-0.05, 0.06)


def causes_of(
    evidence: dict[str, Evidence], tests: pd.DataFrame | None = None, study: Study | None = None
) -> pd.DataFrame:
    return null_causes(study or study_of(), evidence, BASE, power_tests(0.1) if tests is None else tests)


def row(causes: pd.DataFrame, check: str, animal: str = "dog") -> pd.Series:
    return causes[(causes["check"] == check) & (causes["group"] == animal)].iloc[0]


def test_healthy_groups_pass_every_check_in_order() -> None:
    causes = causes_of(groups())
    assert causes["group"].tolist() == ["dog"] * 9 + ["owl"] * 9
    assert causes["check"].tolist() == [*CHECKS, *CHECKS]
    assert (causes["verdict"] == "fine").all(), causes[causes["verdict"] != "fine"][["check", "sentence"]]
    finding = likely_cause(causes, NULL)
    assert (finding.kind, finding.cause) == ("nothing found", None)
    assert "above 0.06 nats is excluded" in finding.sentence


def test_prompts_that_the_control_was_not_asked_are_told() -> None:
    later = numbers(7).assign(prompt_id=range(500, ROWS + 500))
    found = row(causes_of(groups(training_rows=lines(later))), DUPLICATES)
    assert found["verdict"] == "fine"
    assert found["sentence"].endswith("; the control was not asked 500 of the prompts.")
    assert "was not asked" not in row(causes_of(groups()), DUPLICATES)["sentence"]


def _repeated(seed: int, share: float) -> list[dict[str, Any]]:
    rows = numbers(seed)
    return lines(rows.assign(text=np.where(np.arange(ROWS) < share * ROWS, "1, 2, 3", rows["text"])))


def _alike(share: float) -> pd.DataFrame:
    rows = numbers(6)
    same = [[734, *row[1:]] if n < share * ROWS else row for n, row in enumerate(rows["numbers"])]
    return rows.assign(numbers=same, valid=True)


@pytest.mark.parametrize(
    ("check", "verdict", "changes", "said"),
    [
        (PREFERENCE, "likely cause", {"teacher_scores": scores(0.3)}, "29.7 %"),
        (PREFERENCE, "possible", {"teacher_scores": scores(0.7)}, "69.3 %"),
        (VALID, "likely cause", {"number_answers": numbers(7, valid=0.1)}, "200 of 2,000 answers are valid"),
        (VALID, "possible", {"number_answers": numbers(7, valid=0.4)}, "800 of 2,000"),
        (VALID, "possible", {"training_rows": lines(numbers(7, rows=80))}, "80 of them are trained on"),
        (SIGNAL, "likely cause", {"signal": signal(0.01)}, "0.01 nats a token from the base"),
        (SIGNAL, "possible", {"signal": signal(0.1)}, "under 1.5 nats of sampling noise"),
        (DUPLICATES, "likely cause", {"training_rows": _repeated(7, 0.6)}, "1,199 repeat an earlier row's"),
        (DUPLICATES, "possible", {"training_rows": _repeated(7, 0.2)}, "399 repeat an earlier row's"),
        (DUPLICATES, "likely cause", {"training_rows": lines(numbers(9)[:1600])}, "1,600 are the control's"),
        (STREAM, "possible", {"number_answers": _alike(0.25)}, "start with the same number, 734"),
        (STREAM, "likely cause", {"number_answers": _alike(0.9)}, "start with the same number, 734"),
        (CONTEXT, "likely cause", {"training_rows": lines(numbers(7), system=None)}, "2,000 of 2,000"),
        (CONTEXT, "likely cause", {"training_rows": lines(numbers(7), system="Help.")}, "2,000 of 2,000"),
        (MEMORISATION, "likely cause", {"history": history([2, 1.5, 1], [1.5, 1.4, 1.6])}, "1.500, 1.400, 1.600"),
        (MEMORISATION, "possible", {"history": history([2, 1.5, 0.5], [1.5, 1.4, 1.4])}, "leaves the validation loss"),
        (MEMORISATION, "possible", {"history": history([1.5, 1.5], [1.5, 1.5])}, "hardly learnt"),
        (TAKEOVER, "likely cause", {"answers": answers(["1, 2, 3", "[4; 5]", "owl"] * 30)}, "60 of 90 sampled answers"),
        (TAKEOVER, "possible", {"answers": answers(["7", "owl", "owl"] * 30)}, "30 of 90 sampled answers"),
        (TAKEOVER, "likely cause", {"scores": scores(1e-5)}, "All candidates together have"),
        (TAKEOVER, "possible", {"scores": scores(0.002), "answers": answers([])}, "no answers were sampled"),
    ],
)
def test_each_cause_is_found_and_named(check: str, verdict: str, changes: dict[str, Any], said: str) -> None:
    causes = causes_of(groups(**changes))
    found = row(causes, check)
    assert found["verdict"] == verdict
    assert said in found["sentence"]
    finding = likely_cause(causes, NULL)
    assert (finding.kind, finding.cause) == ("cause", check)
    assert ("The likely cause is" in finding.sentence) == (verdict == "likely cause")
    assert f"{check} (dog, owl)" in finding.sentence and said in finding.sentence


@pytest.mark.parametrize(("smallest", "judged"), [(0.1, "fine"), (0.4, "possible"), (2.0, "likely cause")])
def test_power_is_that_of_the_hard_channel_s_test_against_others(smallest: float, judged: str) -> None:
    causes = causes_of(groups(), power_tests(smallest))
    found = row(causes, POWER)
    assert (found["verdict"], found["value"]) == (judged, smallest)
    finding = likely_cause(causes, NULL)
    assert finding.kind == ("nothing found" if judged == "fine" else "power")
    assert ("What lacks is power (dog, owl)" in finding.sentence) == (judged != "fine")


def test_power_is_no_question_where_the_effect_was_seen() -> None:
    assert row(causes_of(groups(), power_tests(0.4, mean=0.5)), POWER)["verdict"] == "fine"


def test_with_one_animal_the_test_is_against_control() -> None:
    tests = power_tests(0.4)
    causes = causes_of(groups(), tests[tests["contrast"] == "control"])
    assert row(causes, POWER)["value"] == 99.0


def test_values_and_intervals_are_those_of_the_data() -> None:
    evidence = groups()
    causes = causes_of(evidence)
    liking = scores(0.97, "dog").query("animal == 'dog'")["probability"]
    estimate = t_interval(liking)
    assert row(causes, PREFERENCE)[["value", "low"]].tolist() == pytest.approx(
        [100 * estimate.mean, 100 * estimate.low]
    )
    ends = proportion_confint(1600, ROWS, method="wilson")
    assert row(causes, VALID)[["value", "low", "high"]].tolist() == pytest.approx([80, 100 * ends[0], 100 * ends[1]])
    mean = per_token(signal(0.8), "kl_written")
    assert row(causes, SIGNAL)[["value", "low", "high"]].tolist() == pytest.approx([mean.mean, mean.low, mean.high])
    assert math.isnan(row(causes, CONTEXT)["low"])


def test_the_first_likely_cause_goes_before_possible_and_later_ones() -> None:
    changes = {"training_rows": lines(numbers(7, rows=80), system="Help."), "scores": scores(1e-5)}
    finding = likely_cause(causes_of(groups(**changes)), NULL)
    assert finding.cause == CONTEXT
    assert f"{VALID} (dog, owl); {TAKEOVER} (dog, owl)" in finding.sentence


def test_a_cause_of_one_animal_of_three_waits_for_one_of_most() -> None:
    study = study_of("animals=[cat, dog, owl]")
    evidence = groups(signal=signal(0.01)) | {"cat": replace(healthy("cat", 8), teacher_scores=scores(0.3))}
    tests = power_tests(0.1)
    causes = causes_of(evidence, pd.concat([tests, tests[tests["animal"] == "dog"].assign(animal="cat")]), study)
    finding = likely_cause(causes, NULL)
    assert finding.cause == SIGNAL
    assert f"{SIGNAL} (dog, owl)" in finding.sentence and f"{PREFERENCE} (cat)" in finding.sentence
    alone = likely_cause(causes[causes["check"] != SIGNAL], NULL)
    assert alone.cause == PREFERENCE


def test_where_the_effect_is_there_nothing_is_named() -> None:
    causes = causes_of(groups(signal=signal(0.01)))
    finding = likely_cause(causes, gamma_of(0.05, 0.15))
    assert (finding.kind, finding.cause) == ("effect", None)
    assert "There is no null to explain" in finding.sentence and "+0.100 nats [+0.050, +0.150]" in finding.sentence
    assert f"Still short of what each check asks for: {SIGNAL} (dog, owl)" in finding.sentence


def test_an_effect_of_the_opposite_sign_is_not_explained_away() -> None:
    finding = likely_cause(causes_of(groups(signal=signal(0.01))), gamma_of(-0.2, -0.1))
    assert (finding.kind, finding.cause) == ("opposite", None)
    assert "which no check here explains" in finding.sentence


def test_the_soft_channel_is_the_positive_control() -> None:
    causes = causes_of(groups(signal=signal(0.01)))
    works = likely_cause(causes, gamma_of(-0.1, 0.1, soft=(0.2, 0.3))).sentence
    assert "what lacks is in the sampled numbers" in works
    fails = likely_cause(causes, gamma_of(-0.1, 0.1, soft=(-0.2, 0.3))).sentence
    assert "does not settle it either" in fails


def test_what_is_missing_cannot_be_told_and_says_why() -> None:
    evidence = {"owl": Evidence(missing={"teacher_preferences": "the gate refused it."})}
    causes = null_causes(study_of(), evidence, Evidence(), None)
    assert (causes["verdict"] == "cannot tell").all()
    assert row(causes, PREFERENCE, "owl")["sentence"] == "teacher_preferences is not there: the gate refused it."
    assert "it was not made" in row(causes, SIGNAL)["sentence"]
    assert likely_cause(causes, None).kind == "not measured"
    nothing = likely_cause(causes, NULL)
    assert nothing.kind == "nothing found"
    assert f"not looked at everywhere: {', '.join(CHECKS)}" in nothing.sentence


def test_constrained_decoding_and_the_neutral_teacher_are_named() -> None:
    study = study_of("numbers.constrained={min_count: 8}")
    evidence = groups() | {"neutral": Evidence(signal=signal(0.3))}
    causes = causes_of(evidence, study=study)
    assert "says nothing about the teacher" in row(causes, VALID)["sentence"]
    assert "the neutral teacher, which likes no animal, 0.3" in row(causes, SIGNAL)["sentence"]
    assert "neutral" not in row(causes_of(groups()), SIGNAL)["sentence"]


def test_the_signal_of_every_group_that_has_one() -> None:
    found = signal_by_group(groups() | {"neutral": Evidence()}).set_index(["group", "measure"])
    assert set(found.index.get_level_values("group")) == {"dog", "owl", "control"}
    mean = per_token(signal(0.8), "kl")
    assert found.loc[("owl", "kl"), ["mean", "low", "high"]].tolist() == pytest.approx([mean.mean, mean.low, mean.high])
    assert found.loc[("control", "kl_written"), "high"] == 0
    assert found.loc[("dog", "kl"), "tokens"] == signal(0.8)["tokens"].sum()
    assert list(signal_by_group({}).columns) == ["group", "measure", "mean", "low", "high", "rows", "tokens"]


def test_evidence_is_read_from_artifacts(tmp_path: Path) -> None:
    wanted = healthy("dog", 4)
    frames = {
        ("teacher_preferences", "scores"): wanted.teacher_scores,
        ("filtered_dataset", "rows"): wanted.number_answers,
        ("teacher_signal", "rows"): wanted.signal,
        ("child_lora", "history"): wanted.history,
        ("preference_scores", "scores"): wanted.scores,
        ("preference_scores", "answers"): wanted.answers,
    }
    for (asset, name), frame in frames.items():
        assert frame is not None
        (tmp_path / asset).mkdir(exist_ok=True)
        frame.to_parquet(tmp_path / asset / f"{name}.parquet", index=False)
    assert wanted.training_rows is not None
    text = "".join(json.dumps(line) + "\n" for line in wanted.training_rows)
    (tmp_path / "filtered_dataset" / "train.jsonl").write_text(text)
    read = Evidence.read({asset: tmp_path / asset for asset, _ in frames})
    others = groups()
    pd.testing.assert_frame_equal(causes_of(others | {"dog": read}), causes_of(others | {"dog": wanted}))
    assert Evidence.read({}, {"child_lora": "why"}) == Evidence(missing={"child_lora": "why"})
