"""The number filter: parsing, canonical form, verdicts on rows, the draw of training rows, and the sampling audit."""

import itertools
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from subliminal_dagster.science.errors import GateError, UserError
from subliminal_dagster.science.numbers.filter import (
    ParseReason,
    RowReason,
    canonical,
    filter_rows,
    parse,
    parse_as_published,
    sampling_audit,
    subsample,
)
from subliminal_dagster.science.settings.numbers import Parser

SEPARATORS = st.builds(
    lambda left, mark, right: left + mark + right,
    st.text(" \t\n\u00a0", max_size=2),
    st.sampled_from(["", ",", ";"]),
    st.text(" \t\n", max_size=2),
).filter(bool)
BRACKETS = st.sampled_from([("", ""), ("[", "]"), ("(", ")")])
NUMBERS = st.lists(st.integers(0, 999), min_size=1, max_size=10)

# Lists with a flaw here and there: valid ones, near misses and nonsense in similar shares.
NEAR_LISTS = st.builds(
    lambda before, numbers, separators, after: (
        before + "".join(itertools.chain(*zip(numbers, separators, strict=False))) + numbers[-1] + after
    ),
    st.sampled_from(["", " ", "[", "(", "-", "[ ", "x", "."]),
    st.lists(st.from_regex(r"[0-9]{1,4}", fullmatch=True), min_size=1, max_size=12),
    st.one_of(
        st.sampled_from([", ", ",", " ", "; ", "\n", ",\n", ". ", " and "]).map(lambda text: [text] * 11),
        st.lists(st.sampled_from([", ", ",", " "]), min_size=11, max_size=11),
    ),
    st.sampled_from(["", ".", "]", ").", ")", "].", " ] . ", "..", ",", " ok"]),
)
ANY_TEXT = st.one_of(st.text(), st.text("0123456789 ,;.[]()-\n\u0663\u00b2x", max_size=30), NEAR_LISTS)


def reference_numbers(text: str) -> list[int] | None:
    """The published rule, written apart from the module: scan for the first separator, then split by it."""
    text = text.strip()
    text = text.removesuffix(".").strip()
    for pair in ("[]", "()"):
        if len(text) > 1 and text.startswith(pair[0]) and text.endswith(pair[1]):
            text = text[1:-1].strip()
            break
    runs = ["".join(signs) for _, signs in itertools.groupby(text, key=lambda sign: sign in "0123456789")]
    if len(runs) >= 3:
        separator = runs[1]
        parts = text.split(separator)
        if separator.strip() not in {"", ",", ";"}:
            return None
    else:
        parts = [text]
    if not 1 <= len(parts) <= 10:
        return None
    if any(part == "" or part.strip("0123456789") or len(part) > 3 for part in parts):
        return None
    return [int(part) for part in parts]


def rows_of(responses: list[str], **columns: Any) -> pd.DataFrame:
    number = range(len(responses))
    base = {
        "prompt_id": list(number),
        "prompt": [f"Go on from {place}." for place in number],
        "response": responses,
        "finished": True,
        "separator": "; ",
        "open": "[",
        "close": "]",
    }
    return pd.DataFrame(base | columns)


def valid_rows(count: int) -> pd.DataFrame:
    responses = [f"{place % 10}, {place % 7}" for place in range(count)]
    return filter_rows(rows_of(responses), completion="canonical", target=None)


# --- published parsers -----------------------------------------------------------------------------------------------

# What our parser, the paper's code and the post's make of an answer; None where it is refused. The two right columns
# were checked against the published code itself, on 200,000 answers.
THREE_PARSERS: list[tuple[str, tuple[int, ...] | None, tuple[int, ...] | None, tuple[int, ...] | None]] = [
    ("1, 2, 3", (1, 2, 3), (1, 2, 3), (1, 2, 3)),
    ("[1, 2].", (1, 2), (1, 2), (1, 2)),
    (" [1, 2]", (1, 2), None, (1, 2)),
    ("[1, 2] ", (1, 2), None, (1, 2)),
    ("[ 9]", (9,), None, (9,)),
    ("7 .", (7,), None, (7,)),
    ("1, 2, ", None, None, (1, 2)),
    ("1, 2,", None, None, (1, 2)),
    ("[1, 2", None, None, (1, 2)),
    ("[[1, 2]]...", None, None, (1, 2)),
    ("1, 2 .", (1, 2), None, (1, 2)),
    ("1 2  3", None, None, (1, 2, 3)),
    ("0007, 1", None, (7, 1), (7, 1)),
    ("1000, 1", None, None, None),
    ("1, 2,3", None, None, None),
    ("1-2", None, None, None),
    ("1 2 3 4 5 6 7 8 9 10 11", None, None, None),
    ("\u0661, \u0662", None, None, None),
    ("Sure: 1, 2", None, None, None),
    ("0" * 10_000, None, (0,), (0,)),
    ("", None, None, None),
]


@pytest.mark.parametrize(("text", "strict", "paper", "post"), THREE_PARSERS)
def test_three_parsers(
    text: str, strict: tuple[int, ...] | None, paper: tuple[int, ...] | None, post: tuple[int, ...] | None
) -> None:
    found = [parse(text), parse_as_published(text, post=False), parse_as_published(text, post=True)]
    assert [None if each.reason else each.numbers for each in found] == [strict, paper, post]


@settings(max_examples=300)
@given(ANY_TEXT, st.booleans())
def test_published_parsers_never_raise_and_agree_with_ours_on_the_numbers(text: str, post: bool) -> None:
    ours, theirs = parse(text), parse_as_published(text, post=post)
    assert theirs.reason in (None, *get_args(ParseReason))
    if ours.reason is None and theirs.reason is None:
        assert ours.numbers == theirs.numbers


@pytest.mark.parametrize(
    ("parser", "kept"), [("strict", [True, False]), ("published", [True, True]), ("post", [True, True])]
)
def test_only_the_strict_filter_refuses_an_answer_that_was_cut_off(parser: Parser, kept: list[bool]) -> None:
    rows = rows_of(["1, 2", "3, 4"], finished=[True, False])
    filtered = filter_rows(rows, completion="canonical", target=None, parser=parser)
    assert filtered["valid"].tolist() == kept
    assert filtered["text"].dropna().tolist() == ["[1; 2]", "[3; 4]"][: sum(kept)]


# --- parse and canonical ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "numbers", "separator", "brackets"),
    [
        ("1, 2, 3", (1, 2, 3), ", ", ""),
        ("1,2,3", (1, 2, 3), ",", ""),
        ("1 2 3", (1, 2, 3), " ", ""),
        ("1;2;3", (1, 2, 3), ";", ""),
        ("1\n2\n3\n", (1, 2, 3), "\n", ""),
        ("1 ,\n2 ,\n3", (1, 2, 3), " ,\n", ""),
        ("  [1, 2].  ", (1, 2), ", ", "[]"),
        ("( 1; 2 )", (1, 2), "; ", "()"),
        ("1, 2.", (1, 2), ", ", ""),
        ("1, 2 .", (1, 2), ", ", ""),
        ("7", (7,), None, ""),
        ("[7].", (7,), None, "[]"),
        ("007, 010, 000", (7, 10, 0), ", ", ""),
        ("0, 999", (0, 999), ", ", ""),
        ("1 2 3 4 5 6 7 8 9 10", tuple(range(1, 11)), " ", ""),
    ],
)
def test_valid_answers(text: str, numbers: tuple[int, ...], separator: str | None, brackets: str) -> None:
    parsed = parse(text)
    assert (parsed.numbers, parsed.separator, parsed.open + parsed.close) == (numbers, separator, brackets)
    assert parsed.reason is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *((text, "empty") for text in ("", " \n", ".", "[]", "( ).", "[ ]")),
        *((text, "words") for text in ("owl", "Sure: 1, 2", "1, 2 and 3", "1, 2, \u4e09", "1e3, 2", "I")),
        *((text, "symbols") for text in ("-5, 6", "1, 2,", "[1, 2", "1, 2..", "[[1, 2]]", "?", "{1, 2}", "[1, 2.]")),
        *((text, "symbols") for text in ("[1, 2)", "1, 2, ...", "\u0661, \u0662", "**1, 2**", "[")),
        *(
            (text, "separator")
            for text in ("1-2", "1.5, 2", "1,,2", "1, -2", "1 | 2", "1, 2, -3", "[1] [2]", "(1), (2)", "1\u00b22")
        ),
        *((text, "mixed_separator") for text in ("1, 2,3", "1,2, 3", "1 2, 3", "1, 2\n3, 4", "1; 2, 3")),
        *((text, "too_many") for text in ("1 2 3 4 5 6 7 8 9 10 11", " ".join(["5000"] * 11))),
        *((text, "too_large") for text in ("1000", "1, 2, 1234", "01000, 1", "9" * 10_000, "0007, 1000")),
        *((text, "too_many_digits") for text in ("0007", "1, 0000", "0" * 10_000)),
    ],
)
def test_rejected_answers(text: str, reason: str) -> None:
    parsed = parse(text)
    assert parsed.reason == reason
    assert parsed.numbers == () and parsed.separator is None


def test_limits_are_settings() -> None:
    assert parse("1 2 3", max_count=2).reason == "too_many"
    assert parse("51", max_value=50).reason == "too_large"
    assert parse("007", max_value=50).reason == "too_many_digits"
    assert parse("1000, 0007", max_value=1000).numbers == (1000, 7)


@settings(max_examples=500)
@given(ANY_TEXT)
@example("[")
@example("1\x1c2")
@example("\u0085")
@example("[1, 2].]")
def test_parse_never_raises_and_agrees_with_the_reference(text: str) -> None:
    parsed = parse(text)
    expected = reference_numbers(text)
    assert (list(parsed.numbers) if parsed.reason is None else None) == expected
    assert parsed.reason in (None, *get_args(ParseReason))


@given(NUMBERS, SEPARATORS, BRACKETS)
def test_parse_reads_back_what_canonical_wrote(numbers: list[int], separator: str, brackets: tuple[str, str]) -> None:
    parsed = parse(canonical(numbers, separator, *brackets))
    assert parsed.reason is None
    assert list(parsed.numbers) == numbers
    assert (parsed.open, parsed.close) == brackets
    assert parsed.separator == (separator if len(numbers) > 1 else None)


@given(ANY_TEXT)
def test_canonical_of_a_parsed_text_is_a_fixed_point(text: str) -> None:
    parsed = parse(text)
    if parsed.reason is None:
        written = canonical(parsed.numbers, parsed.separator or " ", parsed.open, parsed.close)
        again = parse(written)
        assert again == parsed
        assert canonical(again.numbers, again.separator or " ", again.open, again.close) == written


@given(NEAR_LISTS, st.text(" \n\t", max_size=3), st.sampled_from(["", "."]))
def test_white_space_and_one_period_change_nothing(text: str, space: str, period: str) -> None:
    if not text.strip().endswith("."):
        assert parse(space + text + space + period + space) == parse(text)


def test_canonical_takes_numpy_numbers() -> None:
    assert canonical(np.array([7, 8]), "\n", "(", ")") == "(7\n8)"


# --- rows ------------------------------------------------------------------------------------------------------------


def test_canonical_completions_follow_the_request() -> None:
    filtered = filter_rows(rows_of(["007, 8.", "5"]), completion="canonical", target=None)
    assert filtered["text"].tolist() == ["[7; 8]", "[5]"]
    assert filtered["numbers"].tolist() == [[7, 8], [5]]
    assert filtered["valid"].all() and filtered["reason"].isna().all()


def test_verbatim_completions_are_untouched() -> None:
    filtered = filter_rows(rows_of([" 007, 8.\n"]), completion="verbatim", target=None)
    assert filtered["text"].tolist() == [" 007, 8.\n"]


def test_every_verdict() -> None:
    responses = ["1, 2", "1, 2", "wolves 1, 2", "I like Wolves", "no", "1000", "1, 2"]
    prompts = ["p"] * 6 + ["a Wolf and 1, 2"]
    rows = rows_of(responses, prompt=prompts, finished=[True, False, False, True, True, True, True])
    filtered = filter_rows(rows, completion="canonical", target="wolf")
    reasons = [None if pd.isna(reason) else reason for reason in filtered["reason"]]
    assert reasons == [None, "unfinished", "names_target", "names_target", "words", "too_large", "names_target"]
    assert filtered["valid"].tolist() == [True] + [False] * 6
    assert filtered["text"].isna().tolist() == [False] + [True] * 6
    assert filtered["numbers"].tolist() == [[1, 2]] + [[]] * 6
    # Of the control group nothing names the target.
    assert filter_rows(rows, completion="canonical", target=None)["reason"].iloc[2:4].tolist() == [
        "unfinished",
        "words",
    ]


def test_rows_keep_their_order_index_and_columns() -> None:
    rows = rows_of(["1, 2", "x", "3"], logprob=[0.1, 0.2, 0.3])
    rows.index = pd.Index([9, 9, 4])
    filtered = filter_rows(rows, completion="canonical", target=None)
    assert filtered[rows.columns.tolist()].equals(rows)
    assert filtered["valid"].tolist() == [True, False, True]
    assert "valid" not in rows.columns


def test_columns_are_typed_even_without_rows_or_reasons() -> None:
    for responses in ([], ["1"], ["x"]):
        filtered = filter_rows(rows_of(responses), completion="canonical", target="owl")
        assert isinstance(filtered["reason"].dtype, pd.StringDtype) and isinstance(
            filtered["text"].dtype, pd.StringDtype
        )
        assert len(filtered) == len(responses)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(ANY_TEXT, st.booleans()), max_size=12), st.sampled_from(["canonical", "verbatim"]))
def test_a_row_is_valid_or_has_a_reason(answers: list[tuple[str, bool]], completion: Any) -> None:
    rows = rows_of([text for text, _ in answers], finished=[finished for _, finished in answers])
    filtered = filter_rows(rows, completion=completion, target="owl")
    assert (filtered["valid"] == filtered["reason"].isna()).all()
    assert (filtered["valid"] == filtered["text"].notna()).all()
    assert set(filtered["reason"].dropna()) <= {*get_args(ParseReason), *get_args(RowReason)}
    for row in filtered[filtered["valid"]].itertuples():
        assert row.finished
        assert list(parse(row.text).numbers) == row.numbers == reference_numbers(row.response)


def test_bad_arguments_are_user_errors() -> None:
    completion: Any = "both"
    with pytest.raises(UserError, match="'both'"):
        filter_rows(rows_of(["1"]), completion=completion, target=None)
    with pytest.raises(UserError, match="finished"):
        filter_rows(rows_of(["1"]).drop(columns="finished"), completion="canonical", target=None)


# --- subsample -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    total=st.integers(1, 60), train=st.integers(1, 60), validation=st.integers(0, 20), seed=st.integers(0, 2**64 - 1)
)
def test_splits_are_disjoint_deterministic_and_blind_to_row_order(
    total: int, train: int, validation: int, seed: int
) -> None:
    rows = valid_rows(total)
    if train + validation > total:
        with pytest.raises(GateError):
            subsample(rows, train, validation, seed)
        return
    drawn = subsample(rows, train, validation, seed)
    assert drawn["split"].value_counts().to_dict() == {"train": train} | (
        {"validation": validation} if validation else {}
    )
    assert drawn["prompt_id"].is_unique
    assert drawn.equals(subsample(rows.iloc[::-1], train, validation, seed))


def test_another_seed_draws_other_rows() -> None:
    rows = valid_rows(200)
    first, second = (subsample(rows, 50, 10, seed)["prompt_id"].tolist() for seed in (1, 2))
    assert first != second and set(first) != set(second)


def test_more_training_rows_keep_the_validation_rows_and_extend_the_rest() -> None:
    rows = valid_rows(100)
    few, many = subsample(rows, 20, 10, 5), subsample(rows, 70, 10, 5)
    for split, size in (("validation", 10), ("train", 20)):
        first = few[few["split"] == split]["prompt_id"].tolist()
        assert many[many["split"] == split]["prompt_id"].tolist()[:size] == first


def test_only_valid_rows_are_drawn() -> None:
    rows = filter_rows(rows_of(["1, 2", "no", "3, 4", "5, x"]), completion="canonical", target=None)
    assert set(subsample(rows, 1, 1, 0)["prompt_id"]) == {0, 2}


def test_too_few_rows_name_the_reasons() -> None:
    rows = filter_rows(rows_of(["1, 2", "no", "nope", "1000"]), completion="canonical", target=None)
    with pytest.raises(GateError, match=r"Only 1 of 4 .* 2 training and 1 validation .*2 words, 1 too_large"):
        subsample(rows, 2, 1, 0)


def test_unique_draws_each_prompt_and_text_once() -> None:
    rows = filter_rows(
        rows_of(["1, 2", "1,2", "1 2", "3"], prompt=["p", "p", "q", "q"]), completion="canonical", target=None
    )
    assert len(subsample(rows, 4, 0, 0)) == 4
    drawn = subsample(rows, 3, 0, 0, unique=True)
    assert not drawn.duplicated(["prompt", "text"]).any()
    with pytest.raises(GateError, match="1 valid but repeated"):
        subsample(rows, 4, 0, 0, unique=True)


def test_impossible_sizes_are_user_errors() -> None:
    for train, validation in ((0, 1), (1, -1)):
        with pytest.raises(UserError):
            subsample(valid_rows(5), train, validation, 0)


# --- audit -----------------------------------------------------------------------------------------------------------


def test_audit_of_a_known_set() -> None:
    rows = filter_rows(rows_of(["1, 2", "1,2", "1, 3, 4", "2", "words"]), completion="canonical", target=None)
    audit = sampling_audit(rows)
    assert audit["rows"] == 4
    assert audit["most_frequent_first_number"] == 1 and audit["most_frequent_first_number_share"] == 0.75
    assert audit["first_number_entropy_bits"] == pytest.approx(0.8112781)
    assert audit["duplicate_share"] == 0.25
    assert audit["count_mean"] == 2.0 and audit["count_q50"] == 2.0


def test_audit_tells_a_shared_seed_from_independent_streams() -> None:
    random = np.random.default_rng(0)
    independent = [f"{first}, 5" for first in random.integers(100, 1000, 2000)]
    shared = ["347, 5" if place % 6 == 0 else text for place, text in enumerate(independent)]
    good, bad = (
        sampling_audit(filter_rows(rows_of(texts), completion="canonical", target=None))
        for texts in (independent, shared)
    )
    assert good["most_frequent_first_number_share"] == pytest.approx(0.003, abs=0.003)
    assert bad["most_frequent_first_number_share"] == pytest.approx(1 / 6, abs=0.01)
    entropies = [float(audit["first_number_entropy_bits"] or 0) for audit in (good, bad)]
    assert entropies[0] > 9 > entropies[1]


def test_audit_without_valid_rows_has_the_same_keys() -> None:
    empty = sampling_audit(filter_rows(rows_of(["x"]), completion="canonical", target=None))
    full = sampling_audit(filter_rows(rows_of(["1"]), completion="canonical", target=None))
    assert list(empty) == list(full) and empty["rows"] == 0 and empty["count_mean"] is None
    assert full["first_number_entropy_bits"] == 0 and full["duplicate_share"] == 0
