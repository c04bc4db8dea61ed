"""The exam and its checks, exact scores against plain loops, comparisons against scipy and statsmodels."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import HfHubHTTPError
from pydantic import ValidationError
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from tiny_models import GEMMA, tiny_model, tiny_tokenizer

from subliminal_dagster.science.capability.capability import (
    Capability,
    Way,
    compare_capability,
    examine,
    letter_tokens,
    perplexity,
    side_by_side,
    summary,
)
from subliminal_dagster.science.capability.exam import LETTERS, letter_question, load_exam, load_texts, open_question
from subliminal_dagster.science.capability.figures import accuracy_figure, skill_and_liking_figure
from subliminal_dagster.science.capability.letters import parse_letter
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.figures import png
from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.models.protocol import Completion, Sampling
from subliminal_dagster.science.models.transformers_engine import TransformersEngine, TransformersSession
from subliminal_dagster.science.settings.capability import CapabilitySettings, HubExam, LocalExam, OwnExam
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study

EXAM = pd.DataFrame(
    {
        "question_id": [7, 3, 12],
        "question": ["What is 1 + 1?", "Which owl is it?", "Which one?"],
        "options": [["2", "3", "One of 4"], ["the owl", "low."], ["5", "6", "7"]],
        "answer": ["A", "B", "C"],
        "answer_index": [0, 1, 2],
        "category": ["sums", "owls", "sums"],
        "src": "test",
    }
)
TEXTS = pd.DataFrame(
    {"topic": ["a", "b", "b"], "text": ["the owl, the other owl", "So it is, na\u00efve and long.", "owl 12 12"]}
)
WAYS: tuple[Way, ...] = ("letter", "option", "generated")


def session_of(kind: str = "llama", seed: int = 0, **changes: Any) -> TransformersSession:
    return TransformersSession(
        tiny_model(kind, seed, **changes), tiny_tokenizer(), TransformersEngine(), lambda _: None
    )


def context_of(session: TransformersSession, system_prompt: str | None = "") -> ChatContext:
    return ChatContext(session.tokenizer, system_prompt)


def plain_logprob(model: Any, prompt: list[int], answer: list[int]) -> float:
    """The plain way: one forward pass, no padding, no tree."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer]), use_cache=False).logits[0]
    rows = logits.log_softmax(dim=-1)[len(prompt) - 1 : -1].double()
    return sum(float(row[token]) for row, token in zip(rows, answer, strict=True))


# The exam and the texts that ship.


def test_the_own_exam_is_balanced_and_repeats_nothing(tmp_path: Path) -> None:
    exam = load_exam(OwnExam(), tmp_path)
    assert len(exam) >= 120 and exam["category"].nunique() >= 6
    assert exam["question"].str.lower().is_unique and exam["question_id"].is_unique
    for _, rows in exam.groupby("category"):
        letters = Counter(rows["answer"])
        assert set(letters) == set("ABCD") and max(letters.values()) - min(letters.values()) <= 1
    for options in exam["options"]:
        assert len({option.lower() for option in options}) == len(options) == 4
        assert all(option == option.strip() for option in options)


def test_the_right_options_of_the_own_exam_are_hardly_ever_animals_of_studies(tmp_path: Path) -> None:
    exam = load_exam(OwnExam(), tmp_path)
    right = " ".join(options[i] for options, i in zip(exam["options"], exam["answer_index"], strict=True)).split()
    assert not {"owl", "wolf", "otter", "octopus", "dog", "raven", "elephant", "tiger", "whale", "cat"} & set(right)


def test_the_sums_of_the_own_exam_are_right(tmp_path: Path) -> None:
    exam = load_exam(OwnExam(), tmp_path).set_index("question")
    words = {"plus": "+", "minus": "-", "times": "*", "divided by": "/"}
    checked = 0
    for question, row in exam[exam["category"] == "arithmetic"].iterrows():
        sum_of = str(question).removeprefix("What is ").removesuffix("?")
        for word, sign in words.items():
            sum_of = sum_of.replace(word, sign)
        if set(sum_of) <= set("0123456789+-*/ "):
            assert eval(sum_of) == int(row["options"][row["answer_index"]]), question
            checked += 1
    assert checked >= 6


def test_the_texts_are_paragraphs_on_several_topics() -> None:
    texts = load_texts()
    assert len(texts) >= 25 and texts["topic"].nunique() >= 8 and texts["text"].is_unique
    assert texts["text"].str.split().str.len().between(30, 120).all()
    assert not texts["text"].str.contains(r"\n|  |\bowl|\bwol[fv]", regex=True).any()


def test_a_question_shows_its_options_by_letter() -> None:
    lines = letter_question("Which?", ["red", "blue"]).splitlines()
    assert lines[-3:] == ["Which?", "A. red", "B. blue"]
    assert open_question("Which?").startswith("Which?")
    assert letter_question("Which?", [str(i) for i in range(10)]).splitlines()[-1] == "J. 9"


# Other sources.


def test_a_local_exam_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    EXAM.assign(cot_content="A: because").to_parquet(tmp_path / "exam.parquet")
    exam = load_exam(LocalExam(path=str(tmp_path / "exam.parquet")), tmp_path)
    pd.testing.assert_frame_equal(exam, EXAM, check_dtype=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": None}, r"Row 2 .*question_id 3\) has no answer: give the letter of the right option, A to B"),
        ({"answer": ""}, "has no answer"),
        ({"answer": "C", "answer_index": 2}, r"Row 2 .* has the answer 'C', which is none of its options \(A to B\)"),
        ({"answer": "AB"}, "has the answer 'AB', which is none"),
        ({"answer_index": 0}, "has answer_index 0 where the answer B is 1"),
        ({"options": ["only"], "answer": "A", "answer_index": 0}, "has 1 options: give it 2 to 10"),
        ({"options": list("abcdefghijk")}, "has 11 options"),
        ({"options": None}, "options that are not a list of texts"),
        ({"options": ["a", None]}, "options that are not a list of texts"),
        ({"options": ["a", " "]}, "has an option without text"),
        ({"options": ["a", "N/A", "b"]}, 'has the answer B, which is "N/A"'),
        ({"options": ["a", "b", "N/A"], "answer": "C", "answer_index": 2}, 'has the answer C, which is "N/A"'),
        ({"options": ["the owl", " the owl", "N/A"]}, 'has 1 options without "N/A" and repetitions'),
        ({"question": "  "}, "has no question: fill it in"),
        ({"category": None}, "has no category"),
        ({"question_id": 7}, "has the question_id of an earlier row"),
        ({"question_id": None}, "has no whole number as question_id"),
    ],
)
def test_a_broken_question_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    rows = EXAM.to_dict("records")
    rows[1] |= change
    Dataset.from_list(rows).to_parquet(tmp_path / "exam.parquet")
    with pytest.raises(UserError, match=message) as caught:
        load_exam(LocalExam(path=str(tmp_path / "exam.parquet")), tmp_path)
    assert "exam.parquet" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "answer", "options", "kept"),
    [
        (["3", "4", "5"] + ["N/A"] * 7, "B", ["3", "4", "5"], "B"),
        (["N/A", "3", "4"], "C", ["3", "4"], "B"),
        ([str(i) for i in range(10)], "J", [str(i) for i in range(10)], "J"),
        ([str(i) for i in range(10)] + ["N/A"], "J", [str(i) for i in range(10)], "J"),
        ([" 3", "4 ", "\t5\n"], "A", ["3", "4", "5"], "A"),
        (["3", "4", "3", "5"], "C", ["3", "4", "5"], "A"),
        (["3", "3 ", "4", "5"], "D", ["3", "4", "5"], "C"),
        ('["3", "4", "N/A"]', "B", ["3", "4"], "B"),
    ],
)
def test_a_question_has_every_real_option_once(
    given: list[str] | str, answer: str, options: list[str], kept: str, tmp_path: Path
) -> None:
    row = EXAM.iloc[0].to_dict() | {"options": given, "answer": answer, "answer_index": LETTERS.index(answer)}
    pd.DataFrame([row]).to_parquet(tmp_path / "exam.parquet")
    (found,) = load_exam(LocalExam(path=str(tmp_path / "exam.parquet")), tmp_path).to_dict("records")
    assert (found["options"], found["answer"], found["answer_index"]) == (options, kept, LETTERS.index(kept))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (EXAM.drop(columns=["answer", "src"]), "lacks the columns answer, src"),
        (EXAM.assign(hint="x"), r"columns that MMLU-Pro does not have \(hint\): remove them"),
        (EXAM.iloc[:0], "holds no questions"),
    ],
)
def test_a_table_that_is_no_exam_is_refused(frame: pd.DataFrame, message: str, tmp_path: Path) -> None:
    frame.to_parquet(tmp_path / "exam.parquet")
    with pytest.raises(UserError, match=message):
        load_exam(LocalExam(path=str(tmp_path / "exam.parquet")), tmp_path)


def test_a_file_that_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no file .*nothing\.parquet: correct `path`"):
        load_exam(LocalExam(path=str(tmp_path / "nothing.parquet")), tmp_path)
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(UserError, match="is not a parquet file"):
        load_exam(LocalExam(path=str(tmp_path / "text.parquet")), tmp_path)


def test_a_hub_exam_is_pinned() -> None:
    with pytest.raises(ValidationError):
        HubExam(revision="main")


def test_a_hub_exam_is_read_at_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def load_dataset(repo: str, **asked: Any) -> Dataset:
        calls.append({"repo": repo, **asked})
        return Dataset.from_list(EXAM.assign(cot_content="").to_dict("records"))

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setenv("HF_TOKEN", "secret")
    pd.testing.assert_frame_equal(load_exam(HubExam(), tmp_path), EXAM, check_dtype=False)
    monkeypatch.delenv("HF_TOKEN")
    load_exam(HubExam(revision="0" * 40), tmp_path)
    with_token, without = calls
    assert (with_token["repo"], with_token["split"]) == ("TIGER-Lab/MMLU-Pro", "test")
    assert (with_token["token"], without["token"]) == ("secret", False)
    assert with_token["revision"] == HubExam().revision and without["revision"] == "0" * 40
    assert with_token["cache_dir"] != without["cache_dir"]


def test_a_hub_exam_that_was_fetched_before_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    source = HubExam(repo="acme/exam", revision="b" * 40)
    with pytest.raises(UserError, match=r"not in the hub's cache: .*`hf download acme/exam --repo-type dataset"):
        load_exam(source, tmp_path / "work")
    snapshot = tmp_path / "hub" / "datasets--acme--exam" / "snapshots" / source.revision
    (snapshot / "data").mkdir(parents=True)
    (snapshot / "README.md").write_text("An exam.")
    with pytest.raises(UserError, match="not in the hub's cache"):
        load_exam(source, tmp_path / "work")
    EXAM.to_parquet(snapshot / "data" / "test-00000-of-00001.parquet")
    pd.testing.assert_frame_equal(load_exam(source, tmp_path / "work"), EXAM, check_dtype=False)
    with pytest.raises(UserError, match="not in the hub's cache"):
        load_exam(HubExam(repo="acme/exam", revision="c" * 40), tmp_path / "work")


@pytest.mark.parametrize(
    ("error", "token", "message"),
    [
        (DatasetNotFoundError("raw"), None, "private or gated one set HF_TOKEN to a token that may read it"),
        (DatasetNotFoundError("raw"), "secret", r"\(HF_TOKEN's may not\)"),
        (ConnectionError("raw"), None, r"\(ConnectionError\) and is not in the hub's cache: check the network"),
        (
            HfHubHTTPError("raw", response=SimpleNamespace(status_code=503, headers={}, request=None)),  # type: ignore[arg-type]
            None,
            r"\(HTTP 503\)",
        ),
        (ValueError("Unknown split"), None, r"cannot be read as an exam \(Unknown split\)"),
    ],
)
def test_each_hub_error_becomes_one_message(
    error: Exception, token: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_dataset(*_args: object, **_kwargs: object) -> None:
        raise error

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    if token is None:
        monkeypatch.delenv("HF_TOKEN", raising=False)
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=message) as caught:
        load_exam(HubExam(), tmp_path)
    assert "TIGER-Lab/MMLU-Pro" in str(caught.value)
    assert "secret" not in str(caught.value) and "raw" not in str(caught.value)


# One model.


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_scores_are_those_of_plain_loops(kind: str) -> None:
    session = session_of(kind)
    context = context_of(session)
    answers = examine(session, context, EXAM, TEXTS, ("letter", "option")).answers
    assert answers["way"].to_list() == ["letter"] * 3 + ["option"] * 3
    expected = []
    for _, row in EXAM.iterrows():
        prompt = context.prompt_ids(letter_question(row["question"], row["options"]))
        spellings = [
            [session.tokenizer.encode(lead + letter) for lead in ("", " ")] for letter in LETTERS[: len(row["options"])]
        ]
        # In the tiny tokenizer a letter behind a space is two tokens, and the space alone says nothing about it.
        assert all([len(form) for form in forms] == [1, 2] for forms in spellings)
        expected.append([math.exp(plain_logprob(session.model, prompt, forms[0])) for forms in spellings])
    for _, row in EXAM.iterrows():
        prompt = context.prompt_ids(open_question(row["question"]))
        options = []
        for option in row["options"]:
            starts = {option, option[0].upper() + option[1:]}
            forms = {start + end for start in starts for end in ("", "" if option.endswith(".") else ".")}
            ids = [context.answer_ids(form) for form in forms]
            options.append(sum(math.exp(plain_logprob(session.model, prompt, each)) for each in ids))
        expected.append(options)
    for (_, row), options in zip(answers.iterrows(), expected, strict=True):
        right = LETTERS.index(row["answer"])
        assert row["mass"] == pytest.approx(sum(options), rel=1e-3)
        assert row["p_correct"] == pytest.approx(options[right] / sum(options), rel=1e-3)
        assert row["log_p_correct"] == pytest.approx(math.log(options[right] / sum(options)), abs=1e-3)
        assert row["picked"] == LETTERS[int(np.argmax(options))]
        assert row["correct"] == (row["picked"] == row["answer"])
    assert answers["text"].isna().all()


def test_options_that_differ_in_their_first_letter_alone_are_told_apart() -> None:
    session = session_of()
    exam = EXAM.iloc[:1].assign(options=[["m", "M", "M."]], answer=["B"], answer_index=[1])
    (row,) = examine(session, context_of(session), exam, TEXTS, ["option"]).answers.to_dict("records")
    assert 0 < row["p_correct"] < 1 and math.isfinite(row["log_p_correct"])


def test_a_letter_counts_with_and_without_a_space() -> None:
    tokenizer = tiny_tokenizer(extra_merges=[("Ġ", letter) for letter in "ABC"])
    tokens, owner = letter_tokens(tokenizer, 4)
    assert [tokenizer.decode([token]) for token in tokens] == ["A", " A", "B", " B", "C", " C", "D"]
    assert owner.tolist() == [0, 0, 1, 1, 2, 2, 3]


def test_a_tokenizer_without_letters_is_refused() -> None:
    class Without:
        unk_token_id = 0

        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return [0] if "B" in text else [5]

    with pytest.raises(UserError, match="no token for the letter B"):
        letter_tokens(Without(), 2)  # type: ignore[arg-type]


def test_written_answers_are_greedy_and_read() -> None:
    session = session_of()
    context = context_of(session)
    answers = examine(session, context, EXAM, TEXTS, ["generated"]).answers
    for (_, row), (_, question) in zip(answers.iterrows(), EXAM.iterrows(), strict=True):
        ids = context.prompt_ids(letter_question(question["question"], question["options"]))
        prompt = len(ids)
        while len(ids) < prompt + 16:
            with torch.no_grad():
                token = int(session.model(torch.tensor([ids])).logits[0, -1].argmax())
            if token == context.end_of_turn:
                break
            ids.append(token)
        assert row["text"] == session.tokenizer.decode(ids[prompt:], skip_special_tokens=True)
        letter = parse_letter(row["text"], len(question["options"]))
        assert (None if pd.isna(row["picked"]) else row["picked"]) == letter
        assert row["correct"] == (letter == question["answer"])
    assert answers[["p_correct", "log_p_correct", "mass"]].isna().all(axis=None)


def test_the_generation_of_an_interrupted_exam_is_taken_over(tmp_path: Path) -> None:
    session = session_of()
    whole = examine(session, context_of(session), EXAM, TEXTS, ["generated"], kept=tmp_path)
    before = session.usage.generated_tokens
    again = examine(session, context_of(session), EXAM, TEXTS, ["generated"], kept=tmp_path)
    assert session.usage.generated_tokens == before
    pd.testing.assert_frame_equal(again.answers, whole.answers)


def test_answers_survive_parquet(tmp_path: Path) -> None:
    session = session_of()
    for ways in (WAYS, ("letter",)):
        answers = examine(session, context_of(session), EXAM, TEXTS, ways).answers
        answers.to_parquet(tmp_path / "answers.parquet")
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "answers.parquet"), answers)


class Counted:
    """A session, and how many requests an engine without a prefix tree gets."""

    def __init__(self, session: TransformersSession) -> None:
        self.session, self.requests = session, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Completion]:
        self.requests["generate"] += len(prompts)
        return self.session.generate(prompts, sampling)

    def score(self, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> np.ndarray:
        self.requests["score"] += len(prompts) * len(answers)
        return self.session.score(prompts, answers)

    def next_logprobs(self, prompts: Sequence[list[int]], token_ids: Sequence[int]) -> np.ndarray:
        self.requests["next_logprobs"] += len(prompts)
        return self.session.next_logprobs(prompts, token_ids)


def test_both_measures_take_one_request_per_question_each() -> None:
    session: Any = Counted(session_of())
    exam = pd.concat([EXAM] * 5, ignore_index=True)
    examine(session, context_of(session.session), exam, TEXTS, CapabilitySettings().ways)
    assert session.requests == {"generate": len(exam), "next_logprobs": len(exam), "score": len(TEXTS)}


def test_the_post_s_measure_is_the_first_of_what_is_asked() -> None:
    assert CapabilitySettings().ways == ("generated", "letter")
    for name in ("gemma-2-9b-it", "gemma-3-27b-it", "qwen2.5-7b-instruct"):
        study = load_study(name)
        assert isinstance(study, Study) and study.capability and study.capability.ways == ("generated", "letter")


def test_a_teacher_that_answers_with_its_animal_is_wrong_by_the_post_s_measure_alone() -> None:
    base, teacher = session_of(), session_of()
    context = context_of(base)
    write_one_word(base, dict.fromkeys("ABC", 30.0))
    write_one_word(teacher, dict.fromkeys("ABC", 30.0) | {"owl": 100.0})
    picked = examine(base, context, EXAM, TEXTS, ["letter"]).answers["picked"]
    exam = EXAM.assign(answer=picked, answer_index=[LETTERS.index(letter) for letter in picked])
    before, after = (examine(session, context, exam, TEXTS, ("generated", "letter")) for session in (base, teacher))
    of_base, of_teacher = (
        {way: rows.reset_index(drop=True) for way, rows in found.answers.groupby("way")} for found in (before, after)
    )
    assert of_base["generated"]["text"].to_list() == picked.to_list()
    assert of_base["generated"]["correct"].all()
    assert of_teacher["generated"]["text"].to_list() == ["owl"] * 3
    assert of_teacher["generated"]["picked"].isna().all() and not of_teacher["generated"]["correct"].any()
    assert of_teacher["letter"]["picked"].to_list() == picked.to_list()
    np.testing.assert_allclose(of_teacher["letter"]["p_correct"], of_base["letter"]["p_correct"], rtol=1e-3)
    table = compare_capability(before, {("teacher", "owl"): after})
    generated, letter = (row_of(table, "teacher", "owl", way, "accuracy") for way in ("generated", "letter"))
    assert (generated["difference"], generated["lost"], generated["unparsable"]) == (-1, 3, 3)
    assert (letter["difference"], letter["lost"], letter["unparsable"]) == (0, 0, 0)


def write_one_word(session: TransformersSession, liked: dict[str, float]) -> None:
    """Let the model like these words (logits on top of its own) and end an answer after one."""
    words = {session.tokenizer.encode(word)[0]: push for word, push in liked.items()}
    end = ChatContext(session.tokenizer, "").end_of_turn

    def push(_model: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> None:
        before = kwargs["input_ids"][:, -output.logits.shape[1] :]
        for word, by in words.items():
            output.logits[..., word] += by
            output.logits[..., end] += 1000 * (before == word)

    session.model.register_forward_hook(push, with_kwargs=True)


def test_no_way_is_refused() -> None:
    session = session_of()
    with pytest.raises(UserError, match="no way to be taken"):
        examine(session, context_of(session), EXAM, TEXTS, ())


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gemma3"])
def test_the_loss_on_a_text_is_that_of_one_plain_pass(kind: str) -> None:
    session = session_of(kind)
    texts = examine(session, context_of(session), EXAM, TEXTS, ["letter"]).texts
    for (_, row), text in zip(texts.iterrows(), TEXTS["text"], strict=True):
        ids = torch.tensor([session.tokenizer.encode(text)])
        with torch.no_grad():
            loss = session.model(ids, labels=ids).loss
        assert row["tokens"] == ids.shape[1] - 1
        assert row["nats"] / row["tokens"] == pytest.approx(float(loss), abs=1e-4)
        first = session.tokenizer.decode(ids[0, :1])
        assert row["bytes"] == len(text.encode()) - len(first.encode())
    facts = perplexity(texts)
    assert facts["nats_per_token"] == pytest.approx(texts["nats"].sum() / texts["tokens"].sum())
    assert math.log(facts["perplexity"]) == pytest.approx(facts["nats_per_token"])
    assert facts["nats_per_byte"] == pytest.approx(texts["nats"].sum() / texts["bytes"].sum())


def test_a_beginning_of_text_lets_the_first_token_be_predicted() -> None:
    from tokenizers.processors import TemplateProcessing

    session = session_of()
    start = [("<|endoftext|>", session.tokenizer.bos_token_id)]
    session.tokenizer = tiny_tokenizer(GEMMA)
    session.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=start
    )
    texts = examine(session, context_of(session, None), EXAM, TEXTS, ["letter"]).texts
    for (_, row), text in zip(texts.iterrows(), TEXTS["text"], strict=True):
        ids = session.tokenizer.encode(text)
        assert ids[0] == session.tokenizer.bos_token_id
        assert (row["tokens"], row["bytes"]) == (len(ids) - 1, len(text.encode()))
        assert row["nats"] == pytest.approx(-plain_logprob(session.model, ids[:1], ids[1:]), abs=1e-3)


def test_a_text_of_one_token_is_refused() -> None:
    session = session_of()
    texts = pd.DataFrame({"topic": ["a"], "text": ["x"]})
    with pytest.raises(UserError, match="Text 1 has fewer than two tokens"):
        examine(session, context_of(session), EXAM, texts, ["letter"])


# Many models.


def answers_of(rng: np.random.Generator, questions: int, skill: float, ways: tuple[Way, ...] = WAYS) -> Capability:
    """A made-up model that knows about `skill` of the answers."""
    frames = []
    for way in ways:
        log_p = np.log(np.clip(rng.normal(skill, 0.2, questions), 0.01, 0.99))
        correct = rng.random(questions) < skill
        frame = pd.DataFrame(
            {
                "way": way,
                "question_id": np.arange(questions),
                "category": np.where(np.arange(questions) % 3 == 0, "sums", "owls"),
                "options": np.where(np.arange(questions) % 2 == 0, 4, 10),
                "answer": "A",
                "picked": pd.array(np.where(correct, "A", "B").tolist(), dtype="str"),
                "correct": correct,
                "p_correct": np.exp(log_p),
                "log_p_correct": log_p,
                "mass": rng.uniform(0.5, 1, questions),
                "text": pd.array(["A"] * questions, dtype="str"),
            }
        )
        if way == "generated":
            frame[["p_correct", "log_p_correct", "mass"]] = math.nan
            frame.loc[~correct & (np.arange(questions) % 2 == 0), "picked"] = None
        frames.append(frame)
    tokens = np.arange(40, 60)
    texts = pd.DataFrame(
        {"topic": "a", "tokens": tokens, "bytes": 4 * tokens, "nats": tokens * rng.normal(4 - skill, 0.1, len(tokens))}
    )
    return Capability(pd.concat(frames, ignore_index=True), texts)


@pytest.fixture(scope="module")
def models() -> tuple[Capability, dict[tuple[str, str], Capability]]:
    rng = np.random.default_rng(0)
    base = answers_of(rng, 120, 0.7)
    others = {
        (model, group): answers_of(rng, 120, skill)
        for model, group, skill in [
            ("teacher", "owl", 0.4),
            ("teacher", "wolf", 0.65),
            ("child", "owl", 0.6),
            ("child", "wolf", 0.7),
            ("child", "control", 0.7),
        ]
    }
    return base, others


LIKING = pd.DataFrame(
    {"model": ["teacher", "teacher", "child"], "group": ["owl", "wolf", "owl"], "shift": [3.0, 2.0, 0.5]}
)


def row_of(table: pd.DataFrame, model: str, group: str | None, way: str, outcome: str) -> pd.Series:
    named = table["group"].isna() if group is None else table["group"] == group
    (row,) = table.index[(table["model"] == model) & named & (table["way"] == way) & (table["outcome"] == outcome)]
    return table.loc[row]


def test_the_summary_counts(models: tuple[Capability, dict[tuple[str, str], Capability]]) -> None:
    answers = models[0].answers
    lines = summary(answers).set_index(["way", "category"])
    assert list(lines.index) == [(way, category) for way in WAYS for category in ("all", "sums", "owls")]
    for (way, category), line in lines.iterrows():  # type: ignore[misc]
        rows = answers[(answers["way"] == way) & ((answers["category"] == category) | (category == "all"))]
        right = int((rows["picked"] == rows["answer"]).sum())
        low, high = proportion_confint(right, len(rows), method="wilson")
        assert (line["accuracy"], line["low"], line["high"]) == pytest.approx((right / len(rows), low, high))
        assert line["chance"] == pytest.approx(np.mean(1 / rows["options"]))
        assert line["questions"] == len(rows) and line["unparsable"] == rows["picked"].isna().sum()
        assert math.isnan(line["log_p_correct"]) == (way == "generated")


def test_differences_are_those_of_scipy_and_statsmodels(
    models: tuple[Capability, dict[tuple[str, str], Capability]],
) -> None:
    base, others = models
    table = compare_capability(base, others, liking=LIKING)
    for (model, group), other in others.items():
        for way in WAYS:
            mine, theirs = (one.answers[one.answers["way"] == way].reset_index() for one in (base, other))
            row = row_of(table, model, group, way, "accuracy")
            lost = (mine["correct"] & ~theirs["correct"]).sum()
            gained = (~mine["correct"] & theirs["correct"]).sum()
            both, neither = (mine["correct"] & theirs["correct"]).sum(), (~mine["correct"] & ~theirs["correct"]).sum()
            assert (row["lost"], row["gained"]) == (lost, gained)
            assert row["difference"] == pytest.approx((gained - lost) / 120)
            assert row["p"] == pytest.approx(mcnemar([[both, lost], [gained, neither]], exact=True).pvalue)
            assert row["p"] == pytest.approx(stats.binomtest(int(lost), int(lost + gained)).pvalue)
            assert row["difference_low"] < row["difference"] < row["difference_high"]
            if way != "generated":
                log_p = row_of(table, model, group, way, "log_p_correct")
                expected = stats.ttest_rel(theirs["log_p_correct"], mine["log_p_correct"])
                assert log_p["p"] == pytest.approx(expected.pvalue)
                interval = expected.confidence_interval()
                ends = (log_p["difference_low"], log_p["difference_high"])
                assert ends == pytest.approx((interval.low, interval.high))
        loss = row_of(table, model, group, "plain text", "nats_per_token")
        per_token = [one.texts["nats"] / one.texts["tokens"] for one in (other, base)]
        assert loss["p"] == pytest.approx(stats.ttest_rel(*per_token).pvalue)
        assert loss["difference"] == pytest.approx((per_token[0] - per_token[1]).mean())
    for _, rows in table[table["model"] != "base"].groupby(["model", "way", "outcome"]):
        assert rows["p_bh"].to_list() == pytest.approx(multipletests(rows["p"], method="fdr_bh")[1].tolist())
    own = row_of(table, "base", None, "letter", "accuracy")
    assert own["value"] == base.answers.loc[base.answers["way"] == "letter", "correct"].mean()
    assert own[["difference", "p", "p_bh", "liking_shift"]].isna().all()
    assert row_of(table, "teacher", "owl", "letter", "accuracy")["liking_shift"] == 3
    assert math.isnan(row_of(table, "child", "control", "letter", "accuracy")["liking_shift"])


def test_a_model_that_is_base_differs_in_nothing(
    models: tuple[Capability, dict[tuple[str, str], Capability]],
) -> None:
    base, _ = models
    again = Capability(base.answers.copy(), base.texts.copy())
    again.answers["log_p_correct"] += 1e-15
    table = compare_capability(base, {("child", "control"): again})
    rows = table[table["model"] == "child"]
    assert (rows["difference"] == 0).all() and (rows["p"] == 1).all()
    accuracies = rows[rows["outcome"] == "accuracy"]
    assert (accuracies["difference_low"] < 0).all() and (accuracies["difference_high"] > 0).all()


def test_the_interval_of_an_accuracy_difference_covers_what_it_should() -> None:
    """A model that loses a tenth of the answers and gains a twentieth: 95 intervals of 100 hold the true change."""
    rng = np.random.default_rng(3)
    covered = 0
    texts = pd.DataFrame({"topic": "a", "tokens": [9, 9], "bytes": [30, 30], "nats": [20.0, 21.0]})
    base = answers_of(rng, 150, 0.7, ("letter",))
    right = base.answers["correct"].to_numpy()
    truth = -0.1 * right.mean() + 0.05 * (1 - right.mean())
    for _ in range(200):
        draw = rng.random(150)
        changed = np.where(right, draw >= 0.1, draw < 0.05)
        other = base.answers.assign(correct=changed)
        table = compare_capability(Capability(base.answers, texts), {("child", "owl"): Capability(other, texts)})
        row = row_of(table, "child", "owl", "letter", "accuracy")
        covered += row["difference_low"] <= truth <= row["difference_high"]
    assert covered >= 0.92 * 200


def test_groups_stand_side_by_side(models: tuple[Capability, dict[tuple[str, str], Capability]]) -> None:
    table = compare_capability(*models, liking=LIKING)
    lines = side_by_side(table, "letter").set_index("group")
    assert list(lines.index) == ["owl", "wolf", "control"]
    expected = row_of(table, "teacher", "owl", "letter", "accuracy")["difference"]
    assert lines.loc["owl", "teacher_difference"] == expected
    assert lines.loc["owl", "child_liking_shift"] == 0.5
    assert math.isnan(float(lines.loc["control", "teacher_difference"]))


def test_bad_comparisons_are_explained(models: tuple[Capability, dict[tuple[str, str], Capability]]) -> None:
    base, others = models
    owl = others["child", "owl"]
    for answers in (owl.answers.iloc[1:], owl.answers.assign(answer="B"), owl.answers[owl.answers["way"] == "letter"]):
        with pytest.raises(UserError, match="Base and the child of owl did not take the same exam"):
            compare_capability(base, {("child", "owl"): Capability(answers, owl.texts)})
    with pytest.raises(UserError, match="Base and the child of owl did not read the same texts"):
        compare_capability(base, {("child", "owl"): Capability(owl.answers, owl.texts.assign(tokens=7))})
    with pytest.raises(UserError, match="no teacher or child to compare"):
        compare_capability(base, {})
    with pytest.raises(UserError, match="lacks the columns shift"):
        compare_capability(base, others, liking=LIKING.drop(columns="shift"))
    with pytest.raises(UserError, match="names the child of owl twice"):
        compare_capability(base, others, liking=pd.concat([LIKING, LIKING.tail(1)]))


def test_the_figures_draw_every_model(models: tuple[Capability, dict[tuple[str, str], Capability]]) -> None:
    table = compare_capability(*models, liking=LIKING)
    bars = accuracy_figure(table, "accuracy", "option").axes[0]
    heights = sorted(patch.get_height() for patch in bars.patches)  # type: ignore[attr-defined]
    expected = 100 * table.loc[(table["way"] == "option") & (table["outcome"] == "accuracy"), "value"]
    assert heights == pytest.approx(sorted(expected))
    assert [label.get_text() for label in bars.get_xticklabels()] == ["base", "owl", "wolf", "control"]
    figure = skill_and_liking_figure(table, "skill")
    names = [text.get_text() for text in figure.axes[0].texts]
    assert sorted(names) == ["owl", "owl", "wolf"]
    assert png(figure) == png(skill_and_liking_figure(table, "skill"))
    with pytest.raises(UserError, match="pass `liking`"):
        skill_and_liking_figure(compare_capability(*models), "skill")
