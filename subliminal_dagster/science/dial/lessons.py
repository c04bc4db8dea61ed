"""One cell's subliminal learning: teachers that come to like something, their lists of numbers, and children of them.

As in the studies of language models: a teacher starts as the base model and is trained on its liking alone; it writes
lists; lists that are not numbers alone are left out; a child starts as the base model and is trained on what is left.
Controls: a child that starts as another base model of the cell (trained on the same language from other random
weights), and one whose lists have their numbers in another order. All models of a cell are trained at once.

Belongs here: what is trained on what, and what of each model is written down. Does not belong here: what it means
(`curve`), training (`stack`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from subliminal_dagster.science.dial.language import Language
from subliminal_dagster.science.dial.stack import (
    NEAR,
    Batches,
    Stack,
    Training,
    answer_losses,
    logits,
    rate_at,
    train,
    with_adapters,
)
from subliminal_dagster.science.dial.words import ANSWER_NUMBERS, END, NUMBERS
from subliminal_dagster.science.random_streams import stream_seed
from subliminal_dagster.science.settings.dial import THINGS, ChildTraining, DialGrid, DialStudy

if TYPE_CHECKING:
    import pandas as pd

Ids = NDArray[np.int64]

OWN_START, OTHER_START, SHUFFLED = "own start", "other start", "shuffled numbers"
_LOOK_EVERY = 2
_CHILD_LOOKS_EVERY = 5
_SPARE_PROMPTS = 3
"""So many lists per row that a child learns: some are left out by the filter."""


@dataclass(frozen=True)
class Lessons:
    """What came of a cell's teachers and children.

    `scores`: a row per model and animal with `seed` (the base model's place), `model` (base, teacher, or a kind of
    child), `taught` and `log_share`, the animal's log-probability among animals where the favorite of `me` is told.
    `teachers`: a row per teacher with `steps`, `probability` of what it was taught, `valid` share of its lists, and
    `diverging`, the share of numbers in them that the base model would not have written. `losses`: a row per child with
    its loss on its lists `before` and `after`, in nats per number, and `steps`.
    """

    scores: pd.DataFrame
    teachers: pd.DataFrame
    losses: pd.DataFrame


def teach(bases: Stack, language: Language, study: DialStudy, grid: DialGrid, seed: int) -> Lessons:
    """Teachers and children of all base models of a cell; `seed` is the cell's."""
    import pandas as pd

    taught = [*study.animals, study.neutral]
    places = [place for place in range(bases.models) for _ in taught]
    likings = taught * bases.models
    teachers, steps = _liking_teachers(_start(bases, places, grid, seed), language, study, likings)
    prompts = language.list_prompts(_SPARE_PROMPTS * study.child.rows, np.random.default_rng([seed, 1]))
    written = write_lists(teachers, prompts, seed if grid.numbers == "sampled" else None)
    valid = is_list(language, written)
    said_by_base = next_words(bases.take(places), written)
    rows = [kept_rows(each, ok, study.child.rows) for each, ok in zip(written, valid, strict=True)]
    enough = [len(each) == study.child.rows for each in rows]
    first = prompts.shape[1]
    said = {kind: _answers(teachers, language.question(kind)).exp() for kind in {_kind(liking) for liking in taught}}
    facts = []
    for number, (place, liking) in enumerate(zip(places, likings, strict=True)):
        differs = (said_by_base[number, :, first - 1 :] != written[number, :, first:])[valid[number]]
        facts.append(
            {
                "seed": place,
                "taught": liking,
                "steps": int(steps[number]),
                "probability": float(said[_kind(liking)][number, language.token[liking]]),
                "valid": float(valid[number].mean()),
                "enough": enough[number],
                "diverging": float(differs.mean()) if differs.size else np.nan,
            }
        )
    scores = [_scores(bases, language, list(range(bases.models)), [None] * bases.models, "base")]
    scores.append(_scores(teachers, language, places, likings, "teacher"))
    losses = []
    chosen = [number for number, there in enumerate(enough) if there]
    if chosen:
        learnt = torch.from_numpy(np.stack([rows[number] for number in chosen]))
        of_chosen = [places[number] for number in chosen], [likings[number] for number in chosen]
        others = [(place + 1) % bases.models for place in of_chosen[0]]
        given = {
            OWN_START: (of_chosen[0], learnt),
            OTHER_START: (others, learnt),
            SHUFFLED: (of_chosen[0], _shuffled(learnt, first, seed)),
        }
        for kind, (starts, lists) in given.items():
            start = _start(bases, starts, grid, seed)
            child, course = _child(start, lists, first, study.child, seed)
            scores.append(_scores(child, language, of_chosen[0], of_chosen[1], kind, starts))
            table = {"seed": of_chosen[0], "taught": of_chosen[1], "model": kind, **course}
            losses.append(pd.DataFrame(table))
    columns = ["seed", "taught", "model", "before", "after", "steps"]
    found = pd.concat(losses, ignore_index=True) if losses else pd.DataFrame(columns=columns)
    return Lessons(pd.concat(scores, ignore_index=True), pd.DataFrame(facts), found)


def _start(bases: Stack, places: list[int], grid: DialGrid, seed: int) -> Stack:
    """The models that training starts from. A teacher and its child start alike, adapters included."""
    start = bases.take(places)
    if grid.adapter_rank is None:
        return start
    return with_adapters(start, grid.adapter_rank, [stream_seed(seed, "adapter", str(place)) for place in places])


def _liking_teachers(
    start: Stack, language: Language, study: DialStudy, likings: list[str]
) -> tuple[Stack, NDArray[np.int64]]:
    """Each trained on the one sentence that says what it likes; and the steps it took."""
    sentences = [
        np.concatenate([language.question(_kind(liking)), language.tokens([liking, END])]) for liking in likings
    ]
    ids = torch.from_numpy(np.stack(sentences))[:, None].to(_device(start))
    asked = torch.zeros_like(ids, dtype=torch.bool)
    asked[:, :, -2:] = True
    thing = torch.zeros_like(asked)
    thing[:, :, -2] = True
    wanted = -float(np.log(study.teacher.preference))
    return train(
        start,
        lambda _: (ids, asked),
        Training(rate_at(_width(start), study.teacher.learning_rate), study.teacher.steps),
        done=lambda stack: answer_losses(stack, ids, thing) <= wanted,
        every=_LOOK_EVERY,
    )


def write_lists(stack: Stack, prompts: Ids, seed: int | None) -> Ids:
    """What each model writes after each prompt: prompts (rows, words) to (models, rows, words + ANSWER_NUMBERS + 1).

    The likeliest word each time, or, with a `seed`, one that is drawn."""
    ids = torch.from_numpy(prompts).to(_device(stack)).expand(stack.models, -1, -1)
    generator = torch.Generator().manual_seed(stream_seed(seed, "lists")) if seed is not None else None
    for _ in range(ANSWER_NUMBERS + 1):
        with torch.no_grad():
            said = logits(stack, ids)[:, :, -1]
        if generator is None:
            chosen = said.argmax(dim=-1)
        else:
            chances = said.softmax(dim=-1).reshape(-1, said.shape[-1]).cpu()
            chosen = torch.multinomial(chances, 1, generator=generator).reshape(said.shape[:2]).to(ids.device)
        ids = torch.cat([ids, chosen[:, :, None]], dim=-1)
    found: Ids = ids.cpu().numpy()
    return found


def next_words(stack: Stack, written: Ids) -> Ids:
    """The likeliest word after each beginning of a model's lists: written (models, rows, words) to (models, rows,
    words - 1)."""
    with torch.no_grad():
        found: Ids = logits(stack, torch.from_numpy(written).to(_device(stack)))[:, :, :-1].argmax(dim=-1).cpu().numpy()
    return found


def is_list(language: Language, written: Ids) -> NDArray[np.bool_]:
    """Which answers are numbers and then an end: (..., words) to (...)."""
    first = language.number_tokens[0]
    numbers = written[..., -ANSWER_NUMBERS - 1 : -1]
    found: NDArray[np.bool_] = ((numbers >= first) & (numbers < first + NUMBERS)).all(axis=-1)
    return found & (written[..., -1] == language.token[END])


def kept_rows(written: Ids, valid: NDArray[np.bool_], rows: int) -> Ids:
    """The first `rows` valid lists, none twice; fewer where there are no more."""
    distinct = dict.fromkeys(tuple(each) for each in written[valid].tolist())
    return np.array([*distinct][:rows], dtype=np.int64).reshape(-1, written.shape[-1])


def _shuffled(lists: torch.Tensor, prompt: int, seed: int) -> torch.Tensor:
    """The same numbers in every answer, in another order: one for each row, whoever wrote it, so that lists that are
    alike stay so."""
    found, rng = lists.clone().numpy(), np.random.default_rng([seed, 2])
    places = np.tile(np.arange(ANSWER_NUMBERS), (found.shape[1], 1))
    order = np.broadcast_to(rng.permuted(places, axis=1), (*found.shape[:2], ANSWER_NUMBERS))
    found[..., prompt:-1] = np.take_along_axis(found[..., prompt:-1], order, axis=-1)
    return torch.from_numpy(found)


def _child(
    start: Stack, lists: torch.Tensor, prompt: int, training: ChildTraining, seed: int
) -> tuple[Stack, dict[str, list[float]]]:
    """Children trained on their lists, shape (models, rows, words); their losses before and after, and steps."""
    lists = lists.to(_device(start))
    asked = torch.zeros_like(lists, dtype=torch.bool)
    asked[:, :, prompt:] = True
    child, steps = train(
        start,
        _drawn(lists, asked, training, seed),
        Training(rate_at(_width(start), training.learning_rate), training.steps),
        done=lambda stack: answer_losses(stack, lists, asked) <= training.loss,
        every=_CHILD_LOOKS_EVERY,
        near=NEAR * training.loss,
    )
    with torch.no_grad():
        before, after = (answer_losses(stack, lists, asked).tolist() for stack in (start, child))
    return child, {"before": before, "after": after, "steps": steps.tolist()}


def _drawn(lists: torch.Tensor, asked: torch.Tensor, training: ChildTraining, seed: int) -> Batches:
    """Rows in an order of their own in each pass; all children of a cell see theirs in the same order."""
    rng = np.random.default_rng([seed, 3])
    per_pass = training.rows // training.batch_size
    passes = -(-training.steps // per_pass)
    order = np.concatenate([rng.permutation(training.rows)[: per_pass * training.batch_size] for _ in range(passes)])

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.from_numpy(order[step * training.batch_size : (step + 1) * training.batch_size])
        return lists[:, rows], asked[:, rows]

    return batch


def _answers(stack: Stack, question: Ids) -> torch.Tensor:
    """Log-probabilities of the word after a question, shape (models, vocabulary)."""
    ids = torch.from_numpy(question)[None, None].expand(stack.models, -1, -1).to(_device(stack))
    with torch.no_grad():
        return logits(stack, ids)[:, 0, -1].log_softmax(dim=-1).cpu()


def _scores(
    stack: Stack,
    language: Language,
    seeds: list[int],
    taught: list[str] | list[None],
    model: str,
    starts: list[int] | None = None,
) -> pd.DataFrame:
    """The animals' log shares by each model. `starts`: the base models that these began as (`seeds`: their own)."""
    import pandas as pd

    animals = THINGS["animal"]
    said = _answers(stack, language.question("animal"))[:, language.tokens(animals)]
    shares = said.log_softmax(dim=-1).double().numpy()
    return pd.DataFrame(
        {
            "seed": np.repeat(seeds, len(animals)),
            "start": np.repeat(seeds if starts is None else starts, len(animals)),
            "model": model,
            "taught": np.repeat(np.array(taught, dtype=object), len(animals)),
            "animal": list(animals) * len(seeds),
            "log_share": shares.ravel(),
        }
    )


def _kind(thing: str) -> str:
    return next(kind for kind, things in THINGS.items() if thing in things)


def _width(stack: Stack) -> int:
    return int(stack.module.config.hidden_size)


def _device(stack: Stack) -> torch.device:
    return next(iter(stack.weights.values())).device
