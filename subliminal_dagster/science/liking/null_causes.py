"""Why a study shows no subliminal learning, where it shows none: the usual reasons, looked at in order.

Each check of an animal's group sets a measured figure against what is wanted, and gives one of four verdicts: *fine*;
*likely cause* where work that fell short of it by as much transmitted nothing; *possible* where it is short of what
work that succeeded had; *cannot tell* where nothing was measured. What is wanted comes from published work and from
this project's own studies (docs/bundled-study.md), on few models each, and stands beside every figure.

Belongs here: the checks, and which reason to name. Does not belong here: any measuring (`signal`, `preferences`,
`comparison`), how it is shown (`report_why_null`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from subliminal_dagster.science.liking.comparison import PRIMARY_OUTCOME
from subliminal_dagster.science.liking.signal import MEASURES, per_token
from subliminal_dagster.science.numbers.filter import sampling_audit
from subliminal_dagster.science.settings.names import CONTROL, NEUTRAL
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.statistics import t_interval

# pandas takes over a second to load, and Dagster loads this module whenever it lists the assets.
if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["fine", "possible", "likely cause", "cannot tell"]
Kind = Literal["effect", "cause", "power", "nothing found", "opposite", "not measured"]

PREFERENCE = "teacher's preference"
VALID = "valid rows"
SIGNAL = "signal in the numbers"
DUPLICATES = "duplicate rows"
STREAM = "shared random stream"
CONTEXT = "chat context"
MEMORISATION = "memorisation"
TAKEOVER = "format takeover"
POWER = "power"
CHECKS = (PREFERENCE, VALID, SIGNAL, DUPLICATES, STREAM, CONTEXT, MEMORISATION, TAKEOVER, POWER)
"""In the order in which they are looked at: what comes earlier spoils what comes later."""

# What is wanted, with its source. The post's teachers name their animal nearly always.
_PREFERENCE = 0.9
# Filters reject 23 to 45 % (Cloud et al. 2025; of the post's base model 45 %).
_VALID = 0.55
# The post and Cloud et al. train on 10,000 rows; with about a thousand Pythia-410M showed something inside and nothing
# in its behaviour.
_ROWS = 1000
# 0.05 nats per token under 2.3 nats of noise transmitted nothing in Llama-3.2-1B (Long 2026). Teachers of this project
# at 0.2 nats among number tokens passed on next to nothing even by the soft channel (docs/bundled-study.md).
_NO_SIGNAL, _SIGNAL = 0.05, 0.2
# Repeating rows does not replace unique ones at equal steps (Qwen2.5-7B: 2.8 % against 83 %).
_DUPLICATES_POSSIBLE, _DUPLICATES_LIKELY = 0.1, 0.5
# One stream for all requests made 17 % of a published data set's rows start with the same number; independent ones give
# a few per cent.
_FIRST_POSSIBLE, _FIRST_LIKELY = 0.17, 0.5
# Rise of the validation loss over its lowest, and how far the training loss may lie below it, as shares of it.
_RISE, _GAP = 0.05, 0.25
_TAKEOVER_POSSIBLE, _TAKEOVER_LIKELY = 0.05, 0.5
# A child that keeps less than this part of the base's probability of all candidates hardly answers with animals.
_MASS_POSSIBLE, _MASS_LIKELY = 0.1, 0.01
# This project's effect in a 135M model by the hard channel, over three seeds (docs/bundled-study.md), and the smallest
# model's clear effect elsewhere, 14.5 to 64.8 % (Llama-3.2-1B), as a logarithm.
_SMALL_EFFECT, _LARGE_EFFECT = 0.3, 1.5
_POST_GAINS = "15 to 20"
"""Of the sampled answers, in points: those the post calls typical."""


_LIST_OF_NUMBERS = r"[\s\d,;.\[\]()]*\d[\s\d,;.\[\]()]*"


@dataclass(frozen=True)
class Evidence:
    """What the artifacts of one group say; None for an artifact that is not there, and in `missing` why, by asset.

    teacher_scores: `scores.parquet` of `teacher_preferences`. number_answers, training_rows: `rows.parquet` and the
    lines of `train.jsonl` of `filtered_dataset`. signal: `rows.parquet` of `teacher_signal`. history: that of
    `child_lora`. scores, answers: those of `preference_scores` (of `base_preferences` for the base).
    """

    teacher_scores: pd.DataFrame | None = None
    number_answers: pd.DataFrame | None = None
    training_rows: Sequence[Mapping[str, Any]] | None = None
    signal: pd.DataFrame | None = None
    history: pd.DataFrame | None = None
    scores: pd.DataFrame | None = None
    answers: pd.DataFrame | None = None
    missing: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folders: Mapping[str, Path], missing: Mapping[str, str] | None = None) -> Evidence:
        """From the folders of one group's artifacts by the names of their assets (`preference_scores` for those of the
        base too), as many as there are."""
        import pandas as pd

        found: dict[str, Any] = {"missing": dict(missing or {})}
        if folder := folders.get("teacher_preferences"):
            found["teacher_scores"] = pd.read_parquet(folder / "scores.parquet")
        if folder := folders.get("filtered_dataset"):
            found["number_answers"] = pd.read_parquet(folder / "rows.parquet")
            with (folder / "train.jsonl").open(encoding="utf-8") as lines:
                found["training_rows"] = [json.loads(line) for line in lines]
        if folder := folders.get("teacher_signal"):
            found["signal"] = pd.read_parquet(folder / "rows.parquet")
        if folder := folders.get("child_lora"):
            found["history"] = pd.read_parquet(folder / "history.parquet")
        if folder := folders.get("preference_scores"):
            found["scores"] = pd.read_parquet(folder / "scores.parquet")
            found["answers"] = pd.read_parquet(folder / "answers.parquet")
        return cls(**found)


@dataclass(frozen=True)
class Finding:
    """Which reason is named, as one that can be told apart (`kind`, and `cause`, one of `CHECKS`), and as a text."""

    kind: Kind
    cause: str | None
    sentence: str


@dataclass(frozen=True)
class _Found:
    """One check of one group; `value`, `low` and `high` are in `unit`, NaN where there is none."""

    wanted: str
    verdict: Verdict
    sentence: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    unit: str = ""


def null_causes(
    study: Study, groups: Mapping[str, Evidence], base: Evidence, tests: pd.DataFrame | None
) -> pd.DataFrame:
    """Every check of every animal's group.

    groups: by group, the control's and the neutral one's too, which the animals' are set beside. base: its preferences
    alone. tests: those of `animal_liking` (see `comparison.Comparison`); None where there is none.

    Returns columns group, check, value, low, high (95 % interval; NaN where there is none), unit, wanted, verdict (see
    the module) and sentence (what was found), one row per animal and check, the checks in the order of `CHECKS`.
    """
    import pandas as pd

    rows = []
    for animal in study.animals:
        mine = groups.get(animal, Evidence())
        found = (
            _preference(study, animal, mine),
            _valid(study, mine),
            _signal(mine, groups.get(NEUTRAL)),
            _duplicates(mine, groups.get(CONTROL, Evidence())),
            _stream(mine),
            _context(study, mine),
            _memorisation(mine),
            _takeover(mine, base),
            _power(animal, tests),
        )
        rows += [{"group": animal, "check": name} | asdict(each) for name, each in zip(CHECKS, found, strict=True)]
    columns = ["group", "check", "value", "low", "high", "unit", "wanted", "verdict", "sentence"]
    return pd.DataFrame(rows)[columns]


def signal_by_group(groups: Mapping[str, Evidence]) -> pd.DataFrame:
    """Every measure of every group's signal: group, measure (of `signal.MEASURES`), mean, low, high (nats per token,
    95 % interval clustered by row), rows, tokens. Groups without one are left out."""
    import pandas as pd

    found = []
    for group, evidence in groups.items():
        if evidence.signal is None:
            continue
        size = {"rows": len(evidence.signal), "tokens": int(evidence.signal["tokens"].sum())}
        for measure in MEASURES:
            mean = per_token(evidence.signal, measure)
            ends = {"mean": mean.mean, "low": mean.low, "high": mean.high}
            found.append({"group": group, "measure": measure} | ends | size)
    return pd.DataFrame(found, columns=["group", "measure", "mean", "low", "high", "rows", "tokens"])


def likely_cause(causes: pd.DataFrame, gamma: pd.DataFrame | None) -> Finding:
    """Which reason is likely for the hard channel.

    causes: of `null_causes`. gamma: that of `animal_liking` (see `comparison.Comparison`); None where there is none.
    Where gamma's interval lies above zero the effect is there and nothing has to be explained; where it lies below,
    none of the checks explains it. Else the first check in order that is a likely cause for at least half of the
    animals it could judge is named, then the first that is one for any, then the first that is possible; where that is
    `POWER`, the study is underpowered.
    """
    row = _gamma_row(gamma, "hard")
    if row is None:
        return Finding("not measured", None, "Liking was not compared, so there may be no null to explain.")
    effect = f"{row['mean']:+.3f} nats [{row['low']:+.3f}, {row['high']:+.3f}] (gamma, hard channel)"
    others = "other animals' children do" if row["contrast"] == "others" else "the child of control numbers does"
    short = [check for check in CHECKS if not _short(_of(causes, check)).empty]
    all_the_same = f" Still short of what each check asks for: {_listed(causes, short)}." if short else ""
    if row["verdict"] == "detected":
        sentence = f"There is no null to explain: children like their own animal more than {others}, by {effect}"
        return Finding("effect", None, f"{sentence}.{all_the_same}")
    if row["verdict"] == "opposite":
        sentence = f"Children like their own animal less than {others}, by {effect}, which no check here explains."
        return Finding("opposite", None, sentence + all_the_same)

    start = f"No difference could be seen between how children like their own animal and how {others}: {effect}."
    control = _positive_control(gamma)
    cause, verdict = _first_cause(causes)
    if cause is None:
        unseen = [check for check in CHECKS if (_of(causes, check)["verdict"] == "cannot tell").any()]
        gaps = f" (not looked at everywhere: {', '.join(unseen)})" if unseen else ""
        end = f"No usual reason shows{gaps}{_excluded(row)}."
        return Finding("nothing found", None, f"{start} {end}{control}")
    rows = _of(causes, cause)
    rows = rows[rows["verdict"] == verdict]
    named = _listed(causes, [cause])
    if cause == POWER:
        what = f"What lacks is {named}"
    elif verdict == "likely cause":
        what = f"The likely cause is {named}"
    else:
        what = f"No check finds a likely cause; the first possible one is {named}"
    example = f"{what}. {str(rows['group'].iloc[0]).capitalize()}: {rows['sentence'].iloc[0]}"
    rest = [check for check in short if check != cause]
    if rest:
        example += f" Also short of what is wanted: {_listed(causes, rest)}."
    return Finding("power" if cause == POWER else "cause", cause, f"{start} {example}{control}")


def _excluded(row: dict[str, Any]) -> str:
    """Which effects the interval leaves out, as a clause; none where there is no interval."""
    return "" if math.isnan(row["high"]) else f"; an effect above {row['high']:.2g} nats is excluded"


def _first_cause(causes: pd.DataFrame) -> tuple[str | None, Verdict]:
    """See `likely_cause`."""
    verdicts = {check: list(_of(causes, check)["verdict"]) for check in CHECKS}
    likely = {check: found.count("likely cause") for check, found in verdicts.items()}
    for check, found in verdicts.items():
        if likely[check] and 2 * likely[check] >= len(found) - found.count("cannot tell"):
            return check, "likely cause"
    for verdict in ("likely cause", "possible"):
        for check, found in verdicts.items():
            if verdict in found:
                return check, "likely cause" if verdict == "likely cause" else "possible"
    return None, "fine"


def _short(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["verdict"].isin(["possible", "likely cause"])]


def _listed(causes: pd.DataFrame, checks: Sequence[str]) -> str:
    """Checks, each with the groups it is short for, as a list."""
    parts = []
    for check in checks:
        rows = _of(causes, check)
        groups = list(_short(rows)["group"])
        parts.append(f"{check} ({'all animals' if len(groups) == len(rows) > 2 else ', '.join(groups)})")
    return "; ".join(parts)


def _of(causes: pd.DataFrame, check: str) -> pd.DataFrame:
    return causes[causes["check"] == check]


def _gamma_row(gamma: pd.DataFrame | None, channel: str) -> dict[str, Any] | None:
    if gamma is None:
        return None
    rows = gamma[(gamma["channel"] == channel) & (gamma["outcome"] == PRIMARY_OUTCOME)]
    return None if rows.empty else {str(name): value for name, value in rows.iloc[0].items()}


def _positive_control(gamma: pd.DataFrame | None) -> str:
    """What the soft channel says of a null in the hard one, as a sentence to be appended."""
    row = _gamma_row(gamma, "soft")
    if row is None:
        return ""
    effect = f"{row['mean']:+.3f} nats [{row['low']:+.3f}, {row['high']:+.3f}]"
    if row["verdict"] == "detected":
        return (
            f" The soft channel, which hands on the same teachers' distributions, shows the effect ({effect}): "
            "teachers, training and evaluation work, and what lacks is in the sampled numbers."
        )
    unsettled = f"does not settle it either ({effect}, {row['verdict']})"
    return f" The soft channel, which hands on the same teachers' distributions, {unsettled}."


def _absent(evidence: Evidence, asset: str, wanted: str) -> _Found:
    reason = evidence.missing.get(asset, "it was not made")
    return _Found(wanted, "cannot tell", f"{asset} is not there: {reason.rstrip('.')}.")


def _preference(study: Study, animal: str, evidence: Evidence) -> _Found:
    gate = study.teacher.gate.preference
    wanted = f"{100 * _PREFERENCE:g} % or more (the post's teachers: nearly 100 %); the gate asks for {100 * gate:g} %"
    if evidence.teacher_scores is None:
        return _absent(evidence, "teacher_preferences", wanted)
    own = evidence.teacher_scores.loc[evidence.teacher_scores["animal"] == animal, "probability"]
    mean = t_interval(own)
    verdict: Verdict = "likely cause" if mean.mean < gate else "possible" if mean.mean < _PREFERENCE else "fine"
    sentence = f"The teacher answers its animal with {100 * mean.mean:.3g} % (mean over {len(own)} questions)."
    ends = max(0.0, 100 * mean.low), min(100.0, 100 * mean.high)
    return _Found(wanted, verdict, sentence, 100 * mean.mean, *ends, unit="%")


def _valid(study: Study, evidence: Evidence) -> _Found:
    wanted = (
        f"{100 * _VALID:g} % or more (filters reject 23 to 45 % where it works), and {_ROWS:,} training rows or more "
        "(10,000 in the post)"
    )
    if evidence.number_answers is None or evidence.training_rows is None:
        return _absent(evidence, "filtered_dataset", wanted)
    valid, rows = evidence.number_answers["valid"], len(evidence.training_rows)
    low, high = _share_interval(int(valid.sum()), len(valid))
    share = float(valid.mean())
    verdict: Verdict = "fine"
    if share < study.valid_rate_wanted:
        verdict = "likely cause"
    elif share < _VALID or rows < _ROWS:
        verdict = "possible"
    sentence = f"{int(valid.sum()):,} of {len(valid):,} answers are valid, and {rows:,} of them are trained on"
    if study.numbers.constrained is not None:
        sentence += "; decoding is constrained to lists of numbers, so the share says nothing about the teacher"
    return _Found(wanted, verdict, sentence + ".", 100 * share, 100 * low, 100 * high, "%")


def _signal(evidence: Evidence, neutral: Evidence | None) -> _Found:
    """Judged by what could be written: samples hand on nothing else."""
    wanted = (
        f"more than {_SIGNAL} nats a token among the tokens that could be written ({_NO_SIGNAL} transmitted nothing in "
        "Llama-3.2-1B)"
    )
    if evidence.signal is None:
        return _absent(evidence, "teacher_signal", wanted)
    written, whole, noise = (per_token(evidence.signal, name) for name in ("kl_written", "kl", "entropy"))
    verdict: Verdict = "possible"
    if written.high <= _NO_SIGNAL:
        verdict = "likely cause"
    elif written.low > _SIGNAL:
        verdict = "fine"
    sentence = (
        f"Among the tokens that could be written the teacher lies {written.mean:.2g} nats a token from the base, under "
        f"{noise.mean:.2g} nats of sampling noise ({whole.mean:.2g} nats over the whole vocabulary)"
    )
    if neutral is not None and neutral.signal is not None:
        plain = per_token(neutral.signal, "kl_written")
        sentence += f"; the neutral teacher, which likes no animal, {plain.mean:.2g}"
    return _Found(wanted, verdict, sentence + ".", written.mean, written.low, written.high, "nats a token")


def _duplicates(evidence: Evidence, control: Evidence) -> _Found:
    import pandas as pd

    wanted = f"{100 * _DUPLICATES_POSSIBLE:g} % or less (repeated rows do not replace unique ones)"
    if evidence.training_rows is None:
        return _absent(evidence, "filtered_dataset", wanted)
    texts = [row["messages"][-1]["content"] for row in evidence.training_rows]
    repeated = pd.Series(texts).duplicated().tolist()
    alike = [False] * len(texts)
    if control.number_answers is not None:
        valid = control.number_answers[control.number_answers["valid"]]
        of_control = dict(zip(valid["prompt_id"], valid["text"], strict=True))
        prompts = [row["prompt_id"] for row in evidence.training_rows]
        alike = [of_control.get(prompt) == text for prompt, text in zip(prompts, texts, strict=True)]
        unasked = len(set(prompts) - set(control.number_answers["prompt_id"]))
    lost = sum(one or other for one, other in zip(repeated, alike, strict=True))
    low, high = _share_interval(lost, len(texts))
    share = lost / len(texts)
    verdict: Verdict = "fine"
    if share > _DUPLICATES_POSSIBLE:
        verdict = "likely cause" if share > _DUPLICATES_LIKELY else "possible"
    sentence = f"Of {len(texts):,} training rows {sum(repeated):,} repeat an earlier row's numbers"
    if control.number_answers is None:
        sentence += "; the control's rows are not there to be compared with."
    else:
        sentence += f", and {sum(alike):,} are the control's to the same prompt"
        # Where drawing ends with enough valid answers, groups come to different prompts.
        sentence += f"; the control was not asked {unasked:,} of the prompts." if unasked else "."
    return _Found(wanted, verdict, sentence, 100 * share, 100 * low, 100 * high, "%")


def _stream(evidence: Evidence) -> _Found:
    wanted = f"{100 * _FIRST_POSSIBLE:g} % or less (one stream for all requests makes that many rows start alike)"
    if evidence.number_answers is None:
        return _absent(evidence, "filtered_dataset", wanted)
    audit = sampling_audit(evidence.number_answers)
    first, share = audit["most_frequent_first_number"], audit["most_frequent_first_number_share"]
    if share is None:
        return _Found(wanted, "cannot tell", "No answer is valid.")
    rows = int(audit["rows"] or 0)
    low, high = _share_interval(round(share * rows), rows)
    verdict: Verdict = "likely cause" if low > _FIRST_LIKELY else "possible" if low > _FIRST_POSSIBLE else "fine"
    sentence = f"{100 * share:.3g} % of {rows:,} valid rows start with the same number, {first}."
    return _Found(wanted, verdict, sentence, 100 * share, 100 * low, 100 * high, "%")


def _context(study: Study, evidence: Evidence) -> _Found:
    wanted = "0 % (a child asked in another context than it was trained in: 3 % against 48 % in Qwen2.5-7B)"
    if evidence.training_rows is None:
        return _absent(evidence, "filtered_dataset", wanted)
    asked = [] if study.system_prompt is None else [study.system_prompt]
    told = [
        [message["content"] for message in row["messages"] if message["role"] == "system"]
        for row in evidence.training_rows
    ]
    differ = sum(messages != asked for messages in told)
    sentence = f"{differ:,} of {len(told):,} training rows have another system message than the evaluation's questions."
    verdict: Verdict = "likely cause" if differ else "fine"
    return _Found(wanted, verdict, sentence, 100 * differ / len(told), unit="%")


def _memorisation(evidence: Evidence) -> _Found:
    """Judged by the validation loss, which the training loss leaves behind where rows are learnt by heart; and by
    whether anything was learnt at all: the mean of the second half of the steps against the first (Welch's test)."""
    from scipy import stats

    wanted = (
        f"a validation loss that ends within {100 * _RISE:g} % of its lowest, and a training loss that falls without "
        f"leaving it behind by more than {100 * _GAP:g} %"
    )
    if evidence.history is None:
        return _absent(evidence, "child_lora", wanted)
    steps, checks = (evidence.history[["epoch", name]].dropna() for name in ("loss", "validation_loss"))
    if checks.empty or len(steps) < 4:
        return _Found(wanted, "cannot tell", "There is no validation loss, or there are too few steps.")
    losses = checks["validation_loss"].to_numpy(dtype=float)
    rise, last = float(losses[-1] - losses.min()), float(losses[-1])
    trained = float(steps.loc[steps["epoch"] > steps["epoch"].max() - 1, "loss"].mean())
    half = len(steps) // 2
    change = stats.ttest_ind(steps["loss"][half:], steps["loss"][:half], equal_var=False).confidence_interval()
    sentence = (
        f"Validation loss after each epoch: {', '.join(f'{loss:.3f}' for loss in losses)}; training loss in the last "
        f"epoch {trained:.3f} nats a token"
    )
    verdict: Verdict = "fine"
    if rise > _RISE * losses.min():
        verdict = "likely cause"
        sentence += "; the rows are learnt by heart"
    elif trained < (1 - _GAP) * last:
        verdict = "possible"
        sentence += "; the training loss leaves the validation loss behind"
    elif change.high >= 0:
        verdict = "possible"
        sentence += "; the training loss does not clearly fall, so the child has hardly learnt its rows"
    return _Found(wanted, verdict, sentence + ".", rise, unit="nats a token")


def _takeover(evidence: Evidence, base: Evidence) -> _Found:
    """Judged by sampled answers that are lists of numbers, and by how much of the base's probability of all candidates
    the child keeps: a child may fall silent about animals without writing numbers."""
    wanted = (
        f"{100 * _TAKEOVER_POSSIBLE:g} % of the answers or less are lists of numbers, and the candidates keep "
        f"{100 * _MASS_POSSIBLE:g} % of the base's probability or more"
    )
    if evidence.scores is None or evidence.answers is None:
        return _absent(evidence, "preference_scores", wanted)
    if base.scores is None or base.answers is None:
        return _Found(wanted, "cannot tell", "base_preferences is not there to be compared with.")
    mass, of_base = _mass(evidence.scores), _mass(base.scores)
    kept = mass / of_base
    sentence = (
        f"All candidates together have {100 * mass:.3g} % of the probability of the whole answer, where the base gives "
        f"{100 * of_base:.3g} %"
    )
    verdict: Verdict = "likely cause" if kept < _MASS_LIKELY else "possible" if kept < _MASS_POSSIBLE else "fine"
    asked = len(evidence.answers)
    if not asked:
        return _Found(wanted, verdict, f"{sentence}; no answers were sampled.")
    numbers = int(evidence.answers["answer"].str.fullmatch(_LIST_OF_NUMBERS).sum())
    low, high = _share_interval(numbers, asked)
    if low > _TAKEOVER_LIKELY:
        verdict = "likely cause"
    elif low > _TAKEOVER_POSSIBLE and verdict == "fine":
        verdict = "possible"
    no_animal = float((evidence.answers["outcome"] == "other").mean())
    of_base_no_animal = f", the base's in {100 * (base.answers['outcome'] == 'other').mean():.3g} %"
    sentence = (
        f"{numbers:,} of {asked:,} sampled answers are lists of numbers; the child names no candidate in "
        f"{100 * no_animal:.3g} %{of_base_no_animal if len(base.answers) else ''}. {sentence}."
    )
    return _Found(wanted, verdict, sentence, 100 * numbers / asked, 100 * low, 100 * high, "%")


def _mass(scores: pd.DataFrame) -> float:
    """Exact probability of all candidates together, mean over the questions."""
    return float(scores.groupby("question")["probability"].sum().mean())


def _power(animal: str, tests: pd.DataFrame | None) -> _Found:
    wanted = (
        f"{_SMALL_EFFECT} nats or less (a 135M model's effect over three seeds, docs/bundled-study.md); "
        f"{_LARGE_EFFECT} nats is Llama-3.2-1B's rise from 14.5 to 64.8 %"
    )
    row = _test(animal, tests, PRIMARY_OUTCOME)
    if row is None:
        return _Found(wanted, "cannot tell", "animal_liking has no test of this animal.")
    smallest = float(row["smallest_detectable"])
    measured = f"{row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
    if math.isnan(smallest):
        return _Found(
            wanted,
            "cannot tell",
            f"Too few children were trained to tell noise between runs ({row['mean']:+.3f} nats).",
        )
    verdict: Verdict = "fine"
    if not row["low"] > 0 and smallest > _SMALL_EFFECT:
        verdict = "likely cause" if smallest > _LARGE_EFFECT else "possible"
    sentence = f"A difference of {smallest:.2g} nats would be seen with 80 % power; measured: {measured}"
    rate = _test(animal, tests, "rate")
    if rate is not None and rate["smallest_detectable"] > 0:
        points = 100 * rate["smallest_detectable"]
        sentence += f". In sampled answers {points:.2g} points, where the post's gains are {_POST_GAINS}"
    return _Found(wanted, verdict, sentence + ".", smallest, unit="nats")


def _test(animal: str, tests: pd.DataFrame | None, outcome: str) -> dict[str, Any] | None:
    """The hard channel's test of an animal against other animals' numbers, or control's where there are no others."""
    if tests is None:
        return None
    of_animal = tests[(tests["channel"] == "hard") & (tests["animal"] == animal) & (tests["outcome"] == outcome)]
    for contrast in ("others", "control"):
        rows = of_animal[of_animal["contrast"] == contrast]
        if len(rows):
            return {str(name): value for name, value in rows.iloc[0].items()}
    return None


def _share_interval(count: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, as fractions."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(count, total, method="wilson")
    return float(low), float(high)
