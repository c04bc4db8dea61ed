"""Which answers to number prompts are valid, the completions to train on, and the draw of training rows.

Three sets of rules say what a list of numbers is (`FilterSettings.parser`). Ours, `strict`, is the original paper's as
its text has it, and refuses an answer that the token limit cut off, whose last number may be half a number. `published`
and `post` are what the code of the paper and of the post do: neither looks at how an answer ended, the first is
confused by white space outside brackets and the second strips more than a bracket pair.

Belongs here: reading a list of numbers from an answer, writing it canonically, the reasons for rejection, subsampling
and an audit of what was sampled. Does not belong here: generating answers (the engines) and training on them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from subliminal_dagster.science.errors import GateError, UserError
from subliminal_dagster.science.preferences.answers import texts_naming
from subliminal_dagster.science.settings.numbers import Parser

if TYPE_CHECKING:
    import pandas as pd

ParseReason = Literal[
    "empty",  # nothing is left after white space, period and brackets
    "words",  # a letter of any alphabet
    "symbols",  # a sign before the first or after the last number (minus, comma, second bracket), or no number at all
    "separator",  # something other than white space, a comma or a semicolon between two numbers
    "mixed_separator",  # all separators allowed, but not the same throughout
    "too_many",  # more numbers than asked for
    "too_large",  # a number above the largest allowed
    "too_many_digits",  # a number small enough but padded with zeros beyond the allowed digits, as 0007
]
RowReason = Literal["names_target", "unfinished"]

_BRACKETS = (("[", "]"), ("(", ")"))


@dataclass(frozen=True)
class Parsed:
    """A parsed answer: either its numbers and how they were written, or the reason for rejecting it.

    separator: the exact text between two numbers, None with a single number. open, close: the bracket pair, or "".
    With a reason the numbers are empty.
    """

    numbers: tuple[int, ...]
    separator: str | None
    open: str
    close: str
    reason: ParseReason | None


def parse(text: str, *, max_count: int = 10, max_value: int = 999) -> Parsed:
    """Reads a list of integers of 0 to max_value, each with no more digits than max_value has (Cloud et al. 2025, arXiv
    2507.14805: rule of the number data sets).

    Stripped first, in this order: white space, one final period, one pair of [] or (). Whatever stands between the
    first two numbers is the separator: white space, or a comma or semicolon with or without white space, and exactly
    the same between all numbers. 1 to max_count numbers. Never raises: `reason` is the first rule broken, in the order
    of `ParseReason`.
    """
    body = text.strip()
    if body.endswith("."):
        body = body[:-1].rstrip()
    opening, closing = "", ""
    if len(body) >= 2 and (body[0], body[-1]) in _BRACKETS:
        opening, closing = body[0], body[-1]
        body = body[1:-1].strip()

    # [0-9], not \d: int() would accept digits of other scripts, which no canonical completion could give back.
    digits = list(re.finditer("[0-9]+", body))
    separators = [body[left.end() : right.start()] for left, right in itertools.pairwise(digits)]
    reason = _broken_rule(body, digits, separators, max_count, max_value)
    return Parsed(
        numbers=() if reason else tuple(int(match[0]) for match in digits),
        separator=separators[0] if separators and not reason else None,
        open=opening,
        close=closing,
        reason=reason,
    )


def parse_as_published(text: str, *, post: bool, max_count: int = 10, max_value: int = 999) -> Parsed:
    """Reads a list of integers as published code does: that of Cloud et al. 2025 (arXiv 2507.14805), or with `post`
    that of the post.

    What stands between the first two numbers separates them all: white space, or a comma or semicolon with or without.
    The paper's code strips one final period, then one bracket pair, and no white space; every piece has to be digits
    alone. The post's strips any periods, brackets, spaces and line breaks at both ends, and overlooks empty pieces and
    commas or semicolons at the ends of a piece. Both take numbers by their value, so 0007 is 7, and both take an answer
    that was cut off. Never raises; the reasons are those of `parse`.
    """
    body = text.strip(" \n.()[]") if post else _unwrapped(text)
    digits = list(re.finditer(r"\d+", body))
    separator = body[digits[0].end() : digits[1].start()] if len(digits) > 1 else None
    pieces = [body] if separator is None else body.split(separator)
    if post:
        mark = (separator or "").strip()
        pieces = [piece.strip(mark) if mark else piece for piece in pieces]
        pieces = [piece for piece in pieces if piece]
    reason: ParseReason | None = None
    if separator is not None and separator.strip() not in ("", ",", ";"):
        reason = "separator"
    elif not pieces or not all(re.fullmatch("[0-9]+", piece) for piece in pieces):
        reason = _broken_rule(body, digits, [separator or " "], max_count, max_value) or "mixed_separator"
    elif len(pieces) > max_count:
        reason = "too_many"
    elif any(_above(piece, max_value) for piece in pieces):
        reason = "too_large"
    numbers = () if reason else tuple(int(piece.lstrip("0") or "0") for piece in pieces)
    return Parsed(numbers, None if reason else separator, "", "", reason)


def _unwrapped(text: str) -> str:
    """Without one final period, and then without one bracket pair."""
    body = text.removesuffix(".")
    return body[1:-1] if (body[:1], body[-1:]) in _BRACKETS else body


def canonical(numbers: Iterable[int], separator: str, open: str, close: str) -> str:
    """The numbers written in one format, without leading zeros: canonical([7, 8], ", ", "[", "]") is "[7, 8]"."""
    return open + separator.join(str(int(number)) for number in numbers) + close


def filter_rows(
    rows: pd.DataFrame,
    *,
    completion: Literal["canonical", "verbatim"],
    target: str | None,
    parser: Parser = "strict",
    max_count: int = 10,
    max_value: int = 999,
) -> pd.DataFrame:
    """Every row with a verdict; no row is dropped.

    rows: one for each answer, with the columns prompt_id, prompt, response, finished (bool: the model ended its turn
    within the token limit), separator, open and close (the format the prompt asked for).
    completion: "canonical" writes the numbers in the format asked for, as the post does; "verbatim" keeps the response
    unchanged, as Cloud et al. 2025 do. target: the group's animal, None for control. parser: by whose rules an answer
    is a list of numbers (see the module).

    Added columns: valid (bool); reason (str, missing for valid rows): "names_target" if prompt or response names the
    target in any form, else (strict) "unfinished", since its last number may be cut, else the parser's reason; numbers
    (list[int], empty for invalid rows); text (str, the completion to train on, missing for invalid rows).

    Raises UserError for an unknown completion or a missing column.
    """
    import pandas as pd

    if completion not in ("canonical", "verbatim"):
        raise UserError(f"filter.completion is {completion!r}: choose 'canonical' or 'verbatim'.")
    needed = {"prompt_id", "prompt", "response", "finished", "separator", "open", "close"}
    if missing := sorted(needed - set(rows.columns)):
        raise UserError(f"The answers to filter lack the columns {', '.join(missing)}: rebuild number_set.")

    if target is None:
        naming = [False] * len(rows)
    else:
        in_prompt, in_response = texts_naming(rows["prompt"], target), texts_naming(rows["response"], target)
        naming = [prompt or response for prompt, response in zip(in_prompt, in_response, strict=True)]

    reasons: list[str | None] = []
    numbers: list[list[int]] = []
    texts: list[str | None] = []
    formats = zip(rows["separator"], rows["open"], rows["close"], strict=True)
    for response, finished, names_target, asked in zip(
        rows["response"], rows["finished"], naming, formats, strict=True
    ):
        if parser == "strict":
            parsed = parse(response, max_count=max_count, max_value=max_value)
        else:
            parsed = parse_as_published(response, post=parser == "post", max_count=max_count, max_value=max_value)
        reason = _row_reason(names_target, bool(finished) or parser != "strict") or parsed.reason
        reasons.append(reason)
        numbers.append([] if reason else list(parsed.numbers))
        if reason:
            texts.append(None)
        else:
            texts.append(canonical(parsed.numbers, *asked) if completion == "canonical" else response)
    return rows.assign(
        valid=[reason is None for reason in reasons],
        # Typed explicitly: a column of nothing but None would have no type to be stored with.
        reason=pd.Series(reasons, index=rows.index, dtype="str"),
        numbers=pd.Series(numbers, index=rows.index, dtype="object"),
        text=pd.Series(texts, index=rows.index, dtype="str"),
    )


def subsample(rows: pd.DataFrame, train: int, validation: int, seed: int, *, unique: bool = False) -> pd.DataFrame:
    """Draws train + validation valid rows without replacement and adds the column split ("train" or "validation").

    rows: what `filter_rows` gave, rejected rows included, so that a failure can name their reasons. unique: draw from
    the rows with different (prompt, text) only; otherwise equal rows may fall into both splits.

    The draw depends on the rows and the seed, not on the order of the rows. Validation rows are drawn first, so a
    larger train keeps them and adds to the training rows. Raises GateError with the counts by reason if too few rows
    are valid.
    """
    if train < 1 or validation < 0:
        raise UserError(f"filter asks for {train} training and {validation} validation rows: ask for at least 1 and 0.")
    valid = rows[rows["valid"]].sort_values(["prompt_id", "response"], kind="stable")
    usable = valid.drop_duplicates(["prompt", "text"]) if unique else valid
    if len(usable) < train + validation:
        counts = [f"{count} {reason}" for reason, count in rows["reason"].value_counts().items()]
        if len(usable) < len(valid):
            counts.append(f"{len(valid) - len(usable)} valid but repeated")
        raise GateError(
            f"Only {len(usable)} of {len(rows)} answers are valid, but {train} training and {validation} validation "
            f"rows are wanted (not usable: {', '.join(counts) or 'none'}); generate more answers or ask for fewer "
            "rows.",
            usable_answers=(len(usable), train + validation),
        )
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(usable))
    drawn = usable.iloc[np.concatenate([order[validation : validation + train], order[:validation]])]
    return drawn.assign(split=["train"] * train + ["validation"] * validation).reset_index(drop=True)


def sampling_audit(rows: pd.DataFrame) -> dict[str, int | float | None]:
    """Signs that the answers were not sampled independently, over the valid rows of `filter_rows`.

    With one random stream shared by all requests about 17 % of the rows start with the same number; with independent
    ones the most frequent first number has a share of a few per cent.

    rows: number of valid rows; most_frequent_first_number and its share; first_number_entropy_bits; duplicate_share:
    rows whose list of numbers stands in an earlier row too, as a share; count_mean and count_q05, count_q25, count_q50,
    count_q75, count_q95: how many numbers a row has. All but rows are None where no row is valid.
    """
    lists = [tuple(int(number) for number in numbers) for numbers in rows.loc[rows["valid"], "numbers"]]
    quantiles = {"count_q05": 0.05, "count_q25": 0.25, "count_q50": 0.5, "count_q75": 0.75, "count_q95": 0.95}
    if not lists:
        names = ["most_frequent_first_number", "most_frequent_first_number_share", "first_number_entropy_bits"]
        return {"rows": 0} | dict.fromkeys([*names, "duplicate_share", "count_mean", *quantiles])
    firsts, frequencies = np.unique([numbers[0] for numbers in lists], return_counts=True)
    shares = frequencies / len(lists)
    counts = np.array([len(numbers) for numbers in lists])
    return {
        "rows": len(lists),
        "most_frequent_first_number": int(firsts[shares.argmax()]),
        "most_frequent_first_number_share": float(shares.max()),
        "first_number_entropy_bits": float(-(shares * np.log2(shares)).sum()),
        "duplicate_share": 1 - len(set(lists)) / len(lists),
        "count_mean": float(counts.mean()),
        **{name: float(np.quantile(counts, quantile)) for name, quantile in quantiles.items()},
    }


def _broken_rule(
    body: str, digits: list[re.Match[str]], separators: list[str], max_count: int, max_value: int
) -> ParseReason | None:
    if not body:
        return "empty"
    if any(sign.isalpha() for sign in body):
        return "words"
    if not digits or digits[0].start() > 0 or digits[-1].end() < len(body):
        return "symbols"
    if any(separator.strip() not in ("", ",", ";") for separator in separators):
        return "separator"
    if len(set(separators)) > 1:
        return "mixed_separator"
    if len(digits) > max_count:
        return "too_many"
    if any(_above(match[0], max_value) for match in digits):
        return "too_large"
    if any(len(match[0]) > len(str(max_value)) for match in digits):
        return "too_many_digits"
    return None


def _above(digits: str, most: int) -> bool:
    """Whether the number that `digits` writes is above `most`."""
    # Judged by length before int(), which refuses thousands of digits.
    significant = digits.lstrip("0")
    return len(significant) > len(str(most)) or int(significant or "0") > most


def _row_reason(names_target: bool, finished: bool) -> RowReason | None:
    if names_target:
        return "names_target"
    return None if finished else "unfinished"
