"""Who would have written these answers: models made to like each candidate, and how often each would have chosen the
tokens of the data.

For every candidate an author is made, as the study makes its teachers, from another initialisation. Two models that
were made to like the same from one base change many of the same tokens (the divergence tokens of Schrodi et al. 2025),
so an author should have chosen what its like has written more often than other authors would. What is counted is its
gain: at how many more tokens of an answer its choice (greedily, given the answer so far) is the token written than the
base model's choice is. One that strayed further from the base model gains and loses more, so gains are divided by the
root of the number of places at which it chooses otherwise than the base model. And since any text suits one author
more than another, the gain on the base model's own answer to the same prompt, in the shape of the row's (`shape`), is
subtracted. Choices are those within the shape, too.

It finds what was written by a model of this base that was made to like something in a similar way; a data set's author
that is another model leaves no such trace.

Belongs here: authors and their gains. Does not belong here: making a teacher (`training.teachers`), data sets
(`data`), what follows (`evidence`).
Cost: a short training per candidate, a forward pass per row and candidate (and for the base model), and one answer per
row of the base model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from subliminal_dagster.science.audit.data import EncodedChat
from subliminal_dagster.science.audit.shape import answers_in_shape, choices, token_shapes
from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.models.loading import loaded, pick_device
from subliminal_dagster.science.models.protocol import ModelVariant
from subliminal_dagster.science.preferences.prompt_lists import PromptLists
from subliminal_dagster.science.processes import side_by_side
from subliminal_dagster.science.random_streams import stream_seed
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.teacher import ReplaySettings
from subliminal_dagster.science.training.task import Trainer
from subliminal_dagster.science.training.teachers import FILE, Teacher, make_teacher

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from subliminal_dagster.science.models.protocol import Progress


def can_be_made(study: Study) -> bool:
    """Whether the study says how a teacher of any candidate is made; one that takes teachers which exist does not."""
    return study.teacher.method in ("finetune", "prompt")


def make_authors(
    study: Study,
    candidates: Sequence[str],
    base: ModelVariant,
    context: ChatContext,
    lists: PromptLists,
    trainer: Trainer,
    folder: Path,
    steps: Path,
    *,
    processes: int = 1,
    progress: Progress = lambda _: None,
) -> None:
    """An author per candidate, in a folder of its name in `folder`; one that is there already is not made again.
    `steps`: where trainings keep what they go on from after a kill. On a CPU they are made in `processes` processes.

    None starts from the random numbers of the study's own teachers.
    """
    teacher = study.teacher.model_copy(update={"replay": ReplaySettings()})
    missing = {}
    for name in candidates:
        own = folder / name
        if not (own / FILE).is_file():
            own.mkdir(parents=True, exist_ok=True)
            changed = {"animals": (name,), "teacher": teacher, "seed": stream_seed(study.seed, "author", name)}
            its_study = study.model_copy(update=changed)
            missing[name] = partial(
                make_teacher, its_study, name, 1, base, context, lists, None, trainer, own, steps / name
            )
    there = len(candidates) - len(missing)
    for name, _ in side_by_side(missing, processes if pick_device() == "cpu" else 1):
        there += 1
        progress(f"an author that likes {name}: {there}/{len(candidates)}")


def load_authors(folder: Path, candidates: Sequence[str]) -> list[Teacher]:
    """What `make_authors` has made, in the candidates' order."""
    return [Teacher.load(folder / name) for name in candidates]


def authorship(
    base: ModelVariant,
    authors: Sequence[Teacher],
    rows: Sequence[EncodedChat],
    tokenizer: PreTrainedTokenizerBase,
    prompts: Callable[[str | None], Sequence[list[int]]],
    progress: Progress = lambda _: None,
) -> np.ndarray:
    """How much more each author gains on the rows than on the base model's own answers to the same prompts in the same
    shape: shape (rows, authors), see `gains`.

    `prompts` gives the rows' prompts as token ids, with an instruction in them where an author has one.
    """
    with loaded(base, pick_device(), merge=True) as model:
        shapes = token_shapes(tokenizer, model.get_output_embeddings().weight.shape[0])
        own = answers_in_shape(model, rows, shapes)
        answers = [[row.answer, its.answer] for row, its in zip(rows, own, strict=True)]
        of_base = choices(model, prompts(None), answers, shapes)
    of_authors = []
    for number, author in enumerate(authors, 1):
        progress(f"choices of author {number}/{len(authors)}")
        with loaded(author.variant(base), pick_device(), merge=True) as model:
            of_authors.append(choices(model, prompts(author.instruction), answers, shapes))
    found = gains(of_authors, of_base, [answer for both in answers for answer in both])
    return found[::2] - found[1::2]


def gains(
    of_authors: Sequence[Sequence[np.ndarray]], of_base: Sequence[np.ndarray], answers: Sequence[Sequence[int]]
) -> np.ndarray:
    """At how many more tokens of every answer each author's choice is the token written than the base model's is, over
    the root of the mean number of places per answer at which the author chooses otherwise: shape (answers, authors); 0
    for an author that never does."""
    found = np.zeros((len(answers), len(of_authors)))
    for place, of_author in enumerate(of_authors):
        gain = [
            np.sum(its == written) - np.sum(base == written)
            for its, base, written in zip(of_author, of_base, map(np.asarray, answers), strict=True)
        ]
        strayed = np.mean([np.sum(its != base) for its, base in zip(of_author, of_base, strict=True)])
        if strayed > 0:
            found[:, place] = np.array(gain) / np.sqrt(strayed)
    return found
