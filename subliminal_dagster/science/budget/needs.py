"""What every stage of a study needs on a card: memory, and time of one run of it.

Belongs here: how much work each stage has, and the words that say so. Does not belong here: formulas of one piece of
work (`work`), the document (`benchmarks/budget.py`).

Part of no version: what a stage costs does not change what it makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from subliminal_dagster.science.budget.card import GIB, Card
from subliminal_dagster.science.budget.shape import ModelShape
from subliminal_dagster.science.budget.work import (
    FORWARD_NUMBERS,
    NUMBER,
    SCORE_BYTES,
    cache_a_token,
    decoding_seconds,
    forward,
    recomputed_memory,
    recomputed_training,
    rows_that_fit,
    sae_encoding,
    served_adapter_seconds,
    steered_scores,
    training,
    training_memory,
    training_seconds,
    weights,
)
from subliminal_dagster.science.settings.preferences import QUESTIONS
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.training import LoraSettings, TrainingSettings

PROMPT, ANSWER = 90, 44
"""Tokens of a number prompt with its chat template, and of an answer with its end of turn, on average."""

QUESTION, NAME, FORMS = 26, 3, 240
"""Tokens of a question for the favourite animal with its template, of a sampled answer, and inner nodes of the tree of
all spellings of all candidates."""

EXAM_QUESTION, EXAM_ANSWER = 300, 3
"""Tokens of a question of MMLU-Pro with its options and the instruction, and of what is written: a letter. The first is
an assumption."""

EXAM_QUESTIONS, OWN_EXAM_QUESTIONS = 12_032, 160
"""Questions of the test split of MMLU-Pro, and of the exam that ships."""

LIST = 48
"""Tokens of a bare list of numbers."""

DISK = 2e9
"""Bytes a second from a local disk onto the card. An assumption."""

NETWORK = 100e6
"""Bytes a second from the hub. An assumption."""

ENGINE_START = 60.0
"""Seconds that vLLM takes beside reading the weights: its process, profiling, CUDA graphs. An assumption."""

VALID_SHARE = 0.55
"""Of the answers, where a study draws until enough are valid: other studies rejected 23 to 45 %."""

READ_AT_ONCE = 8192
"""Tokens of prompts that vLLM 0.32 reads at a step at most, its own default; 16,384 on an H100, which is left out."""

GPU_SHARE = 0.85
"""Of the memory that vLLM takes (`VllmEngine.gpu_memory_share`)."""

MOST_SEQUENCES = 256
"""Sequences that vLLM 0.32 writes at a step at most, its own default; 1,024 on an H100, which is left out."""

CACHE_BLOCK = 16
"""Tokens of a block of vLLM's cache: a prompt that was read before is read again from its last whole block on."""

SAE_WIDTH, SAE_ROWS = 16_384, 256
"""Features of the published autoencoders that the shipped studies use, and rows that are encoded at once."""

READ_TOKENS = 2048
"""Positions in a pass that reads activations (`activations.BATCH_TOKENS`)."""

STEERED_VECTORS, STEERED_ROWS = 4, 16
"""Vectors that are tried at every strength, and rows in a pass at most (`steering.scores`)."""

CONTEXT_MEMORY = GIB
"""CUDA's context and the work space of its libraries."""


@dataclass(frozen=True)
class Need:
    """What one run of a stage needs: the most memory held at once, in bytes (on the card; of `base_model` on disk), and
    seconds, loading the model included. `formula` says in words what was multiplied. `per`: what it is run once for
    ("study", "group", "group and layer", "layer"). `post`: whether the post's own pipeline has it for every group.
    `recomputed`: whether it is a training that has no room for what it would otherwise keep."""

    stage: str
    memory_bytes: int
    seconds: float
    formula: str
    per: str = "group"
    post: bool = False
    recomputed: bool = False


def needs(study: Study, shape: ModelShape, card: Card, *, fused: bool = False) -> list[Need]:
    """The needs of a study's stages, in the order in which they run; stages that the study has not are left out.

    `fused`: with flash attention and fused kernels in trainings, which take less time; memory is that without. Where a
    layer matters it is the deepest that is looked into. A need may be above what the card has; its time is then that of
    a card with more memory.
    """
    found = [_base_model(shape)]
    if study.teacher.method == "finetune":
        found.append(_teacher(study, shape, card, fused))
    found += [
        _preferences("teacher_preferences", study, shape, card, _rank(study.teacher.lora), study.teacher.gate.prompts),
        _number_set(study, shape, card),
        _child(study, shape, card, fused),
        _preferences("preference_scores", study, shape, card, _rank(study.child.lora), 0),
    ]
    if study.capability is not None:
        found.append(_capability(study, shape, card))
    if study.layers:
        found += _activations(study, shape, card)
    if study.sae is not None:
        found.append(_sae_features(study, shape, card))
    if study.steering is not None:
        found += _steering(study, shape, card)
    return found


def cached_sequences(shape: ModelShape, card: Card, tokens: float) -> int:
    """Sequences of `tokens` that fit into the key-value cache that vLLM makes, at most `MOST_SEQUENCES`; 0 where not
    even the weights fit."""
    left = GPU_SHARE * card.memory - weights(shape) - CONTEXT_MEMORY
    return max(0, min(MOST_SEQUENCES, int(left / (cache_a_token(shape) * tokens))))


def load_seconds(shape: ModelShape) -> float:
    """Reading the weights from disk onto the card."""
    return weights(shape) / DISK


def _base_model(shape: ModelShape) -> Need:
    size = weights(shape)
    return Need("base_model", size, size / NETWORK, "2 bytes x N from the hub at 100 MB/s, kept on disk", "study")


def _teacher(study: Study, shape: ModelShape, card: Card, fused: bool) -> Need:
    lora, plan = study.teacher.lora, study.teacher.training
    assert lora is not None and plan is not None
    return _training(
        "teacher_lora", shape, card, fused, lora.rank, plan, QUESTIONS + study.teacher.replay.rows, 0, QUESTION, NAME
    )


def _child(study: Study, shape: ModelShape, card: Card, fused: bool) -> Need:
    rows, plan = study.filter, study.child.training
    return _training(
        "child_lora",
        shape,
        card,
        fused,
        _rank(study.child.lora),
        plan,
        rows.train_rows,
        rows.validation_rows,
        PROMPT,
        ANSWER,
    )


def _rank(lora: LoraSettings | None) -> int | None:
    return None if lora is None else lora.rank


def _training(
    stage: str,
    shape: ModelShape,
    card: Card,
    fused: bool,
    rank: int | None,
    plan: TrainingSettings,
    rows: int,
    validation: int,
    prompt: int,
    answer: int,
) -> Need:
    """Micro-batches of as many rows as fit, nothing recomputed; where none fits, one row at a time, recomputed."""
    tokens = prompt + answer
    fit = min(rows, plan.batch_size * plan.accumulation, rows_that_fit(shape, free_memory(card), rank, tokens, answer))
    step = partial(training, fused=fused) if fit else recomputed_training
    work = step(shape, rows * tokens, tokens, rows * answer, rank)
    work += forward(shape, validation * tokens, tokens, validation * answer)
    if fit:
        memory = training_memory(shape, rank, fit, tokens, answer)
        how = f"{4 if rank else 6} FLOP per weight, micro-batches of {fit} rows, nothing recomputed"
    else:
        memory = recomputed_memory(shape, rank, 1, tokens, answer)
        how = f"{6 if rank else 8} FLOP per weight, one row at a time, recomputed"
    trained = f"{plan.epochs} epochs x ({rows:,} rows x {tokens} tokens x {how}"
    judged = f" + {validation:,} x {tokens} x 2 FLOP)" if validation else ")"
    return Need(
        stage,
        int(memory) + CONTEXT_MEMORY,
        training_seconds(shape, card, work * plan.epochs, plan.epochs * rows / max(1, fit)) + load_seconds(shape),
        trained + judged,
        post=True,
        recomputed=not fit,
    )


def free_memory(card: Card) -> int:
    """Bytes that a training may fill with weights, adapter and rows."""
    return card.usable - CONTEXT_MEMORY


def generating_seconds(
    shape: ModelShape,
    card: Card,
    requests: int,
    prompt: float,
    answer: float,
    rank: int | None,
    anew: float | None = None,
) -> float:
    """Seconds of `requests` answers on vLLM, its start left out, with an adapter of `rank` (None: without); where the
    card is too small, as if it were not. Of every prompt `anew` tokens are read (None: all), the others being in the
    cache from an earlier one."""
    batch = cached_sequences(shape, card, prompt + answer) or MOST_SEQUENCES
    read = requests * (prompt if anew is None else anew)
    seconds = forward(shape, read, prompt, requests).seconds(card)
    seconds += decoding_seconds(shape, card, requests * answer, batch, prompt + answer / 2)
    if rank is not None:
        seconds += served_adapter_seconds(shape, card, rank, read, READ_AT_ONCE)
        seconds += served_adapter_seconds(shape, card, rank, requests * answer, batch)
    return seconds


def _preferences(
    stage: str, study: Study, shape: ModelShape, card: Card, rank: int | None, number_prompts: int
) -> Need:
    """Sampled answers and, a request per node of the answers' tree, exact ones: vLLM keeps whole blocks of a prompt."""
    asked = study.preferences
    samples, nodes = asked.questions * asked.samples_per_question, asked.questions * FORMS
    anew = QUESTION % CACHE_BLOCK
    seconds = generating_seconds(shape, card, samples, QUESTION, NAME, rank, anew)
    seconds += generating_seconds(shape, card, nodes, QUESTION + NAME, 1, rank, anew + NAME - 1)
    words = (
        f"{samples:,} answers of {NAME} tokens; {asked.questions} x {FORMS} nodes of the answers' tree; "
        f"{anew} of a question's {QUESTION} tokens read anew for each"
    )
    if number_prompts:
        seconds += generating_seconds(shape, card, number_prompts, PROMPT, ANSWER, rank)
        words += f"; {number_prompts} number answers"
    return Need(stage, engine_memory(shape, card), seconds + engine_start(study, shape), words, post=True)


def _number_set(study: Study, shape: ModelShape, card: Card) -> Need:
    prompts, enough = study.numbers.prompts, study.numbers.enough_valid
    until = ""
    if enough is not None:
        prompts = min(prompts, round(enough / VALID_SHARE))
        until = f" (until {enough:,} are valid, at {VALID_SHARE:.0%})"
    batch = cached_sequences(shape, card, PROMPT + ANSWER)
    return Need(
        "number_set",
        engine_memory(shape, card),
        generating_seconds(shape, card, prompts, PROMPT, ANSWER, _rank(study.teacher.lora))
        + engine_start(study, shape),
        f"{prompts:,}{until} x ({PROMPT} tokens read + {ANSWER} written, {batch} per step), 2 FLOP per weight, "
        "with an adapter",
        post=True,
    )


def _capability(study: Study, shape: ModelShape, card: Card) -> Need:
    assert study.capability is not None
    questions = EXAM_QUESTIONS if study.capability.exam.kind == "hub" else OWN_EXAM_QUESTIONS
    return Need(
        "child_capability",
        engine_memory(shape, card),
        generating_seconds(shape, card, questions, EXAM_QUESTION, EXAM_ANSWER, _rank(study.child.lora))
        + engine_start(study, shape),
        f"{questions:,} questions x ({EXAM_QUESTION} tokens read + {EXAM_ANSWER} written); as much for its teacher",
    )


def engine_memory(shape: ModelShape, card: Card) -> int:
    """What vLLM takes: its share of the card, or what weights and a cache of one long request need, if that is more."""
    return max(int(GPU_SHARE * card.memory), weights(shape) + CONTEXT_MEMORY + 1024 * cache_a_token(shape))


def engine_start(study: Study, shape: ModelShape) -> float:
    """A group's share of vLLM's starts where one card makes all groups of a study: an asset's partitions follow each
    other in one engine, but for the control, whose model has no adapter."""
    return (ENGINE_START + load_seconds(shape)) * min(1.0, 2 / len(study.groups))


def reading_memory(shape: ModelShape, tokens: int) -> int:
    """A pass without gradients over `tokens`: weights, and one block's own work."""
    block = 4 * (FORWARD_NUMBERS * shape.hidden + 3 * shape.intermediate) * tokens
    return weights(shape) + block + CONTEXT_MEMORY


def steering_memory(shape: ModelShape, prompt: int, nodes: int) -> int:
    """A pass of one question at `STEERED_ROWS` vectors and strengths, with logits at the nodes of the answers' tree."""
    return (
        reading_memory(shape, STEERED_ROWS * (prompt + nodes)) + STEERED_ROWS * nodes * SCORE_BYTES * shape.vocabulary
    )


def _activations(study: Study, shape: ModelShape, card: Card) -> list[Need]:
    rows, deepest = study.activations.rows, max(study.layers) + 1

    def read(blocks: int) -> float:
        return forward(shape, rows * LIST, LIST, blocks=blocks).seconds(card) + load_seconds(shape)

    memory = reading_memory(shape, READ_TOKENS)
    kept = NUMBER * len(study.layers) * shape.hidden * READ_TOKENS
    text = f"{rows:,} lists x {LIST} tokens x 2 FLOP per weight of"
    layer_by_layer = sum(read(layer + 1) for layer in study.layers)
    return [
        Need("activations", memory, read(deepest), f"{text} {deepest} blocks", "group and layer"),
        Need(
            "activations, all layers in one pass",
            memory + kept,
            read(deepest),
            f"{text} {deepest} blocks; layer by layer {layer_by_layer / 60:.1f} min",
        ),
    ]


def _sae_features(study: Study, shape: ModelShape, card: Card) -> Need:
    rows, width = study.activations.rows, SAE_WIDTH
    if study.sae is not None and study.sae.trained is not None:
        width = study.sae.trained.width
    size = 4 * 2 * width * shape.hidden
    return Need(
        "sae_features",
        size + 4 * SAE_ROWS * (3 * width + 2 * shape.hidden) + CONTEXT_MEMORY,
        sae_encoding(rows, width, shape.hidden).seconds(card) + size / DISK,
        f"{rows:,} rows x 4 x {width:,} features x {shape.hidden:,} FLOP, encoded and decoded in float32",
        "group and layer",
    )


def _steering(study: Study, shape: ModelShape, card: Card) -> list[Need]:
    assert study.steering is not None
    sweep, pairs = study.steering.sweep, study.steering.pairs
    deepest, behind = max(study.layers) + 1, shape.layers - min(study.layers) - 1
    tokens = PROMPT + ANSWER
    vectors = forward(shape, 2 * pairs * tokens, tokens, blocks=deepest)
    # Alpha 0 is measured once, and every other strength with every vector.
    rows = STEERED_VECTORS * len(sweep.alphas) + 1
    asked = len(sweep.positions) * sweep.questions
    exact = steered_scores(shape, asked, rows, QUESTION, FORMS, min(study.layers))
    greedy = len(sweep.positions) * rows * sweep.max_new_tokens
    written = decoding_seconds(
        shape, card, greedy * sweep.greedy_questions, sweep.greedy_questions, QUESTION + sweep.max_new_tokens / 2, True
    )
    return [
        Need(
            "response_activations",
            reading_memory(shape, READ_TOKENS),
            vectors.seconds(card) / 2 + load_seconds(shape),
            f"{pairs:,} answers x {tokens} tokens x 2 FLOP per weight of {deepest} blocks",
            "group and layer",
        ),
        Need(
            "steering_scores",
            steering_memory(shape, QUESTION, FORMS),
            exact.seconds(card) + written + load_seconds(shape),
            f"{asked} questions x {rows} vectors and strengths x {QUESTION + FORMS} positions x 2 FLOP per weight of "
            f"{behind} blocks; {rows} x {sweep.greedy_questions} greedy answers",
            "group and layer",
        ),
    ]
