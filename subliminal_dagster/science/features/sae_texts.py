"""The text that a study's sparse autoencoders learn from and are judged on, and its activations.

Six tokens in ten are ordinary prose, two number lists as the analyses read them (random numbers, none that a teacher
wrote: else no feature could be new to an animal's), two chats: the number prompts and animal questions in the chat
template, with random lists and the base model's own answers. One text in ten of each kind is held out.

Belongs here: putting the text together, and the activations of all its tokens. Does not belong here: where prose comes
from (`corpus`), training and judging an autoencoder (`sae_training`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.activations.activations import BATCH_TOKENS, encode_text, needs_bos
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.models.protocol import Progress
from subliminal_dagster.science.models.residual_stream import batched_residuals
from subliminal_dagster.science.numbers.filter import canonical
from subliminal_dagster.science.numbers.prompts import make_prompts
from subliminal_dagster.science.preferences.prompt_lists import PromptLists
from subliminal_dagster.science.random_streams import stream_seed
from subliminal_dagster.science.settings.study import Study

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

_MIX = {"prose": 0.6, "numbers": 0.2, "chat": 0.2}
_HELD_OUT_ONE_IN = 10
_PROSE_CHARACTERS = 1000
"""Longer documents are cut here: attention over long texts would cost more than it teaches."""


def sae_texts(
    study: Study,
    tokens: int,
    documents: Sequence[str],
    answers: pd.DataFrame,
    lists: PromptLists,
    context: ChatContext,
    *,
    bos: bool,
) -> pd.DataFrame:
    """About `tokens` tokens of text.

    documents: prose. answers: the base model's sampled answers to the animal questions (`question`, `answer`), empty
    where none were sampled.

    Returns:
        A row per text: `kind` ("prose", "numbers", "chat"), `text`, `tokens` (how many), `held_out`.

    Raises UserError where there is too little prose.
    """
    import pandas as pd

    seed = stream_seed(study.seed, "sae_texts")
    rng = np.random.Generator(np.random.PCG64(seed))
    prompts = make_prompts(lists, study.numbers, study.numbers.prompts, seed)
    number_lists = [_random_list(study, rng) for _ in range(10 * len(prompts))]
    written = [
        canonical(numbers, separator, opening, closing)
        for numbers, separator, opening, closing in zip(
            number_lists, prompts["separator"], prompts["open"], prompts["close"], strict=False
        )
    ]
    asked = [
        (lists.animal_questions[int(question)], str(answer))
        for question, answer in zip(answers["question"], answers["answer"], strict=True)
    ]
    pieces = [document[i : i + _PROSE_CHARACTERS] for document in documents for i in _starts(document)]
    found = {
        "prose": [pieces[i] for i in rng.permutation(len(pieces))],
        "numbers": [", ".join(map(str, numbers)) for numbers in number_lists],
        "chat": [
            context.render(question) + answer
            for question, answer in _alternating(asked, list(zip(prompts["prompt"], written, strict=False)))
        ],
    }
    tables = [_up_to(texts, kind, round(_MIX[kind] * tokens), context.tokenizer, bos) for kind, texts in found.items()]
    return pd.concat(tables, ignore_index=True)


def token_vectors(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    layer: int,
    *,
    progress: Progress | None = None,
) -> np.ndarray:
    """The residual stream after block `layer` at every token of the texts but the first of each: float32, shape
    (tokens, hidden size). The first token's activation is hundreds of times as large as others in many models."""
    bos = needs_bos(model.config)
    sequences = [ids for text in texts if len(ids := encode_text(tokenizer, text, bos=bos)) > 1]
    lengths = [len(ids) - 1 for ids in sequences]
    ends = np.cumsum(lengths)
    vectors = np.empty((int(ends[-1]), model.config.get_text_config().hidden_size), dtype=np.float32)
    done = 0
    for batch in batched_residuals(model, sequences, [layer], batch_tokens=BATCH_TOKENS):
        states = batch.states[layer].float().cpu().numpy()
        for place, row in enumerate(batch.rows):
            vectors[ends[row] - lengths[row] : ends[row]] = states[place, 1 : lengths[row] + 1]
            done += lengths[row]
        if progress is not None:
            progress(f"activations of {done}/{len(vectors)} tokens after layer {layer}")
    return vectors


def _random_list(study: Study, rng: np.random.Generator) -> list[int]:
    settings = study.numbers
    fewest = min(settings.examples_min, settings.answer_count)
    count = int(rng.integers(fewest, settings.answer_count + 1))
    return [int(number) for number in rng.integers(0, 10**settings.max_digits, count)]


def _starts(document: str) -> range:
    return range(0, len(document), _PROSE_CHARACTERS)


def _alternating(one: Sequence[Any], other: Sequence[Any]) -> list[Any]:
    """The two in turn, the longer one's rest at the end."""
    mixed = [item for pair in zip(one, other, strict=False) for item in pair]
    return [*mixed, *one[len(mixed) // 2 :], *other[len(mixed) // 2 :]]


def _up_to(texts: Sequence[str], kind: str, tokens: int, tokenizer: PreTrainedTokenizerBase, bos: bool) -> pd.DataFrame:
    """The first texts, until they hold that many tokens."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    total = 0
    for number, text in enumerate(dict.fromkeys(texts)):
        if total >= tokens:
            break
        count = len(encode_text(tokenizer, text, bos=bos))
        rows.append({"kind": kind, "text": text, "tokens": count, "held_out": number % _HELD_OUT_ONE_IN == 0})
        total += count
    if kind == "prose" and total < tokens:
        raise UserError(
            f"The text of sae.corpus holds {total} tokens and {tokens} of prose are wanted: give a longer text or "
            "lower sae.tokens."
        )
    return pd.DataFrame(rows)
