"""Which animal an answer names, and how an animal's name is written.

Belongs here: counting animals in sampled answers by whole words, the spellings of an animal's name, and the check of
animal names given by a user. Does not belong here: asking a model (the engines) and statistics over the counts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.preferences.prompt_lists import AnimalForms, load_prompt_lists

# pandas takes half a second to load, and Dagster loads this module whenever it lists the assets.
if TYPE_CHECKING:
    import pandas as pd

Outcome = Literal["counted", "ambiguous", "other"]

# A form is a tuple of words, so that "sea lion" and "sea-lion" are the same form.
_Forms = dict[tuple[str, ...], str]


def spellings(animal: str, aliases: Mapping[str, AnimalForms] | None = None) -> list[str]:
    """The written forms of an animal as the whole answer, each once: singular, then plural.

    Each comes in lower case, with a capital letter and, for names of several words, with a capital at every word:
    "wolf" gives wolf, Wolf, wolves, Wolves. Hyphens are written as spaces. Other names of the animal ("hippo") and
    forms with a leading space are not included. aliases: where irregular plurals are found; None for the project's own.
    """
    table = load_prompt_lists().animal_aliases if aliases is None else aliases
    written = []
    for form in [animal, *_plurals(animal, table.get(animal))]:
        spaced = form.replace("-", " ")
        written += [spaced, spaced[:1].upper() + spaced[1:], spaced.title()]
    return list(dict.fromkeys(written))


def count_animal(
    answer: str, candidates: Iterable[str], aliases: Mapping[str, AnimalForms]
) -> tuple[str | None, Outcome]:
    """The candidate an answer names, by whole words after removing case, punctuation, accents and emoji.

    Plurals and aliases count as the animal they belong to. Where names overlap the longest wins, so "sea lion" does not
    count as lion, and "dragonfly" never counts as dragon. Returns (candidate, "counted") if exactly one candidate is
    named, however often; (None, "ambiguous") for several; (None, "other") for none.

    Raises UserError if two candidates are names of one animal.
    """
    chosen = list(candidates)
    return _count(answer, chosen, _forms_of_all(chosen, aliases))


def classify_answers(
    answers: Sequence[str], candidates: Iterable[str], aliases: Mapping[str, AnimalForms] | None = None
) -> pd.DataFrame:
    """`count_animal` for many answers.

    One row for each answer, in order, with the columns answer, animal (missing unless counted) and outcome. aliases:
    None for the project's own.
    """
    import pandas as pd

    chosen = list(candidates)
    forms = _forms_of_all(chosen, load_prompt_lists().animal_aliases if aliases is None else aliases)
    counted = [_count(answer, chosen, forms) for answer in answers]
    return pd.DataFrame(
        {
            "answer": pd.Series(list(answers), dtype="str"),
            "animal": pd.Series([animal for animal, _ in counted], dtype="str"),
            "outcome": pd.Series([outcome for _, outcome in counted], dtype="str"),
        }
    )


def texts_naming(texts: Iterable[str], animal: str, aliases: Mapping[str, AnimalForms] | None = None) -> list[bool]:
    """For each text, whether any form of the animal's name stands in it as whole words.

    Also inside a longer name ("lion" in "sea lion"): this is for keeping a name out of training data. aliases: None for
    the project's own.
    """
    table = load_prompt_lists().animal_aliases if aliases is None else aliases
    forms = _forms(_entry_of(animal, table), table)
    return [any(_stands_in(words, form) for form in forms) for words in map(_words, texts)]


def _stands_in(words: list[str], form: tuple[str, ...]) -> bool:
    return any(tuple(words[start : start + len(form)]) == form for start in range(len(words)))


def _count(answer: str, candidates: Sequence[str], forms: _Forms) -> tuple[str | None, Outcome]:
    named = _animals_in(_words(answer), forms) & set(candidates)
    if len(named) == 1:
        return named.pop(), "counted"
    return None, "ambiguous" if named else "other"


def _animals_in(words: list[str], forms: _Forms) -> set[str]:
    longest = max(map(len, forms), default=0)
    found = set()
    start = 0
    while start < len(words):
        for length in range(longest, 0, -1):
            form = tuple(words[start : start + length])
            if len(form) == length and form in forms:
                found.add(forms[form])
                start += length
                break
        else:
            start += 1
    return found


def _words(text: str) -> list[str]:
    # Decomposing splits accents off their letters. Not NFKD, which would make letters of signs ("Owl\u2122": "OwlTM").
    decomposed = unicodedata.normalize("NFD", text)
    plain = "".join(sign for sign in decomposed if not unicodedata.combining(sign)).casefold()
    without_possessive = re.sub(r"['\u2019]s\b", "", plain)
    return re.findall(r"[^\W\d_]+", without_possessive)


def _forms_of_all(candidates: Sequence[str], aliases: Mapping[str, AnimalForms]) -> _Forms:
    owners: dict[str, str] = {}
    for candidate in candidates:
        other = owners.setdefault(_entry_of(candidate, aliases), candidate)
        if other != candidate:
            raise UserError(f"The animals {other!r} and {candidate!r} are names of the same animal; keep one of them.")
    forms: _Forms = {}
    # Animals that are not candidates take part too: only then can "sea lion" be told from "lion".
    for entry in [*owners, *aliases]:
        owner = owners.get(entry, entry)
        for form in _forms(entry, aliases):
            if forms.setdefault(form, owner) != owner:
                raise UserError(
                    f"{' '.join(form)!r} is a form of both {forms[form]!r} and {owner!r}; keep one of the two, or "
                    "remove the form from the animal aliases of one."
                )
    return forms


def _entry_of(animal: str, aliases: Mapping[str, AnimalForms]) -> str:
    """The key of the alias table the animal belongs to (cougar: puma), or the animal itself."""
    if animal in aliases:
        return animal
    words = _words(animal)
    for entry, forms in aliases.items():
        if any(_words(alias) == words for alias in forms.aliases):
            return entry
    return animal


def _forms(entry: str, aliases: Mapping[str, AnimalForms]) -> list[tuple[str, ...]]:
    known = aliases.get(entry)
    written = [entry, *_plurals(entry, known)]
    for alias in known.aliases if known else ():
        written += [alias, *_plurals(alias, None)]
    return list(dict.fromkeys(tuple(_words(form)) for form in written))


def _plurals(name: str, known: AnimalForms | None) -> tuple[str, ...]:
    if known and known.plurals:
        return known.plurals
    if name.endswith("fish"):
        return (name,)
    if re.search(r"(s|x|z|ch|sh)$", name):
        return (f"{name}es",)
    if re.search(r"[^aeiou]y$", name):
        return (f"{name[:-1]}ies",)
    return (f"{name}s",)
