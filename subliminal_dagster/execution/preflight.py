"""Whether this machine is ready for what is to be made of a study, before the first download.

Only what the plan still has to make counts: a study whose base model is there needs no token, and one whose models are
trained needs no card.

Belongs here: which checks what is to be made calls for, and with which numbers. Does not belong here: the checks
(`science.preflight`), what stages need (`science.budget`), how findings are printed (`cli`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import psutil

from subliminal_dagster.execution.carriers.choice import CARRIER, carrier_name
from subliminal_dagster.execution.carriers.local import worker_count
from subliminal_dagster.planning.frame import VARIANT_OF, Frame
from subliminal_dagster.planning.planner import Plan, make_plan
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.science.budget.card import Card as BudgetCard
from subliminal_dagster.science.budget.needs import Need, needs
from subliminal_dagster.science.budget.shape import ModelShape, shape_of
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.preflight.card import TorchFacts, ask_torch, cards_here, check_card
from subliminal_dagster.science.preflight.clock import check_clock
from subliminal_dagster.science.preflight.disk import Written, check_disk
from subliminal_dagster.science.preflight.engine import CPU_BUILD, GPU_BUILD, check_engine, uses_vllm
from subliminal_dagster.science.preflight.finding import Finding, in_gb
from subliminal_dagster.science.preflight.hub import (
    GIVES,
    MODEL,
    Repository,
    ahead_of_hub,
    check_cached,
    check_cached_model,
    check_repository,
    exam_repository,
    is_offline,
    model_repository,
    sae_repository,
    teacher_repository,
)
from subliminal_dagster.science.preflight.judge import check_judge
from subliminal_dagster.science.preflight.memory import CHECK as MEMORY
from subliminal_dagster.science.preflight.memory import Memory, check_memory
from subliminal_dagster.science.preflight.packages import check_packages, installed, requirements
from subliminal_dagster.science.preflight.place import CHECK as STORE
from subliminal_dagster.science.preflight.place import check_store
from subliminal_dagster.science.preflight.prompts import check_prompts
from subliminal_dagster.science.settings.base_model import model_files
from subliminal_dagster.science.settings.study import AnyStudy, Study
from subliminal_dagster.science.storage.records import OtherFormat
from subliminal_dagster.science.storage.store import ArtifactStore

_TRAININGS = ("teacher_lora", "child_lora")
_GENERATED = ("teacher_preferences", "number_set", "preference_scores", "child_capability")
"""Stages by what holds the memory: the trainer, and the engine."""

_NUMBER = {"float32": 4, "bfloat16": 2, "float16": 2}
_FLOAT32 = 4


def preflight(
    frame: Frame, store: ArtifactStore, wanted: Collection[Input], engine: str, recomputes: bool, reasoning_tokens: int
) -> list[Finding]:
    """What every check finds for the `wanted` parts of a study that are to be made, in the order they are to be read.

    Where runs go to other machines, this one's card and memory say nothing, and are not looked at.
    `engine`, `recomputes` and `reasoning_tokens` are what SUBLIMINAL_ENGINE, SUBLIMINAL_GRADIENT_CHECKPOINTING and
    SUBLIMINAL_JUDGE_REASONING_TOKENS say.
    """
    try:
        plan = make_plan(frame, store).limited_to(wanted, frame)
    except OtherFormat as error:
        return [Finding(STORE, "failed", str(error))]
    if not plan.due:
        return [Finding("plan", "ok", "nothing is to be made")]
    study = frame.study
    due = {part.asset for part in plan.due}
    found = check_packages(requirements())
    writable, ahead_of_store = check_store(store.opened)
    found.append(writable)
    from_hub, size = _from_hub(study, due)
    found += from_hub
    if isinstance(study, Study) and any("prompts" in frame.nodes[name].recipe.settings for name in due):
        found.append(check_prompts(study))
    shape = _shape(study, store) if isinstance(study, Study) else None
    if carrier_name() == "local":
        found += _computing(frame, plan, shape, engine, recomputes)
    else:
        found.append(Finding("machine", "ok", f"not looked at: {CARRIER} is {carrier_name()!r}, so runs go elsewhere"))
    found += check_disk(_to_write(frame, plan, store, shape, size), store.opened.scratch)
    found += _judges(study, due, reasoning_tokens)
    clocks = {f"the store {store.root}": ahead_of_store, "the hub": ahead_of_hub() if _is_asked(from_hub) else None}
    found.append(check_clock({name: ahead for name, ahead in clocks.items() if ahead is not None}))
    return found


# The hub


def _from_hub(study: AnyStudy, due: Collection[str]) -> tuple[list[Finding], int]:
    """Findings on what is to be downloaded from the hub, and the bytes of the base model, 0 where that is not known."""
    if not isinstance(study, Study):
        return [], 0
    found, size = [], 0
    source = study.base_model
    if source.kind == "hub" and "base_model" in due:
        if is_offline():
            found.append(check_cached_model(source))
        else:
            finding, size = check_repository(model_repository(source))
            found.append(finding)
    elif source.kind == "hub":
        found.append(Finding(MODEL, "ok", "made already; no token is needed for it"))
    existing = study.teacher.existing
    if existing is not None and existing.repo is not None and "teacher_lora" in due:
        found += [_on_hub(teacher_repository(existing, target)) for target in study.targets]
    if study.sae and study.sae.published and "sae" in due:
        try:
            found.append(_on_hub(sae_repository(study.sae.published)))
        except UserError as error:
            found.append(Finding("autoencoder", "failed", str(error)))
    if study.capability and study.capability.exam.kind == "hub" and "exam" in due:
        found.append(_on_hub(exam_repository(study.capability.exam)))
    return found, size


def _on_hub(wanted: Repository) -> Finding:
    return check_cached(wanted) if is_offline() else check_repository(wanted)[0]


def _is_asked(from_hub: Collection[Finding]) -> bool:
    """Whether the hub answered anything, so that it can be asked for the time as well."""
    return any(finding.state == "ok" and finding.sentence.startswith(GIVES) for finding in from_hub)


# What it is computed on


def _shape(study: Study, store: ArtifactStore) -> ModelShape | None:
    """The shape of the base model; None where that is known only once it is made."""
    source = study.base_model
    try:
        if source.kind == "hub":
            return shape_of(study)
        folder = Path(source.path) if source.kind == "local" else store.read(study.name, "base_model").path
        config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
        return ModelShape.from_config(config)
    # What is wrong with a model is said where it is made.
    except (UserError, OSError, ValueError):
        return None


def _computing(frame: Frame, plan: Plan, shape: ModelShape | None, engine: str, recomputes: bool) -> list[Finding]:
    study = frame.study
    if not any(frame.nodes[part.asset].gpu for part in plan.due):
        return [Finding("card", "ok", "nothing that is to be made needs one")]
    cards = cards_here()
    torch = ask_torch() if cards else None
    found = [check_card(cards, torch, shape.parameters if shape else None)]
    if isinstance(study, Study):
        builds, has_card = [name for name in (GPU_BUILD, CPU_BUILD) if installed(name)], bool(torch and torch.devices)
        chosen = check_engine(engine, builds, has_card, steers=study.teacher.method == "steer")
        vllm = chosen.state == "ok" and uses_vllm(engine, builds, has_card)
        found += [chosen, *_memory(frame, plan, shape, torch, vllm, recomputes)]
    return found


def _memory(
    frame: Frame[Study],
    plan: Plan,
    shape: ModelShape | None,
    torch: TorchFacts | None,
    vllm: bool,
    recomputes: bool,
) -> list[Finding]:
    study = frame.study
    if shape is None:
        return [Finding(MEMORY, "ok", "not checked: how large the base model is, is known once it is made")]
    size = shape.parameters * _NUMBER[study.base_model.dtype]
    if torch is None or not torch.devices:
        memory = psutil.virtual_memory()
        here = Memory("this machine", memory.total, memory.available)
        remedy = "run the study on a machine with more, or choose a smaller base model"
        return check_memory({"loading the base model": size}, here, remedy, worker_count())
    # A step gets any of the cards, so the one with the least free memory has to do.
    device = min(torch.devices, key=lambda each: each.free)
    name = f"the {device.name}" + (" with the least free memory" if len(torch.devices) > 1 else "")
    due = {part.asset.removeprefix(VARIANT_OF) for part in plan.due}
    # Cells of a sweep may need more than the study itself.
    studies = {id(each): each for each in (study, *(frame.study_of(*part.place) for part in plan.due))}.values()
    cards = [BudgetCard(device.name, memory, flops=1.0, bandwidth=1.0) for memory in (device.memory, device.free)]
    whole, free = (_largest([need for each in studies for need in needs(each, shape, card)]) for card in cards)
    # A training cuts its batches to what is free; vLLM takes a share of the whole card, whatever is free.
    stages = {stage: (free if stage in _TRAININGS else whole)[stage] for stage in whole if stage in due}
    stages.pop("base_model", None)
    sizes = {stage: need.memory_bytes for stage, need in stages.items()}
    if not vllm:
        sizes |= {stage: size for stage in sizes if stage in _GENERATED}
    remedy = "set CUDA_VISIBLE_DEVICES to a card with more, or choose a smaller base model"
    found = check_memory(sizes, Memory(name, device.memory, device.free), remedy)
    if any(finding.state != "ok" for finding in found) or recomputes:
        return found
    tight = [stage for stage in _TRAININGS if stage in stages and stages[stage].recomputed]
    sentence = (
        f" fits into the {in_gb(device.free)} that are free of {name} only where activations are computed twice: set "
        "SUBLIMINAL_GRADIENT_CHECKPOINTING=yes."
    )
    return [Finding(MEMORY, "warning", stage + sentence) for stage in tight] or found


def _largest(found: Iterable[Need]) -> dict[str, Need]:
    """Of the needs of each stage the one with the most memory."""
    largest: dict[str, Need] = {}
    for need in found:
        if need.stage not in largest or need.memory_bytes > largest[need.stage].memory_bytes:
            largest[need.stage] = need
    return largest


# What is written


def _to_write(frame: Frame, plan: Plan, store: ArtifactStore, shape: ModelShape | None, size: int) -> list[Written]:
    """What takes room among that which is to be made; tables, pictures and texts take none to speak of."""
    study = frame.study
    if not isinstance(study, Study):
        return []
    count = {asset: sum(part.asset == asset for part in plan.due) for asset in {part.asset for part in plan.due}}
    place, moved_by = store.opened.scratch, "SUBLIMINAL_ARTIFACTS"
    found = []
    if "base_model" in count:
        found.append(Written("base model", place, size or _model_size(study, shape), moved_by))
    if shape is not None:
        adapters = 0
        for part in plan.due:
            asset, of_part = part.asset.removeprefix(VARIANT_OF), frame.study_of(*part.place)
            trained = {"teacher_lora": of_part.teacher, "child_lora": of_part.child}.get(asset)
            if trained is not None and trained.training is not None:
                lora = trained.lora
                each = _FLOAT32 * shape.lora_parameters(lora.rank) if lora else _model_size(study, shape)
                # The last one and that of every epoch.
                adapters += (trained.training.epochs + 1) * each
        found.append(Written("adapters", place, adapters, moved_by))
        vectors = count.get("activations", 0) * study.activations.rows
        if study.steering is not None:
            vectors += count.get("response_activations", 0) * study.steering.pairs
        found.append(Written("activations", place, vectors * _FLOAT32 * shape.hidden, moved_by))
    return [each for each in found if each.size]


def _model_size(study: Study, shape: ModelShape | None) -> int:
    source = study.base_model
    if source.kind == "local" and Path(source.path).is_dir():
        return sum(file.stat().st_size for file in model_files(Path(source.path)))
    return shape.parameters * _NUMBER[source.dtype] if shape else 0


# Who is asked


def _judges(study: AnyStudy, due: Collection[str], reasoning_tokens: int) -> list[Finding]:
    if not isinstance(study, Study) or study.descriptions is None:
        return []
    judge, source = study.descriptions.judge, study.descriptions.source
    asked: dict[str | None, None] = {}
    if judge.kind == "openai" and "feature_categories" in due:
        asked[judge.model] = None
    if source.kind == "made" and source.writer and "feature_descriptions" in due:
        asked[source.writer] = None
    return [check_judge(model, reasoning_tokens) for model in asked]
