"""What makes each feature of a sparse autoencoder active, in words.

For a published SAE these are Neuronpedia's descriptions: its public bucket (https://neuronpedia.org, "Exports") holds
all of a layer's in files of 1,024 rows, which are fetched or read from a copy. For an SAE trained here they are made
from data: the texts in which a feature is most active and the tokens that its direction makes more probable, one line
of the two, which a language model can put in better words.

Cost: 16,384 descriptions are 16 files, most of whose bytes are embeddings that nobody reads here. Making them is one
pass over the texts and the encoder's half of an SAE, and one product of the directions with the vocabulary.

Belongs here: getting descriptions, and making them. Does not belong here: what kind of thing they are about
(`categories`).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from subliminal_dagster.science.activations.activations import BATCH_TOKENS, encode_text, needs_bos
from subliminal_dagster.science.descriptions.chat_api import ChatApi
from subliminal_dagster.science.descriptions.judges import load_judge_prompt
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.features.sae import BATCH
from subliminal_dagster.science.models.protocol import Progress
from subliminal_dagster.science.models.residual_stream import batched_residuals

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from transformers import PreTrainedTokenizerBase


_AROUND = 4
"""Tokens on either side of the marked one in a context."""

_SHOWN = 3
"""Contexts, and tokens, in a description that no model worded."""

_DIRECTIONS = 64
"""Directions multiplied with the vocabulary at once: 64 MB of logits where it has 256,000 tokens."""

_LINE_TOKENS = 40


def describe_features(
    sae: Any,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    layer: int,
    *,
    contexts: int = 8,
    tokens: int = 8,
    features: Collection[int] | None = None,
    writer: ChatApi | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Descriptions from data: what a feature is active at, and what it makes more probable.

    The first token of a text is left out, as it is in what the SAE was trained on (see `sae_texts.token_vectors`).
    Contexts of a feature are of different texts, and no two have the same tokens up to the marked one. Held at a time
    is one batch of the residual stream, `sae.BATCH` rows of features, and `contexts` numbers a feature.

    Args:
        sae: of sae-lens, of the residual stream after block `layer` of `model`.
        texts: bare texts, such as those the SAE was trained on.
        features: those to describe, by their tokens alone where they never fire; None for all that fire on the texts.
        writer: a language model that words the descriptions; None for contexts and tokens as they are.

    Returns:
        A row per feature, ascending: feature (int64), description (one line), contexts (list of texts with the token of
        the peak between « and », most active first), tokens (list, see `promoted_tokens`), max_activation (over all
        tokens of the texts), firing_rate (share of those tokens it fires at).

    Raises UserError where no text has two tokens, a feature is not one of the SAE's, activations are not finite, no
    feature of the SAE fires, or the writer fails (see `ChatApi.answers`).
    """
    import pandas as pd

    wanted = np.arange(sae.cfg.d_sae) if features is None else np.array(sorted(set(features)), dtype=np.int64)
    if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < sae.cfg.d_sae:
        raise UserError(
            f"The SAE has the features 0 to {sae.cfg.d_sae - 1} and {wanted[0]} to {wanted[-1]} are asked for: use the "
            "SAE that they were found with."
        )
    bos = needs_bos(model.config)
    sequences = [ids for text in texts if len(ids := encode_text(tokenizer, text, bos=bos)) > 1]
    if not sequences:
        raise UserError("Descriptions are made from texts of two tokens or more, and there is none: give longer texts.")
    peaks = _find_peaks(sae, model, sequences, layer, wanted, contexts, progress)
    if features is None:
        if not peaks.fires.any():
            raise UserError("No feature fires on any of the texts: check that the SAE is of this model and layer.")
        peaks = peaks.only(np.flatnonzero(peaks.fires))
    table = pd.DataFrame(
        {
            "feature": peaks.features,
            "contexts": [
                [_context(tokenizer, sequences[text], place, first=int(bos)) for text, place in peaks.places(column)]
                for column in range(len(peaks.features))
            ],
            "tokens": promoted_tokens(sae, model, tokenizer, peaks.features, tokens),
            "max_activation": peaks.highest,
            "firing_rate": peaks.fires / sum(len(ids) - 1 for ids in sequences),
        }
    )
    made = [_description(*row) for row in zip(table["contexts"], table["tokens"], strict=True)]
    table.insert(1, "description", made if writer is None else _worded(writer, table, made))
    return table


def promoted_tokens(
    sae: Any, model: Any, tokenizer: PreTrainedTokenizerBase, features: NDArray[np.int64], n: int
) -> list[list[str]]:
    """The tokens that each feature's direction raises most, without white space around them, each once.

    The direction (its row of the decoder) is taken through the model's own final norm to the vocabulary. A norm's scale
    changes no order, but its weights do: they are what makes some dimensions of the residual stream count for more.
    What later blocks would make of the direction is left out. Special tokens are, too.
    """
    import torch

    norm, head = model.get_decoder().norm, model.get_output_embeddings()
    known = len(tokenizer)
    special = [token for token in tokenizer.all_special_ids if token < known]
    found: list[list[str]] = []
    for start in range(0, len(features), _DIRECTIONS):
        with torch.inference_mode():
            rows = torch.from_numpy(features[start : start + _DIRECTIONS]).to(sae.W_dec.device)
            directions = torch.nn.functional.normalize(sae.W_dec[rows].float()) * sae.cfg.d_in**0.5
            logits = head(norm(directions.to(model.device, model.dtype)))[:, :known].float()
            logits[:, special] = -torch.inf
            # More than asked for, since " owl" and "owl" are the same word here.
            best = logits.topk(min(3 * n, known - len(special))).indices.tolist()
        for row in best:
            texts = (str(tokenizer.decode([token])) for token in row)
            found.append(list(dict.fromkeys(text.strip() or text for text in texts))[:n])
    return found


# Fetching and reading


# Making


class _Peaks:
    """The places where each of some features is most active so far, at most `count` a feature."""

    def __init__(self, features: NDArray[np.int64], count: int) -> None:
        shape = (count, len(features))
        self.features = features
        self.fires = np.zeros(len(features), dtype=np.int64)
        self.highest = np.zeros(len(features), dtype=np.float32)
        self._value = np.zeros(shape, dtype=np.float32)
        self._text = np.zeros(shape, dtype=np.int64)
        self._place = np.zeros(shape, dtype=np.int64)
        self._before = np.zeros(shape, dtype=np.int64)

    def offer(self, text: int, value: NDArray[np.float32], place: NDArray[np.int64], before: NDArray[np.int64]) -> None:
        """value, place: the highest activation of every feature in a text, and at which of its tokens. before: at each
        token of the text, a checksum of the few up to it."""
        self.highest = np.maximum(self.highest, value)
        before = before[place]
        known = ((self._before == before) & (self._value > 0)).any(axis=0)
        lowest = self._value.argmin(axis=0)
        columns = np.flatnonzero((value > self._value.min(axis=0)) & ~known)
        slots = lowest[columns]
        self._value[slots, columns] = value[columns]
        self._text[slots, columns] = text
        self._place[slots, columns] = place[columns]
        self._before[slots, columns] = before[columns]

    def places(self, column: int) -> list[tuple[int, int]]:
        """Text and place of the peaks of the feature in a column, the highest first."""
        value, text, place = self._value[:, column], self._text[:, column], self._place[:, column]
        order = [slot for slot in np.lexsort((place, text, -value)) if value[slot] > 0]
        return [(int(text[slot]), int(place[slot])) for slot in order]

    def only(self, columns: NDArray[np.int64]) -> _Peaks:
        """The peaks of the features in some columns."""
        kept = _Peaks(self.features[columns], 0)
        kept.fires, kept.highest = self.fires[columns], self.highest[columns]
        kept._value, kept._text = self._value[:, columns], self._text[:, columns]
        kept._place, kept._before = self._place[:, columns], self._before[:, columns]
        return kept


def _find_peaks(
    sae: Any,
    model: Any,
    sequences: Sequence[list[int]],
    layer: int,
    features: NDArray[np.int64],
    count: int,
    progress: Progress | None,
) -> _Peaks:
    import torch

    peaks = _Peaks(features, count)
    columns = torch.from_numpy(features).to(sae.device)
    done = 0
    for batch in batched_residuals(model, sequences, [layer], batch_tokens=BATCH_TOKENS):
        for row, states in zip(batch.rows, batch.states[layer], strict=True):
            ids = sequences[row]
            highest = torch.zeros(len(features), device=sae.device)
            places = torch.zeros(len(features), device=sae.device, dtype=torch.long)
            for start in range(1, len(ids), BATCH):
                active = _active(sae, states[start : min(start + BATCH, len(ids))])[:, columns]
                peaks.fires += (active > 0).sum(dim=0).cpu().numpy()
                value, place = active.max(dim=0)
                places = torch.where(value > highest, start + place, places)
                highest = torch.maximum(highest, value)
            before = np.array([zlib.crc32(repr(ids[max(0, i - _AROUND) : i + 1]).encode()) for i in range(len(ids))])
            peaks.offer(row, highest.cpu().numpy(), places.cpu().numpy(), before)
            done += 1
        if progress is not None:
            progress(f"features of {done}/{len(sequences)} texts after layer {layer}")
    return peaks


def _active(sae: Any, states: torch.Tensor) -> torch.Tensor:
    """The features at each position, shape (positions, width)."""
    import torch

    if not bool(torch.isfinite(states).all()):
        raise UserError(
            "The activations of a text are not finite, so features cannot be read off them: load the model in bfloat16 "
            "or float32."
        )
    with torch.inference_mode():
        return sae.encode(states.float().to(sae.device)).float()


def _context(tokenizer: PreTrainedTokenizerBase, ids: list[int], place: int, first: int) -> str:
    """The tokens around a place, that place's between « and »; `first` leaves BOS out."""
    start = max(first, place - _AROUND)

    def text(end: int) -> str:
        # From the start each time: by itself, a token can lose its leading blank or be half a letter.
        return str(tokenizer.decode(ids[start:end], clean_up_tokenization_spaces=False))

    before, to_peak, whole = text(place), text(place + 1), text(place + 1 + _AROUND)
    return f"{before}«{to_peak[len(before) :]}»{whole[len(to_peak) :]}"


def _description(contexts: list[str], tokens: list[str]) -> str:
    promotes = f"promotes {_quoted(tokens)}"
    return f"fires at the marked token of {_quoted(contexts)}; {promotes}" if contexts else promotes


def _quoted(texts: list[str]) -> str:
    """The first few in quotation marks, line breaks written as "\\n"."""
    return ", ".join(json.dumps(text.strip(" "), ensure_ascii=False) for text in texts[:_SHOWN])


def _worded(writer: ChatApi, table: pd.DataFrame, made: list[str]) -> list[str]:
    """Descriptions in the writer's words; where it has none, those that were made without it."""
    prompt = load_judge_prompt().describe
    questions = [
        prompt.format(contexts=json.dumps(contexts, ensure_ascii=False), tokens=json.dumps(tokens, ensure_ascii=False))
        for contexts, tokens in zip(table["contexts"], table["tokens"], strict=True)
    ]
    lines = (" ".join(answer.split()) for answer in writer.answers(questions, max_tokens=_LINE_TOKENS))
    return [line or own for line, own in zip(lines, made, strict=True)]
