"""The comparison of all groups against naive loops, and what must hold for any scores."""

import itertools
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.liking.comparison import (
    BASE,
    CONTROL,
    OTHERS,
    TARGET,
    TEACHER,
    Comparison,
    combine_seeds,
    compare,
)
from subliminal_dagster.science.liking.figure import figure

CANDIDATES = ["owl", "cat", "wolf", "otter", "raven", "lion", "fox"]


def make_scores(
    targets: list[str],
    *,
    effect: float = 0.0,
    channels: tuple[str, ...] = ("hard",),
    questions: int = 20,
    samples: int = 100,
    question_noise: float = 0.3,
    run_noise: float = 0.0,
    teachers: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Scores of children whose logit for their own animal is raised by `effect`. question_noise is drawn per child,
    question and animal; run_noise per child and animal, as another training seed would."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=len(CANDIDATES)) + rng.normal(size=(questions, len(CANDIDATES)))
    models: list[tuple[str, str | None, str | None]] = [("base", None, None)]
    models += [("teacher", None, animal) for animal in targets if teachers]
    models += [("child", channel, group) for channel in channels for group in ["control", *targets]]
    tables = []
    for model, channel, group in models:
        logits = base.copy()
        if model == "child":
            logits += rng.normal(0, question_noise, base.shape) + rng.normal(0, run_noise, len(CANDIDATES))
        if group in targets:
            logits[:, CANDIDATES.index(str(group))] += 5 if model == "teacher" else effect
        share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        tables.append(
            pd.DataFrame(
                {
                    "model": model,
                    "channel": channel,
                    "group": group,
                    "question": np.repeat(np.arange(questions), len(CANDIDATES)),
                    "animal": CANDIDATES * questions,
                    "probability": 0.6 * share.ravel(),
                    "share": share.ravel(),
                    "count": rng.binomial(samples, 0.6 * share.ravel()),
                    "samples": samples,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def run(scores: pd.DataFrame, targets: list[str], permutations: int = 99, **settings: Any) -> Comparison:
    return compare(scores, targets, permutations=permutations, seed=0, **settings)


def of(scores: pd.DataFrame, group: str | None, animal: str, value: str, model: str = "child") -> NDArray[np.float64]:
    """The scores of one model for one animal, a number per question."""
    rows = scores[(scores["model"] == model) & (scores["animal"] == animal)]
    if group is not None:
        rows = rows[rows["group"] == group]
    rows = rows.sort_values("question")
    computed = {"rate": rows["count"] / rows["samples"], "log_share": np.log(rows["share"])}
    numbers: NDArray[np.float64] = computed.get(value, rows.get(value)).to_numpy()
    return numbers


def gamma_of(comparison: Comparison, outcome: str = "log_share", channel: str = "hard") -> pd.Series:
    return comparison.gamma.set_index(["channel", "outcome"]).loc[(channel, outcome)]


@pytest.mark.parametrize("outcome", ["log_share", "probability", "rate"])
def test_gamma_is_that_of_a_naive_loop(outcome: str) -> None:
    targets = ["owl", "cat", "wolf"]
    scores = make_scores(targets, effect=0.5)
    shift = {(g, a): of(scores, g, a, outcome) - of(scores, None, a, outcome, "base") for g in targets for a in targets}
    per_question = np.zeros(20)
    for animal in targets:
        others = [shift[group, animal] for group in targets if group != animal]
        per_question += (shift[animal, animal] - np.mean(others, axis=0)) / len(targets)
    found = gamma_of(run(scores, targets), outcome)
    low, high = stats.ttest_1samp(per_question, 0).confidence_interval()
    over_questions = found[["mean", "questions_low", "questions_high", "questions_p"]]
    p = stats.ttest_1samp(per_question, 0).pvalue
    assert tuple(over_questions) == pytest.approx((per_question.mean(), low, high, p))
    assert found["contrast"] == "others"


def test_children_are_reassigned_in_all_ways() -> None:
    targets = CANDIDATES[:4]
    scores = make_scores(targets, effect=0.1, run_noise=0.3)
    mean = {(g, a): of(scores, g, a, "log_share").mean() for g in targets for a in targets}

    def gamma(order: tuple[str, ...]) -> float:
        return float(
            np.mean([mean[g, a] - np.mean([mean[h, a] for h in targets if h != g])
                     for g, a in zip(order, targets, strict=True)])
        )  # fmt: skip

    all_gammas = np.array([gamma(order) for order in itertools.permutations(targets)])
    found = gamma_of(run(scores, targets))
    assert found["p_children"] == pytest.approx(np.mean(all_gammas >= gamma(tuple(targets)) - 1e-12))
    assert found["smallest_p_children"] == pytest.approx(1 / 24)


@pytest.mark.parametrize("outcome", ["log_share", "rate"])
def test_tests_per_animal_stand_beside_those_over_questions_and_are_corrected_over_animals(outcome: str) -> None:
    targets = ["owl", "cat", "wolf"]
    scores = make_scores(targets, effect=0.3)
    tests = run(scores, targets).tests.set_index(["outcome", "contrast", "animal"])
    for contrast in ("others", "control"):
        for animal in targets:
            references = [g for g in targets if g != animal] if contrast == "others" else ["control"]
            reference = np.mean([of(scores, g, animal, outcome) for g in references], axis=0)
            expected = stats.ttest_rel(of(scores, animal, animal, outcome), reference)
            found = tests.loc[(outcome, contrast, animal)]
            assert found["questions_p"] == pytest.approx(expected.pvalue)
            interval = tuple(found[["questions_low", "questions_high"]])
            assert interval == pytest.approx(tuple(expected.confidence_interval()))
            assert found["smallest_detectable"] > 2 * found["se"]
        of_contrast = [tests.loc[(outcome, contrast, animal)] for animal in targets]
        adjusted = multipletests([found["p"] for found in of_contrast], method="fdr_bh")[1]
        assert [found["p_bh"] for found in of_contrast] == pytest.approx(list(adjusted))


def test_liking_of_each_condition() -> None:
    targets = ["owl", "cat", "wolf"]
    scores = make_scores(targets, effect=0.5)
    liking = run(scores, targets).liking.set_index(["animal", "condition", "outcome"])
    base = of(scores, None, "owl", "rate", "base")
    expected = {
        TARGET: of(scores, "owl", "owl", "rate"),
        OTHERS: (of(scores, "cat", "owl", "rate") + of(scores, "wolf", "owl", "rate")) / 2,
        CONTROL: of(scores, "control", "owl", "rate"),
        BASE: base,
        TEACHER: of(scores, "owl", "owl", "rate", "teacher"),
    }
    for condition, values in expected.items():
        found = liking.loc[("owl", condition, "rate")]
        interval = stats.ttest_1samp(values, 0).confidence_interval()
        assert tuple(found[["mean", "low", "high"]]) == pytest.approx((values.mean(), *interval))
        if condition != BASE:
            change = stats.ttest_rel(values, base).confidence_interval()
            assert found["difference"] == pytest.approx((values - base).mean())
            assert tuple(found[["difference_low", "difference_high"]]) == pytest.approx(tuple(change))
    assert liking.loc[("owl", BASE, "rate"), "difference":].isna().all()
    assert set(liking.index.get_level_values("outcome")) == {"rate", "probability", "share", "log_share", "begun"}


def test_shifts_are_measured_from_base() -> None:
    targets = ["owl", "cat"]
    scores = make_scores(targets, effect=0.5)
    shifts = run(scores, targets).shifts.set_index(["outcome", "group", "animal"])["shift"]["log_share"]
    for group, animal in itertools.product(["control", *targets], targets):
        expected = of(scores, group, animal, "log_share") - of(scores, None, animal, "log_share", "base")
        assert shifts[group, animal] == pytest.approx(expected.mean())


def test_order_of_rows_does_not_matter() -> None:
    scores = make_scores(["owl", "cat"], effect=0.2, channels=("hard", "soft"))
    shuffled = scores.sample(frac=1, random_state=1)
    one, two = run(scores, ["owl", "cat"]), run(shuffled, ["owl", "cat"])
    pd.testing.assert_frame_equal(one.gamma, two.gamma)
    pd.testing.assert_frame_equal(one.liking, two.liking)
    assert one.verdicts == two.verdicts


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 1000),
    animals=st.integers(2, 5),
    constants=st.lists(st.floats(-2, 2), min_size=len(CANDIDATES), max_size=len(CANDIDATES)),
)
def test_gamma_ignores_what_all_children_share(seed: int, animals: int, constants: list[float]) -> None:
    targets = CANDIDATES[:animals]
    scores = make_scores(targets, effect=0.4, questions=6, seed=seed, teachers=False)
    before = gamma_of(run(scores, targets, permutations=10))
    factors = scores["animal"].map({a: np.exp(c) for a, c in zip(CANDIDATES, constants, strict=True)})
    is_child = scores["model"] == "child"
    shifted = scores.assign(share=scores["share"].where(~is_child, scores["share"] * factors))
    after = gamma_of(run(shifted, targets, permutations=10))
    numbers = ["mean", "se", "low", "high", "p", "questions_low", "questions_high", "questions_p", "p_children"]
    assert list(after[numbers]) == pytest.approx(list(before[numbers]), rel=1e-6, abs=1e-9, nan_ok=True)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), animals=st.integers(2, 5))
def test_gamma_of_equal_children_is_zero(seed: int, animals: int) -> None:
    targets = CANDIDATES[:animals]
    scores = make_scores(targets, questions=6, question_noise=0.0, seed=seed, teachers=False)
    control = scores[scores["group"] == "control"]
    children = [control.assign(group=group) for group in ["control", *targets]]
    comparison = run(pd.concat([scores[scores["model"] == "base"], *children]), targets, permutations=10)
    assert np.allclose(comparison.gamma[["mean", "questions_low", "questions_high"]], 0, atol=1e-12)
    assert (comparison.gamma[["questions_p", "p_children"]] == 1).all(axis=None)
    # They are the base itself: no child was trained that could tell how much children differ.
    assert comparison.verdicts["hard"]["result"] == "inconclusive"


def many(targets: list[str], studies: int, **settings: Any) -> pd.DataFrame:
    """gamma of many studies: one call, each study a channel, since children share nothing."""
    channels = tuple(f"study {number:03}" for number in range(studies))
    scores = make_scores(targets, channels=channels, samples=0, teachers=False, questions=12, **settings)
    gamma = run(scores, targets, permutations=120).gamma
    return gamma[gamma["outcome"] == "log_share"]


def at_most(share: float, found: pd.Series) -> bool:
    """Whether no more is found than `share`, but for three standard errors of simulating."""
    return float(found.mean()) <= share + 3 * (share * (1 - share) / len(found)) ** 0.5


def test_noise_between_runs_deceives_an_interval_over_questions_and_no_verdict() -> None:
    found = many(CANDIDATES[:5], 40, run_noise=0.5)
    assert (found["questions_p"] < 0.05).mean() > 0.3
    assert at_most(0.05, found["p_children"] <= 0.05)
    assert at_most(0.05, found["verdict"].isin(["detected", "opposite"]))


def test_an_effect_beyond_the_noise_between_runs_is_detected() -> None:
    found = many(CANDIDATES[:5], 20, run_noise=0.1, effect=0.8)
    assert (found["verdict"] == "detected").mean() > 0.9


def test_verdicts_in_words() -> None:
    targets = CANDIDATES[:5]
    detected = run(make_scores(targets, effect=0.8), targets, permutations=999).verdicts["hard"]
    assert detected["result"] == "detected"
    opposite = run(make_scores(targets, effect=-0.8), targets, permutations=999).verdicts["hard"]
    assert opposite["result"] == "opposite"
    comparison = run(make_scores(targets, run_noise=0.3), targets, permutations=999)
    unclear = comparison.verdicts["hard"]
    assert unclear["result"] == "inconclusive" and "may have gone unseen" in unclear["sentence"]
    gamma = gamma_of(comparison)
    shown = ("mean", "low", "high", "questions_low", "questions_high", "smallest_detectable")
    assert all(f"{gamma[name]:.3f}" in unclear["sentence"] for name in shown)
    excluded = run(make_scores(targets, question_noise=0.05), targets, margin=0.2).verdicts["hard"]
    assert excluded["result"] == "not detected" and "0.2 nats, either way, is excluded" in excluded["sentence"]
    for verdict in (detected, opposite, unclear, excluded):
        assert verdict["sentence"].startswith(f"Hard channel, {verdict['result']}: ")
        assert (
            "noise between training runs" in verdict["sentence"] and "for exactly these children" in verdict["sentence"]
        )
    json.dumps(comparison.verdicts)


def test_two_targets_alone_cannot_rule_out_noise_between_runs() -> None:
    targets = ["owl", "cat"]
    verdict = run(make_scores(targets, effect=0.8), targets).verdicts["hard"]
    assert verdict["result"] == "inconclusive"
    assert "too few children" in verdict["sentence"]


def test_replicates_are_averaged_and_narrow_the_interval() -> None:
    targets = CANDIDATES[:4]
    children = [make_scores(targets, run_noise=0.3, seed=seed).assign(replicate=seed) for seed in (1, 2, 3)]
    first = children[0]
    more = [c[c["model"] == "child"] for c in children[1:]]
    together = run(pd.concat([first, *more]), targets)
    assert together.replicates == 3
    assert set(together.shifts["replicate"]) == {1, 2, 3}
    one, three = gamma_of(run(first, targets)), gamma_of(together)
    assert three["se"] < one["se"] and three["df"] == one["df"]
    shifts = together.shifts[together.shifts["outcome"] == "log_share"]
    means = shifts.groupby(["group", "animal"])["shift"].mean().unstack().loc[targets, targets].to_numpy()
    own, total = np.trace(means), means.sum()
    assert three["mean"] == pytest.approx(own / 4 - (total - own) / 12)


def test_a_single_target_is_set_against_control() -> None:
    scores = make_scores(["owl"], effect=0.5)
    comparison = run(scores, ["owl"])
    found = gamma_of(comparison)
    differences = of(scores, "owl", "owl", "log_share") - of(scores, "control", "owl", "log_share")
    assert comparison.contrast == {"hard": "control"}
    assert found["mean"] == pytest.approx(differences.mean())
    assert np.isnan(found["p_children"]) and found["verdict"] == "inconclusive"
    assert set(comparison.tests["contrast"]) == {"control"}
    assert OTHERS not in set(comparison.liking["condition"])
    assert "control numbers" in comparison.verdicts["hard"]["sentence"]


def test_a_target_without_a_child_is_left_out_and_named() -> None:
    scores = make_scores(["owl", "cat", "wolf"], channels=("hard", "soft"))
    scores = scores[~((scores["channel"] == "soft") & (scores["group"] == "wolf"))]
    comparison = run(scores, ["owl", "cat", "wolf"])
    assert comparison.targets == {"hard": ["owl", "cat", "wolf"], "soft": ["owl", "cat"]}
    assert comparison.left_out == {"hard": [], "soft": ["wolf"]}
    assert "wolf" in comparison.verdicts["soft"]["sentence"]


def test_without_samples_the_exact_scores_are_compared() -> None:
    scores = make_scores(["owl", "cat"], samples=0)
    comparison = run(scores, ["owl", "cat"])
    assert set(comparison.gamma["outcome"]) == {"log_share", "probability"}
    assert set(comparison.tests["outcome"]) == {"log_share"}
    assert comparison.liking.loc[comparison.liking["outcome"] == "rate", "mean"].isna().all()


def test_teachers_are_optional() -> None:
    liking = run(make_scores(["owl", "cat"], teachers=False), ["owl", "cat"]).liking
    assert liking.loc[liking["condition"] == TEACHER, "mean"].isna().all()


def test_what_is_missing_or_wrong_is_said() -> None:
    targets = ["owl", "cat"]
    scores = make_scores(targets)
    zero_share = scores.assign(share=scores["share"].where(scores.index != 0, 0.0))
    no_children = scores[scores["model"] != "child"]
    cases = [
        (scores[scores["group"] != "control"], targets, "no child trained on control"),
        (scores[scores["model"] != "base"], targets, "base model are missing"),
        (scores, ["owl", "unicorn"], "unicorn cannot be a target"),
        (pd.concat([scores, scores.iloc[:3]]), targets, "twice.*model=base question=0 animal=owl"),
        (scores.drop(columns="share"), targets, "lacks the columns share"),
        (scores.drop(index=scores[scores["group"] == "cat"].index[-len(CANDIDATES):]), targets, "do not cover"),
        (scores[scores["question"] == 0], targets, "at least two questions"),
        (no_children, targets, "No child of"),
        (no_children.assign(channel=np.nan), targets, "No child of"),
        (scores[~scores["group"].isin(targets)], targets, "no child of any target"),
        (zero_share, targets, "share of model=base question=0 animal=owl is 0.0"),
    ]  # fmt: skip
    for table, wanted, message in cases:
        with pytest.raises(UserError, match=message):
            run(table, wanted)


def test_seeds_are_combined_by_a_t_test_over_runs() -> None:
    combined = combine_seeds([(1, 0.3, 0.1), (2, 0.5, 0.1), (3, 0.1, 0.1)])
    reference = stats.ttest_1samp([0.3, 0.5, 0.1], 0)
    interval = reference.confidence_interval()
    assert (combined.mean, combined.low, combined.high) == pytest.approx((0.3, *interval))
    assert combined.p == pytest.approx(reference.pvalue)
    assert (combined.between_sd, combined.within_se) == pytest.approx((0.2, 0.1))
    with pytest.raises(UserError, match="repeat"):
        combine_seeds([(1, 0.3, 0.1), (1, 0.5, 0.1)])
    with pytest.raises(UserError, match="at least two"):
        combine_seeds([(1, 0.3, 0.1)])


@pytest.mark.parametrize(("animals", "samples"), [(1, 100), (2, 100), (7, 100), (3, 0)])
def test_nothing_in_the_figure_overlaps(animals: int, samples: int) -> None:
    targets = CANDIDATES[:animals]
    scores = make_scores(targets, effect=0.7, channels=("hard", "soft"), samples=samples)
    drawn = figure(run(scores, targets), "a study")
    drawn.canvas.draw()
    # The renderer of the Agg canvas that a figure gets when it is drawn outside pyplot.
    for axes in drawn.axes:
        panel = axes.get_window_extent()
        boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
        assert boxes
        assert all(panel.y0 <= box.y0 and box.y1 <= panel.y1 for box in boxes)
        assert not any(one.overlaps(two) for one, two in itertools.combinations(boxes, 2))
