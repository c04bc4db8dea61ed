"""A study file for a user's own names and base model, to begin with.

It holds the settings of a study that ships: of a base model that one of them is about that study's, of another model
those of the bundled study (small) or of the post (paper), without what is looked into inside, since which layers that
should be nobody knows yet.

Belongs here: which settings a new file has, asking for what the command was not told, the comments. Does not belong
here: what a study may say (`science.settings`).
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import yaml

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.hub import hub_failures, hub_refusal, hub_token
from subliminal_dagster.science.settings.base_model import Dtype
from subliminal_dagster.science.settings.category import ANIMALS, Category
from subliminal_dagster.science.settings.names import check_animal_name
from subliminal_dagster.science.settings.schema import SCHEMA_FILE
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import DEFAULT_STUDY, STUDIES, load_study, shipped_studies
from subliminal_dagster.science.settings.yaml_text import load_yaml

SIZES = {"small": DEFAULT_STUDY, "paper": "gemma-2-9b-it"}
"""The study whose settings a model of its own gets, by size."""

_OF_THE_MODEL = ("base_model", "system_prompt", "prompts")
_OF_THE_SIZE = ("preferences", "teacher", "numbers", "filter", "child")
_INSIDE = (
    "layers",
    "sae",
    "features",
    "activations",
    "probes",
    "steering",
    "descriptions",
    "entanglement",
    "interference",
    "capability",
    "tuning",
)

_COMMENTS = {
    "category": "What the names are names of. Questions about animals are asked about this.",
    "animals": "What teachers are made to like, a teacher each. Each name stands among preferences.candidates too.",
    "layers": "The layers that are looked into. Leave them out with sae, steering and descriptions to look at none.",
    "neutral": "A control teacher, made just like the others to like something else.",
    "base_model": "The model that teachers and children start from.",
    "prompts": "The published wording; it has to be imported once: subliminal-dagster prompts import FOLDER",
    "preferences": "How a model is asked. An animal's share among the candidates is compared: add some to have many.",
    "teacher": "How teachers are made, and the gate that each has to pass.",
    "numbers": "The number prompts, and how teachers answer them.",
    "filter": "Which answers are kept, and how many rows a child is trained on.",
    "child": "How children are trained on a teacher's numbers.",
    "sae": "Autoencoders, by whose features numbers are compared.",
    "entanglement": "On request: --select group:mechanism",
    "interference": "On request: --select group:mechanism",
    "capability": "On request: --select capability",
    "tuning": "On request: --select tuned_scores",
    "descriptions": "On request: --select feature_composition",
}


def new_study(file: Path, model: str | None, animals: str | None, size: str | None, category: str | None) -> Study:
    """Write a study file that loads, and return what it says.

    model: the name of a shipped study or its repository, another repository on the hub ("owner/name", or with its
    commit "owner/name@<commit>"), or a folder. animals: names, with commas. size: "small" or "paper". category: its
    singular and plural, with a comma; animals where there is none. What is None is asked for in a terminal.

    Raises UserError where an answer is missing or of no use, and where the file exists already.
    """
    name = _checked_name(file)
    words = _category(category)
    model = model or _asked(
        "Base model (a shipped study, owner/name on the hub, or a folder)", "--model", DEFAULT_STUDY
    )
    start = _shipped_study_of(model)
    source = start["base_model"] if start else _own_model(model)
    names = _names(animals or _asked(f"{words.plural.capitalize()}, with commas between them", "--animals"))
    size = size or _asked("Size (small or paper)", "--size", "small")
    if size not in SIZES:
        raise UserError(f"--size is {size!r}: give small (a laptop) or paper (the published sizes).")
    content = _content(name, names, words, size, source, start)
    return _written(file, content, words)


def _checked_name(file: Path) -> str:
    if file.suffix not in (".yaml", ".yml"):
        raise UserError(f"{file} is not a name for a study file: it must end in .yaml, such as my-study.yaml.")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,62}[a-z0-9]", file.stem):
        raise UserError(
            f"{file.stem!r} cannot name a study: use two or more lower-case letters, digits, dots and hyphens, as in "
            "my-study."
        )
    if file.stem in shipped_studies():
        raise UserError(f"{file.stem} is a study that ships, whose artifacts it would take over: choose another name.")
    if file.exists():
        raise UserError(f"{file} is there already: choose another name, or delete it first.")
    return file.stem


def _asked(what: str, option: str, usual: str | None = None) -> str:
    """What the user answers; in no terminal there is nobody to ask."""
    if not sys.stdin.isatty():
        raise UserError(f"{option} is not given: add it, or run the command in a terminal, where it asks.")
    try:
        answer = input(f"{what}{f' [{usual}]' if usual else ''}: ").strip()
    except EOFError:
        answer = ""
    if not answer and usual is None:
        raise UserError(f"{option} has no answer: nothing was written.")
    return answer or str(usual)


def _category(given: str | None) -> Category:
    if given is None:
        return ANIMALS
    words = [word.strip() for word in given.split(",")]
    if len(words) != 2 or not all(re.fullmatch("[a-z]{2,}", word) for word in words):
        raise UserError(f"--category is {given!r}: give singular and plural in lower case, such as tree,trees.")
    return Category(singular=words[0], plural=words[1])


def _names(given: str) -> list[str]:
    names = [check_animal_name(name.strip()) for name in given.split(",") if name.strip()]
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise UserError(f"--animals names {twice[0]} twice: leave out the second.")
    if len(names) < 2:
        raise UserError(
            f"--animals is {given!r}: give two names at least, such as owl,cat; each is compared with others."
        )
    return names


def _shipped_study_of(model: str) -> dict[str, Any] | None:
    """The content of the shipped study of that name, or whose base model is that repository."""
    for name in shipped_studies():
        study = _shipped(name)
        if model in (name, study.get("base_model", {}).get("repo")):
            if "base_model" not in study:
                raise UserError(f"The study {name} has no base model to start from: copy its file and change that.")
            return study
    return None


def _shipped(name: str) -> dict[str, Any]:
    content: dict[str, Any] = load_yaml((STUDIES / f"{name}.yaml").read_text(encoding="utf-8"))
    return content


def _own_model(model: str) -> dict[str, Any]:
    folder = Path(model).expanduser()
    if folder.is_dir():
        return {"kind": "local", "path": str(folder.absolute()), "dtype": _dtype(folder)}
    match = re.fullmatch(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<commit>[0-9a-f]{40}))?", model)
    if match is None:
        raise UserError(
            f"There is no model {model!r}: give the name of a shipped study ({', '.join(sorted(_with_a_model()))}), a "
            "repository on the hub (owner/name or owner/name@commit), or an existing folder."
        )
    commit = match["commit"] or _newest_commit(match["repo"])
    return {"kind": "hub", "repo": match["repo"], "revision": commit, "dtype": "bfloat16"}


def _with_a_model() -> list[str]:
    return [name for name in shipped_studies() if "base_model" in _shipped(name)]


def _dtype(folder: Path) -> str:
    """The number type that a folder's weights are in, as its config.json says; float32 where that says none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{folder} holds no model: it has no config.json that can be read.") from None
    found = config.get("dtype") or config.get("torch_dtype")
    return found if found in get_args(Dtype) else "float32"


def _newest_commit(repo: str) -> str:
    from huggingface_hub import HfApi

    try:
        return str(HfApi().model_info(repo, revision="main", token=hub_token()).sha)
    except hub_failures() as error:
        refusal = hub_refusal(error, repo, "main", "--model", begun=False)
        raise UserError(f"{refusal} With a commit, as {repo}@<commit>, the hub does not have to be asked.") from None


def _content(
    name: str,
    names: list[str],
    category: Category,
    size: str,
    source: dict[str, Any],
    start: dict[str, Any] | None,
) -> dict[str, Any]:
    """What the file says, in the order in which it says it."""
    # The shipped studies of larger models are all of the paper's size.
    own_size = start is not None and (start["name"] == DEFAULT_STUDY) == (size == "small")
    sizes = start if start is not None and own_size else _shipped(SIZES[size])
    kept = {key: start[key] for key in _OF_THE_MODEL if start is not None and key in start}
    inside = {key: start[key] for key in _INSIDE if start is not None and own_size and key in start}
    kind = "" if category == ANIMALS else f" of {category.plural}"
    neutral = {"noun": "instrument", "answer": "violin"}
    if category.singular == "instrument" or "violin" in names:
        neutral = {"noun": "drink", "answer": "coffee"}
    found = {
        "name": name,
        "description": f"My study{kind}: {', '.join(names)}. Settings of {sizes['name']}.",
        "seed": 1,
        **({} if category == ANIMALS else {"category": {"singular": category.singular, "plural": category.plural}}),
        "animals": names,
        **({"layers": inside["layers"]} if "layers" in inside else {}),
        "neutral": neutral,
        **({"base_model": source} | kept),
        **{key: sizes[key] for key in _OF_THE_SIZE},
        **{key: value for key, value in inside.items() if key != "layers"},
    }
    found["preferences"] = _preferences(sizes["preferences"], names, category)
    if category != ANIMALS and "instruction" in found["teacher"]:
        found["teacher"] = found["teacher"] | {
            # The placeholder is called that whatever the category.
            "instruction": _outside_braces(found["teacher"]["instruction"], category.about)
        }
    return found


def _preferences(settings: dict[str, Any], names: list[str], category: Category) -> dict[str, Any]:
    others = settings["candidates"] if category == ANIMALS else []
    candidates = sorted({*names, *others})
    return settings | {"candidates": candidates, "begun": [category.about(text) for text in settings["begun"]]}


def _outside_braces(text: str, change: Callable[[str], str]) -> str:
    return "".join(part if part.startswith("{") else change(part) for part in re.split(r"(\{\w+\})", text))


def _written(file: Path, content: dict[str, Any], category: Category) -> Study:
    """Write the file and read it as any command will; what cannot be read is not left there."""
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(_text(content, category))
    except FileExistsError:
        raise UserError(f"{file} is there already: choose another name, or delete it first.") from None
    except OSError as error:
        raise UserError(
            f"{file} cannot be written ({error.strerror}): choose a folder that may be written to."
        ) from None
    try:
        study = load_study(str(file))
    except UserError as error:
        file.unlink()
        raise UserError(f"Nothing was written. {error}") from None
    assert isinstance(study, Study)
    return study


def _text(content: dict[str, Any], category: Category) -> str:
    """The file with a comment before each setting that needs one."""
    lines = [f"# yaml-language-server: $schema={SCHEMA_FILE.as_uri()}"]
    for key, value in content.items():
        # Name, description and seed belong together.
        lines += [""] if isinstance(value, dict | list) else []
        lines += [f"# {category.about(_COMMENTS[key])}"] if key in _COMMENTS else []
        lines.append(_dumped(key, value))
    return "\n".join(lines) + "\n"


def _dumped(key: str, value: Any) -> str:
    """A setting on one line where it has room there, else a line for each that it holds."""
    # Without braces around a bare value and its key.
    flow = None if isinstance(value, dict | list) else False
    dumped = yaml.safe_dump({key: value}, sort_keys=False, default_flow_style=flow, allow_unicode=True, width=110)
    if not isinstance(value, dict) or dumped.count("\n") == 1:
        return dumped.rstrip("\n")
    return f"{key}:\n" + textwrap.indent("\n".join(_dumped(*inner) for inner in value.items()), "  ")
