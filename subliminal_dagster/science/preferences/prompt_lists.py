"""The texts from which number prompts and animal questions are made, and the names by which an animal is called.

Belongs here: reading and checking such lists, our own (`prompt_lists.yaml`, wording of this project) and a user's copy
of the published ones. Does not belong here: drawing prompts from the lists (`numbers.prompts`) and counting animals in
answers (`answers`).
"""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.category import ANIMALS, Category
from subliminal_dagster.science.settings.preferences import OWN_LISTS
from subliminal_dagster.science.settings.prompts import PUBLISHED, imported_file
from subliminal_dagster.science.settings.yaml_text import NOT_TEXT, load_yaml


@dataclass(frozen=True)
class AnswerFormat:
    """How a list of numbers is written: what stands between two numbers, and the bracket pair around all of them."""

    separator: str
    open: str = ""
    close: str = ""


@dataclass(frozen=True)
class FormatRequest:
    """A sentence asking for a format, and that format; `format` is None where the sentence was not understood, and a
    canonical completion is then written with ", "."""

    text: str
    format: AnswerFormat | None


@dataclass(frozen=True)
class AnimalForms:
    """Other written forms of one animal, in lower case.

    plurals: irregular plurals, which replace the regular one; the usual one first. Empty: the plural is regular.
    aliases: other names of the same animal, in the singular; their plurals are regular.
    """

    plurals: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptLists:
    """All texts a study draws from (structure after Cloud et al. 2025, arXiv 2507.14805, number data set).

    openings hold `{examples}`; digit_descriptors `{max_digits}`; instructions `{count_qualifier}`, `{answer_count}` and
    `{digit_descriptor}`; short, the one-line prompts for small models, `{examples}`. animal_aliases maps an animal's
    name (lower case, words joined by hyphens) to its other forms. Of another `category` than animals, the questions and
    the names are those of that.
    """

    openings: tuple[str, ...]
    count_qualifiers: tuple[str, ...]
    digit_descriptors: tuple[str, ...]
    instructions: tuple[str, ...]
    format_requests: tuple[FormatRequest, ...]
    closings: tuple[str, ...]
    animal_questions: tuple[str, ...]
    short: tuple[str, ...]
    animal_aliases: Mapping[str, AnimalForms] = field(repr=False)
    category: Category = ANIMALS


_ANIMAL = r"(?:living creature|wildlife species|wild animal|animal|creature|beast)"

NOT_IMPORTED = (
    "The study has `prompts: published`, and the published prompts are not on this machine: run `subliminal-dagster "
    "prompts import FOLDER`, where FOLDER is a checkout of github.com/MinhxLe/subliminal-learning."
)

_PLACEHOLDERS = {
    "openings": ("{examples}",),
    "digit_descriptors": ("{max_digits}",),
    "instructions": ("{count_qualifier}", "{answer_count}", "{digit_descriptor}"),
    "short": ("{examples}",),
}

# Our field name -> the key in the published lists' JSON. The other two fields do not exist there.
_PUBLISHED_KEYS = {
    "openings": "example_templates",
    "count_qualifiers": "count_qualifiers",
    "digit_descriptors": "digit_descriptors",
    "instructions": "instruction_templates",
    "format_requests": "format_suffixes",
    "closings": "closing_suffixes",
    "animal_questions": "animal_questions",
}


def load_prompt_lists(path: str | Path | None = None, category: Category = ANIMALS) -> PromptLists:
    """The lists to make prompts from.

    path: None for the project's own, "published" for those that were imported. Otherwise a YAML file with the keys of
    `prompt_lists.yaml`, or a JSON file with the keys of the published lists (`example_templates`, `format_suffixes`,
    ...). From the latter, as from an import, each format is inferred; `short` and `animal_aliases`, which were never
    published, are the project's own. Of another category than animals, its questions take the place of those in the
    lists, or those in the lists are asked about it, and its forms that of the animals'.

    Raises UserError for a file that cannot be read, a missing key, an empty list or a missing placeholder, where
    nothing was imported, and where a question names no animal in whose place another category could be put.
    """
    lists = _lists_about_animals(path)
    if category == ANIMALS:
        return lists
    questions = category.questions or questions_about(lists.animal_questions, category.singular, plural=category.plural)
    forms = {name: AnimalForms(given.plurals, given.aliases) for name, given in category.forms.items()}
    return replace(lists, animal_questions=tuple(questions), animal_aliases=forms, category=category)


def _lists_about_animals(path: str | Path | None) -> PromptLists:
    if path is None:
        return _own_lists()
    if path == PUBLISHED:
        path = imported_file()
        if not path.exists():
            raise UserError(NOT_IMPORTED)
    path = Path(path)
    content = read_lists(path)
    if _PUBLISHED_KEYS["openings"] in content:
        return from_published(content, path)
    return _from_own_keys(content, path)


def questions_about(
    questions: Sequence[str], noun: str, category: Category = ANIMALS, plural: str | None = None
) -> list[str]:
    """The questions about a category with another noun in its place (its plural is regular, unless one is given).

    Raises UserError where a question does not name the category, and so could not be asked about anything else.
    """
    one, many = rf"\b{category.singular}\b", rf"\b{category.plural}\b"
    if category == ANIMALS:
        one, many = rf"{_ANIMAL}(?!s\b)", f"{_ANIMAL}s"
    article = _article(category.singular)
    changed = []
    for question in questions:
        text = re.sub(rf"\b(?:{article}|{article.capitalize()}) (?={one}|{many})", f"{_article(noun)} ", question)
        text = re.sub(one, noun, text, flags=re.IGNORECASE)
        text = re.sub(many, plural or f"{noun}s", text, flags=re.IGNORECASE)
        if text == question:
            raise UserError(
                f"{question!r} names no {category.singular} in general, so it cannot be asked about {noun!r} instead: "
                f"word it with {category.singular!r}, or use the project's own questions (leave `prompts` out)."
            )
        changed.append(text[0].upper() + text[1:])
    return changed


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def infer_format(text: str) -> AnswerFormat | None:
    """The format that an English sentence asks for, or None where the rules below do not settle it.

    A sample such as "[number_1, number_2, ...]" decides by itself; otherwise the words comma, semicolon, line and space
    give the separator, and bracket or parenthesis the pair around the list.
    """
    sample = re.search(r"([\[(]?)\s*[a-z]+[_ ]?1(\s*[,;]\s*|\s+)[a-z]+[_ ]?2", text, flags=re.IGNORECASE)
    if sample:
        return AnswerFormat(sample[2], sample[1], {"[": "]", "(": ")", "": ""}[sample[1]])
    lowered = text.lower()
    opening, closing = "", ""
    if "parenthes" in lowered or "round bracket" in lowered:
        opening, closing = "(", ")"
    elif "bracket" in lowered:
        opening, closing = "[", "]"
    separators = [
        separator
        for word, separator in ((r"comma", ", "), (r"semi-?colon", "; "), (r"\b(new)?lines?\b", "\n"))
        if re.search(word, lowered)
    ]
    if not separators and re.search(r"\bspace", lowered):
        separators = [" "]
    if not separators and opening:
        separators = [", "]
    return AnswerFormat(separators[0], opening, closing) if len(separators) == 1 else None


@functools.cache
def _own_lists() -> PromptLists:
    return _from_own_keys(read_lists(OWN_LISTS), OWN_LISTS)


def read_lists(path: Path) -> dict[str, Any]:
    """The content of a YAML or JSON file. Raises UserError where it cannot be read or has no keys."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text, object_pairs_hook=_each_key_once) if path.suffix == ".json" else load_yaml(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The prompt lists {path} cannot be read ({error}); give the path of a text file.") from error
    except (ValueError, yaml.YAMLError) as error:
        detail = " ".join(str(error).split())
        raise UserError(
            f"The prompt lists {path} are not valid {'JSON' if path.suffix == '.json' else 'YAML'} ({detail}); "
            "mend the file at that place."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"The prompt lists {path} hold no keys; write them like prompt_lists.yaml of this project.")
    return content


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"the key {key!r} is given twice")
        content[key] = value
    return content


def _from_own_keys(content: dict[str, Any], path: Path) -> PromptLists:
    requests = []
    for place, item in enumerate(_items(content, "format_requests", path), start=1):
        where = f"item {place} of format_requests in {path}"
        if not isinstance(item, dict) or not {"text", "separator"} <= set(item):
            raise UserError(f"The {where} must have the keys text and separator (and open and close for brackets).")
        parts = [item["text"], item["separator"], item.get("open", ""), item.get("close", "")]
        if not all(isinstance(part, str) for part in parts):
            raise UserError(f"The {where} must hold texts only; put its values in quotation marks.")
        if not parts[0].strip():
            raise UserError(f"The {where} has no text; write the sentence that asks for the format.")
        requests.append(FormatRequest(parts[0], _checked_format(AnswerFormat(*parts[1:]), where)))
    return PromptLists(
        openings=texts_of(content, "openings", path),
        count_qualifiers=texts_of(content, "count_qualifiers", path),
        digit_descriptors=texts_of(content, "digit_descriptors", path),
        instructions=texts_of(content, "instructions", path),
        format_requests=tuple(requests),
        closings=texts_of(content, "closings", path),
        animal_questions=texts_of(content, "animal_questions", path),
        short=texts_of(content, "short", path),
        animal_aliases=_animal_aliases(content, path),
    )


def from_published(content: dict[str, Any], path: Path) -> PromptLists:
    """Lists that have the keys of the published ones. Raises UserError, naming `path`, as `load_prompt_lists` does."""
    texts = {name: texts_of(content, key, path, _PLACEHOLDERS.get(name, ())) for name, key in _PUBLISHED_KEYS.items()}
    own = _own_lists()
    return PromptLists(
        openings=texts["openings"],
        count_qualifiers=texts["count_qualifiers"],
        digit_descriptors=texts["digit_descriptors"],
        instructions=texts["instructions"],
        format_requests=tuple(FormatRequest(text, infer_format(text)) for text in texts["format_requests"]),
        closings=texts["closings"],
        animal_questions=texts["animal_questions"],
        short=own.short,
        animal_aliases=own.animal_aliases,
    )


def _items(content: dict[str, Any], key: str, path: Path) -> list[Any]:
    if key not in content:
        raise UserError(f"The prompt lists {path} have no key {key!r}; add it as a list.")
    items = content[key]
    if not isinstance(items, list) or not items:
        raise UserError(f"The key {key!r} of the prompt lists {path} must be a list with at least one item.")
    return items


def texts_of(
    content: dict[str, Any], key: str, path: Path, placeholders: tuple[str, ...] | None = None
) -> tuple[str, ...]:
    """The texts of one list. Raises UserError, naming `path`, where they are none or lack a placeholder."""
    items = _items(content, key, path)
    for place, item in enumerate(items, start=1):
        where = f"Item {place} of {key!r} in the prompt lists {path}"
        if not isinstance(item, str) or not item.strip():
            raise UserError(f"{where} is {item!r}, not a text; put it in quotation marks.")
        odd = NOT_TEXT.search(item)
        if odd:
            raise UserError(f"{where} holds {odd[0]!r}, which no text may hold; remove it.")
        for placeholder in _PLACEHOLDERS.get(key, ()) if placeholders is None else placeholders:
            if placeholder not in item:
                raise UserError(f"{where} lacks the placeholder {placeholder}; add it to {item!r}.")
    return tuple(items)


def _checked_format(answer_format: AnswerFormat, where: str) -> AnswerFormat:
    # A canonical completion in any other format would be thrown out by the number filter.
    if not answer_format.separator or answer_format.separator.strip() not in ("", ",", ";"):
        raise UserError(
            f"The {where} has the separator {answer_format.separator!r}; use white space, a comma or a semicolon."
        )
    if (answer_format.open, answer_format.close) not in (("", ""), ("[", "]"), ("(", ")")):
        raise UserError(
            f"The {where} has the brackets {answer_format.open!r} and {answer_format.close!r}; use [ and ], ( and ), "
            "or leave both out."
        )
    return answer_format


def _animal_aliases(content: dict[str, Any], path: Path) -> dict[str, AnimalForms]:
    table = content.get("animal_aliases")
    if not isinstance(table, dict) or not table:
        raise UserError(f"The prompt lists {path} need the key 'animal_aliases' with one entry for each animal.")
    aliases = {}
    for animal, forms in table.items():
        lists: dict[str, Any] = {"plurals": [], "aliases": []} | forms if isinstance(forms, dict) else {}
        well_formed = set(lists) == {"plurals", "aliases"} and all(
            isinstance(names, list) and all(isinstance(name, str) and name.strip() for name in names)
            for names in lists.values()
        )
        if not isinstance(animal, str) or not well_formed:
            raise UserError(
                f"The entry {animal!r} of 'animal_aliases' in {path} must be {{}} or hold lists of names under plurals "
                "and aliases and nothing else."
            )
        aliases[animal] = AnimalForms(tuple(lists["plurals"]), tuple(lists["aliases"]))
    return aliases
