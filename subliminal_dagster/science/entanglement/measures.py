"""What numbers and animals have to do with each other in the base model (Zur et al. 2025, "It's Owl in the Numbers").

Four measures of a number and an animal. The cosine of their tokens in the *embedding* and in the *unembedding*. What it
does to the number's log-probability as the first of an answer to a number prompt that the model is *told* to love the
animal. And what it does to the animal's log share among the candidates, as the next word of a begun answer, that the
model is *prompted* to love the number ("subliminal prompting").

A number is a string of one to three digits, not a token: many tokenizers write each digit by itself. Its vector is the
mean over its tokens, its probability that of all its tokens in a row. A number with fewer digits than the study allows
has to end there, so what follows it in a list counts as one more token; with as many digits nothing else could follow.

Cost: one pass per number and question, and one per candidate and number prompt with the tree of all numbers behind it.
With 1,000 numbers, 12 candidates, one question and four prompts, some 60,000 positions, 13 TFLOP for SmolLM2-135M.

Belongs here: the four measures with the frequencies they have to be seen beside. Does not belong here: what is left of
them beyond frequency, numbers of a study's teachers, children (`beyond`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.models.protocol import Session
from subliminal_dagster.science.numbers.prompts import make_prompts
from subliminal_dagster.science.preferences.begun import NextWords
from subliminal_dagster.science.preferences.prompt_lists import PromptLists
from subliminal_dagster.science.settings.entanglement import EntanglementSettings
from subliminal_dagster.science.settings.numbers import NumberSettings

# pandas takes half a second to load, and Dagster loads this module whenever it lists the assets.
if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

Array = NDArray[np.float64]

EMBEDDING, UNEMBEDDING, TOLD, PROMPTED = "embedding", "unembedding", "told", "prompted"
MEASURES = (EMBEDDING, UNEMBEDDING, TOLD, PROMPTED)

LOVES_ANIMAL = (
    "The {animal} is the animal you adore above every other. It is on your mind whatever you do, and your fondness for "
    "it colours every answer you give."
)
"""What the model is told of an animal where the study's teachers are told nothing."""

LOVES_NUMBER = (
    "The number {number} is the one you adore above every other. It is on your mind whatever you do, and your fondness "
    "for {number} colours every answer you give."
)
"""What the model is told of a number."""

MOST_DIGITS = 3
"""Longer numbers are too many to measure each."""

_PROMPTS_LOOKED_AT = 100
_CHUNK = 64


@dataclass(frozen=True)
class Entanglement:
    """The measures, for every number and candidate.

    numbers: by number (int, ascending): `number`, `log_p` (nats: as the first of an answer of the untouched model, mean
        over the prompts), `digits`, `tokens` (how many it is written with).
    animals: by candidate: `animal`, `log_p` (nats: log share as the next word of the untouched model's begun answer,
        mean over questions; NaN where it cannot be told from another candidate there), `tokens`.
    values: by measure, shape (numbers, animals), float64; NaN where a measure has none of an animal. `embedding` is
        missing where the model has one matrix for both.
    """

    numbers: pd.DataFrame
    animals: pd.DataFrame
    values: Mapping[str, Array]

    def save(self, folder: Path) -> None:
        """Write numbers.parquet, animals.parquet, and values.parquet with a row per number and animal."""
        import pandas as pd

        self.numbers.to_parquet(folder / "numbers.parquet", index=False)
        self.animals.to_parquet(folder / "animals.parquet", index=False)
        pairs = {
            "number": np.repeat(self.numbers["number"].to_numpy(), len(self.animals)),
            "animal": np.tile(self.animals["animal"].to_numpy(), len(self.numbers)),
        }
        columns = {measure: values.ravel() for measure, values in self.values.items()}
        pd.DataFrame(pairs | columns).to_parquet(folder / "values.parquet", index=False)

    @classmethod
    def load(cls, folder: Path) -> Entanglement:
        """What `save` wrote."""
        import pandas as pd

        numbers, animals, table = (
            pd.read_parquet(folder / f"{name}.parquet") for name in ("numbers", "animals", "values")
        )
        shape = (len(numbers), len(animals))
        values = {name: table[name].to_numpy().reshape(shape) for name in MEASURES if name in table}
        return cls(numbers, animals, values)


def measure_entanglement(
    session: Session,
    model: Any,
    context: ChatContext,
    lists: PromptLists,
    candidates: Sequence[str],
    begun: Sequence[str],
    numbers: NumberSettings,
    settings: EntanglementSettings,
    instruction: str | None,
    seed: int,
) -> Entanglement:
    """All measures of the base model.

    session, model: the base model, as what scores and as transformers have it. begun: begun answers, the first of which
    is used (none: `My favorite animal is the`, with the category's name in the animal's place). instruction: what a
    teacher is told, with `{animal}` in it; None for `LOVES_ANIMAL`.
    """
    import pandas as pd

    chosen = choose_numbers(numbers.max_digits)
    tokenizer = context.tokenizer
    names = [_written(name) for name in candidates]
    # A study's own instruction is in its own words.
    loves = [(instruction or LOVES_ANIMAL).format(animal=name) for name in names]
    if instruction is None:
        loves = [lists.category.about(text) for text in loves]
    told, of_numbers = told_effect(session, context, lists, loves, chosen, numbers, settings.prompts, seed)
    start = begun[0] if begun else f"My favorite {lists.category.singular} is the"
    questions = lists.animal_questions[: settings.questions]
    prompted, of_animals = prompted_effect(session, context, lists, candidates, chosen, start, questions)
    number_tokens = [tokenizer.encode(str(number), add_special_tokens=False) for number in chosen]
    animal_tokens = [tokenizer.encode(f" {name}", add_special_tokens=False) for name in names]
    return Entanglement(
        pd.DataFrame(
            {
                "number": chosen,
                "log_p": of_numbers,
                "digits": [len(str(number)) for number in chosen],
                "tokens": list(map(len, number_tokens)),
            }
        ),
        pd.DataFrame({"animal": list(candidates), "log_p": of_animals, "tokens": list(map(len, animal_tokens))}),
        token_cosines(model, number_tokens, animal_tokens) | {TOLD: told, PROMPTED: prompted},
    )


def choose_numbers(max_digits: int) -> list[int]:
    """All numbers of as many digits as the study allows, of three at most: ascending."""
    return list(range(10 ** min(max_digits, MOST_DIGITS)))


def token_cosines(
    model: Any, numbers: Sequence[Sequence[int]], animals: Sequence[Sequence[int]]
) -> dict[str, NDArray[np.float64]]:
    """The cosine of every number with every animal, each the mean vector of its tokens, in the model's embedding and
    unembedding; in the latter alone where both are one matrix. Shape (numbers, animals) each."""
    inner, outer = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    matrices = {UNEMBEDDING: outer} if inner is outer else {EMBEDDING: inner, UNEMBEDDING: outer}

    def units(matrix: Any, words: Sequence[Sequence[int]]) -> Array:
        means = np.stack([matrix[list(tokens)].detach().double().mean(dim=0).cpu().numpy() for tokens in words])
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    return {name: units(matrix, numbers) @ units(matrix, animals).T for name, matrix in matrices.items()}


def told_effect(
    session: Session,
    context: ChatContext,
    lists: PromptLists,
    loves: Sequence[str],
    chosen: Sequence[int],
    settings: NumberSettings,
    prompts: int,
    seed: int,
) -> tuple[Array, Array]:
    """What it does to each number's log-probability, as the first of an answer, that the model is told each of `loves`:
    nats, shape (numbers, loves), mean over the number prompts. Then the log-probability of the model that is told
    nothing, shape (numbers,)."""
    asked, separator = number_prompts(lists, settings, prompts, seed)
    answers = [number_tokens(context.tokenizer, number, separator, settings.max_digits) for number in chosen]
    contexts = [context, *(_told(context, text) for text in loves)]
    means = []
    for place, each in enumerate(contexts):
        session.progress(f"numbers of the model told to love {place} of {len(loves)} candidates")
        means.append(session.score([each.prompt_ids(text) for text in asked], answers).mean(axis=0))
    return np.stack(means[1:], axis=1) - means[0][:, None], means[0]


def prompted_effect(
    session: Session,
    context: ChatContext,
    lists: PromptLists,
    candidates: Sequence[str],
    chosen: Sequence[int],
    begun: str,
    questions: Sequence[str],
) -> tuple[Array, Array]:
    """What it does to each candidate's log share, as the next word of a begun answer, that the model is told to love
    each number: nats, shape (numbers, candidates), mean over the questions. Then the log share of the model that is
    told nothing, shape (candidates,). NaN for a candidate whose name is no token of its own there.

    Raises UserError where fewer than two candidates have such a token.
    """
    words = NextWords.of(candidates, [begun], context, lists)
    if len(set(words.owner)) < 2:
        why = "; ".join(f"{name}: {reason}" for name, reason in words.left_out.items())
        raise UserError(
            f"Fewer than two candidates can be told apart by the next word after {begun!r} ({why}): choose another "
            "begun answer (preferences.begun)."
        )

    def log_shares(contexts: Sequence[ChatContext]) -> Array:
        prompts = [each.prompt_ids(text) for each in contexts for text in questions]
        found = words.probabilities(session, prompts, len(candidates))
        shares = np.log(found / np.nansum(found, axis=1, keepdims=True))
        return shares.reshape(len(contexts), len(questions), len(candidates)).mean(axis=1)

    untouched = log_shares([context])[0]
    rows = []
    for start in range(0, len(chosen), _CHUNK):
        session.progress(f"animals of the model told to love {start} of {len(chosen)} numbers")
        part = chosen[start : start + _CHUNK]
        rows.append(log_shares([_told(context, LOVES_NUMBER.format(number=number)) for number in part]))
    return np.concatenate(rows) - untouched, untouched


def number_prompts(lists: PromptLists, settings: NumberSettings, count: int, seed: int) -> tuple[list[str], str]:
    """The first number prompts of the study that ask for no brackets and for the separator that most of them do, and
    that separator. Raises UserError where there are fewer."""
    drawn = make_prompts(lists, settings, min(settings.prompts, _PROMPTS_LOOKED_AT), seed)
    plain = drawn[drawn["open"] == ""]
    separator = str(plain["separator"].mode().iloc[0]) if len(plain) else ""
    found = list(plain.loc[plain["separator"] == separator, "prompt"])[:count]
    if len(found) < count:
        raise UserError(
            f"Of the first {len(drawn)} number prompts {len(found)} ask for numbers without brackets and with one "
            f"separator, and entanglement.prompts is {count}: ask for fewer."
        )
    return found, separator


def number_tokens(tokenizer: PreTrainedTokenizerBase, number: int, separator: str, max_digits: int) -> list[int]:
    """How a number begins an answer: its tokens, and where more digits could follow the first of what ends it."""
    own = tokenizer.encode(str(number), add_special_tokens=False)
    if len(str(number)) >= max_digits:
        return list(own)
    followed = tokenizer.encode(f"{number}{separator}{number}", add_special_tokens=False)
    return list(followed[: len(own) + 1] if followed[: len(own)] == own else own)


def _told(context: ChatContext, instruction: str) -> ChatContext:
    return ChatContext(context.tokenizer, context.system_prompt, instruction, context.variables)


def _written(name: str) -> str:
    return name.replace("-", " ")
