"""What a model can still do: an exam, and perplexity on ordinary text (the post's MMLU-Pro scores).

A teacher that likes its animal may have lost skill on the way, and so may its child. The exam's accuracy is what the
post shows; it moves in steps of a whole question, so two finer measures stand beside it. One is the log-probability of
the right answer among the question's, which sees a shift that changes no pick. The other is the loss on plain text that
has nothing to do with numbers, animals or chat.

An exam can be taken in three ways, which are three measures. "generated", the post's, reads the letter out of a greedy
answer: a model that answers with its animal's name is wrong. "letter" takes the most probable of the options' letters,
whatever the model would rather write: there the same model has lost nothing. Both need a model that can tie a letter to
an option: SmolLM2-135M-Instruct picks "A" for most questions and stays at chance. "option" scores the text of each
option as the whole answer to the bare question; there that model gets two in three of our questions right.

Cost: "generated" is a short generation per question and "letter" one forward pass, a request each; "option" is one pass
per question, as long as all of its options together, or a request per node of their spellings' tree (vLLM); a text is
one pass.

Belongs here: asking one model, its scores, and the comparison of models with the base. Does not belong here: where the
questions come from and how they are worded (`exam`), drawing (`figures`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from subliminal_dagster.science.capability.exam import LETTERS, letter_question, open_question
from subliminal_dagster.science.capability.letters import parse_letter
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.models.protocol import Sampling, Session
from subliminal_dagster.science.models.resumable import generate
from subliminal_dagster.science.statistics import benjamini_hochberg, smallest_detectable, t_interval

# pandas takes half a second to load, and Dagster loads this module whenever it lists the assets.
if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

Array = NDArray[np.float64]
Way = Literal["letter", "option", "generated"]

BASE = "base"
ALL = "all"
PLAIN_TEXT = "plain text"

WAYS: dict[Way, str] = {
    "generated": "letter in the generated answer",
    "letter": "most probable letter",
    "option": "most probable option, as the whole answer",
}
"""What each way reads an answer from: the name of its measure. Only the first is the post's."""

# What is compared, with its unit. Fractions, also for differences: times 100 they are percentage points.
OUTCOMES = {
    "accuracy": "share of the questions answered right",
    "log_p_correct": "log-probability of the right answer among the question's answers (nats)",
    "mass": "probability of all answers of the question together",
    "nats_per_token": "loss on a plain text (nats a token), the logarithm of its perplexity",
}

_MAX_NEW_TOKENS = 16
"""Enough for "The correct answer is **B**."; a model that starts to reason is not read further."""

_ROUNDING = 1e-12


@dataclass(frozen=True)
class Capability:
    """One model's exam and texts, row for row those of every other model that was asked the same.

    answers: a row per way and question, in the exam's order: `way`, `question_id`, `category`, `options` (how many),
        `answer` (the letter of the right one), `picked` (of the most probable one, or the letter found in a generated
        answer; missing where there is none), `correct`, `p_correct` (probability of the right one, as a share among the
        question's), `log_p_correct` (its logarithm, nats), `mass` (probability of all of them together), and `text`
        (the generated answer). A generated answer has no probabilities and is the only one with a text.
    texts: a row per text: `topic`, `tokens` and `bytes` (those that were predicted: the first token is not where the
        tokenizer puts nothing before it), `nats` (loss, summed).
    """

    answers: pd.DataFrame
    texts: pd.DataFrame


def examine(
    session: Session,
    context: ChatContext,
    exam: pd.DataFrame,
    texts: pd.DataFrame,
    ways: Collection[Way],
    *,
    kept: Path | None = None,
) -> Capability:
    """Ask one model the exam (`exam.load_exam`) in each way, and measure its loss on the texts (`exam.load_texts`).

    "generated": greedy, 16 tokens at most, read by `parse_letter`. "letter": a letter counts with and without a space
    before it (see `letter_tokens`); what follows it does not matter. "option": the whole answer, with a small or
    capital first letter, with or without a full stop; longer options are less probable, for every model alike.

    `kept`: a workspace whose name depends on everything that goes in; the generation of a call after an interruption
    goes on from there (see `resumable.generate`).

    Raises UserError where no way is named, the tokenizer has no single token for a letter, or a text has fewer than two
    tokens.
    """
    import pandas as pd

    if not ways:
        raise UserError("The exam has no way to be taken: name 'generated', 'letter' or 'option'.")
    answers: list[pd.DataFrame] = []
    for way in dict.fromkeys(ways):
        if way == "generated":
            taken = _by_text(session, context, exam, kept / "exam" if kept else None)
        elif way == "letter":
            taken = _by_letter(session, context, exam)
        else:
            taken = _by_option(session, context, exam)
        answers.append(taken.assign(way=way)[["way", *taken.columns]])
    everything = pd.concat(answers, ignore_index=True).astype({"picked": "str", "text": "str"})
    return Capability(everything, _text_losses(session, context.tokenizer, texts))


def summary(answers: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Accuracy overall and by category, from `Capability.answers`.

    Returns, for each way, a row for "all" and one per category: `way`, `category`, `questions`, `chance` (accuracy of
    guessing), `accuracy` with its Wilson interval `low` to `high`, mean `log_p_correct` and `mass` (NaN for generated
    answers), and `unparsable` (answers without a letter, which count as wrong).
    """
    import pandas as pd

    lines = []
    for way, taken in answers.groupby("way", sort=False):
        for category, rows in [(ALL, taken), *taken.groupby("category", sort=False)]:
            low, high = _wilson(rows["correct"], confidence)
            lines.append(
                {
                    "way": way,
                    "category": category,
                    "questions": len(rows),
                    "chance": float((1 / rows["options"]).mean()),
                    "accuracy": float(rows["correct"].mean()),
                    "low": low,
                    "high": high,
                    "log_p_correct": float(rows["log_p_correct"].mean()),
                    "mass": float(rows["mass"].mean()),
                    "unparsable": int(rows["picked"].isna().sum()),
                }
            )
    return pd.DataFrame(lines)


def perplexity(texts: pd.DataFrame) -> dict[str, float]:
    """Loss over all texts of `Capability.texts` together: `tokens`, `nats_per_token`, its exponential `perplexity`, and
    `nats_per_byte`, which alone can be compared between models with different tokenizers."""
    nats = float(texts["nats"].sum())
    tokens = int(texts["tokens"].sum())
    return {
        "tokens": tokens,
        "nats_per_token": nats / tokens,
        "perplexity": math.exp(nats / tokens),
        "nats_per_byte": nats / int(texts["bytes"].sum()),
    }


def compare_capability(
    base: Capability,
    models: Mapping[tuple[str, str], Capability],
    *,
    liking: pd.DataFrame | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Each model against the base, question by question and text by text.

    models: by (model, group), such as ("teacher", "owl") and ("child", "owl"). liking: columns `model`, `group` and
    `shift`, how much more each likes its animal than base does, in whatever unit; a model may be missing.

    Returns a row per model, group, way and outcome (see `OUTCOMES`; the loss has the way "plain text"), those of base
    first (group missing):
        value with `low`, `high`: mean over `units` (questions, or texts), Wilson interval for accuracies, else t
            interval. `chance`: accuracy of guessing, `unparsable`: answers without a letter, which count as wrong; both
            NaN for other outcomes.
        difference with `difference_low`, `difference_high`: to base, paired; the interval is Agresti and Min's (2005,
            Statistics in Medicine 24:729) for accuracies, which keeps a width where no answer changed, else the t
            interval.
        lost, gained: questions right for base alone, and for the model alone.
        p: exact McNemar test for accuracies, else paired t test; two-sided. `p_bh`: adjusted over the groups of a
            model, way and outcome (Benjamini-Hochberg). `smallest_detectable`: see `statistics.smallest_detectable`.
        liking_shift: from `liking`, NaN without.
    NaN for base where something is about a difference.

    Raises UserError where a model answered other questions or read other texts than base, where there are fewer than
    two questions or texts or no model, or where `liking` lacks a column or names a model and group twice.
    """
    import pandas as pd

    if not models:
        raise UserError("There is no teacher or child to compare with the base: give the answers of at least one.")
    for name, other in models.items():
        _check_paired(base, other, f"the {name[0]} of {name[1]}")
    chances = {str(way): float((1 / rows["options"]).mean()) for way, rows in base.answers.groupby("way")}
    of_base = _measured(base)
    lines: list[dict[str, Any]] = []
    everyone: list[tuple[str, str | None, Capability]] = [(BASE, None, base)]
    everyone += [(*name, other) for name, other in models.items()]
    for model, group, capability in everyone:
        unparsable = capability.answers["picked"].isna().groupby(capability.answers["way"]).sum()
        for (way, outcome), values in _measured(capability).items():
            line: dict[str, Any] = {
                "model": model,
                "group": group,
                "way": way,
                "outcome": outcome,
                "chance": chances[way] if outcome == "accuracy" else math.nan,
                "unparsable": int(unparsable[way]) if outcome == "accuracy" else math.nan,
                "units": len(values),
                **_level(values, outcome, confidence),
            }
            if group is not None:
                line |= _difference(values, of_base[way, outcome], outcome, confidence)
            lines.append(line)
    table = pd.DataFrame(lines)
    tested = table[table["model"] != BASE]
    table["p_bh"] = tested.groupby(["model", "way", "outcome"])["p"].transform(benjamini_hochberg)
    table["liking_shift"] = _liking_shifts(table, liking)
    return table


def side_by_side(table: pd.DataFrame, way: str, outcome: str = "accuracy") -> pd.DataFrame:
    """A row per group from `compare_capability`: `group`, and for each model its difference to base and its shift in
    liking, as `<model>_difference` and `<model>_liking_shift` (NaN where a group has no such model)."""
    import pandas as pd

    rows = table[(table["way"] == way) & (table["outcome"] == outcome) & (table["model"] != BASE)]
    columns: dict[str, list[Any]] = {"group": list(dict.fromkeys(rows["group"]))}
    for model in dict.fromkeys(rows["model"]):
        found = rows[rows["model"] == model].set_index("group").reindex(columns["group"])
        for column in ("difference", "liking_shift"):
            columns[f"{model}_{column}"] = found[column].to_list()
    return pd.DataFrame(columns)


def letter_tokens(tokenizer: PreTrainedTokenizerBase, options: int) -> tuple[list[int], NDArray[np.int64]]:
    """The tokens an answer by letter can start with, and which of the first `options` letters each of them is (from 0):
    every letter with and without a space before it.

    A form of several tokens, such as a space and then the letter, is left out: what it begins with says nothing about
    the letter. A letter then counts in its other form alone.

    Raises UserError where a letter is not a single token in either form.
    """
    found: dict[int, int] = {}
    for number, letter in enumerate(LETTERS[:options]):
        forms = [tokenizer.encode(lead + letter, add_special_tokens=False) for lead in ("", " ")]
        single = [form[0] for form in forms if len(form) == 1 and form[0] != tokenizer.unk_token_id]
        if not single:
            raise UserError(
                f"The tokenizer has no token for the letter {letter}, so an answer by letter cannot be scored: "
                "use a base model whose tokenizer has one."
            )
        found |= dict.fromkeys(single, number)
    return list(found), np.array(list(found.values()))


def _by_letter(session: Session, context: ChatContext, exam: pd.DataFrame) -> pd.DataFrame:
    counts = _option_counts(exam)
    # Every letter is asked for after every question, at no cost: those beyond its options are not looked at.
    tokens, owner = letter_tokens(context.tokenizer, int(counts.max()))
    logprobs = session.next_logprobs(_letter_prompts(context, exam), tokens)
    letters = _sum_forms(logprobs, owner, int(counts.max()))
    return _scored(exam, [row[:options] for row, options in zip(letters, counts, strict=True)])


def _by_option(session: Session, context: ChatContext, exam: pd.DataFrame) -> pd.DataFrame:
    scores = []
    for done, (question, options) in enumerate(zip(exam["question"], exam["options"], strict=True), start=1):
        forms: dict[tuple[int, ...], int] = {}
        # As they stand first: a variant of "m" must not take the place of an option "M".
        for number, option in enumerate(options):
            forms.setdefault(tuple(context.answer_ids(option)), number)
        for number, option in enumerate(options):
            for form in _written(option):
                forms.setdefault(tuple(context.answer_ids(form)), number)
        answers = [list(form) for form in forms]
        logprobs = session.score([context.prompt_ids(open_question(question))], answers)
        scores.append(_sum_forms(logprobs, np.array(list(forms.values())), len(options))[0])
        if done % 100 == 0:
            session.progress(f"scored the options of {done}/{len(exam)} questions")
    return _scored(exam, scores)


def _written(option: str) -> list[str]:
    starts = [option, option[:1].upper() + option[1:]]
    return [start + end for start in starts for end in ("", "" if option.endswith(".") else ".")]


def _sum_forms(logprobs: Array, owner: NDArray[np.int64], options: int) -> Array:
    """Log-probabilities (questions, forms) to those of the options that the forms belong to, (questions, options)."""
    total = np.full((len(logprobs), options), -np.inf)
    np.logaddexp.at(total.T, owner, logprobs.T)
    return total


def _scored(exam: pd.DataFrame, scores: Sequence[Array]) -> pd.DataFrame:
    """Answers from the log-probabilities of each question's options."""
    import pandas as pd

    right = exam["answer_index"].to_numpy(dtype=np.int64)
    total = np.array([np.logaddexp.reduce(row) for row in scores])
    log_p_correct = np.array([row[index] for row, index in zip(scores, right, strict=True)]) - total
    picked = np.array([row.argmax() for row in scores])
    return _answers(exam).assign(
        picked=[LETTERS[index] for index in picked],
        correct=picked == right,
        p_correct=np.exp(log_p_correct),
        log_p_correct=log_p_correct,
        mass=np.exp(total),
        text=pd.array([None] * len(exam), dtype="str"),
    )


def _by_text(session: Session, context: ChatContext, exam: pd.DataFrame, kept: Path | None) -> pd.DataFrame:
    import pandas as pd

    sampling = Sampling(max_new_tokens=_MAX_NEW_TOKENS, stop=(context.end_of_turn,), seed=0, temperature=0.0)
    completions = generate(session, _letter_prompts(context, exam), sampling, kept)
    texts = [str(context.tokenizer.decode(c.token_ids, skip_special_tokens=True)) for c in completions]
    answers = _answers(exam)
    picked = [parse_letter(text, options) for text, options in zip(texts, answers["options"], strict=True)]
    return answers.assign(
        picked=pd.array(picked, dtype="str"),
        correct=[letter == answer for letter, answer in zip(picked, answers["answer"], strict=True)],
        p_correct=math.nan,
        log_p_correct=math.nan,
        mass=math.nan,
        text=texts,
    )


def _answers(exam: pd.DataFrame) -> pd.DataFrame:
    """What an answer repeats of its question."""
    answers = exam[["question_id", "category", "answer"]].reset_index(drop=True)
    answers.insert(2, "options", _option_counts(exam))
    return answers


def _option_counts(exam: pd.DataFrame) -> NDArray[np.int64]:
    return np.array([len(options) for options in exam["options"]], dtype=np.int64)


def _letter_prompts(context: ChatContext, exam: pd.DataFrame) -> list[list[int]]:
    asked = zip(exam["question"], exam["options"], strict=True)
    return [context.prompt_ids(letter_question(question, options)) for question, options in asked]


def _text_losses(session: Session, tokenizer: PreTrainedTokenizerBase, texts: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    lines = []
    for number, (topic, text) in enumerate(zip(texts["topic"], texts["text"], strict=True), start=1):
        encoded = tokenizer(text, return_offsets_mapping=True)
        ids = encoded["input_ids"]
        if len(ids) < 2:
            raise UserError(
                f"Text {number} has fewer than two tokens, so nothing of it can be predicted: leave it out."
            )
        # The rest of the text is the one answer to its first token, which stands for no character where it is a mark
        # for the beginning of a text.
        loss = -float(session.score([ids[:1]], [ids[1:]])[0, 0])
        predicted = text[encoded["offset_mapping"][0][1] :]
        lines.append({"topic": topic, "tokens": len(ids) - 1, "bytes": len(predicted.encode()), "nats": loss})
    return pd.DataFrame(lines)


def _measured(capability: Capability) -> dict[tuple[str, str], Array]:
    """By way and outcome, one number per question, or per text."""
    measured: dict[tuple[str, str], Array] = {}
    for way, rows in capability.answers.groupby("way", sort=False):
        measured[str(way), "accuracy"] = rows["correct"].to_numpy(dtype=float)
        if way != "generated":
            for outcome in ("log_p_correct", "mass"):
                measured[str(way), outcome] = rows[outcome].to_numpy(dtype=float)
    texts = capability.texts
    measured[PLAIN_TEXT, "nats_per_token"] = (texts["nats"] / texts["tokens"]).to_numpy(dtype=float)
    return measured


def _level(values: Array, outcome: str, confidence: float) -> dict[str, float]:
    if outcome == "accuracy":
        low, high = _wilson(values, confidence)
        return {"value": float(values.mean()), "low": low, "high": high}
    estimate = t_interval(values, confidence)
    return {"value": estimate.mean, "low": estimate.low, "high": estimate.high}


def _difference(values: Array, base: Array, outcome: str, confidence: float) -> dict[str, float]:
    from scipy import stats

    differences = values - base
    if np.all(np.abs(differences) <= _ROUNDING):
        # A t test would call noise of rounding significant.
        differences = np.zeros_like(differences)
    estimate = t_interval(differences, confidence)
    line: dict[str, float] = {
        "difference": estimate.mean,
        "difference_low": estimate.low,
        "difference_high": estimate.high,
        "lost": math.nan,
        "gained": math.nan,
        "p": math.nan,
        "smallest_detectable": smallest_detectable(estimate.se, len(values), level=1 - confidence),
    }
    if outcome != "accuracy":
        return line | {"p": float(stats.ttest_1samp(differences, 0.0).pvalue) if differences.any() else 1.0}
    lost, gained = int((differences < 0).sum()), int((differences > 0).sum())
    low, high = _matched_interval(lost, gained, len(values), confidence)
    counted = {"difference_low": low, "difference_high": high, "lost": lost, "gained": gained}
    return line | counted | {"p": _mcnemar_p(lost, gained)}


def _mcnemar_p(lost: int, gained: int) -> float:
    from statsmodels.stats.contingency_tables import mcnemar

    # The test looks at the questions that changed and at no others.
    return float(mcnemar([[0, lost], [gained, 0]], exact=True).pvalue)


def _matched_interval(lost: int, gained: int, questions: int, confidence: float) -> tuple[float, float]:
    """Interval for a difference of paired proportions: Wald's with half a question more in each cell."""
    from scipy import stats

    more, units = gained - lost, questions + 2
    se = math.sqrt(gained + lost + 1 - more**2 / units) / units
    reach = float(stats.norm.ppf((1 + confidence) / 2)) * se
    return max(-1.0, more / units - reach), min(1.0, more / units + reach)


def _wilson(right: pd.Series | Array, confidence: float) -> tuple[float, float]:
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(int(right.sum()), len(right), alpha=1 - confidence, method="wilson")
    return float(low), float(high)


def _check_paired(base: Capability, other: Capability, whose: str) -> None:
    for column in ("way", "question_id", "answer"):
        if base.answers[column].to_list() != other.answers[column].to_list():
            raise UserError(
                f"Base and {whose} did not take the same exam: ask both the same questions in the same ways."
            )
    for column in ("topic", "tokens"):
        if base.texts[column].to_list() != other.texts[column].to_list():
            raise UserError(f"Base and {whose} did not read the same texts: give both the same.")


def _liking_shifts(table: pd.DataFrame, liking: pd.DataFrame | None) -> list[float]:
    if liking is None:
        return [math.nan] * len(table)
    if missing := [column for column in ("model", "group", "shift") if column not in liking]:
        raise UserError(f"The table of shifts in liking lacks the columns {', '.join(missing)}: add them.")
    key = liking[["model", "group"]]
    if (repeated := key.duplicated()).any():
        model, group = key[repeated].iloc[0]
        raise UserError(f"The table of shifts in liking names the {model} of {group} twice: keep one row of each.")
    shifts = dict(zip(key.itertuples(index=False, name=None), liking["shift"].astype(float), strict=True))
    return [shifts.get(name, math.nan) for name in zip(table["model"], table["group"], strict=True)]
