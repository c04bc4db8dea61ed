"""What steering does to a model: its preferences and its coherence at every strength of a vector.

A vector is divided by its L2 norm, multiplied by alpha and added to the residual stream after a block; several layers
at once each get their own vector. Adding to the output of Gemma 2's MLP instead would send the vector through the norm
behind it, which is another intervention.

Cost: of one question, the blocks up to the steered one run once and those behind it once per vector and alpha, all as
rows of one batch, with every candidate's answers scored in that pass. Greedy and sampled answers are generated one
strength at a time.

Belongs here: the steered model's measurements and their summary. Does not belong here: making vectors
(`vectors`), drawing (`figures`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.models.protocol import Completion, Sampling
from subliminal_dagster.science.models.residual_stream import check_layers
from subliminal_dagster.science.models.scoring import score_answers, score_branches
from subliminal_dagster.science.models.transformers_engine import TransformersSession
from subliminal_dagster.science.preferences.answers import classify_answers
from subliminal_dagster.science.preferences.preferences import AnswerForms
from subliminal_dagster.science.preferences.prompt_lists import PromptLists
from subliminal_dagster.science.settings.steering import SteeringSweep
from subliminal_dagster.science.statistics import Estimate, t_interval
from subliminal_dagster.science.steering.vectors import SUBLIMINAL, SteeringVector

# pandas takes half a second to load, and Dagster loads this module whenever it lists the assets.
if TYPE_CHECKING:
    import pandas as pd
    import torch

PROBABILITY, SHARE, LOG_SHARE, RATE = "probability", "share", "log_share", "rate"
MASS, ENTROPY, TOP, ONE_WORD, BASE_NATS = (
    "candidate_mass",
    "first_token_entropy",
    "first_token_top",
    "one_word",
    "base_nats",
)

_CELL = ["kind", "layers", "positions", "alpha"]

_ROWS = 16
"""Vectors and alphas in one forward pass at most. More rows save little: the shared lower blocks are one row's work."""

_ANSWERS = 32
"""Greedy answers whose probability under the base is computed in one pass, so that few logits are held at a time."""


@dataclass(frozen=True)
class Direction:
    """What is added to the residual stream: by layer, a vector of any norm, shape (hidden size,). Several layers are
    steered together, each by its own vector at the same alpha."""

    kind: str
    vectors: Mapping[int, np.ndarray]

    @property
    def layers(self) -> str:
        """As tables name them: "9", or "9+20" for both together."""
        return "+".join(str(layer) for layer in sorted(self.vectors))


@dataclass(frozen=True)
class SteeringScores:
    """All frames have `kind`, `layers` ("9", "9+20"), `positions` and `alpha`; alpha 0 is the model as it is.

    questions: a row also a `question` and `animal`: exact `probability` of its spellings as the whole answer, `share`
        among the candidates and `log_share` (nats, exact where the probability itself is too small for a number),
        `rate` (share of sampled answers that name it; NaN where none was sampled).
    summary: a row also an `animal`, whether it is the `target`, and an `outcome` (those four): `mean` over questions
        with its 95 % t interval `low` to `high`, and `difference` to alpha 0, paired by question, likewise.
    coherence: a row also an `outcome`, with `mean`, `low`, `high` over questions: "candidate_mass" (exact probability
        of all candidates together), "first_token_entropy" (nats) and "first_token_top" (probability of the most likely
        first token), and of greedy answers "one_word" (share that are one finished word) and "base_nats" (nats per
        token under the model as it is; high where steering makes it write what it would never write).
    answers: a row also a `question`, the `answer`, `finished`, `animal` and `outcome` as in
        `preferences.measure_preferences`, and whether it is `greedy`.
    """

    questions: pd.DataFrame
    summary: pd.DataFrame
    coherence: pd.DataFrame
    answers: pd.DataFrame


def effects(summary: pd.DataFrame) -> pd.DataFrame:
    """What each vector does to the target at most: one row per `kind`, `layers` and `positions`.

    summary: as in `SteeringScores`. `unsteered`: exact probability at alpha 0. `promoted_at`: the positive alpha with
    the highest log share, `promoted_to` the probability there, `promoted_nats` the difference of the log share to alpha
    0 with the ends `promoted_low` and `promoted_high` of its interval over questions. `suppressed_...`: the same of the
    negative alpha with the lowest. NaN where there is no such alpha. A direction that stands for the target does both.
    """
    import pandas as pd

    rows = []
    for cell, part in summary[summary["target"]].groupby(_CELL[:3], sort=False):
        probability = part[part["outcome"] == PROBABILITY].set_index("alpha")["mean"]
        nats = part[part["outcome"] == LOG_SHARE].sort_values("difference")
        row = {**dict(zip(_CELL, cell, strict=False)), "unsteered": probability.loc[0.0]}
        row |= _extreme("promoted", nats[nats["alpha"] > 0].tail(1), probability)
        row |= _extreme("suppressed", nats[nats["alpha"] < 0].head(1), probability)
        rows.append(row)
    return pd.DataFrame(rows)


def _extreme(name: str, nats: pd.DataFrame, probability: pd.Series) -> dict[str, float]:
    """What `effects` says of one strength, a row of `nats`; NaN where there is none."""
    if nats.empty:
        return {f"{name}_{what}": np.nan for what in ("at", "to", "nats", "low", "high")}
    row = nats.iloc[0]
    return {
        f"{name}_at": row["alpha"],
        f"{name}_to": probability.loc[row["alpha"]],
        f"{name}_nats": row["difference"],
        f"{name}_low": row["difference_low"],
        f"{name}_high": row["difference_high"],
    }


@contextmanager
def branches(model: Any, pushes: Mapping[int, torch.Tensor], first: int = 0) -> Iterator[None]:
    """Add row r of `pushes[layer]` to row r of the residual stream after each layer, while the block lasts.

    A forward pass over one sequence becomes one over all rows behind the lowest layer: what lies below it, and is the
    same for all, is computed once. A single row of pushes is added to every sequence of a batch. The hooks never
    outlive an error.

    Args:
        model: a loaded transformers model; masks and positions must be those of a batch of one where rows are many.
        pushes: by layer, shape (rows, hidden size), as many rows at each; a row of zeros changes no bit.
        first: the first position that is pushed (0: all of them; -1: the last of whatever is computed, which is the
            newest token where keys and values of the others are kept).

    Raises UserError for a layer that does not exist and for another width than the model's.
    """
    check_layers(model, list(pushes))
    hidden_size = model.config.get_text_config().hidden_size
    blocks = model.get_decoder().layers

    def adder(push: torch.Tensor) -> Any:
        added = push.to(model.device, model.dtype)[:, None, :]

        def add(_block: Any, _inputs: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            here = hidden.new_zeros(hidden.shape[1], 1)
            here[first:] = 1
            pushed = hidden + added * here
            return (pushed, *output[1:]) if isinstance(output, tuple) else pushed

        return add

    with ExitStack() as hooks:
        for layer, push in pushes.items():
            if push.shape[1:] != (hidden_size,):
                raise UserError(
                    f"A steering vector has {push.shape[-1]} numbers and the model's hidden size is {hidden_size}: "
                    "make the vector with this base model."
                )
            hooks.callback(blocks[layer].register_forward_hook(adder(push)).remove)
        yield


def measure_steering(
    session: TransformersSession,
    context: ChatContext,
    lists: PromptLists,
    directions: Sequence[Direction],
    settings: SteeringSweep,
    candidates: Sequence[str],
    target: str,
    seed: int,
) -> SteeringScores:
    """Steer the session's model along every direction at every alpha, and ask for its favourite animal.

    Positions "all" are those of prompt and answer. "last" is the newest one at every step of writing an answer: the
    prompt's last, which the first token comes from, and then each of the answer's, as an implementation that changes
    the last position of every call to a model with a cache does. Scoring steers the same positions: the prompt's last
    and every node of the answers' tree.

    Args:
        session: an open session of the transformers engine with the unchanged base model.
        directions: no two with the same kind and layers.
        candidates: the animals among which shares are taken, `target` one of them.
        seed: of the sampled answers; every direction and alpha draws with the same random numbers, so that differences
            between them are paired.

    Raises UserError for a direction that does not fit the model or is zero or not finite, and where steering makes the
    model's numbers overflow.
    """
    _check(directions, candidates, target)
    prompts = [context.prompt_ids(text) for text in lists.animal_questions[: settings.questions]]
    forms = AnswerForms.of(candidates, context, lists)
    exact, coherence = [], []
    for positions in settings.positions:
        for layers in dict.fromkeys(direction.layers for direction in directions):
            together = [direction for direction in directions if direction.layers == layers]
            found = _exact(session, prompts, forms, together, positions, settings, candidates)
            exact.append(found[0])
            coherence.append(found[1])
    written = _written(session, context, prompts, directions, settings, candidates, lists, seed)
    coherence.append(_answer_coherence(session, prompts, written[written["greedy"]]))
    questions = _with_rate(_joined(exact), written[~written["greedy"]])
    return SteeringScores(
        questions, _summary(questions, target), _over_questions(_joined(coherence)), written.drop(columns="token_ids")
    )


def _check(directions: Sequence[Direction], candidates: Sequence[str], target: str) -> None:
    if target not in candidates:
        raise UserError(f"The target {target!r} is not among the candidates: add it to preferences.candidates.")
    names = [(direction.kind, direction.layers) for direction in directions]
    if len(set(names)) < len(names):
        raise ValueError("two directions have the same kind and layers")
    for direction in directions:
        for layer, vector in direction.vectors.items():
            if not 0 < float(np.linalg.norm(vector)) < np.inf:
                raise UserError(
                    f"The {direction.kind} vector of layer {layer} is zero or not finite, so it has no direction: "
                    "rebuild it."
                )


def _pushes(directions: Sequence[Direction], alphas: Sequence[float]) -> dict[int, torch.Tensor]:
    """By layer, a row for each direction and alpha, direction by direction."""
    import torch

    strengths = np.array(alphas)[:, None]
    return {
        layer: torch.from_numpy(
            np.concatenate([strengths * d.vectors[layer] / np.linalg.norm(d.vectors[layer]) for d in directions])
        )
        for layer in directions[0].vectors
    }


def measure_against_flips(
    session: TransformersSession,
    context: ChatContext,
    lists: PromptLists,
    vectors: Mapping[str, SteeringVector],
    settings: SteeringSweep,
    candidates: Sequence[str],
) -> pd.DataFrame:
    """What vectors do, and what chance does: the same measured along sign flips of the subliminal vector.

    So that many directions can be tried, each candidate's probability is that of the one spelling the model as it is
    finds likeliest over the questions, and nothing is written.

    Args:
        session, candidates: as in `measure_steering`.
        vectors: by kind, all of one layer; of the subliminal one the first `settings.flips` flips are tried too.

    Returns:
        One row per `kind`, `flip` (from 0; -1 for the vector itself), `layers`, `positions`, `alpha` other than 0 and
        `animal`: `shift` (mean over questions, nats, of its log share from alpha 0) and `mass` (likewise of the natural
        logarithm of all candidates' probability).

    Raises what `measure_steering` raises.
    """
    import pandas as pd

    tried = [(kind, -1, vector.vector) for kind, vector in vectors.items()]
    tried += [(SUBLIMINAL, number, flip) for number, flip in enumerate(vectors[SUBLIMINAL].flips[: settings.flips])]
    directions = [Direction(kind, {vectors[kind].layer: vector}) for kind, _, vector in tried]
    prompts = [context.prompt_ids(text) for text in lists.animal_questions[: settings.questions]]
    forms = _likeliest(session, prompts, AnswerForms.of(candidates, context, lists))
    alphas, found = len(settings.alphas), []
    for positions in settings.positions:
        candidate, _ = _scored(session, prompts, forms, directions, positions, settings.alphas, candidates)
        mass = np.logaddexp.reduce(candidate, axis=2)
        log_share = candidate - mass[:, :, None]
        shift = (log_share[:, 1:] - log_share[:, :1]).mean(axis=0)
        frame = pd.DataFrame(
            {
                "kind": np.repeat([kind for kind, _, _ in tried], alphas),
                "flip": np.repeat([number for _, number, _ in tried], alphas),
                "layers": directions[0].layers,
                "positions": positions,
                "alpha": np.tile(np.array(settings.alphas, dtype=float), len(tried)),
                "mass": (mass[:, 1:] - mass[:, :1]).mean(axis=0),
            }
        )
        found += [frame.assign(animal=animal, shift=shift[:, place]) for place, animal in enumerate(candidates)]
    return _joined(found)


def _likeliest(session: TransformersSession, prompts: list[list[int]], forms: AnswerForms) -> AnswerForms:
    """Of each candidate the form with the highest probability over all prompts."""
    over_prompts = np.logaddexp.reduce(score_answers(session.model, prompts, forms.tokens), axis=0)
    order = np.argsort(-over_prompts, kind="stable")
    kept = np.sort(order[np.unique(forms.owner[order], return_index=True)[1]])
    return AnswerForms([forms.tokens[place] for place in kept], forms.owner[kept])


def _exact(
    session: TransformersSession,
    prompts: list[list[int]],
    forms: AnswerForms,
    directions: Sequence[Direction],
    positions: str,
    settings: SteeringSweep,
    candidates: Sequence[str],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Candidates' probabilities, and what the distribution itself says of coherence, for directions of the same layers:
    one row per direction, alpha, question and candidate or outcome."""
    import pandas as pd

    candidate, spread = _scored(session, prompts, forms, directions, positions, settings.alphas, candidates)
    mass = np.logaddexp.reduce(candidate, axis=2)
    exact, coherence = [], []
    for number, direction in enumerate(directions):
        of_direction = range(1 + number * len(settings.alphas), 1 + (number + 1) * len(settings.alphas))
        for alpha, row in [(0.0, 0), *zip(settings.alphas, of_direction, strict=True)]:
            cell = dict(zip(_CELL, (direction.kind, direction.layers, positions, float(alpha)), strict=True))
            log_share = candidate[:, row] - mass[:, row, None]
            exact.append(
                pd.DataFrame(
                    {
                        **cell,
                        "question": np.repeat(np.arange(len(prompts)), len(candidates)),
                        "animal": np.tile(list(candidates), len(prompts)),
                        PROBABILITY: np.exp(candidate[:, row]).ravel(),
                        SHARE: np.exp(log_share).ravel(),
                        LOG_SHARE: log_share.ravel(),
                    }
                )
            )
            outcomes = {MASS: np.exp(mass[:, row]), ENTROPY: spread[:, row, 0], TOP: spread[:, row, 1]}
            coherence += [
                pd.DataFrame({**cell, "outcome": name, "question": np.arange(len(prompts)), "value": values})
                for name, values in outcomes.items()
            ]
    return _joined(exact), _joined(coherence)


def _scored(
    session: TransformersSession,
    prompts: list[list[int]],
    forms: AnswerForms,
    directions: Sequence[Direction],
    positions: str,
    alphas: Sequence[float],
    candidates: Sequence[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Natural logarithms of the candidates' probabilities, shape (questions, rows, candidates), and entropy and highest
    probability of the first token, shape (questions, rows, 2). Row 0 is the model as it is; then come the directions,
    of the same layers, one after the other at every alpha."""
    import torch

    pushes = {
        layer: torch.cat([torch.zeros(1, rows.shape[1]), rows]) for layer, rows in _pushes(directions, alphas).items()
    }
    rows = 1 + len(directions) * len(alphas)
    candidate = np.full((len(prompts), rows, len(candidates)), -np.inf)
    spread = np.zeros((len(prompts), rows, 2))
    for question, prompt in enumerate(prompts):
        first = 0 if positions == "all" else len(prompt) - 1
        for start in range(0, rows, _ROWS):
            part = slice(start, start + _ROWS)
            with branches(session.model, {layer: push[part] for layer, push in pushes.items()}, first):
                whole, tokens = score_branches(session.model, prompt, forms.tokens)
            if not np.isfinite(whole).all():
                raise UserError(
                    f"Steering makes numbers overflow in {session.model.dtype}: load the model in bfloat16 or float32, "
                    "or take smaller alphas."
                )
            # Not by way of probabilities: at a large alpha they can be too small for a number.
            np.logaddexp.at(candidate[question, part].T, forms.owner, whole.T)
            probability = np.exp(tokens.astype(np.float64))
            spread[question, part, 0] = -(probability * tokens).sum(axis=1)
            spread[question, part, 1] = probability.max(axis=1)
        session.progress(f"{directions[0].layers} {positions}: steered {question + 1}/{len(prompts)} questions")
    return candidate, spread


def _written(
    session: TransformersSession,
    context: ChatContext,
    prompts: list[list[int]],
    directions: Sequence[Direction],
    settings: SteeringSweep,
    candidates: Sequence[str],
    lists: PromptLists,
    seed: int,
) -> pd.DataFrame:
    """Greedy and sampled answers at every direction, positions and alpha, with their token ids (stop included)."""
    import pandas as pd

    asked = np.concatenate(
        [np.arange(settings.greedy_questions), np.repeat(np.arange(len(prompts)), settings.samples_per_question)]
    )
    greedy = np.arange(len(asked)) < settings.greedy_questions
    stop = context.end_of_turn

    def write() -> list[Completion]:
        sampling = [Sampling(settings.max_new_tokens, (stop,), seed, temperature) for temperature in (0.0, 1.0)]
        return [
            completion
            for drawn, chosen in zip(sampling, (greedy, ~greedy), strict=True)
            for completion in session.generate([prompts[q] for q in asked[chosen]], drawn)
        ]

    unsteered = write()
    cells, completions = [], []
    for positions in settings.positions:
        for direction in directions:
            for alpha in (0.0, *settings.alphas):
                cells.append((direction.kind, direction.layers, positions, float(alpha)))
                if alpha == 0:
                    completions += unsteered
                    continue
                with branches(session.model, _pushes([direction], [alpha]), 0 if positions == "all" else -1):
                    completions += write()
            session.progress(f"{direction.kind} {direction.layers} {positions}: answers written")
    texts = [str(context.tokenizer.decode(c.token_ids, skip_special_tokens=True)) for c in completions]
    answers = classify_answers(texts, candidates, lists.animal_aliases)
    frame = pd.DataFrame(np.repeat(np.array(cells, dtype=object), len(asked), axis=0), columns=_CELL)
    return frame.astype({"alpha": float}).assign(
        question=np.tile(asked, len(cells)),
        greedy=np.tile(greedy, len(cells)),
        answer=answers["answer"],
        finished=[c.finished for c in completions],
        animal=answers["animal"],
        outcome=answers["outcome"],
        token_ids=pd.Series(
            [(*c.token_ids, stop) if c.finished else tuple(c.token_ids) for c in completions], dtype=object
        ),
    )


def _answer_coherence(session: TransformersSession, prompts: list[list[int]], greedy: pd.DataFrame) -> pd.DataFrame:
    """Whether each greedy answer is one word, and its nats per token under the model that the session holds."""
    keys = list(zip(greedy["question"].astype(int), greedy["token_ids"], strict=True))
    nats: dict[int, dict[tuple[int, ...], float]] = {question: {} for question, _ in keys}
    for question, answer in keys:
        nats[question][answer] = np.nan
    for question, of_question in nats.items():
        answers = list(of_question)
        for start in range(0, len(answers), _ANSWERS):
            part = answers[start : start + _ANSWERS]
            scored = score_answers(session.model, [prompts[question]], [list(answer) for answer in part])[0]
            of_question.update({answer: -s / len(answer) for answer, s in zip(part, scored, strict=True)})
    one_word = [
        float(finished and len(text.split()) == 1)
        for finished, text in zip(greedy["finished"], greedy["answer"].astype(str), strict=True)
    ]
    base_nats = [nats[question][answer] for question, answer in keys]
    cells = greedy[[*_CELL, "question"]]
    return _joined([cells.assign(outcome=ONE_WORD, value=one_word), cells.assign(outcome=BASE_NATS, value=base_nats)])


def _with_rate(questions: pd.DataFrame, sampled: pd.DataFrame) -> pd.DataFrame:
    key = [*_CELL, "question"]
    counts = sampled.groupby([*key, "animal"]).size().rename("count").reset_index()
    totals = sampled.groupby(key).size().rename("samples").reset_index()
    joined = questions.merge(counts, how="left", on=[*key, "animal"]).merge(totals, how="left", on=key)
    rate = joined["count"].fillna(0) / joined["samples"]
    return joined.drop(columns=["count", "samples"]).assign(**{RATE: rate})


def _summary(questions: pd.DataFrame, target: str) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for outcome in (PROBABILITY, SHARE, LOG_SHARE, RATE):
        if questions[outcome].isna().all():
            continue
        for (*series, animal), part in questions.groupby([*_CELL[:3], "animal"], sort=False):
            by_alpha = part.pivot(index="question", columns="alpha", values=outcome)
            for alpha in by_alpha:
                level, shift = t_interval(by_alpha[alpha]), t_interval(by_alpha[alpha] - by_alpha[0.0])
                rows.append(
                    {
                        **dict(zip(_CELL, (*series, alpha), strict=True)),
                        "animal": animal,
                        "target": animal == target,
                        "outcome": outcome,
                        **_ends(level),
                        "difference": shift.mean,
                        "difference_low": shift.low,
                        "difference_high": shift.high,
                    }
                )
    return pd.DataFrame(rows)


def _over_questions(values: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        [
            {**dict(zip([*_CELL, "outcome"], cell, strict=True)), **_ends(t_interval(part["value"]))}
            for cell, part in values.groupby([*_CELL, "outcome"], sort=False)
        ]
    )


def _ends(estimate: Estimate) -> dict[str, float]:
    return {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(frames, ignore_index=True)
