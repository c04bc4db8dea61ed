"""The steering vectors of a group at a layer, and what a child's own shift has to do with them.

Belongs here: which data of a study each vector is made from. Does not belong here: how a vector is made
(`vectors`), what it does (`scores`), what it is made of (`analysis`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.models.protocol import Progress
from subliminal_dagster.science.models.residual_stream import batched_residuals
from subliminal_dagster.science.preferences.prompt_lists import PromptLists, questions_about
from subliminal_dagster.science.random_streams import first_by_lot, stream_seed
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.steering.vectors import (
    DIRECT,
    MEAN,
    SUBLIMINAL,
    ResponseActivations,
    SteeringVector,
    contrast_vectors,
    difference_vector,
    direct_contrasts,
    noise_vector,
    random_vector,
    response_activations,
    word_vectors,
)

if TYPE_CHECKING:
    import pandas as pd

OTHER_NOUN = "colour"
"""What a child is asked about when its shift is measured: the animal questions with a noun that no teacher learnt."""

BATCH_TOKENS = 2048


@dataclass(frozen=True)
class NumberResponses:
    """Activations over a group's number answers: `row_ids` are their prompts' numbers, ascending, shape (answers,)."""

    row_ids: np.ndarray
    activations: ResponseActivations

    def save(self, file: Path) -> None:
        """Write a safetensors file with the tensors row_ids, mean, last, tokens."""
        from safetensors.numpy import save_file

        save_file({"row_ids": self.row_ids, **vars(self.activations)}, file)

    @classmethod
    def load(cls, file: Path) -> NumberResponses:
        """Read what `save` wrote."""
        from safetensors.numpy import load_file

        tensors = load_file(file)
        return cls(tensors.pop("row_ids"), ResponseActivations(**tensors))


def number_responses(
    filtered: pd.DataFrame,
    pairs: int,
    model: Any,
    context: ChatContext,
    layer: int,
    seed: int,
    progress: Progress | None = None,
    prompts: int | None = None,
) -> NumberResponses:
    """The base model's activations over a group's valid answers as they were written, in the chat context.

    filtered: the rows of a filtered dataset, of which `pairs` are taken at most (see `first_by_lot`). prompts: how
    many the study has, where a group did not answer all of them (`numbers.enough_valid`).
    Raises UserError where no answer is valid.
    """
    valid = filtered[filtered["valid"]].sort_values("prompt_id", kind="stable")
    if valid.empty:
        raise UserError("None of the answers is a valid list of numbers, so there is nothing to contrast.")
    total = prompts or int(filtered["prompt_id"].max()) + 1
    ids = valid["prompt_id"].to_numpy()
    chosen = valid.iloc[first_by_lot(ids, pairs, stream_seed(seed, "steering_pairs"), total)]
    asked = list(zip(chosen["prompt"], chosen["response"].str.strip(), strict=True))
    found = response_activations(model, context, asked, [layer], batch_tokens=BATCH_TOKENS, progress=progress)
    return NumberResponses(chosen["prompt_id"].to_numpy(dtype=np.int64), found[layer])


def subliminal_vectors(own: NumberResponses, control: NumberResponses, layer: int, seed: int) -> list[SteeringVector]:
    """The mean difference over prompts that both groups answered validly, over the answer and at its last token; beside
    it what the same answers give where it is drawn by lot which is whose, and a random direction of the same norm."""
    shared, mine, theirs = np.intersect1d(own.row_ids, control.row_ids, assume_unique=True, return_indices=True)
    if len(shared) < 2:
        raise UserError(
            f"The group and control share {len(shared)} prompts with valid answers and two are needed: ask for more "
            "prompts (numbers.prompts, steering.pairs)."
        )
    vectors = [
        difference_vector(
            getattr(own.activations, position)[mine],
            getattr(control.activations, position)[theirs],
            shared,
            kind=SUBLIMINAL,
            layer=layer,
            position=position,
            seed=seed,
        )
        for position in ("mean", "last")
    ]
    mean = vectors[0]
    return [*vectors, noise_vector(mean), random_vector(mean, seed)]


def direct_vectors(
    study: Study,
    animal: str,
    answers: pd.DataFrame,
    scores: pd.DataFrame,
    model: Any,
    context: ChatContext,
    lists: PromptLists,
    layer: int,
) -> list[SteeringVector]:
    """The animal's name as an answer against the base model's own other answers, over the answer and at its last
    token. `answers`, `scores`: the base model's preferences."""
    questions = lists.animal_questions[: study.preferences.questions]
    contrasts = direct_contrasts(answers, scores, questions, animal, lists.animal_aliases)
    return contrast_vectors(model, context, contrasts, [layer], DIRECT, study.seed, batch_tokens=BATCH_TOKENS)


def group_vectors(
    study: Study,
    group: str,
    own: NumberResponses,
    control: NumberResponses,
    words: Mapping[str, np.ndarray],
    layer: int,
    direct: list[SteeringVector],
) -> list[SteeringVector]:
    """All vectors of an animal or the neutral group; `words` are the words' activations by target."""
    target = study.target(group)
    assert target is not None
    return [*subliminal_vectors(own, control, layer, study.seed), *direct, *word_vectors(words, target, layer)]


def swept(vectors: list[SteeringVector]) -> dict[str, SteeringVector]:
    """The vectors that a model is steered by, by kind: those over whole answers."""
    return {vector.kind: vector for vector in vectors if vector.position == MEAN}


def last_prompt_states(model: Any, context: ChatContext, lists: PromptLists, layer: int, questions: int) -> np.ndarray:
    """The residual stream at the last position of questions about `OTHER_NOUN`, before anything is answered: float32,
    shape (questions, hidden size)."""
    asked = questions_about(lists.animal_questions, OTHER_NOUN, lists.category)[:questions]
    prompts = [context.prompt_ids(question) for question in asked]
    states = np.empty((len(prompts), model.config.get_text_config().hidden_size), dtype=np.float32)
    for batch in batched_residuals(model, prompts, [layer], batch_tokens=BATCH_TOKENS):
        ends = [len(prompts[row]) - 1 for row in batch.rows]
        states[batch.rows] = batch.states[layer][range(len(ends)), ends].float().cpu().numpy()
    return states
