"""What is left of the effect: a planted loss is found, luck is not, and shares have the intervals they should."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_parts import table_of
from tiny_studies import tiny_study_settings

from subliminal_dagster.science.arms import report
from subliminal_dagster.science.arms.comparison import compare_arms, share_left, shifts_of
from subliminal_dagster.science.arms.figures import arms_figure, updates_figure
from subliminal_dagster.science.liking.children import MEAN, contrasts
from subliminal_dagster.science.report.evidence import NotThere, Results
from subliminal_dagster.science.settings.study import Study

ANIMALS = ["bear", "cat", "lion", "owl", "wolf"]
LEVELS = {"confidence": 0.95, "margin": 0.1}
BASE = np.random.default_rng(0).normal(size=(6, len(ANIMALS)))


def scores(logits: np.ndarray) -> pd.DataFrame:
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows = [
        {"question": question, "animal": animal, "share": share[question, place]}
        for question in range(len(share))
        for place, animal in enumerate(ANIMALS)
    ]
    return pd.DataFrame(rows)


def children(effects: dict[str, float], seed: int, *, common: float = 0.1, own: float = 0.06) -> pd.DataFrame:
    """Two children per animal and arm that like their animal by the arm's effect (nats) more. `common` is the noise
    (SD, nats) that all arms' children of one animal share, since their teacher is one, `own` that of every child."""
    rng = np.random.default_rng(seed)
    count, places = len(ANIMALS), np.arange(len(ANIMALS))
    shared = rng.normal(0, common, (count, 1, 1, count))
    found = []
    for arm, effect in effects.items():
        # Axes: group, replicate, question, animal.
        logits = BASE + shared + rng.normal(0, own, (count, 2, 1, count))
        logits[places, :, :, places] += effect
        share = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        group, replicate, question, animal = (axis.ravel() for axis in np.indices(share.shape))
        names = np.array(ANIMALS)
        columns = {"group": names[group], "replicate": replicate + 1, "question": question, "animal": names[animal]}
        found.append(pd.DataFrame(columns | {"share": share.ravel(), "arm": arm, "loss": 0.3, "steps": 12}))
    return pd.concat(found, ignore_index=True)


def compared(effects: dict[str, float], seed: int, **noise: float):  # type: ignore[no-untyped-def]
    return compare_arms(scores(BASE), children(effects, seed, **noise), list(effects), ANIMALS, **LEVELS)


def test_gamma_and_differences_are_those_of_the_children_by_hand() -> None:
    result = compared({"as_drawn": 0.4, "shuffled_within_rows": 0.0}, 1)
    shifts = result.shifts
    for arm, row in result.arms.set_index("arm").iterrows():
        mine = shifts[shifts["arm"] == arm]
        expected = contrasts(mine, ANIMALS, **LEVELS)
        (gamma,) = expected[(expected["animal"] == MEAN) & (expected["against"] == "others")].to_dict("records")
        for name in ("mean", "low", "high", "p"):
            assert row[name] == pytest.approx(gamma[name])
        square = mine.groupby(["group", "animal"])["shift"].mean().unstack()
        own = np.diagonal(square)
        assert row["mean"] == pytest.approx(np.mean(own - (square.sum(axis=0) - own) / 4))
        assert (row["children"], row["steps"], row["loss"]) == (10, 12, pytest.approx(0.3))
    (difference,) = result.differences.to_dict("records")
    gammas = result.arms.set_index("arm")["mean"]
    assert difference["mean"] == pytest.approx(gammas["shuffled_within_rows"] - gammas["as_drawn"])
    assert difference["share"] == pytest.approx(gammas["shuffled_within_rows"] / gammas["as_drawn"])


def test_shifts_are_means_over_questions_of_the_log_share_s_change() -> None:
    found = shifts_of(scores(BASE), children({"as_drawn": 0.3}, 2), ANIMALS)
    assert len(found) == len(ANIMALS) ** 2 * 2
    one = children({"as_drawn": 0.3}, 2)
    mine = one[(one["group"] == "cat") & (one["replicate"] == 2) & (one["animal"] == "owl")]["share"].to_numpy()
    before = scores(BASE).query("animal == 'owl'")["share"].to_numpy()
    row = found[(found["group"] == "cat") & (found["replicate"] == 2) & (found["animal"] == "owl")]
    assert row["shift"].item() == pytest.approx(np.mean(np.log(mine / before)))


def test_pairing_takes_out_what_teachers_have_in_common() -> None:
    result = compared({"as_drawn": 0.4, "sgd": 0.2}, 3, common=0.5, own=0.02)
    (difference,) = result.differences.to_dict("records")
    assert difference["se"] < 0.2 * result.arms["se"].min()
    assert difference["verdict_of_all"] == "opposite" and difference["low"] < -0.2 < difference["high"]


def test_on_null_data_no_arm_differs_and_a_planted_loss_is_found() -> None:
    names = ["as_drawn", *(f"layer_{i:02}" for i in range(5))]
    studies, differ, gammas = 60, 0, 0
    for seed in range(studies):
        result = compared(dict.fromkeys(names, 0.4), seed)
        differ += bool(result.differences["verdict_of_all"].isin(["detected", "opposite"]).any())
        nothing = compared(dict.fromkeys(names[:3], 0.0), 1000 + seed)
        gammas += bool(nothing.arms["verdict_of_all"].isin(["detected", "opposite"]).any())
    # At most 5 % of studies have an arm that differs; 8 of 60 would be three standard errors above.
    assert differ <= 8 and gammas <= 8
    planted = compared(dict.fromkeys(names, 0.4) | {"layer_03": 0.0}, 7)
    lost = planted.differences.set_index("arm")["verdict_of_all"]
    assert lost["layer_03"] == "opposite" and (lost == "opposite").sum() == 1


def test_the_share_that_is_left_is_covered_by_its_interval() -> None:
    covered, wide = 0, 0
    for seed in range(60):
        shifts = shifts_of(scores(BASE), children({"as_drawn": 0.5, "sgd": 0.2}, seed), ANIMALS)
        both = shifts[shifts["arm"] == "sgd"].merge(
            shifts[shifts["arm"] == "as_drawn"], on=["group", "replicate", "animal"], suffixes=("", "_other")
        )
        share, low, high = share_left(both, ANIMALS, 0.95)
        assert math.isnan(low) or low < share < high
        # Log shares of five candidates do not sum to the planted effects, but their ratio is the planted one.
        covered += math.isnan(low) or low < 0.4 < high
        wide += math.isnan(low)
    assert covered >= 52 and wide < 10


def test_no_share_is_named_of_an_effect_that_is_not_there() -> None:
    shifts = shifts_of(scores(BASE), children({"as_drawn": 0.02, "sgd": 0.3}, 5, common=0.3, own=0.3), ANIMALS)
    both = shifts[shifts["arm"] == "sgd"].merge(
        shifts[shifts["arm"] == "as_drawn"], on=["group", "replicate", "animal"], suffixes=("", "_other")
    )
    assert all(math.isnan(end) for end in share_left(both, ANIMALS, 0.95)[1:])


def test_an_arm_without_a_child_of_every_animal_is_left_out_and_others_are_compared_by_what_they_share() -> None:
    there = children({"as_drawn": 0.4, "sgd": 0.1, "inoculated": 0.1}, 4)
    there = there[~((there["arm"] == "sgd") & (there["group"] == "owl"))]
    there = there[~((there["arm"] == "inoculated") & (there["replicate"] == 2))]
    result = compare_arms(scores(BASE), there, ["as_drawn", "sgd", "inoculated"], ANIMALS, **LEVELS)
    assert list(result.arms["arm"]) == ["as_drawn", "inoculated"]
    mine = result.shifts[result.shifts["replicate"] == 1]
    by_arm = {arm: mine[mine["arm"] == arm] for arm in ("as_drawn", "inoculated")}
    paired = by_arm["inoculated"].merge(by_arm["as_drawn"], on=["group", "animal"], suffixes=("", "_d"))
    square = paired.assign(d=paired["shift"] - paired["shift_d"]).pivot(index="group", columns="animal", values="d")
    own = np.diagonal(square)
    expected = np.mean(own - (square.sum(axis=0) - own) / 4)
    assert result.differences["mean"].item() == pytest.approx(expected)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    settings = tiny_study_settings(tmp_path)
    settings["animals"] = ANIMALS
    settings["preferences"] |= {"candidates": ANIMALS}  # type: ignore[operator]
    settings["neutral"] = {"noun": "instrument", "answer": "violin"}
    settings["arms"] = {"names": list(EFFECTS)[:-1], "layers": [3]}
    return Study.model_validate(settings)


EFFECTS = {
    "as_drawn": 0.5,
    "shuffled_within_rows": 0.0,
    "divergence_alone": 0.5,
    "random_by_position": 0.0,
    "other_initialisation": 0.5,
    "own_subspace_out": 0.05,
    "random_subspace_out": 0.5,
    "layer_03": 0.5,
}


def results(folder: Path, effects: dict[str, float]) -> Results:
    result = compared(effects, 11, common=0.05, own=0.02)
    for name in ("arms", "differences", "animals", "shifts"):
        getattr(result, name).to_parquet(folder / f"{name}.parquet")
    (folder / "missing.json").write_text("{}")
    rows = [
        {"arm": arm, "block": block, "measure": measure, "groups": 5, "mean": 0.1, "low": 0.02, "high": 0.2}
        for arm in ("as_drawn", "other_initialisation")
        for block in (-1, 0, 1)
        for measure in ("own", "own minus others")
    ]
    pd.DataFrame(rows).assign(verdict="detected").to_parquet(folder / "own_teacher.parquet")
    return Results({("arm_liking", None): folder, ("arm_updates", None): folder}, {})


def test_the_report_says_which_arms_lose_the_effect_and_by_what_rule(study: Study, tmp_path: Path) -> None:
    section = report.section(study, results(tmp_path, EFFECTS))
    assert section.shows.startswith("Children trained as drawn show gamma +0.")
    lost = "Less than that is detected in 3 arms: shuffled within rows, random by position and own subspace out."
    assert lost in section.shows
    verdicts = {claim.text: claim.verdict for claim in section.claims}
    assert verdicts["The order of the numbers carries the effect"] == "detected"
    assert verdicts["Divergence tokens carry more of the effect than as many others at the same places"] == "detected"
    assert verdicts["From another start there is less of the effect"] in ("inconclusive", "not detected")
    without = "Without the animal's directions there is less of the effect than without random ones"
    assert verdicts[without] == "detected"
    assert verdicts["An adapter on one block alone is enough for the effect"] == "detected"
    update = "A child's update points the way of its own teacher's more than of other teachers'"
    assert verdicts[update] == "detected"
    # An arm that was not made is not spoken of.
    assert not any("SGD" in text for text in verdicts)
    table = table_of(section, "arms-gamma").set_index("arm")
    assert table.loc["shuffled within rows", "left of it (%)"] == pytest.approx(0, abs=10)
    assert len(section.charts) == 2 and all(chart.alt for chart in section.charts)


def test_on_null_data_the_report_claims_nothing_of_an_arm(study: Study, tmp_path: Path) -> None:
    section = report.section(study, results(tmp_path, dict.fromkeys(EFFECTS, 0.5)))
    assert "In no arm is less than that detected." in section.shows
    arms = [claim for claim in section.claims if "adjusted over all such differences" in claim.rule]
    assert arms and all(claim.verdict in ("inconclusive", "not detected") for claim in arms)


def test_without_children_as_drawn_there_is_no_section(study: Study, tmp_path: Path) -> None:
    with pytest.raises(NotThere, match="the children trained as drawn are missing"):
        report.section(study, results(tmp_path, {"sgd": 0.1}))


def test_the_figures_draw_every_arm_and_block(tmp_path: Path) -> None:
    there = results(tmp_path, EFFECTS)
    drawn = arms_figure(compared(EFFECTS, 11), "tiny")
    labels = [label.get_text() for label in drawn.axes[0].get_yticklabels()]
    assert labels == [arm.replace("_", " ") for arm in EFFECTS]
    both = updates_figure(pd.read_parquet(there.folder("arm_liking") / "own_teacher.parquet"), "tiny")
    assert [len(axes.lines[0].get_xdata()) for axes in both.axes] == [2, 2]
