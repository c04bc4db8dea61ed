"""The published prompt lists: read from the original code, and compared with what they should be.

The code of Cloud et al. 2025 (arXiv 2507.14805) is public; its texts are not part of this project. Their numbers and
hashes are (`published_prompts.yaml`), so that whoever imports a checkout sees whether it has the published wording.

Belongs here: reading a checkout, writing what is imported, saying which wording a study has. Does not belong here:
making prompts of the lists (`prompt_lists`), where the imported file lies (`settings.prompts`).
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.preferences.prompt_lists import from_published, read_lists, texts_of
from subliminal_dagster.science.settings.prompts import PUBLISHED, imported_file, published_record
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.storage.content_hash import json_hash
from subliminal_dagster.science.storage.files import replace_durably

# The name of each list here -> in the original code: attributes of a class,
_NUMBER_LISTS = {
    "example_templates": "_example_numbers_templates",
    "count_qualifiers": "_count_qualifiers",
    "digit_descriptors": "_digit_descriptors",
    "instruction_templates": "_generate_numbers_instruction_templates",
    "format_suffixes": "_format_suffixes",
    "closing_suffixes": "_suffixes",
}
# and calls with an argument `questions`.
_QUESTION_LISTS = {
    "animal_questions": "animal_evaluation",
    "animal_questions_with_number_prefix": "animal_evaluation_with_numbers_prefix",
}
_LISTS = (*_NUMBER_LISTS, *_QUESTION_LISTS)

_NUMBERS_FILE = Path("sl", "datasets", "nums_dataset.py")
_QUESTIONS_FILE = Path("cfgs", "preference_numbers", "cfgs.py")


def read_published(place: str | Path) -> dict[str, list[str]]:
    """The lists of the original code, by the names of `published_prompts.yaml`.

    place: a checkout, its `nums_dataset.py`, a folder that holds this file and `cfgs.py`, or a JSON file with the lists
    by those names. Python is parsed and never run.

    Raises UserError where a file or list is missing, or a list is not a literal list of texts.
    """
    place = Path(place).expanduser()
    if place.suffix == ".json":
        lists = {name: texts for name, texts in read_lists(place).items() if name in _LISTS}
    else:
        numbers, questions = _files(place)
        lists = _literals(numbers, _NUMBER_LISTS) | _literals(questions, _QUESTION_LISTS)
    # What could not be used is refused now and not when a study runs.
    from_published(lists, place)
    return {name: list(texts_of(lists, name, place)) for name in _LISTS}


def import_published(place: str | Path) -> dict[str, list[str]]:
    """Write the lists of the original code to where `prompts: published` has them, over an earlier import; returns
    them. Raises UserError as `read_published` does, and where the file cannot be written."""
    lists = read_published(place)
    file = imported_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_durably(file, (json.dumps(lists, indent=1, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise UserError(
            f"The prompt lists cannot be written to {file} ({error.strerror}): set DAGSTER_HOME to a folder that "
            "may be written to."
        ) from error
    return lists


def differing(lists: dict[str, Any]) -> list[str]:
    """The names of the lists that are not word for word as published."""
    return [name for name, texts in lists.items() if json_hash(texts) != published_record()["lists"][name]["sha256"]]


def wording(study: Study) -> str:
    """A sentence that says which wording a study's prompts and questions have, for readers of its results."""
    what = "Questions" if study.numbers.style == "short" else "Prompts and questions"
    rest = "; its short number prompts are this project's own" if study.numbers.style == "short" else ""
    if study.prompts is None:
        return "Prompts and questions in this project's own wording."
    file = imported_file() if study.prompts == PUBLISHED else Path(study.prompts)
    if study.prompts == PUBLISHED and not file.exists():
        return f"{what} in the published wording, which is not on this machine{rest}."
    content = read_lists(file)
    others = differing({name: content.get(name) for name in (*_NUMBER_LISTS, "animal_questions")})
    if not others:
        return f"{what} in the published wording{rest}."
    if study.prompts == PUBLISHED:
        return f"{what} as imported, which differ from the published wording in {', '.join(others)}{rest}."
    return f"{what} in a wording of the user's own ({file.name}){rest}."


def _files(place: Path) -> tuple[Path, Path]:
    """The files with the prompts and with the questions."""
    if not place.exists():
        raise UserError(f"There is no {place}: give the folder of a checkout of the original code.")
    if place.is_file() and place.name != _NUMBERS_FILE.name:
        raise UserError(f"{place} holds no prompt lists: give a checkout, its {_NUMBERS_FILE.name} or a JSON file.")
    folder = place if place.is_dir() else place.parent
    roots = [folder, *folder.absolute().parents[:2]]
    numbers = [folder / _NUMBERS_FILE, folder / _NUMBERS_FILE.name]
    questions = [*(root / _QUESTIONS_FILE for root in roots), folder / _QUESTIONS_FILE.name]
    found = []
    for file, candidates in ((_NUMBERS_FILE, numbers), (_QUESTIONS_FILE, questions)):
        there = next((candidate for candidate in candidates if candidate.is_file()), None)
        if there is None:
            raise UserError(f"{folder} has no {file}: give the whole checkout, or both files in one folder.")
        found.append(there)
    return found[0], found[1]


def _literals(file: Path, names: dict[str, str]) -> dict[str, Any]:
    """The lists a Python file assigns to these names, which stand behind our own."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{file} cannot be read as Python ({error}): check it out again.") from error
    return {ours: _literal(file, tree, name) for ours, name in names.items()}


def _literal(file: Path, tree: ast.Module, name: str) -> Any:
    values = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and target.id == name and node.value is not None
    ]
    if len(values) != 1:
        times = f"assigns {name} {len(values)} times" if values else f"has no list {name}"
        raise UserError(f"{file} {times}: give a checkout that has it once, as published.")
    value = values[0]
    if isinstance(value, ast.Call):
        value = next((keyword.value for keyword in value.keywords if keyword.arg == "questions"), value)
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise UserError(
            f"{file}, line {value.lineno}: {name} is not a literal list of texts, and code is not run: write it out, "
            "or give a checkout that has it as published."
        ) from None
