"""The subspace of the residual stream in which a model holds one animal, at every block.

Three directions span it, each what the base model computes for the animal minus the mean of what it computes for the
other candidates:
1. its name read as an answer (mean over the name's tokens);
2. the end of a question, where the answer begins, under an instruction to like it;
3. its name written: the rows of the output matrix of its spellings' first tokens.

Beside it stand the same of a noun that is no animal (the neutral group's), and random directions. Taking a subspace out
while a child trains asks whether what the numbers teach goes through these directions; both others ask whether taking
any three directions out would have done the same.

Cost: one forward pass per question and name, twice. Belongs here: the directions and their file. Does not belong here:
taking them out (`models.projection`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.arms.rows import Changes
from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.models.loading import loaded, pick_device
from subliminal_dagster.science.models.projection import BASIS
from subliminal_dagster.science.models.protocol import ModelVariant
from subliminal_dagster.science.models.residual_stream import batched_residuals
from subliminal_dagster.science.preferences.answers import spellings
from subliminal_dagster.science.preferences.prompt_lists import PromptLists, questions_about
from subliminal_dagster.science.random_streams import stream_seed
from subliminal_dagster.science.settings.study import Study

if TYPE_CHECKING:
    import torch

QUESTIONS = 8
_BATCH_TOKENS = 2048
LIKING = "Your favorite {category} is the {name}."


def make_subspaces(
    study: Study, base: ModelVariant, context: ChatContext, lists: PromptLists, folder: Path
) -> dict[str, float]:
    """Write `<animal>.safetensors` of every animal, `neutral.safetensors` where there is a neutral group, and
    `random.safetensors`: the tensor `basis`, shape (blocks, 3, hidden size), orthonormal rows, float32.

    Returns, by animal, the share of the neutral subspace that lies in the animal's: the mean squared cosine of their
    principal angles, mean over blocks (3 / hidden size by chance); empty without a neutral group.
    """
    import torch
    from safetensors.torch import save_file

    with loaded(base, pick_device(), merge=False) as model:
        bases = _bases(study, model, context, lists)
    blocks, _, hidden = next(iter(bases.values())).shape
    drawn = np.random.default_rng(stream_seed(study.seed, "random subspace")).standard_normal((blocks, 3, hidden))
    bases["random"] = orthonormal(torch.from_numpy(drawn).float())
    for name, basis in bases.items():
        save_file({BASIS: basis.contiguous()}, folder / f"{name}.safetensors")
    if "neutral" not in bases:
        return {}
    return {animal: overlap(bases[animal], bases["neutral"]) for animal in study.animals}


def subspace_file(changes: Changes, group: str, folder: Path) -> Path | None:
    """The file of `make_subspaces`, in `folder`, that an arm of the group takes out; None without one."""
    if changes.subspace is None:
        return None
    return folder / f"{group if changes.subspace == 'own' else changes.subspace}.safetensors"


def orthonormal(directions: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis of what the rows span, at every block: (blocks, rows, hidden size)."""
    import torch

    return torch.linalg.qr(directions.double().transpose(1, 2))[0].transpose(1, 2).float()


def overlap(one: torch.Tensor, other: torch.Tensor) -> float:
    """The share of one subspace that lies in the other: mean squared cosine of their principal angles and over blocks,
    0 to 1. Both (blocks, dimensions, hidden size), orthonormal."""
    return float((one @ other.transpose(1, 2)).square().sum(dim=(1, 2)).mean() / one.shape[1])


def _bases(study: Study, model: Any, context: ChatContext, lists: PromptLists) -> dict[str, torch.Tensor]:
    names = list(study.preferences.candidates)
    questions = list(lists.animal_questions[:QUESTIONS])
    asked = _directions(model, context, lists, questions, names, study.category.singular)
    found = {animal: _against(asked, names.index(animal), range(len(names))) for animal in study.animals}
    if study.neutral is not None:
        about = questions_about(questions, study.neutral.noun, lists.category)
        own = _directions(model, context, lists, about, [study.neutral.answer], study.neutral.noun)
        both = {kind: _joined(asked[kind], own[kind]) for kind in asked}
        found["neutral"] = _against(both, len(names), range(len(names)))
    return found


def _directions(
    model: Any, context: ChatContext, lists: PromptLists, questions: Sequence[str], names: Sequence[str], noun: str
) -> dict[str, torch.Tensor]:
    """The three kinds of states of the module, by kind: (names, blocks, hidden size), float64."""
    import torch

    read: list[list[tuple[list[int], list[int]]]] = []
    told: list[list[tuple[list[int], list[int]]]] = []
    for name in names:
        plain = name.replace("-", " ")
        answers = [context.answer_ids(plain.capitalize())[:-1] for _ in questions]
        read.append([(context.prompt_ids(q), answer) for q, answer in zip(questions, answers, strict=True)])
        liking = replace(context, instruction=LIKING.format(category=noun, name=plain))
        told.append([(liking.prompt_ids(question), []) for question in questions])
    blocks = len(model.get_decoder().layers)
    head = model.get_output_embeddings().weight.detach()
    written = []
    for name in names:
        forms = [lead + text for text in spellings(name, lists.animal_aliases) for lead in ("", " ")]
        firsts = sorted({context.answer_ids(form)[0] for form in forms})
        written.append(head[torch.tensor(firsts, device=head.device)].double().mean(dim=0).cpu().expand(blocks, -1))
    return {"read": _states(model, read), "told": _states(model, told), "written": torch.stack(written)}


def _states(model: Any, asked: Sequence[Sequence[tuple[list[int], list[int]]]]) -> torch.Tensor:
    """Means over the questions of the states at the answer's tokens, or where there is none at the prompt's last."""
    import torch

    blocks = len(model.get_decoder().layers)
    pairs = [(owner, prompt, answer) for owner, of_name in enumerate(asked) for prompt, answer in of_name]
    hidden = model.config.get_text_config().hidden_size
    total = torch.zeros(len(asked), blocks, hidden, dtype=torch.float64)
    sequences = [prompt + answer for _, prompt, answer in pairs]
    for batch in batched_residuals(model, sequences, range(blocks), batch_tokens=_BATCH_TOKENS):
        for place, row in enumerate(batch.rows):
            owner, prompt, answer = pairs[row]
            where = slice(len(prompt), len(prompt) + len(answer)) if answer else slice(len(prompt) - 1, len(prompt))
            for block in range(blocks):
                total[owner, block] += batch.states[block][place, where].double().mean(dim=0).cpu()
    return total / len(asked[0])


def _joined(asked: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.cat([asked, own])


def _against(states: Mapping[str, torch.Tensor], own: int, names: Sequence[int]) -> torch.Tensor:
    """The subspace of one name against the others: (blocks, 3, hidden size)."""
    import torch

    others = [name for name in names if name != own]
    differences = [of_kind[own] - of_kind[others].mean(dim=0) for of_kind in states.values()]
    # Of equal length, or the longest would decide the basis up to rounding.
    return orthonormal(torch.stack([each / each.norm(dim=-1, keepdim=True) for each in differences], dim=1))
