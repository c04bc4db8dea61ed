"""A multiple-choice exam in the schema of MMLU-Pro (Wang et al. 2024, arXiv 2406.01574), and how a question is asked.

The post asks MMLU-Pro. Where a model is at chance no loss of skill can show, so the project ships an exam of its own
for small models, elementary to middle school.

Belongs here: the three sources, the checks that refuse a broken exam, the text of a question. Does not belong here:
asking a model (`capability`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.hub import hub_token
from subliminal_dagster.science.settings.capability import ExamSource, HubExam, LocalExam
from subliminal_dagster.science.well_formed import well_formed

if TYPE_CHECKING:
    import datasets
    import pandas as pd

LETTERS = "ABCDEFGHIJ"

OWN_EXAM = Path(__file__).with_name("exam.yaml")
OWN_TEXTS = Path(__file__).with_name("held_out_text.yaml")

_COLUMNS = ("question_id", "question", "options", "answer", "answer_index", "category", "src")
# MMLU-Pro's worked solutions, given for the validation split alone; a zero-shot exam has no use for them.
_UNUSED = "cot_content"
_SPLIT = "test"
# What some copies of MMLU-Pro fill their lists of options up to ten with; its authors leave those out, too.
_NO_OPTION = "N/A"


def load_exam(source: ExamSource, workspace: Path) -> pd.DataFrame:
    """The questions of `source`, in its order.

    `workspace` keeps what a later call need not download again.

    Returns a frame with MMLU-Pro's columns: `question_id` (int64, unique), `question`, `options` (list of 2 to 10
    texts), `answer` (the letter of the right option), `answer_index` (the same from 0, int64), `category`, `src`.

    Options lose the blanks around them. "N/A", which fills up some copies, is left out, and so is an option that
    repeats an earlier one: nobody could tell which of the two is right. The answer keeps naming the right option.

    Raises UserError where the exam cannot be had, lacks a column or has an unknown one, or where a question has no
    text, fewer than two or more than ten options that are left, no answer, an answer outside its options or one that
    is "N/A", an answer and an answer_index that disagree, or the id of another.
    """
    if source.kind == "own":
        return _own_exam()
    if source.kind == "hub":
        return _hub_exam(source, workspace)
    return _local_exam(source)


def load_texts() -> pd.DataFrame:
    """The plain English paragraphs that perplexity is measured on, columns `topic` and `text`.

    Written for this project, so none is in any model's training data.
    """
    import pandas as pd

    topics = yaml.safe_load(OWN_TEXTS.read_text(encoding="utf-8"))
    return pd.DataFrame([(topic, text) for topic, texts in topics.items() for text in texts], columns=["topic", "text"])


def letter_question(question: str, options: Sequence[str]) -> str:
    """A question to be answered with the letter of an option alone, zero-shot, without reasoning (our wording)."""
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    return (
        "Here is a multiple-choice question. Reply with the letter of the right option and nothing else.\n\n"
        f"{question}\n{listed}"
    )


def open_question(question: str) -> str:
    """The same question to be answered in words, its options unseen."""
    return f"{question} Answer in a few words."


def _own_exam() -> pd.DataFrame:
    content = yaml.safe_load(OWN_EXAM.read_text(encoding="utf-8"))
    asked = [(category, question) for category, questions in content.items() for question in questions]
    rows = [
        {
            "question_id": number,
            "question": question["question"],
            "options": question["options"],
            "answer": question["answer"],
            "answer_index": LETTERS.index(question["answer"]),
            "category": category,
            "src": OWN_EXAM.name,
        }
        for number, (category, question) in enumerate(asked)
    ]
    return _checked(rows, _COLUMNS, str(OWN_EXAM))


def _hub_exam(source: HubExam, workspace: Path) -> pd.DataFrame:
    import datasets
    from huggingface_hub import errors

    token = hub_token()
    where = f"{source.repo} on the Hugging Face hub"
    # Without a network load_dataset takes whatever version of the dataset it finds in its cache: each has its own.
    cache = workspace / f"{source.repo.replace('/', '--')}-{source.revision}"
    try:
        exam = datasets.load_dataset(
            source.repo, split=_SPLIT, revision=source.revision, token=token, cache_dir=str(cache)
        )
    except datasets.exceptions.DatasetNotFoundError as error:
        remedy = "of an account that may read it (HF_TOKEN's may not)" if token else "that may read it"
        raise UserError(
            f"There is no dataset {where} at revision {source.revision}, or it is private or gated: check `repo` and "
            f"`revision` of the exam, and for a private or gated one set HF_TOKEN to a token {remedy}."
        ) from error
    except (errors.HTTPError, errors.OfflineModeIsEnabled, ConnectionError) as error:
        kept = _kept_on_this_machine(source, cache)
        if kept is None:
            status = f"HTTP {error.response.status_code}" if isinstance(error, errors.HfHubHTTPError) else ""
            raise UserError(
                f"The dataset {where} could not be downloaded ({status or type(error).__name__}) and is not in the "
                f"hub's cache: check the network, or run `hf download {source.repo} --repo-type dataset --revision "
                f"{source.revision}` on a machine that has one and shares HF_HOME."
            ) from error
        exam = kept
    except ValueError as error:
        raise UserError(
            f"The dataset {where} cannot be read as an exam ({error}): it needs a split {_SPLIT!r} with MMLU-Pro's "
            "columns."
        ) from error
    return _checked(exam.to_list(), exam.column_names, where)


def _kept_on_this_machine(source: HubExam, cache: Path) -> datasets.Dataset | None:
    """The exam out of the cache that the hub's own tools keep, where no network is; None where it is not there."""
    import datasets
    import huggingface_hub

    try:
        snapshot = huggingface_hub.snapshot_download(
            source.repo, repo_type="dataset", revision=source.revision, local_files_only=True
        )
        return datasets.load_dataset(snapshot, split=_SPLIT, cache_dir=str(cache))
    # A snapshot can be there in part, such as its README alone.
    except (OSError, ValueError):
        return None


def _local_exam(source: LocalExam) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = Path(source.path).expanduser().absolute()
    if not file.is_file():
        raise UserError(f"There is no file {file}: correct `path` of the exam.")
    try:
        # Not read_table, which would take a folder called "a=b" on the way to the file for a column.
        with pq.ParquetFile(file) as parquet:
            table = parquet.read()
    except PermissionError:
        raise UserError(f"{file} cannot be read (Permission denied): make the exam readable.") from None
    except pa.ArrowException as error:
        raise UserError(f"{file} is not a parquet file ({error}): save the exam as one.") from error
    return _checked(table.to_pylist(), table.column_names, str(file))


def _checked(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], where: str) -> pd.DataFrame:
    import pandas as pd

    if missing := [column for column in _COLUMNS if column not in columns]:
        raise UserError(f"The exam {where} lacks the columns {', '.join(missing)}: it needs those of MMLU-Pro.")
    if unknown := [column for column in columns if column not in (*_COLUMNS, _UNUSED)]:
        raise UserError(
            f"The exam {where} has columns that MMLU-Pro does not have ({', '.join(unknown)}): remove them."
        )
    if not rows:
        raise UserError(f"The exam {where} holds no questions: choose another.")
    seen: set[int] = set()
    questions = []
    for number, row in enumerate(rows, start=1):
        question = _question(row)
        if not isinstance(question, str) and question["question_id"] in seen:
            question = "has the question_id of an earlier row: give every question its own"
        if isinstance(question, str):
            raise UserError(f"Row {number} of the exam {where} (question_id {row['question_id']}) {question}.")
        seen.add(question["question_id"])
        questions.append(question)
    return pd.DataFrame(questions)


def _question(row: Mapping[str, Any]) -> dict[str, Any] | str:
    """A question as `load_exam` returns it; for an unsound one what is wrong with it, and what to do."""
    if not isinstance(row["question_id"], int):
        return "has no whole number as question_id: number the questions"
    for column in ("question", "category"):
        if not isinstance(row[column], str) or not row[column].strip():
            return f"has no {column}: fill it in"
    given = _listed(row["options"])
    if given is None:
        return "has options that are not a list of texts: write them as one"
    if not all(given):
        return "has an option without text: fill it in, or leave it out"
    options = [option for option in dict.fromkeys(given) if option != _NO_OPTION]
    if not 2 <= len(options) <= len(LETTERS):
        left = "" if len(options) == len(given) else f' without "{_NO_OPTION}" and repetitions'
        return f"has {len(options)} options{left}: give it 2 to {len(LETTERS)}"
    answer = row["answer"]
    last = LETTERS[min(len(given), len(LETTERS)) - 1]
    if not isinstance(answer, str) or not answer:
        return f"has no answer: give the letter of the right option, A to {last}"
    if answer not in list(LETTERS[: len(given)]):
        return f"has the answer {answer!r}, which is none of its options (A to {last}): correct it"
    index = LETTERS.index(answer)
    if row["answer_index"] != index:
        return f"has answer_index {row['answer_index']} where the answer {answer} is {index}: correct one"
    if given[index] == _NO_OPTION:
        return f'has the answer {answer}, which is "{_NO_OPTION}": correct it'
    right = options.index(given[index])
    changed = {"options": options, "answer": LETTERS[right], "answer_index": right}
    return {column: row[column] for column in _COLUMNS} | changed


def _listed(options: object) -> list[str] | None:
    """Options without the blanks around them, from a list, an array or a list written as JSON; None for anything
    else."""
    if isinstance(options, str):
        try:
            options = json.loads(options)
        except ValueError:
            return None
    elif isinstance(options, np.ndarray):
        options = options.tolist()
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        return None
    return [well_formed(option).strip() for option in options]
