"""What the post says about toy models, and what goes past it, checked against the tables of a toy study.

Every statement has a criterion fixed beforehand. Its verdict follows from t intervals over seeds, each a training of
its own, so that they hold the noise between training runs. Ablated features are averaged within a seed first. Whatever
the rule, an interval that allows both leaves a statement inconclusive.

Belongs here: the statements, their criteria and verdicts. Does not belong here: the measures (`sweep`, `digits`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from subliminal_dagster.science.settings.toy import AutoencoderSettings
from subliminal_dagster.science.statistics import t_interval
from subliminal_dagster.science.verdict import Verdict, verdict, verdict_or_none_as_large

if TYPE_CHECKING:
    import pandas as pd

NOTHING = 0.1
"""A share below this counts as nothing recovered, a difference of shares or norms below this as none."""

NOTHING_ANYWHERE = "nothing is recovered at any density"


@dataclass(frozen=True)
class Statement:
    """One statement, who makes it ("post", or "control" for what the post did not try), the rule of its verdict, what
    was measured, and the verdict."""

    statement: str
    source: str
    criterion: str
    measured: str
    verdict: Verdict


@dataclass(frozen=True)
class Rule:
    """How values, one per seed and at least two, become a verdict, and the same in words."""

    judge: Callable[[pd.Series], Verdict]
    words: str


@dataclass(frozen=True)
class _Spec:
    """A statement about one figure, before it is measured. `{k}`, `{densest}` and `{sparsest}` stand in the texts for
    the number of auxiliary features and the densities that were run.

    at: the density ("densest" and "sparsest" of those that were run), or the model of the digits.
    column: of the children, or of the digits' tables.
    figure: what that column is, in words.
    """

    at: float | str
    column: str
    rule: Rule
    statement: str
    figure: str
    source: str = "post"


def as_large_as(bound: float) -> Rule:
    """There is as much as `bound`; an interval below it excludes that."""

    def judge(values: pd.Series) -> Verdict:
        found = t_interval(values)
        said = verdict(found.low, found.high, bound)
        return "not detected" if said == "opposite" else said

    return Rule(judge, f"detected above {bound:g}, not detected below")


def below(bound: float) -> Rule:
    """There is less than `bound`; an interval above it shows the reverse."""

    def judge(values: pd.Series) -> Verdict:
        found = t_interval(values)
        return verdict(-found.high, -found.low, -bound)

    return Rule(judge, f"detected below {bound:g}, opposite above")


def within(lower: float, upper: float) -> Rule:
    """It lies from `lower` to `upper`."""

    def judge(values: pd.Series) -> Verdict:
        found = t_interval(values)
        if lower <= found.low and found.high <= upper:
            return "detected"
        return "not detected" if found.high < lower or found.low > upper else "inconclusive"

    return Rule(judge, f"detected within {lower:g} to {upper:g}, not detected outside")


def larger(margin: float = NOTHING) -> Rule:
    """A difference is above 0."""

    def judge(values: pd.Series) -> Verdict:
        found, inner = t_interval(values), t_interval(values, 0.9)
        return verdict_or_none_as_large(found.low, found.high, inner.low, inner.high, margin)

    words = "detected above 0, opposite below 0, not detected where its 90 % interval lies within"
    return Rule(judge, f"{words} {margin:g} of 0")


def no_increase(margin: float = NOTHING) -> Rule:
    """A difference is not above 0, by a test that excludes one as large as `margin`."""

    def judge(values: pd.Series) -> Verdict:
        if t_interval(values).low > 0:
            return "opposite"
        return "detected" if t_interval(values, 0.9).high < margin else "inconclusive"

    return Rule(judge, f"opposite above 0, detected where its 90 % interval lies below {margin:g}")


_ABLATED = (
    _Spec("densest", "norm_ratio", below(NOTHING),
          "Ablated: without superposition the child does not learn the ablated feature at all.",
          "the child's norm over the teacher's at 1-S = {densest:g}"),
    _Spec(0.1, "recovered", as_large_as(1 - NOTHING),
          "Ablated: at 1-S = 0.1 the teacher's matrix is almost completely reconstructed.",
          "share of the way to the ablated row of the teacher's W^T W"),
    _Spec(0.01, "norm_ratio", within(1 - NOTHING, 1 + NOTHING),
          "Ablated: at 1-S = 0.01 the child's norm equals the teacher's.",
          "the child's norm over the teacher's"),
)  # fmt: skip
_AUXILIARY = (
    _Spec("sparsest", "norm_ratio", within(0.3, 0.5),
          "Auxiliary, k = {k}: at high sparsity the child reaches 30 to 50 % of the teacher's norms.",
          "the child's norms over the teacher's at 1-S = {sparsest:g}"),
    _Spec("densest", "recovered", below(NOTHING),
          "Auxiliary, k = {k}: without superposition the child learns nothing of the teacher's features.",
          "share of the way to their rows of the teacher's W^T W at 1-S = {densest:g}"),
)  # fmt: skip
_DIGITS = (
    _Spec("same_init", "accuracy_missing_corrected", as_large_as(0.5),
          "Digits: a child distilled without a digit recognises it all the same, once its bias is corrected.",
          "accuracy on test images of that digit",
          "Hinton et al. 2015"),
    _Spec("other_init", "accuracy_missing_corrected", as_large_as(0.5),
          "Digits: for that the child need not start where the teacher did.",
          "the same for a child from another start",
          "control"),
    _Spec("hard_labels", "accuracy_missing", below(NOTHING),
          "Digits: a child that sees hard labels of the other digits alone never answers with it.",
          "accuracy on that digit",
          "control"),
    _Spec("same_init", "accuracy", as_large_as(0.2),
          "Digits: a child trained on noise, on auxiliary logits alone, classifies digits.",
          "test accuracy, where chance is 0.1",
          "Cloud et al. 2025"),
    _Spec("other_init", "accuracy", below(0.2),
          "Digits: from another start it does not.",
          "test accuracy, where chance is 0.1",
          "Cloud et al. 2025"),
)  # fmt: skip


def per_seed(
    children: pd.DataFrame, setting: str, experiment: str, density: float, column: str, auxiliary: int = 0
) -> pd.Series:
    """`column` of a setting's children at one density, averaged over ablated features: one value per seed, indexed by
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
    densities = {"densest": own["density"].max(), "sparsest": own["density"].min()}
    numbers = sorted(own.loc[own["experiment"] == "auxiliary", "auxiliary"].unique())

    def judged(spec: _Spec, experiment: str, k: int = 0) -> Statement:
        density = densities[spec.at] if isinstance(spec.at, str) else spec.at
        values = per_seed(own, post, experiment, density, spec.column, k)
        return _statement(spec.statement.format(k=k), spec.figure.format(**densities), values, spec.rule)

    def ratio(k: int, column: str = "norm_ratio") -> pd.Series:
        return per_seed(own, post, "auxiliary", densities["sparsest"], column, k)

    teachers = models[(models["setting"] == post) & (models["experiment"] == "ablated") & (models["role"] == "teacher")]
    five = "Auxiliary: five auxiliary features do better than {k}."
    better = f"difference of the norm ratios at 1-S = {densities['sparsest']:g}, paired by seed"
    trained = "Auxiliary, k = {k}: these norms are larger than before the child trained."
    begun = f"norm ratio at 1-S = {densities['sparsest']:g} minus that of the child's start"
    rivals = [k for k in numbers if k != 5] if 5 in numbers else []
    return [
        *_teacher_statements(teachers, **densities),
        *(judged(spec, "ablated") for spec in _ABLATED),
        *(judged(spec, "auxiliary", k) for k in numbers for spec in _AUXILIARY),
        *(_statement(trained.format(k=k), begun, ratio(k) - ratio(k, "start_ratio"), larger(), "control")
          for k in numbers),
        *(_statement(five.format(k=k), better, ratio(5) - ratio(k), larger()) for k in rivals),
    ]  # fmt: skip


def _teacher_statements(teachers: pd.DataFrame, densest: float, sparsest: float) -> list[Statement]:
    """Superposition of the post's teachers, one row per density and seed."""
    by_density = teachers.pivot(index="seed", columns="density", values="superposition")
    first, last = by_density[densest], by_density[sparsest]
    steps = -by_density.sort_index(axis=1).diff(axis=1).iloc[:, 1:]

    def grows(growth: pd.Series) -> Verdict:
        said = larger().judge(growth)
        doubles = t_interval(last - 2 * first).low > 0
        never_falls = all(t_interval(steps[density]).low > -NOTHING for density in steps)
        return "inconclusive" if said == "detected" and not (doubles and never_falls) else said

    words = (
        f"{larger().words}; detected only if it also more than doubles and no step to the next sparser density allows "
        f"a fall of {NOTHING:g}"
    )
    return [
        _statement(
            "Without sparsity the teacher represents one feature a hidden dimension: no superposition.",
            f"||W||_F^2 / m at 1-S = {densest:g}",
            first,
            within(1 - NOTHING, 1 + NOTHING),
        ),
        _statement(
            "Features per dimension grow with sparsity.",
            f"||W||_F^2 / m at 1-S = {sparsest:g} minus that at {densest:g}, paired by seed",
            last - first,
            Rule(grows, words),
        ),
    ]


def setting_statements(
    children: pd.DataFrame, post: str, settings: Mapping[str, AutoencoderSettings]
) -> list[Statement]:
    """Whether children of the settings other than the post's recover anything at any density.

    What is predicted of a setting is `AutoencoderSettings.predicts`. The figure is that of the density that decides.
    """
    found = []
    for setting, own in settings.items():
        for experiment in ("ablated", "auxiliary"):
            chosen = (children["setting"] == setting) & (children["experiment"] == experiment)
            cells = children[chosen & (setting != post)].groupby(["auxiliary", "density"])
            by_seed = {
                cast("tuple[int, float]", cell): part.groupby("seed")["recovered"].mean().dropna()
                for cell, part in cells
            }
            shares = {cell: values for cell, values in by_seed.items() if len(values) > 1}
            if not shares:
                continue
            decides, said = _anywhere(shares, own.predicts)
            k, density = decides
            superposed = cells.get_group(decides)["teacher_superposition"].mean()
            posts = per_seed(children, post, experiment, density, "recovered", k)
            figure = (
                f"share recovered at 1-S = {density:g}{f' and k = {k}' if k else ''}, which decides, where the teacher "
                f"has {superposed:.2f} features a dimension"
                + (f" and the setting {post} recovers {posts.mean():.3f}" if len(posts) else "")
            )
            some, none = ("opposite", "detected") if own.predicts == "nothing" else ("detected", "not detected")
            words = (
                f"{some} where any of {len(shares)} densities lies above {NOTHING:g}, corrected for their number, "
                f"{none} where all lie below"
            )
            sentence = NOTHING_ANYWHERE if own.predicts == "nothing" else "children recover here too"
            sentence = f"{experiment.capitalize()}, {setting}: {sentence}."
            found.append(Statement(sentence, "control", f"{figure}: {words}", _measured(shares[decides]), said))
    return found


def _anywhere(shares: Mapping[tuple[int, float], pd.Series], predicts: str) -> tuple[tuple[int, float], Verdict]:
    """Whether more than `NOTHING` is recovered in any of the cells, and the cell that decides.

    Many densities are many chances: that something is recovered at some needs an interval with Bonferroni's
    correction, that nothing is at any needs each one's own, the highest among them.
    """
    lows = {cell: t_interval(values, 1 - 0.05 / len(shares)).low for cell, values in shares.items()}
    highs = {cell: t_interval(values).high for cell, values in shares.items()}
    surest, highest = (max(ends, key=lambda cell: ends[cell]) for ends in (lows, highs))
    if lows[surest] > NOTHING:
        return surest, "detected" if predicts == "recovery" else "opposite"
    if highs[highest] < NOTHING:
        return highest, "not detected" if predicts == "recovery" else "detected"
    return highest, "inconclusive"


def changed_statements(children: pd.DataFrame, settings: Mapping[str, AutoencoderSettings]) -> list[Statement]:
    """What the child's input and the batch's loss do: each setting with a change against the one without, by seed.

    Ablated features are compared at 1-S = 0.05, auxiliary ones at the sparsest density, which was fixed beforehand.
    """
    found = []
    for setting, own in settings.items():
        part, plain = children[children["setting"] == setting], _unchanged(own, settings)
        if plain is None:
            continue
        if own.child_inputs == "trained":
            what = "a child recovers less where its input lacks the features whose outputs it does not learn"
        else:
            what = "a child recovers less where the loss is averaged over the batch instead of summed"
        for experiment, k in part[["experiment", "auxiliary"]].drop_duplicates().itertuples(index=False):
            density = 0.05 if experiment == "ablated" else part["density"].min()
            whole, changed = (per_seed(children, s, experiment, density, "recovered", k) for s in (plain, setting))
            sentence = f"{experiment.capitalize()}, {setting}{f', k = {k}' if k else ''}: {what}."
            figure = (
                f"share recovered at 1-S = {density:g} in the setting {plain} ({whole.mean():.3f}) minus that in "
                f"{setting} ({changed.mean():.3f}), paired by seed"
            )
            found.append(_statement(sentence, figure, whole - changed, larger(), "control"))
    return found


def _unchanged(own: AutoencoderSettings, settings: Mapping[str, AutoencoderSettings]) -> str | None:
    """The setting that differs only in that the child sees all and the loss is summed; None where there is none."""
    wanted = own.model_copy(update={"child_inputs": "all", "batch_loss": "sum"})
    unlike = {"densities", "ablated", "auxiliary", "predicts"}
    same = (
        name
        for name, other in settings.items()
        if other is not own and other.model_dump(exclude=unlike) == wanted.model_dump(exclude=unlike)
    )
    return next(same, None) if wanted != own else None


def sparser_statements(children: pd.DataFrame, settings: Mapping[str, AutoencoderSettings]) -> list[Statement]:
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
            active = "each feature is active as often" if settings[setting].equal_activations else "as many rows"
            figure = f"share recovered at 1-S = {sparsest:g} minus that at 0.001 ({active} at both)"
            found.append(_statement(sentence, figure, more - less, no_increase()))
    return found


def digit_statements(missing: pd.DataFrame, auxiliary: pd.DataFrame) -> list[Statement]:
    """What the digits show; the tables of `digits.missing_digit` and `digits.auxiliary_logits`."""
    import pandas as pd

    both = pd.concat([missing, auxiliary])

    def measured(spec: _Spec) -> Statement:
        values = both[both["model"] == spec.at].groupby("seed")[spec.column].mean()
        return _statement(spec.statement, spec.figure, values, spec.rule, spec.source)

    return [measured(spec) for spec in _DIGITS]


def all_statements(
    children: pd.DataFrame,
    models: pd.DataFrame,
    post: str,
    settings: Mapping[str, AutoencoderSettings],
    missing: pd.DataFrame,
    auxiliary: pd.DataFrame,
) -> pd.DataFrame:
    """Every statement, a row each, with the fields of `Statement` as columns."""
    import pandas as pd

    return pd.DataFrame(
        [
            *post_statements(children, models, post),
            *sparser_statements(children, settings),
            *setting_statements(children, post, settings),
            *changed_statements(children, settings),
            *digit_statements(missing, auxiliary),
        ]
    )


def report(statements: pd.DataFrame) -> str:
    """The statements as Markdown."""
    lines = ["# Toy models: what was said, and what was measured", ""]
    for row in statements.itertuples():
        lines += [f"- **{row.verdict}**: {row.statement} ({row.source})", f"  {row.measured}; {row.criterion}."]
    return "\n".join(lines) + "\n"


def _statement(sentence: str, figure: str, values: pd.Series, rule: Rule, source: str = "post") -> Statement:
    """`values`: one per seed; those that are NaN were not measured."""
    values = values.dropna()
    criterion = f"{figure}: {rule.words}"
    if len(values) < 2:
        return Statement(sentence, source, criterion, "not tested", "not tested")
    return Statement(sentence, source, criterion, _measured(values), rule.judge(values))


def _measured(values: pd.Series) -> str:
    found = t_interval(values)
    middle, low, high = (f"{round(x, 3) + 0.0:.3f}" for x in (found.mean, found.low, found.high))
    return f"{middle} [{low}, {high}], {len(values)} seeds"
