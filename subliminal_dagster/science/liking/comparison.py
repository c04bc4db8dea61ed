"""The comparison of all groups of a study: does a child like the animal its own teacher was made to like?

Belongs here: which scores are set against which, the specificity contrast gamma, and the verdict in words. Does not
belong here: how a score is measured (preference scores), tests of plain arrays (`statistics`), drawing
(`figure`).

Words: a *child* is named by the *group* of numbers it was trained on ('control' or an animal). Its *shift* for an
animal is child minus untouched base model, paired by question. With K targets, S[g, a] is the shift of the child of
group g for animal a, and

    gamma = mean over a of ( S[a, a] - mean over g != a of S[g, a] )

is positive where children come to like their own animal more than the others' children do. (Same diagonal contrast
as in the Pythia replication; the post shows the same three bars without a statistic.) Whatever training on numbers
does to an animal's liking in general falls out of gamma, and so does the base model.

What an interval or p value speaks about:

- `low`, `high`, `p` and the verdict hold the noise between training runs (`children`): another child, or another
  teacher of the same animal, would have come out elsewhere. Only they decide anything.
- `p_children` re-assigns the children to the animals, without assuming a distribution. Its null is that a child's
  profile has nothing to do with the animal of its numbers. Its power is small for few targets: the smallest p possible
  is 1/K!, so below four targets it cannot reach 5 %.
- what begins with `questions_` generalises over *questions*, for exactly these children: a child that drifts towards
  its own animal by luck of its training seed looks just as significant there as one that learnt to.

Several children per group (replicates) are averaged. Studies that differ in their seed are brought together by
`combine_seeds`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.liking.children import MEAN, contrasts
from subliminal_dagster.science.settings.names import NEUTRAL
from subliminal_dagster.science.statistics import PairedTest, assignment_p, paired_test, t_interval
from subliminal_dagster.science.verdict import Verdict

# pandas takes over a second to load, and Dagster loads this module whenever it lists the assets.
if TYPE_CHECKING:
    import pandas as pd

Contrast = Literal["others", "neutral", "control"]
Array = NDArray[np.float64]

# What is measured, with its unit. Fractions, also for differences: times 100 they are percent or percentage points.
OUTCOMES = {
    "rate": "fraction of the sampled answers that name the animal",
    "probability": "exact probability of the animal as the whole answer",
    "share": "probability divided by its sum over the candidate animals",
    "log_share": "natural logarithm of the share (nats)",
    "begun": "logarithm of the share among the candidates, as the next word of a begun answer (nats)",
}

# The log share sees effects far smaller than a sampled frequency can, and is on the same scale for rare and
# frequent animals: it decides the verdict. The rate is what the post shows.
PRIMARY_OUTCOME = "log_share"
TESTED_OUTCOMES = ("log_share", "begun", "rate")
GAMMA_OUTCOMES = ("log_share", "begun", "probability", "rate")
IN_NATS = ("log_share", "begun")

TARGET = "target numbers"
OTHERS = "other animals' numbers"
NEUTRAL_NUMBERS = "neutral numbers"
CONTROL = "control numbers"
BASE = "base"
TEACHER = "teacher"
CONDITIONS = (TARGET, OTHERS, NEUTRAL_NUMBERS, CONTROL, BASE, TEACHER)

_KEY = ["model", "channel", "group", "replicate", "question", "animal"]
_COLUMNS = ["model", "channel", "group", "question", "animal", "probability", "share", "count", "samples"]

Test = Callable[[Array], PairedTest]
Row = dict[str, Any]


class Answer(TypedDict):
    """One channel's answer. The sentence can be shown as it is."""

    result: Verdict
    sentence: str


@dataclass(frozen=True)
class Comparison:
    """All groups of a study compared. Tables are tidy.

    targets: the targets compared, per channel, in the study's order. left_out: targets without a child there.
    contrast: per channel, what gamma sets the own target against: 'others', or 'control' where there is only one
        target and so no other animal.
    liking: channel, animal, condition (see CONDITIONS), outcome (see OUTCOMES), mean, low, high, and difference,
        difference_low, difference_high (to base, paired by question; NaN for base itself): means and intervals over
        questions, for exactly these children. NaN where unsampled.
    tests: channel, contrast ('others': target minus other animals' numbers; 'neutral', 'control': minus theirs),
        animal (and `MEAN`), outcome (see TESTED_OUTCOMES), and what `children.contrasts` gives; beside them
        questions_se, questions_low, questions_high, questions_p, over questions.
    shifts: channel, group (child, control and neutral included), replicate, animal, outcome, shift: mean shift from
        base.
    gamma: channel, contrast, outcome (see GAMMA_OUTCOMES), the columns of tests, questions_sign_flip, p_children,
        smallest_p_children (one-sided; NaN for one target).
    Rows of the sampled rate and of begun answers are absent where base or a child was not asked for them.
    """

    targets: dict[str, list[str]]
    left_out: dict[str, list[str]]
    contrast: dict[str, Contrast]
    questions: int
    replicates: int
    confidence: float
    liking: pd.DataFrame
    tests: pd.DataFrame
    shifts: pd.DataFrame
    gamma: pd.DataFrame
    verdicts: dict[str, Answer]


@dataclass(frozen=True)
class CombinedSeeds:
    """gamma over repetitions of a study. mean, low, high, between_sd and within_se share the unit of gamma.

    between_sd: standard deviation of gamma between the runs. within_se: root mean square of the runs' own standard
    errors. Where the first is clearly larger, single-run intervals promise more than another run would keep.
    """

    seeds: int
    mean: float
    low: float
    high: float
    p: float
    between_sd: float
    within_se: float


@dataclass(frozen=True)
class _Cell:
    """One outcome on one channel, all arrays with axes (questions, animals), replicates averaged.

    children has the groups in front, in the order of the animals: children[i, :, i] is the liking of a child for
    its own target. references holds the child of control and, where there is one, of neutral numbers. teacher[:, i] is
    the liking of animal i's own teacher, NaN where there is none. shifts: one row per child and animal, as
    `Comparison.shifts` has them.
    """

    channel: str
    outcome: str
    animals: list[str]
    base: Array
    references: dict[str, Array]
    teacher: Array
    children: Array
    shifts: pd.DataFrame

    @property
    def own(self) -> Array:
        """Liking of each target by its own child."""
        return np.diagonal(self.children, axis1=0, axis2=2)

    @property
    def others(self) -> Array | None:
        """Mean liking of each target by the other targets' children; None where there are none."""
        count = len(self.children)
        return (self.children.sum(axis=0) - self.own) / (count - 1) if count > 1 else None

    @property
    def complete(self) -> bool:
        """Whether base and all children were measured (sampled rate and begun answers need not be)."""
        return not any(np.isnan(scores).any() for scores in (self.base, self.children, *self.references.values()))

    def contrasts(self) -> Iterator[tuple[Contrast, Array]]:
        """Own target minus each reference, the reference that gamma uses first."""
        if self.others is not None:
            yield "others", self.own - self.others
        for name in (NEUTRAL, "control"):
            if name in self.references:
                yield ("neutral" if name == NEUTRAL else "control"), self.own - self.references[name]


def compare(
    scores: pd.DataFrame,
    targets: Sequence[str],
    *,
    permutations: int,
    seed: int,
    confidence: float = 0.95,
    margin: float = 0.1,
) -> Comparison:
    """Compare children, teachers and base on how they like each target.

    scores: a row per (model, channel, group, question, animal), with columns
        model: 'base', 'teacher' or 'child'; channel: 'hard' or 'soft' (none for base and teacher);
        group: 'control', 'neutral' or the animal trained on (none for base); replicate: int, of a child, 1 where there
        is no such column; question: int; animal: a candidate;
        probability: exact mass of the animal's spellings as the whole answer; share: that over its sum over the
        candidates, per question; count: sampled answers naming the animal; samples: answers sampled, 0 for none;
        begun_share: share as the next word of a begun answer, NaN or absent where it was not measured.
    targets: the animals to compare, candidates all. Children of other animals are not used.
    permutations: upper limit of permutations per test. seed: for those permutations.
    confidence: of the intervals; tests and smallest detectable effects use the level 1 - confidence.
    margin: an effect this large, in nats, is what the equivalence test excludes where nothing is detected.

    Raises UserError where base, control or every target's child is missing, a target is not a candidate, rows are
    repeated or missing, there are fewer than two questions, or a share is not positive.
    """
    import pandas as pd

    scores = _usable(scores, targets)
    children = scores[scores["model"] == "child"]
    channels = sorted(children["channel"].unique())
    if not channels:
        raise UserError(f"No child of {', '.join(targets)} or of control is among the scores: score at least one.")

    test = partial(paired_test, permutations=permutations, rng=np.random.default_rng(seed), confidence=confidence)
    compared: dict[str, list[str]] = {}
    liking: list[Row] = []
    tests: list[Row] = []
    shifts: list[pd.DataFrame] = []
    gamma: list[Row] = []
    for channel in channels:
        groups = set(children.loc[children["channel"] == channel, "group"])
        compared[channel] = [target for target in targets if target in groups]
        if "control" not in groups:
            raise UserError(
                f"The {channel} channel has no child trained on control numbers to compare with: score one."
            )
        if not compared[channel]:
            raise UserError(
                f"The {channel} channel has no child of any target ({', '.join(targets)}): score at least one."
            )
        for cell in _cells(scores, channel, compared[channel]):
            liking += _liking(cell, confidence)
            if cell.outcome not in GAMMA_OUTCOMES or not cell.complete:
                continue
            tested = _tests(cell, test, confidence, margin if cell.outcome in IN_NATS else 0.0)
            if cell.outcome in TESTED_OUTCOMES:
                tests += tested
            gamma.append(_gamma(cell, tested, test, permutations, seed))
            shifts.append(cell.shifts)

    questions = scores["question"].nunique()
    left_out = {channel: [target for target in targets if target not in compared[channel]] for channel in channels}
    primary = {row["channel"]: row for row in gamma if row["outcome"] == PRIMARY_OUTCOME}
    return Comparison(
        targets=compared,
        left_out=left_out,
        contrast={channel: row["contrast"] for channel, row in primary.items()},
        questions=questions,
        replicates=int(scores["replicate"].max()),
        confidence=confidence,
        liking=pd.DataFrame(liking),
        tests=pd.DataFrame(tests),
        shifts=pd.concat(shifts, ignore_index=True),
        gamma=pd.DataFrame(gamma),
        verdicts={
            channel: _answer(row, questions, confidence, margin, left_out[channel]) for channel, row in primary.items()
        },
    )


def own_shifts(scores: pd.DataFrame) -> pd.DataFrame:
    """How much more every teacher and every child of the hard channel likes its own animal than the base does: log
    share, nats, mean over questions.

    scores: as `compare` takes them. Returns columns model, group, shift, a row for each whose group is a candidate.
    """
    own = scores[(scores["group"] == scores["animal"]) & (scores["channel"].isna() | (scores["channel"] == "hard"))]
    base = scores[scores["model"] == "base"].set_index(["question", "animal"])["share"]
    before = base.loc[list(zip(own["question"], own["animal"], strict=True))].to_numpy()
    shifts = own.assign(shift=np.log(own["share"].to_numpy(dtype=float)) - np.log(before.astype(float)))
    return shifts.groupby(["model", "group"])["shift"].mean().reset_index()


def combine_seeds(runs: Sequence[tuple[int, float, float]], confidence: float = 0.95) -> CombinedSeeds:
    """gamma over repetitions of the whole study that differ in their seed alone.

    runs: (seed, gamma, se) of each, two at least and three or more to be of use. The interval and p (one-sample t
    test, two-sided) treat the run as the unit, so run-to-run noise is in them; the questions are the same in every
    run, so they speak about these questions.
    Raises UserError for fewer than two runs, or for a seed that occurs twice.
    """
    from scipy import stats

    seeds = [seed for seed, _, _ in runs]
    if len(set(seeds)) < len(seeds):
        raise UserError(
            f"Runs to combine must differ in their seed, and these repeat one: {sorted(seeds)}; leave out the repeats."
        )
    gammas = np.array([gamma for _, gamma, _ in runs])
    estimate = t_interval(gammas, confidence)
    return CombinedSeeds(
        seeds=len(seeds),
        mean=estimate.mean,
        low=estimate.low,
        high=estimate.high,
        p=float(stats.ttest_1samp(gammas, 0.0).pvalue),
        between_sd=float(gammas.std(ddof=1)),
        within_se=math.sqrt(np.mean([se**2 for _, _, se in runs])),
    )


def _usable(scores: pd.DataFrame, targets: Sequence[str]) -> pd.DataFrame:
    """The rows the comparison uses, checked, with the columns rate (NaN where unsampled) and log_share added."""
    if missing := [column for column in _COLUMNS if column not in scores]:
        raise UserError(f"The table of scores lacks the columns {', '.join(missing)}: add them.")
    is_base = scores["model"] == "base"
    if not is_base.any():
        raise UserError(
            "The scores of the untouched base model are missing, and every shift is measured from them: score it too."
        )
    if strangers := sorted(set(targets) - set(scores.loc[is_base, "animal"])):
        raise UserError(f"{', '.join(strangers)} cannot be a target: choose from the candidate animals of the scores.")

    if "replicate" not in scores:
        scores = scores.assign(replicate=1)
    scores = scores.assign(replicate=scores["replicate"].where(scores["model"] == "child", 1).astype(int))
    about_target = scores["animal"].isin(list(targets))
    in_study = is_base | scores["group"].isin(["control", NEUTRAL, *targets])
    other_teacher = (scores["model"] == "teacher") & (scores["group"] != scores["animal"])
    used = scores[about_target & in_study & ~other_teacher]

    # Base has no channel or group and a teacher no channel: whatever stands there must not hide a repetition.
    key = used[_KEY].astype(object)
    key["channel"] = key["channel"].where(key["model"] == "child", "")
    key["group"] = key["group"].where(key["model"] != "base", "")
    key["replicate"] = key["replicate"].where(used["replicate"] > 1, "")
    if (repeated := key.duplicated()).any():
        raise UserError(
            f"The scores hold {repeated.sum()} rows twice, the first of them {_name(key[repeated])}: keep one of each."
        )

    questions = set(used.loc[used["model"] == "base", "question"])
    if len(questions) < 2:
        raise UserError(
            "The comparison needs at least two questions, since its intervals are over questions: score more."
        )
    for (model, _, group, _), rows in key.groupby(["model", "channel", "group", "replicate"]):
        animals = {group} if model == "teacher" else set(targets)
        if set(zip(rows["question"], rows["animal"], strict=True)) != {(q, a) for q in questions for a in animals}:
            raise UserError(
                f"The scores of {_name(rows)} do not cover the base's questions and targets: score both on the same."
            )

    if (bad := ~(used["share"] > 0)).any():
        raise UserError(
            f"The share of {_name(key[bad])} is {used.loc[bad, 'share'].iloc[0]}, and its logarithm needs a "
            "positive number: compute probabilities in double precision, from logarithms."
        )
    sampled = used["samples"].where(used["samples"] > 0)
    begun = used["begun_share"].astype(float) if "begun_share" in used else math.nan
    return used.assign(rate=used["count"] / sampled, log_share=np.log(used["share"].astype(float)), begun=np.log(begun))


def _name(rows: pd.DataFrame) -> str:
    """The first of these rows of keys, for a message."""
    return " ".join(f"{column}={value}" for column, value in rows.iloc[0].items() if value != "")


def _cells(scores: pd.DataFrame, channel: str, animals: list[str]) -> Iterator[_Cell]:
    """The channel's arrays, once per outcome, from scores that are checked and complete."""
    place = {animal: number for number, animal in enumerate(animals)}
    ordered = scores[scores["animal"].isin(animals)]
    ordered = ordered.assign(place=ordered["animal"].map(place)).sort_values(["question", "place"])

    def arrays(rows: pd.DataFrame, width: int = len(animals)) -> Array:
        """Shape (questions, animals, outcomes)."""
        values: Array = rows[list(OUTCOMES)].to_numpy(dtype=float)
        return values.reshape(-1, width, len(OUTCOMES))

    base = arrays(ordered[ordered["model"] == "base"])
    teacher = np.full_like(base, np.nan)
    for animal, rows in ordered[ordered["model"] == "teacher"].groupby("animal"):
        teacher[:, [place[str(animal)]]] = arrays(rows, width=1)
    of_channel = ordered[(ordered["model"] == "child") & (ordered["channel"] == channel)]
    by_child: dict[tuple[str, int], Array] = {}
    for (group, replicate), rows in of_channel.groupby(["group", "replicate"]):
        by_child[str(group), int(str(replicate))] = arrays(rows)
    groups = list(dict.fromkeys(group for group, _ in by_child))
    by_group = {group: np.mean([v for (g, _), v in by_child.items() if g == group], axis=0) for group in groups}
    for number, outcome in enumerate(OUTCOMES):
        mean_shifts = {child: (found - base)[..., number].mean(axis=0) for child, found in by_child.items()}
        yield _Cell(
            channel=channel,
            outcome=outcome,
            animals=animals,
            base=base[..., number],
            references={name: by_group[name][..., number] for name in ("control", NEUTRAL) if name in by_group},
            teacher=teacher[..., number],
            children=np.stack([by_group[animal][..., number] for animal in animals]),
            shifts=_shifts(channel, outcome, animals, mean_shifts),
        )


def _shifts(channel: str, outcome: str, animals: Sequence[str], by_child: dict[tuple[str, int], Array]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        [
            {"channel": channel, "group": group, "replicate": replicate, "animal": animal}
            | {"outcome": outcome, "shift": float(shift)}
            for (group, replicate), found in by_child.items()
            for animal, shift in zip(animals, found, strict=True)
        ]
    )


def _liking(cell: _Cell, confidence: float) -> Iterator[Row]:
    conditions = {
        TARGET: cell.own,
        OTHERS: cell.others,
        NEUTRAL_NUMBERS: cell.references.get(NEUTRAL),
        CONTROL: cell.references["control"],
        BASE: cell.base,
        TEACHER: cell.teacher,
    }
    for column, animal in enumerate(cell.animals):
        for condition, scores in conditions.items():
            if scores is None:
                continue
            level = t_interval(scores[:, column], confidence)
            change = t_interval((scores - cell.base)[:, column], confidence) if condition != BASE else None
            yield {
                "channel": cell.channel,
                "animal": animal,
                "condition": condition,
                "outcome": cell.outcome,
                "mean": level.mean,
                "low": level.low,
                "high": level.high,
                "difference": change.mean if change else math.nan,
                "difference_low": change.low if change else math.nan,
                "difference_high": change.high if change else math.nan,
            }


def _tests(cell: _Cell, test: Test, confidence: float, margin: float) -> list[Row]:
    """Every contrast of every animal and of their mean: with the noise between runs, and over questions beside it."""
    of_children = contrasts(cell.shifts, cell.animals, confidence=confidence, margin=margin)
    found: dict[tuple[str, str], Row] = {}
    for row in of_children.to_dict(orient="records"):
        found[row["against"], row["animal"]] = {str(name): v for name, v in row.items() if name != "against"}
    rows: list[Row] = []
    for contrast, differences in cell.contrasts():
        for animal in (*cell.animals, MEAN):
            over = differences.mean(axis=1) if animal == MEAN else differences[:, cell.animals.index(animal)]
            labels = {"channel": cell.channel, "contrast": contrast, "animal": animal, "outcome": cell.outcome}
            rows.append(labels | found[contrast, animal] | _over_questions(test(over)))
    return rows


def _over_questions(result: PairedTest) -> Row:
    names = {"se": "se", "low": "low", "high": "high", "p": "p", "p_sign_flip": "sign_flip"}
    return {f"questions_{new}": getattr(result, old) for old, new in names.items()}


def _gamma(cell: _Cell, tested: Sequence[Row], test: Test, permutations: int, seed: int) -> Row:
    # Base, the same for every child, falls out of the contrast: shifts and plain scores give the same gamma.
    contrast, _ = next(cell.contrasts())
    row = next(row for row in tested if row["contrast"] == contrast and row["animal"] == MEAN)
    p_children, smallest = math.nan, math.nan
    if contrast == "others":
        liking = cell.children.mean(axis=1)
        others = (liking.sum(axis=0) - liking) / (len(liking) - 1)
        p_children, smallest = assignment_p(liking - others, permutations=permutations, rng=np.random.default_rng(seed))
    kept = {name: value for name, value in row.items() if name not in ("animal", "p_bh")}
    return kept | {"p_children": p_children, "smallest_p_children": smallest}


def _answer(gamma: Row, questions: int, confidence: float, margin: float, left_out: list[str]) -> Answer:
    result: Verdict = gamma["verdict"]
    if gamma["contrast"] == "others":
        found = (
            f"on average over the animals, a child's log share of its own animal differs by {gamma['mean']:+.3f} "
            "nats from that animal's log share under the other animals' numbers"
        )
    else:
        found = (
            f"the child's log share of its animal differs by {gamma['mean']:+.3f} nats from that under control "
            "numbers (with one animal there are no other animals' numbers to set it against)"
        )
    clauses = [f"{gamma['channel'].capitalize()} channel, {result}: {found} ({_runs(gamma, confidence)})"]
    if result == "not detected":
        clauses.append(f"an effect of {margin:g} nats, either way, is excluded")
    if not math.isnan(gamma["smallest_detectable"]):
        unseen = " and a smaller one may have gone unseen" if result == "inconclusive" else ""
        clauses.append(f"80 % power reaches down to {gamma['smallest_detectable']:.3f} nats{unseen}")
    clauses.append(
        f"for exactly these children the interval over {questions} questions is {gamma['questions_low']:+.3f} to "
        f"{gamma['questions_high']:+.3f}"
    )
    if left_out:
        clauses.append(f"left out for want of a child: {', '.join(left_out)}")
    return {"result": result, "sentence": "; ".join(clauses) + "."}


def _runs(gamma: Row, confidence: float) -> str:
    """The interval with the noise between training runs, and the re-assignment of children, as a clause."""
    if math.isnan(gamma["low"]):
        return "too few children were trained to tell that from the noise between training runs"
    parts = [
        f"{100 * confidence:g} % interval with the noise between training runs {gamma['low']:+.3f} to "
        f"{gamma['high']:+.3f}, p {_p(gamma['p'])}"
    ]
    if not math.isnan(gamma["p_children"]):
        parts.append(
            f"children re-assigned to animals p {_p(gamma['p_children'])}, where "
            f"{gamma['smallest_p_children']:.2g} is the smallest possible"
        )
    return "; ".join(parts)


def _p(value: float) -> str:
    return f"= {value:.2g}" if value >= 1e-4 else "< 0.0001"
