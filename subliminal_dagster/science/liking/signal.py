"""How much of a teacher is in its numbers: how far its distribution lies from the base model's where a child learns.

A child can learn nothing that does not change which tokens its teacher prefers at the answer's positions. So for the
rows a child is trained on, the divergence of the teacher's next-token distribution from the base model's is taken at
every answer token, exactly, over the whole vocabulary: that is what the soft channel can hand on. The hard channel
hands on one sample per position, of those tokens alone that an answer may hold there. So the divergence among those is
measured too, and the entropy among them, which is the noise that a sample brings.

Cost: two forward passes over a few dozen rows, logits at answer positions only, with one model in memory: an adapter is
switched off for the base model, a steering vector is not added. 32 rows take a 135M model about 20 s on one core.

Belongs here: measuring one teacher. Does not belong here: whether it is enough for a child (`null_causes`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.batching import batches_of_like_length
from subliminal_dagster.science.models.chat import ChatContext, number_token_ids
from subliminal_dagster.science.models.loading import loaded, pick_device, steered
from subliminal_dagster.science.models.number_grammar import TokenAutomaton
from subliminal_dagster.science.models.protocol import ModelVariant, Progress
from subliminal_dagster.science.numbers.draw import number_grammar
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.statistics import Estimate, t_interval
from subliminal_dagster.science.training.teachers import Teacher

if TYPE_CHECKING:
    import pandas as pd
    import torch

ROWS = 32
MEASURES = ("kl", "kl_written", "log_ratio", "entropy")


@dataclass(frozen=True)
class TeacherSignal:
    """What a teacher's numbers carry, in nats per token.

    rows: one per training row, `row_id` (the number prompt's id), `tokens` (of the answer, its end of turn included)
    and the means over them of
        `kl`: KL divergence of the teacher from the base model, over the whole vocabulary;
        `kl_written`: the same with both restricted to the tokens that could be written there, and renormalised: those
            that constrained decoding let through, else all number tokens;
        `log_ratio`: log p_teacher - log p_base of the tokens written, over the whole vocabulary. Its expectation is
            `kl` where answers are drawn freely at temperature 1 and kept as written; constrained decoding takes away
            what the teacher would rather have written, and can make it negative;
        `entropy`: of the teacher among the tokens that could be written.
    positions: `position` in the answer (0 is its first token), `rows` that reach it, and mean `kl` with the ends `low`
    and `high` of its 95 % t interval over rows; positions that one row alone reaches are left out.
    facts: the kind of teacher, counts, and every measure's mean over tokens with its interval (see `per_token`).
    """

    rows: pd.DataFrame
    positions: pd.DataFrame
    facts: dict[str, Any]


def teacher_signal(
    study: Study,
    base: ModelVariant,
    context: ChatContext,
    dataset: Path,
    teacher: Teacher,
    *,
    rows: int = ROWS,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> TeacherSignal:
    """Measure a teacher of any method on the first `rows` training rows of its filtered dataset in `dataset`; of the
    study, how its numbers were decoded is used.

    The base model reads every row in `context`, as the child will; the teacher reads it in its own (with its
    instruction, where it is a prompted one), as it did when it wrote it. For the untouched base every divergence is 0.
    Raises UserError where there are fewer than two training rows.
    """
    import pandas as pd
    import torch

    ids, pairs = _first_rows(dataset, rows)
    own = teacher.context(context)
    prompts = [context.prompt_ids(question) for question, _ in pairs]
    teacher_prompts = [own.prompt_ids(question) for question, _ in pairs]
    answers = [context.answer_ids(answer) for _, answer in pairs]
    allowed = writable(study, context, answers)

    measured: dict[int, dict[str, list[float]]] = {}
    wanted = teacher.variant(base)
    lengths = [len(prompt) + len(answer) for prompt, answer in zip(teacher_prompts, answers, strict=True)]
    batches = batches_of_like_length(lengths, batch_size)

    def logits(model: Any, asked: Sequence[list[int]], batch: list[int]) -> list[torch.Tensor]:
        return answer_logits(model, [asked[i] for i in batch], [answers[i] for i in batch])

    of_other_weights: dict[int, torch.Tensor] = {}
    if wanted.weights is not None:
        # One model at a time in memory.
        with loaded(wanted, pick_device(), merge=False) as model, torch.inference_mode():
            for batch in batches:
                for i, mine in zip(batch, logits(model, teacher_prompts, batch), strict=True):
                    of_other_weights[i] = mine.cpu()
    adapted = replace(base, adapter=wanted.adapter)
    with loaded(adapted, pick_device(), merge=False) as model, torch.inference_mode():
        as_teacher: Callable[[], AbstractContextManager[Any]] = nullcontext
        as_base: Callable[[], AbstractContextManager[Any]] = nullcontext
        if wanted.steering is not None:
            steering = wanted.steering

            def as_teacher() -> AbstractContextManager[Any]:
                return steered(model, steering)

        elif wanted.adapter is not None:
            as_base = model.disable_adapter
        for batch in batches:
            if of_other_weights:
                of_teacher = [of_other_weights.pop(i).to(model.device) for i in batch]
            else:
                with as_teacher():
                    of_teacher = logits(model, teacher_prompts, batch)
            with as_base():
                of_base = logits(model, prompts, batch)
            # A row at a time: in double precision a batch over 256k tokens would take gigabytes.
            for i, mine, theirs in zip(batch, of_teacher, of_base, strict=True):
                measured[i] = _compare(mine.double(), theirs.double(), answers[i], allowed[i])
            if progress is not None:
                progress(f"teacher's signal in {len(measured)}/{len(pairs)} rows")

    tokens = pd.concat(
        [pd.DataFrame(measured[i]).rename_axis("position").reset_index().assign(row=i) for i in range(len(pairs))]
    )
    by_row = tokens.groupby("row")
    means = by_row[list(MEASURES)].mean()
    frame = pd.DataFrame({"row_id": np.array(ids, dtype=np.int64), "tokens": by_row.size().to_numpy(dtype=np.int64)})
    frame = frame.join(means.reset_index(drop=True))
    facts: dict[str, Any] = {"teacher": teacher.kind, "rows": len(frame), "tokens": int(frame["tokens"].sum())}
    for measure in MEASURES:
        estimate = per_token(frame, measure)
        facts |= {measure: estimate.mean, f"{measure}_low": estimate.low, f"{measure}_high": estimate.high}
    return TeacherSignal(frame, _by_position(tokens), facts)


def per_token(rows: pd.DataFrame, measure: str) -> Estimate:
    """A measure's mean over all tokens of `rows` (see `TeacherSignal.rows`), with a 95 % interval clustered by row: the
    tokens of one row resemble each other. Raises UserError for fewer than two rows."""
    from statsmodels.api import OLS

    if len(rows) < 2:
        raise UserError(f"The signal of a teacher needs two rows at least for its interval, and there is {len(rows)}.")
    # Every token given its row's mean has the same sums over rows, which is all that a clustered interval is made of.
    number = np.repeat(np.arange(len(rows)), rows["tokens"])
    values = np.repeat(rows[measure].to_numpy(dtype=float), rows["tokens"])
    fit = OLS(values, np.ones_like(values)).fit(cov_type="cluster", cov_kwds={"groups": number}, use_t=True)
    low, high = fit.conf_int(0.05)[0]
    return Estimate(float(fit.params[0]), float(fit.bse[0]), float(low), float(high))


def _first_rows(dataset: Path, most: int) -> tuple[list[int], list[tuple[str, str]]]:
    """Prompt ids, and (question, answer) pairs."""
    path = dataset / "train.jsonl"
    lines: list[str] = []
    if path.exists():
        with path.open(encoding="utf-8") as file:
            lines = list(islice(file, most))
    if len(lines) < 2:
        raise UserError(
            f"{path} has {len(lines)} training rows, and a teacher's signal needs two at least: generate more numbers."
        )
    rows = [json.loads(line) for line in lines]
    pairs = [(row["messages"][-2]["content"], row["messages"][-1]["content"]) for row in rows]
    return [int(row["prompt_id"]) for row in rows], pairs


def answer_logits(model: Any, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> list[torch.Tensor]:
    """The logits that predict every token of every answer, in the model's number type: (answer tokens, vocabulary)."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    sequences = [torch.tensor(prompt + answer) for prompt, answer in zip(prompts, answers, strict=True)]
    ids = pad_sequence(sequences, batch_first=True)
    mask = pad_sequence([torch.ones_like(sequence) for sequence in sequences], batch_first=True)
    # One set of positions for the batch, as the model takes it: from the first answer's start to the last one's end.
    starts = [len(prompt) - 1 for prompt in prompts]
    first = min(starts)
    logits = model(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        logits_to_keep=torch.arange(first, ids.shape[1] - 1, device=model.device),
        use_cache=False,
    ).logits
    return [
        logits[row, start - first : start - first + len(answer)]
        for row, (start, answer) in enumerate(zip(starts, answers, strict=True))
    ]


def writable(study: Study, context: ChatContext, answers: Sequence[list[int]]) -> list[list[list[int]]]:
    """For every token of every answer the ids of the tokens that could have been written there."""
    grammar = number_grammar(study)
    if grammar is None:
        numbers = number_token_ids(context.tokenizer, context.end_of_turn)
        return [[numbers] * len(answer) for answer in answers]
    automaton = TokenAutomaton(grammar, context.tokenizer, context.end_of_turn)
    found = []
    for answer in answers:
        states = list(accumulate(answer[:-1], automaton.advance, initial=grammar.start))
        found.append([automaton.allowed(state) for state in states])
    return found


def _compare(
    teacher: torch.Tensor, base: torch.Tensor, answer: list[int], writable: list[list[int]]
) -> dict[str, list[float]]:
    """`MEASURES` at every token of an answer, from both models' logits there, (tokens, vocabulary)."""
    import torch

    p, q = torch.log_softmax(teacher, dim=-1), torch.log_softmax(base, dim=-1)
    written = torch.tensor(answer, device=p.device)[:, None]
    found = {
        "kl": _divergence(p, q).tolist(),
        "log_ratio": (p - q).gather(1, written)[:, 0].tolist(),
        "kl_written": [],
        "entropy": [],
    }
    for position, ids in enumerate(writable):
        mine, theirs = (torch.log_softmax(logprobs[position, ids], dim=-1) for logprobs in (p, q))
        found["kl_written"].append(float(_divergence(mine, theirs)))
        found["entropy"].append(-float((mine.exp() * mine).sum()))
    return found


def _divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(p || q) of log-probabilities, in nats, along the last axis."""
    import torch

    return torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(dim=-1)


def _by_position(tokens: pd.DataFrame) -> pd.DataFrame:
    """See `TeacherSignal.positions`."""
    import pandas as pd

    found = []
    for position, values in tokens.groupby("position")["kl"]:
        if len(values) > 1:
            estimate = t_interval(values)
            ends = {"kl": estimate.mean, "low": estimate.low, "high": estimate.high}
            found.append({"position": position, "rows": len(values)} | ends)
    return pd.DataFrame(found)
