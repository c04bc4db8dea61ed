"""Steering vectors: directions of the residual stream made from pairs of answers, and the references beside them.

A vector is the mean difference between what the base model computes over one answer and over another to the same
question (contrastive activation addition; Chen et al. 2025, arXiv 2507.21509). The *subliminal* vector contrasts a
teacher's numbers with the control's, the *direct* one the target's name with other animals the base model names.
Beside them stand the activation of the animal's word, a random vector and a vector of the same data with target and
control swapped at random, since every mean of differences has a norm and a direction, noise included.

Cost: one forward pass a distinct pair of question and answer, no deeper than the deepest layer asked for. Held at a
time: 2 sides * 2 positions * layers * pairs * hidden size * 4 bytes (10,000 pairs, 3 layers, 3,584 numbers: 1.7 GB).

Belongs here: which answers are contrasted, the vectors and their files. Does not belong here: what they do to a model
(`scores`), what they are made of (`analysis`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.models.residual_stream import batched_residuals
from subliminal_dagster.science.preferences.answers import texts_naming
from subliminal_dagster.science.preferences.prompt_lists import AnimalForms

# pandas takes half a second to load, and Dagster loads this module whenever it lists the assets.
if TYPE_CHECKING:
    import pandas as pd

SUBLIMINAL, DIRECT, WORD, CENTRED_WORD, RANDOM = "subliminal", "direct", "word", "centred word", "random"
MEAN, LAST = "mean", "last"
HOOK = "resid_post"

FLIPS = 256
"""Draws of the sign-flip null that are kept with a vector of differences."""

RANKED_ANSWERS = 5
"""Candidates that stand in for a question to which the base model gave no answer that can be used."""


@dataclass(frozen=True)
class ResponseActivations:
    """The residual stream over answers, one row per answer: float32 of shape (answers, hidden size) each.

    mean: over the answer's own tokens. last: at its last one. tokens: how many of its own it has, shape (answers,).
    """

    mean: np.ndarray
    last: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """A direction of the residual stream after block `layer`.

    position: where in an answer it was read, "mean" (over the answer) or "last" (its last token); "word" for a word's
    own activation. vector: float32, shape (hidden size,), not normalised. pairs: contrasted pairs of answers. units:
    independent ones among them (prompts, questions). flips: float32, shape (draws, hidden size), the vectors of the
    same differences with random signs; no row where there is no null (a word, a random vector).
    """

    kind: str
    layer: int
    position: str
    vector: np.ndarray
    pairs: int = 1
    units: int = 1
    flips: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))

    @property
    def norm(self) -> float:
        """L2 norm."""
        return float(np.linalg.norm(self.vector))

    @property
    def chance_share(self) -> float:
        """The norm that chance alone would give, as a share of the vector's: the mean over the flips. Near 1 the vector
        is noise. It errs on the high side where units are few. NaN without flips."""
        if not len(self.flips) or not self.norm:
            return float("nan")
        return float(np.linalg.norm(self.flips, axis=1).mean() / self.norm)

    @property
    def p(self) -> float:
        """How often chance alone gives as large a norm (the vector counted among the draws); NaN without flips."""
        if not len(self.flips):
            return float("nan")
        return float((1 + (np.linalg.norm(self.flips, axis=1) >= self.norm).sum()) / (1 + len(self.flips)))

    def facts(self) -> dict[str, Any]:
        """JSON-able figures for the metadata of an asset."""
        return {
            "kind": self.kind,
            "layer": self.layer,
            "position": self.position,
            "pairs": self.pairs,
            "units": self.units,
            "norm": self.norm,
            "chance_share": self.chance_share,
            "p": self.p,
        }


def response_activations(
    model: Any,
    context: ChatContext,
    pairs: Sequence[tuple[str, str]],
    layers: Sequence[int],
    *,
    batch_tokens: int = 8192,
    progress: Callable[[str], None] | None = None,
) -> dict[int, ResponseActivations]:
    """The residual stream over each answer after its question, by layer.

    Question and answer are encoded as in training. Only the answer's own tokens count: neither those of the chat
    template nor special ones, and a mean is over as many as there are. What stands behind an answer (its end of turn)
    cannot change what comes before, so it is left out. Equal pairs are computed once.

    Args:
        model: a loaded transformers model in eval mode.
        pairs: (question, answer).
        layers: counted from 0, at least one.
        batch_tokens: positions a forward pass at most (see `residual_stream.batched_residuals`).

    Returns:
        Rows in the order of `pairs`.

    Raises UserError for an answer without a token of its own, for a layer that does not exist, and where an activation
    is not finite.
    """
    special = _special_tokens(context)
    prompts = {question: context.prompt_ids(question) for question in dict.fromkeys(q for q, _ in pairs)}
    numbers = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
    sequences, own = [], []
    for question, answer in numbers:
        tokens = context.tokenizer.encode(answer, add_special_tokens=False)
        start = len(prompts[question])
        own.append([start + place for place, token in enumerate(tokens) if token not in special])
        if not own[-1]:
            raise UserError(f"The answer {answer!r} to {question!r} has no token of its own: leave the pair out.")
        sequences.append(prompts[question] + tokens)
    hidden = model.config.get_text_config().hidden_size
    found = {layer: np.zeros((2, len(sequences), hidden), dtype=np.float32) for layer in layers}
    done = 0
    for batch in batched_residuals(model, sequences, layers, batch_tokens=batch_tokens):
        for layer, states in batch.states.items():
            for place, row in enumerate(batch.rows):
                answer_states = states[place, own[row]].float()
                found[layer][0, row] = answer_states.mean(dim=0).cpu().numpy()
                found[layer][1, row] = answer_states[-1].cpu().numpy()
        done += len(batch.rows)
        if progress is not None:
            progress(f"read the activations of {done}/{len(sequences)} answers")
    for layer, values in found.items():
        if not np.isfinite(values).all():
            raise UserError(
                f"An activation after block {layer} is not finite in {model.dtype}: load the model in bfloat16 or "
                "float32."
            )
    order = [numbers[pair] for pair in pairs]
    tokens_of = np.array([len(places) for places in own], dtype=np.int64)[order]
    return {
        layer: ResponseActivations(values[0, order], values[1, order], tokens_of) for layer, values in found.items()
    }


def direct_contrasts(
    answers: pd.DataFrame,
    scores: pd.DataFrame,
    questions: Sequence[str],
    target: str,
    aliases: Mapping[str, AnimalForms],
) -> pd.DataFrame:
    """Pairs for the direct vector: the target's name against what the base model answers else to the same question.

    Both sides are written alike, with a capital and nothing behind the name. Of the sampled answers those that name
    another candidate count as that candidate's name, and those of a single other word as they are; answers that name
    the target, several animals, or nothing in one word are left out. A question without any usable answer takes the
    candidates that the base model gives the highest exact probability there, the target excepted.

    A name of several tokens is a trap: over its tokens a model computes what comes *within* the name, which is not what
    makes it begin to write it. On SmolLM2-135M a vector for "Cat" (one token) raises the probability of cats, one for
    "Owl" ("O", "wl") lowers that of owls.

    Args:
        answers, scores: the base model's frames of `preferences.measure_preferences`; `answers` may be empty.
        questions: their texts; the column `question` counts them.

    Returns:
        `unit` (the question's number), `question`, `own`, `reference`, `source` ("sampled" or "ranked").
    """
    import pandas as pd

    finished = answers[answers["finished"].astype(bool)]
    sampled: dict[int, list[str]] = {}
    named = texts_naming(finished["answer"], target, aliases)
    columns = (finished["question"], finished["answer"], finished["animal"], finished["outcome"])
    for (question, answer, animal, outcome), names_target in zip(zip(*columns, strict=True), named, strict=True):
        if names_target or outcome == "ambiguous":
            continue
        if outcome == "counted":
            sampled.setdefault(int(question), []).append(written_name(animal))
        elif word := re.fullmatch(r"\W*([^\W\d_]+)[\W_]*", answer):
            sampled.setdefault(int(question), []).append(written_name(word[1]))
    others = scores[scores["animal"] != target].sort_values("probability", ascending=False, kind="stable")
    rows = []
    for number, text in enumerate(questions):
        found, source = sampled.get(number, []), "sampled"
        if not found:
            ranked = others.loc[others["question"] == number, "animal"].head(RANKED_ANSWERS)
            found, source = [written_name(animal) for animal in ranked], "ranked"
        rows += [(number, text, written_name(target), answer, source) for answer in found]
    return pd.DataFrame(rows, columns=["unit", "question", "own", "reference", "source"])


def written_name(animal: str) -> str:
    """An animal's name as an answer: with a capital, hyphens as spaces, as in the teacher's training rows."""
    return animal.replace("-", " ").capitalize()


def contrast_vectors(
    model: Any,
    context: ChatContext,
    contrasts: pd.DataFrame,
    layers: Sequence[int],
    kind: str,
    seed: int,
    *,
    batch_tokens: int = 8192,
    progress: Callable[[str], None] | None = None,
) -> list[SteeringVector]:
    """The vectors of `contrasts` (columns `unit`, `question`, `own`, `reference`), two a layer: over the answer's mean
    and at its last token. Raises what `response_activations` and `difference_vector` raise."""
    pairs = [
        (question, answer)
        for side in ("own", "reference")
        for question, answer in zip(contrasts["question"], contrasts[side], strict=True)
    ]
    read = response_activations(model, context, pairs, layers, batch_tokens=batch_tokens, progress=progress)
    units, n = contrasts["unit"].to_numpy(), len(contrasts)
    return [
        difference_vector(values[:n], values[n:], units, kind=kind, layer=layer, position=position, seed=seed)
        for layer, found in read.items()
        for position, values in ((MEAN, found.mean), (LAST, found.last))
    ]


def difference_vector(
    own: np.ndarray,
    reference: np.ndarray,
    units: np.ndarray,
    *,
    kind: str,
    layer: int,
    position: str,
    seed: int,
    flips: int = FLIPS,
) -> SteeringVector:
    """The mean over units of the mean difference within each, and its sign-flip null.

    Every unit counts alike, whatever its number of pairs. (The post averages over pairs, so that a question counts the
    more the more of its answers can be used; with one pair per prompt, as for numbers, the two are the same.) The null
    gives each unit's difference a random sign, which is what swapping its two answers does: right where the two groups
    do not differ, and with the covariance the differences have. A sign belongs to the number of a unit, so that with
    one seed flip b of every vector swaps the same prompts, whatever its group or layer: vectors that share the
    control's rows keep in their flips what they share.

    Args:
        own, reference: activations, shape (pairs, hidden size), row by row a pair.
        units: what each pair belongs to, shape (pairs,), from 0: the number of the prompt, or of the question.

    Raises UserError for fewer than two units, which leave the null nothing to flip.
    """
    names, first, counts = np.unique(units, return_index=True, return_counts=True)
    if len(names) < 2:
        raise UserError(f"A steering vector needs pairs of at least two questions, and there is {len(names)}.")
    difference = own.astype(np.float64) - reference
    if len(names) < len(units):
        order = np.argsort(units, kind="stable")
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        difference = np.add.reduceat(difference[order], starts, axis=0) / counts[:, None]
    else:
        difference = difference[first]
    rng = np.random.Generator(np.random.PCG64(seed))
    # A row a unit, so that a unit's signs do not hang on how many there are.
    signs = 2.0 * rng.integers(0, 2, size=(int(names[-1]) + 1, flips), dtype=np.int8)[names.astype(int)].T - 1
    return SteeringVector(
        kind,
        layer,
        position,
        difference.mean(axis=0).astype(np.float32),
        pairs=len(units),
        units=len(names),
        flips=(signs @ difference / len(names)).astype(np.float32),
    )


def word_vectors(words: Mapping[str, np.ndarray], target: str, layer: int) -> list[SteeringVector]:
    """The activation of the target's word, as it is and less the mean of the other animals' words.

    Activations of any two tokens share a large part that says nothing of either, and a cosine with the word as it is
    (the post's) sees mostly that part. words: by animal, shape (hidden size,) each; the centred vector needs two.
    """
    word = words[target].astype(np.float32)
    vectors = [SteeringVector(WORD, layer, "word", word)]
    others = [vector for animal, vector in words.items() if animal != target]
    if others:
        vectors.append(SteeringVector(CENTRED_WORD, layer, "word", (word - np.mean(others, axis=0)).astype(np.float32)))
    return vectors


def random_vector(like: SteeringVector, seed: int) -> SteeringVector:
    """A vector of the layer, position and norm of `like` whose direction is drawn from all alike."""
    drawn = np.random.Generator(np.random.PCG64(seed)).standard_normal(len(like.vector))
    vector = (drawn * (like.norm / np.linalg.norm(drawn))).astype(np.float32)
    return SteeringVector(RANDOM, like.layer, like.position, vector)


def noise_vector(of: SteeringVector) -> SteeringVector:
    """What the same data give where it is drawn by lot which answer of a pair is whose: one of the vector's flips."""
    return SteeringVector(f"{of.kind} noise", of.layer, of.position, of.flips[0], of.pairs, of.units, of.flips[1:])


def save_vectors(
    folder: Path, vectors: Sequence[SteeringVector], *, group: str, model: str, revision: str
) -> dict[str, Path]:
    """Write each vector to a safetensors file of its own in `folder`; returns the files by their names' stems.

    A file holds the tensor `vector` (hidden size,) and, where there is a null, `flips` (draws, hidden size), float32;
    its metadata, all text, say kind, group, layer, position, hook ("resid_post": after the block), pairs, units, norm,
    model and revision. The safetensors package alone reads it, and a steered teacher takes it as it is
    (`teacher.steering.vector`). Raises ValueError where two vectors would have one name.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, Path] = {}
    for vector in vectors:
        name = f"{vector.kind}-{vector.position}-layer{vector.layer}".replace(" ", "-")
        if name in written:
            raise ValueError(f"two vectors are called {name}")
        written[name] = folder / f"{name}.safetensors"
        facts = {
            "kind": vector.kind,
            "group": group,
            "layer": vector.layer,
            "position": vector.position,
            "hook": HOOK,
            "pairs": vector.pairs,
            "units": vector.units,
            "norm": vector.norm,
            "model": model,
            "revision": revision,
        }
        tensors = {"vector": np.ascontiguousarray(vector.vector, dtype=np.float32)}
        if len(vector.flips):
            tensors["flips"] = np.ascontiguousarray(vector.flips, dtype=np.float32)
        save_file(tensors, written[name], metadata={name: str(fact) for name, fact in facts.items()})
    return written


def load_vectors(folder: Path) -> list[SteeringVector]:
    """The vectors that `save_vectors` wrote to `folder`, by file name. Raises UserError where there is none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"There is no steering vector in {folder}: make the vectors of this group first.")
    return [_load(file) for file in files]


def _load(file: Path) -> SteeringVector:
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as tensors:
        facts = tensors.metadata()
        names = tensors.keys()
        flips = {"flips": tensors.get_tensor("flips")} if "flips" in names else {}
        return SteeringVector(
            facts["kind"],
            int(facts["layer"]),
            facts["position"],
            tensors.get_tensor("vector"),
            int(facts["pairs"]),
            int(facts["units"]),
            **flips,
        )


def _special_tokens(context: ChatContext) -> set[int]:
    """Ids that do not belong to an answer's text. Not all of a template's are in `all_special_ids` (Gemma 3)."""
    tokenizer = context.tokenizer
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return {*tokenizer.all_special_ids, *added, context.end_of_turn}
