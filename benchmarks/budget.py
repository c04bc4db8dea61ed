"""Print what a study takes on a card, or write docs/gpu-budget.md.

    python benchmarks/budget.py                                    writes docs/gpu-budget.md
    python benchmarks/budget.py --study gemma-2-2b-it --card L40S  prints the table of a study on a card

All figures come from `subliminal_dagster.science.budget`; here is only the text around them.
"""

# ruff: noqa: E501 (a row of a table is one line)

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from subliminal_dagster.science.budget import needs as counts
from subliminal_dagster.science.budget.card import BANDWIDTH_SHARE, CARDS, GB, GIB, MATMUL_SHARE, USABLE_MEMORY, Card
from subliminal_dagster.science.budget.needs import ANSWER, PROMPT, Need, free_memory, needs
from subliminal_dagster.science.budget.shape import ModelShape, shape_of
from subliminal_dagster.science.budget.work import (
    EAGER_BLOCK,
    EAGER_TRAINING,
    KERNEL,
    LOGIT_BYTES,
    PASSES,
    cache_a_token,
    forward,
    kept_a_token,
    recomputed_training,
    rows_that_fit,
    served_adapter_seconds,
    trained_memory,
    training,
    weights,
)
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.base_model import HubSource
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study, shipped_studies

DOCUMENT = Path(__file__).parents[1] / "docs" / "gpu-budget.md"
POST_MINUTES = 45
"""What the post says of "a 3 epoch pipeline with 10K samples" on an RTX A6000."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", help="a shipped study or a study file")
    parser.add_argument("--card", choices=list(CARDS), default="A6000")
    options = parser.parse_args()
    if options.study is None:
        DOCUMENT.write_text(document(), encoding="utf-8")
        print(f"{DOCUMENT} written")
        return
    try:
        study = load_study(options.study)
        if not isinstance(study, Study):
            raise UserError(f"The study {study.name} has no language model, and nothing to reckon.")
        print(stage_table(needs(study, shape_of(study), CARDS[options.card]), CARDS[options.card]))
    except UserError as error:
        sys.exit(str(error))


def document() -> str:
    """The text of docs/gpu-budget.md."""
    study, card = load_study("gemma-2-9b-it"), CARDS["A6000"]
    assert isinstance(study, Study)
    shape = shape_of(study)
    found = needs(study, shape, card)
    parts = [
        introduction(study, shape, found),
        "## A group, stage by stage\n\n" + stage_table(found, card) + totals(study, shape, card, found),
        against_the_post(shape, card, study, found),
        training_memory_text(shape, card),
        other_studies(),
        figures(study, shape, card),
    ]
    return "\n\n".join(parts) + "\n"


def introduction(study: Study, shape: ModelShape, found: list[Need]) -> str:
    return f"""# What a study takes on a GPU

Arithmetic, printed by `python benchmarks/budget.py` from `subliminal_dagster/science/budget`, which has every formula
once. `benchmarks/budget.py --study S --card C` prints any study on any card ({", ".join(CARDS)}).

**No stage of this project has ever been run on a GPU**, no Gemma and no Qwen has been loaded by it, and none of its GPU
paths has been timed: bfloat16 on CUDA, flash attention and fused kernels, vLLM's CUDA build with an adapter. What is
tested is the arithmetic: parameters against the published counts and against transformers, operations against PyTorch's
counter, kept bytes against what autograd keeps. `benchmarks/gpu.py --model {study.name}` measures every stage against
these figures and is built to finish within ten minutes, with random weights and nothing downloaded; on a CPU it runs a
scaled-down shape.

Unless said otherwise the figures are for `{study.name}` ({shape.layers} layers, hidden size {shape.hidden:,}, MLP
{shape.intermediate:,}, {shape.heads} query and {shape.kv_heads} key-value heads of {shape.head_width}, vocabulary \
{shape.vocabulary:,}, N = {shape.parameters:,} parameters,
of which {shape.layers * shape.block_matrices / 1e9:.2f}e9 multiply every token) in bfloat16 on an RTX A6000; adapters and \
their optimizer are float32."""


def stage_table(found: list[Need], card: Card) -> str:
    lines = [f"| stage | once per | minutes | GB on the {card.name} | from |", "|---|---|---|---|---|"]
    for need in found:
        fits = "" if need.stage == "base_model" or need.memory_bytes <= card.memory else " (does not fit)"
        memory = f"{need.memory_bytes / GB:.1f}{fits}" if need.stage != "base_model" else "on disk"
        lines.append(f"| `{need.stage}` | {need.per} | {need.seconds / 60:.1f} | {memory} | {need.formula} |")
    return "\n".join(lines)


def post_minutes(found: list[Need]) -> float:
    """Of a group, what the post's own pipeline has too."""
    return sum(need.seconds for need in found if need.post) / 60


def minutes(found: list[Need], stage: str) -> float:
    return next(need.seconds for need in found if need.stage == stage) / 60


def totals(study: Study, shape: ModelShape, card: Card, found: list[Need]) -> str:
    pipeline, with_kernels = post_minutes(found), post_minutes(needs(study, shape, card, fused=True))
    layers = len(study.layers)
    inside = minutes(found, "activations, all layers in one pass") + layers * (
        minutes(found, "sae_features") + minutes(found, "response_activations") + minutes(found, "steering_scores")
    )
    exam = 2 * minutes(found, "child_capability")
    groups = len(study.groups)
    return f"""

Every line includes loading the model (and where vLLM is used a group's share of its start). The post's own pipeline, teacher to
preferences, takes **{with_kernels:.1f} minutes per group** with flash attention and fused kernels (docs/gpu.md), {pipeline:.1f} without, which
is what the table has. This project adds {inside:.0f} minutes for activations, features, \
vectors and
steering at {layers} layers; {exam:.0f} for MMLU-Pro of a child and its teacher (on request). Exact scores of all candidates are part
of `teacher_preferences` and `preference_scores`. {groups} groups: {groups * pipeline / 60:.0f} hours to \
the verdict,
{groups * inside / 60:.0f} for the inside, {groups * exam / 60:.0f} for the exam. Probes, statistics and figures run on CPUs \
(docs/looking-inside.md)."""


def against_the_post(shape: ModelShape, card: Card, study: Study, found: list[Need]) -> str:
    epochs, rows = study.child.training.epochs, study.filter.train_rows
    tokens, answers, length = epochs * rows * (PROMPT + ANSWER), epochs * rows * ANSWER, PROMPT + ANSWER
    assert study.child.lora is not None
    rank = study.child.lora.rank
    plain, fused = (training(shape, tokens, length, answers, rank, fused=fused) for fused in (False, True))
    recomputed = recomputed_training(shape, tokens, length, answers, rank)
    judged = epochs * study.filter.validation_rows
    judging = forward(shape, judged * length, length, judged * ANSWER).seconds(card) / 60
    products = card.seconds(plain.flop) / 60
    moving, moving_fused = card.seconds(0, plain.moved) / 60, card.seconds(0, fused.moved) / 60
    total, with_kernels = post_minutes(found), post_minutes(needs(study, shape, card, fused=True))
    all_answered = study.model_copy(update={"numbers": study.numbers.model_copy(update={"enough_valid": None})})
    drawn = post_minutes(needs(all_answered, shape, card)) - total
    start = counts.ENGINE_START + counts.load_seconds(shape)
    starts = 3 * (start - counts.engine_start(study, shape)) / 60
    share = plain.flop / plain.seconds(card) / card.flops
    saved = moving - moving_fused
    return f"""## Against the post's {POST_MINUTES} minutes

The post: "~{POST_MINUTES} minutes for a 3 epoch pipeline with 10K samples" on the same card, with Unsloth's kernels; it does not say \
what
the pipeline included. Our arithmetic gives **{with_kernels:.1f}** with flash attention and fused kernels (docs/gpu.md), \
{total:.1f} without, of which the child takes
{minutes(found, "child_lora"):.0f}:

| part of the child | minutes | from |
|---|---|---|
| matrix products | {products:.1f} | {tokens / 1e6:.2f}M tokens x 4 FLOP per weight (2 forward, 2 for the gradient that flows through; frozen weights \
have none of their own), the head at {answers / 1e6:.2f}M answer tokens, adapter 6 FLOP per weight; at {card.matmul_share:.0%} of the peak |
| everything else | {moving:.1f} | {kept_a_token(shape, length) / 1e6:.1f} MB per token kept for the backward pass, x {PASSES}, \
and {LOGIT_BYTES} bytes x 2 per logit; at {BANDWIDTH_SHARE:.0%} of the bandwidth |
| validation loss | {judging:.1f} | {judged:,} rows forward |
| with everything recomputed | +{(recomputed.seconds(card) - plain.seconds(card)) / 60:.1f} | 2 FLOP per weight more |
| with flash attention and fused kernels | -{saved:.1f} | {kept_a_token(shape, length, fused=True) / 1e6:.1f} MB per token |

That is {share:.0%} of the card's peak. Two things keep the rest short, and neither changes what an experiment says. Partitions of an \
asset
follow each other in one vLLM, where one start per stage and group would take {starts:.1f} minutes more. And a teacher's answers are drawn until \
{study.numbers.enough_valid:,}
are valid (`numbers.enough_valid`), not to all {study.numbers.prompts:,} prompts, which would take {drawn:.1f} more: answers are \
independent, so that it cannot
matter which are left undrawn. It is reckoned that {counts.VALID_SHARE:.0%} are valid, the least that others report. At other shares of the peak a \
group takes:

{share_table(study, shape, card)}"""


def share_table(study: Study, shape: ModelShape, card: Card) -> str:
    shares = (0.5, card.matmul_share, 0.7, 0.8)
    cards = [Card(card.name, card.memory, card.flops, card.bandwidth, share) for share in shares]
    head = " | ".join(f"{share:.0%}" for share in shares)
    lines = [f"| share of the peak in matrix products | {head} |", f"|---|{'---|' * len(shares)}"]
    for fused, what in ((True, "minutes per group"), (False, "without flash attention and fused kernels")):
        cells = [f"{post_minutes(needs(study, shape, other, fused=fused)):.0f}" for other in cards]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def training_memory_text(shape: ModelShape, card: Card) -> str:
    length, rank = PROMPT + ANSWER, 16
    kept, fused = kept_a_token(shape, length), kept_a_token(shape, length, fused=True)
    logits = LOGIT_BYTES * shape.vocabulary
    fit = rows_that_fit(shape, free_memory(card), rank, length, ANSWER)
    return f"""## Memory of a child's step

| | GB | from |
|---|---|---|
| weights | {weights(shape) / GB:.1f} | 2 bytes x N |
| adapter r {rank}, all seven projections | {trained_memory(shape, rank) / GB:.2f} | {shape.lora_parameters(rank) / 1e6:.0f}M parameters x 16 \
bytes (weight, gradient, two moments) |
| a row of {length} tokens | {kept * length / GB:.2f} | {kept / shape.layers / 1e3:.0f} kB per token and layer, nothing recomputed |
| the same, fused kernels | {fused * length / GB:.2f} | {fused / shape.layers / 1e3:.0f} kB per token and layer |
| its logits | {logits * ANSWER / GB:.2f} | {ANSWER} answer tokens x {shape.vocabulary:,} x {LOGIT_BYTES} bytes |
| CUDA, fragments | {(card.memory - free_memory(card)) / GB:.1f} | {1 - USABLE_MEMORY:.0%} of the card and 1 GiB |

**{fit} rows** fit at a time without recomputation. A step of 72 rows is a sum of gradients, so how it is split changes nothing \
but
rounding. (The trainer plans with its longest row and keeps a fifth of what is free in reserve, so it starts with fewer.) vLLM \
takes {counts.GPU_SHARE:.0%} of a card: here {counts.GPU_SHARE * card.memory / GB:.1f} GB, of which the weights \
leave room for {(counts.GPU_SHARE * card.memory - weights(shape) - GIB) / cache_a_token(shape):,.0f} tokens of
cache at {cache_a_token(shape) / 1e3:.0f} kB."""


def other_studies() -> str:
    head = [f"| study | N | GB | {' | '.join(CARDS)} |", f"|---|---|---|{'---|' * len(CARDS)}"]
    for name in shipped_studies():
        study = load_study(name)
        if not isinstance(study, Study) or not isinstance(study.base_model, HubSource):
            continue
        shape = shape_of(study)
        cells = []
        for card in CARDS.values():
            found = needs(study, shape, card)
            child = next(need for need in found if need.stage == "child_lora")
            if max(need.memory_bytes for need in found if need.post) > card.memory:
                cells.append("does not fit")
            else:
                recomputed = ", recomputed" if child.recomputed else ""
                cells.append(f"{post_minutes(found):.0f} ({child.seconds / 60:.0f}{recomputed})")
        head.append(f"| `{name}` | {shape.parameters / 1e9:.2f}e9 | {weights(shape) / GB:.1f} | {' | '.join(cells)} |")
    return (
        "## Every study on every card\n\nMinutes per group for the post's pipeline, in brackets for the child alone, without flash attention and fused kernels.\n\n"
        + "\n".join(head)
    )


def figures(study: Study, shape: ModelShape, card: Card) -> str:
    assert study.teacher.lora is not None
    read = forward(shape, PROMPT, PROMPT, 1).seconds(card)
    served = served_adapter_seconds(shape, card, study.teacher.lora.rank, PROMPT, counts.READ_AT_ONCE) / read
    cards = [
        f"| {card.name} | {card.memory / GIB:.0f} | {card.flops / 1e12:.4g} | {card.bandwidth / GB:,.0f} | {card.matmul_share:.0%} |"
        for card in CARDS.values()
    ]
    return f"""## Assumptions

| card | GiB | TFLOP/s, dense bfloat16 | GB/s | share in matrix products |
|---|---|---|---|---|
{chr(10).join(cards)}

The first three figures are from the makers' data sheets. The shares of A6000 and A100 were measured by others (95 and 230 TFLOP/s in large
float16 products: github.com/mli/transformers-benchmarks); for the other cards {MATMUL_SHARE:.0%} is assumed. {BANDWIDTH_SHARE:.0%} of
the bandwidth is assumed to be used (the same source: 85 and 79 %). Matrix products and what moves through memory \
beside them are
added, since a card does one after the other. A step of writing takes as long as its products or as reading the weights,
whichever is longer, plus reading the cache. With transformers no block takes less than {EAGER_BLOCK * 1e3:.1f} ms \
({EAGER_BLOCK * EAGER_TRAINING * 1e3:.1f} in
training), which is assumed to be the time to start its kernels: this is what small models wait for.

| count | | from |
|---|---|---|
| number prompt, answer | {PROMPT}, {ANSWER} tokens | our prompt lists and formats in the bundled tokenizer, ten numbers, end of turn (91.5, 44.0); \
Gemma's has single digits too, and a template 4 tokens shorter |
| question, sampled answer | {counts.QUESTION}, {counts.NAME} tokens | our 50 questions, likewise |
| tree of all spellings | {counts.FORMS} nodes | 20 candidates, 168 forms, likewise (236) |
| bare list of numbers | {counts.LIST} tokens | likewise (46.9 and BOS) |
| question of MMLU-Pro | {counts.EXAM_QUESTION} tokens | assumed |
| answer to it | {counts.EXAM_ANSWER} tokens | assumed: a letter, a mark, the end of the turn |
| start of vLLM | {counts.ENGINE_START:.0f} s | assumed |
| disk to card, hub to disk | {counts.DISK / GB:.0f} and {counts.NETWORK / GB:.1f} GB/s | assumed |
| an adapter served by vLLM | {served:.0%} of reading | what its kernels move through memory, and 14 per block and step of {KERNEL * 1e6:.0f} \
microseconds each (assumed) |
| read at a step by vLLM | {counts.READ_AT_ONCE:,} tokens | vLLM 0.32's own default |
| valid answers, where a study draws until there are enough | {counts.VALID_SHARE:.0%} | others rejected 23 to 45 % |
| sequences per step | {counts.MOST_SEQUENCES} | vLLM 0.32's own default; 1,024 on an H100, which is left out |"""


if __name__ == "__main__":
    main()
