"""What the post says about toy models, and what goes past it, checked against the tables of a toy study.

Every statement has a criterion fixed beforehand and a verdict that follows from 95 % t intervals over seeds, so that a
difference within the seeds' spread decides nothing. Ablated features are averaged within a seed first.

Belongs here: the statements, their criteria and verdicts. Does not belong here: the measures (`sweep`, `digits`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from subliminal_dagster.science.statistics import Estimate, t_interval

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["holds", "does not hold", "not measured"]

NOTHING = 0.1
"""A share below this counts as nothing recovered, a relative difference below this as equal."""


@dataclass(frozen=True)
class Statement:
    """One statement, who makes it ("post", or "control" for what the post did not try), when it is taken to hold, what
    was measured, and whether it holds."""

    statement: str
    source: str
    criterion: str
    measured: str
    verdict: Verdict


def per_seed(
    children: pd.DataFrame, setting: str, experiment: str, density: float, column: str, auxiliary: int = 0
) -> pd.Series:
    """`column` of a setting's children at one density, averaged over ablated features: one value a seed, indexed by
    seed. Seeds whose teacher learnt no judged feature are left out; empty where the setting was not run so."""
    rows = children[
        (children["setting"] == setting)
        & (children["experiment"] == experiment)
        & (children["density"] == density)
        & (children["auxiliary"] == auxiliary)
    ]
    return rows.groupby("seed")[column].mean().dropna()


def post_statements(children: pd.DataFrame, models: pd.DataFrame, post: str) -> list[Statement]:
    """The post's own statements, checked in the setting named `post`.

    `children` and `models` are the tables of `sweep.Sweep` of both experiments.
    """
    own = children[children["setting"] == post]
    densest, sparsest = own["density"].max(), own["density"].min()
    extra = sorted(own.loc[own["experiment"] == "auxiliary", "auxiliary"].unique())
    teachers = models[(models["setting"] == post) & (models["experiment"] == "ablated") & (models["role"] == "teacher")]

    def ablated(density: float, column: str) -> pd.Series:
        return per_seed(own, post, "ablated", density, column)

    def ratio(k: int, density: float = sparsest, column: str = "norm_ratio") -> pd.Series:
        return per_seed(own, post, "auxiliary", density, column, k)

    dense = teachers[teachers["density"] == densest].set_index("seed")["superposition"]
    by_density = teachers.groupby("density")["superposition"].mean().sort_index(ascending=False)
    falls = [step for step in by_density.diff().dropna() if step < 0]
    found = [
        _statement(
            "Without sparsity the teacher represents one feature a hidden dimension: no superposition.",
            f"||W||_F^2 / m at 1-S = {densest:g} is within {NOTHING:g} of 1",
            dense,
            lambda e: abs(e.low - 1) < NOTHING and abs(e.high - 1) < NOTHING,
        ),
        Statement(
            "Features per dimension grow with sparsity.",
            "post",
            f"the mean over seeds falls by no more than {NOTHING:g} from any density to the next sparser one, and more "
            "than doubles in all",
            f"from {by_density.iloc[0]:.2f} at 1-S = {densest:g} to {by_density.iloc[-1]:.2f} at {sparsest:g}; largest "
            f"fall on the way {max((-f for f in falls), default=0):.2f}",
            "holds"
            if all(f > -NOTHING for f in falls) and by_density.iloc[-1] > 2 * by_density.iloc[0]
            else "does not hold",
        ),
        _statement(
            "Ablated: without superposition the child does not learn the ablated feature at all.",
            f"at 1-S = {densest:g} the child's norm is below {NOTHING:g} of the teacher's",
            ablated(densest, "norm_ratio"),
            lambda e: e.high < NOTHING,
        ),
        _statement(
            "Ablated: at 1-S = 0.1 the teacher's matrix is almost completely reconstructed.",
            f"more than {1 - NOTHING:g} of the way to the ablated row of the teacher's W^T W",
            ablated(0.1, "recovered"),
            lambda e: e.low > 1 - NOTHING,
        ),
        _statement(
            "Ablated: at 1-S = 0.01 the child's norm equals the teacher's.",
            f"norm ratio within {NOTHING:g} of 1",
            ablated(0.01, "norm_ratio"),
            lambda e: abs(e.low - 1) < NOTHING and abs(e.high - 1) < NOTHING,
        ),
    ]
    for k in extra:
        found.append(
            _statement(
                f"Auxiliary, k = {k}: at high sparsity the child reaches 30 to 50 % of the teacher's norms.",
                f"the interval of the norm ratio at 1-S = {sparsest:g} lies in or over 0.3 to 0.5",
                ratio(k),
                lambda e: 0.3 <= e.mean <= 0.5 or (e.low < 0.5 and e.high > 0.3),
            )
        )
        found.append(
            _statement(
                f"Auxiliary, k = {k}: without superposition the child learns nothing of the teacher's features.",
                f"less than {NOTHING:g} of the way to their rows of the teacher's W^T W at 1-S = {densest:g}",
                ratio(k, densest, "recovered"),
                lambda e: e.high < NOTHING,
            )
        )
    for k in extra:
        if k != 5 and 5 in extra:
            found.append(
                _statement(
                    f"Auxiliary: five auxiliary features do better than {k}.",
                    f"the norm ratio at 1-S = {sparsest:g} is larger, by the interval of the paired differences",
                    ratio(5) - ratio(k),
                    lambda e: e.low > 0,
                )
            )
    return found


def setting_statements(children: pd.DataFrame, post: str, predictions: Mapping[str, str]) -> list[Statement]:
    """What the settings other than the post's show, at the density where their children recover most.

    `predictions` maps a setting to "recovery" or "nothing", see `AutoencoderSettings`.
    """
    found = []
    for setting, prediction in predictions.items():
        rows = children[(children["setting"] == setting) & (setting != post)]
        for experiment in ("ablated", "auxiliary"):
            part = rows[rows["experiment"] == experiment]
            means = part.groupby(["auxiliary", "density"])["recovered"].mean().dropna()
            if means.empty:
                continue
            k, density = cast("tuple[int, float]", means.idxmax())
            best = per_seed(children, setting, experiment, density, "recovered", k)
            posts = per_seed(children, post, experiment, density, "recovered", k)
            superposed = part.loc[part["density"] == density, "teacher_superposition"].mean()
            place = (
                f"at 1-S = {density:g}{f' and k = {k}' if k else ''}, where the teacher's superposition is "
                f"{superposed:.2f}" + (f" and the setting {post} recovers {posts.mean():.3f}" if len(posts) else "")
            )
            if prediction == "nothing":
                sentence = f"{experiment.capitalize()}, {setting}: nothing is recovered at any density."
                criterion = f"recovery is below {NOTHING:g} where it is largest: {place}"
                found.append(_statement(sentence, criterion, best, lambda e: e.high < NOTHING, "control"))
            else:
                sentence = f"{experiment.capitalize()}, {setting}: children recover here too."
                criterion = f"recovery is above {NOTHING:g} where it is largest: {place}"
                found.append(_statement(sentence, criterion, best, lambda e: e.low > NOTHING, "control"))
    return found


def sparser_statements(children: pd.DataFrame) -> list[Statement]:
    """Whether recovery goes on growing beyond 1-S = 1e-3, wherever that and a sparser density were run."""
    found = []
    for _, part in children.groupby(["setting", "experiment", "auxiliary"], sort=False):
        setting, experiment, k = part.iloc[0][["setting", "experiment", "auxiliary"]]
        sparsest = part["density"].min()
        if sparsest < 1e-3 and (part["density"] == 1e-3).any():
            more, less = (per_seed(part, setting, experiment, d, "recovered", k) for d in (sparsest, 1e-3))
            sentence = (
                f"{experiment.capitalize()}, {setting}{f', k = {k}' if k else ''}: no increase beyond 1-S = 0.001."
            )
            criterion = f"recovery at {sparsest:g} minus that at 0.001 is not above 0"
            found.append(_statement(sentence, criterion, more - less, lambda e: e.low <= 0))
    return found


def digit_statements(missing: pd.DataFrame, auxiliary: pd.DataFrame) -> list[Statement]:
    """What the digits show; the tables of `digits.missing_digit` and `digits.auxiliary_logits`."""

    def left_out(model: str, column: str) -> pd.Series:
        return missing[missing["model"] == model].groupby("seed")[column].mean()

    def noise(model: str) -> pd.Series:
        return auxiliary[auxiliary["model"] == model].set_index("seed")["accuracy"]

    corrected = "accuracy_missing_corrected"
    return [
        _statement(
            "Digits: a child distilled without a digit recognises it all the same, once its bias is corrected.",
            "accuracy on test images of that digit is above 0.5",
            left_out("same_init", corrected),
            lambda e: e.low > 0.5,
            "Hinton et al. 2015",
        ),
        _statement(
            "Digits: for that the child need not start where the teacher did.",
            "the same for a child from another start",
            left_out("other_init", corrected),
            lambda e: e.low > 0.5,
            "control",
        ),
        _statement(
            "Digits: a child that sees hard labels of the other digits alone never answers with it.",
            f"accuracy on that digit is below {NOTHING:g}",
            left_out("hard_labels", "accuracy_missing"),
            lambda e: e.high < NOTHING,
            "control",
        ),
        _statement(
            "Digits: a child trained on noise, on auxiliary logits alone, classifies digits.",
            "test accuracy is above 0.2, twice chance",
            noise("same_init"),
            lambda e: e.low > 0.2,
            "Cloud et al. 2025",
        ),
        _statement(
            "Digits: from another start it does not.",
            "test accuracy is below 0.2, twice chance",
            noise("other_init"),
            lambda e: e.high < 0.2,
            "Cloud et al. 2025",
        ),
    ]


def all_statements(
    children: pd.DataFrame,
    models: pd.DataFrame,
    post: str,
    predictions: Mapping[str, str],
    missing: pd.DataFrame,
    auxiliary: pd.DataFrame,
) -> pd.DataFrame:
    """Every statement, a row each, with the fields of `Statement` as columns."""
    import pandas as pd

    return pd.DataFrame(
        [
            *post_statements(children, models, post),
            *sparser_statements(children),
            *setting_statements(children, post, predictions),
            *digit_statements(missing, auxiliary),
        ]
    )


def report(statements: pd.DataFrame) -> str:
    """The statements as Markdown."""
    lines = ["# Toy models: what was said, and what was measured", ""]
    for row in statements.itertuples():
        lines += [f"- **{row.verdict}**: {row.statement} ({row.source})", f"  {row.measured}; {row.criterion}."]
    return "\n".join(lines) + "\n"


def _statement(
    statement: str, criterion: str, values: pd.Series, holds: Callable[[Estimate], bool], source: str = "post"
) -> Statement:
    values = values.dropna()
    if len(values) < 2:
        return Statement(statement, source, criterion, "not measured", "not measured")
    estimate = t_interval(values)
    measured = f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}], {len(values)} seeds"
    return Statement(statement, source, criterion, measured, "holds" if holds(estimate) else "does not hold")
