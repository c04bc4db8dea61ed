"""Every stage of a study on a model with random weights, on whatever device there is, against the arithmetic.

    python benchmarks/gpu.py --model gemma-2-9b-it [--seconds 20] [--minutes 10]

Nothing is downloaded: the model is built from the config that ships with the study and saved to a temporary folder
(twice its parameters in bytes), with a stand-in tokenizer of its vocabulary's size. Each stage runs the project's own
code on as much work as takes about `--seconds` by arithmetic; none begins after `--minutes`. On a CPU the shape is
scaled down to a few narrow blocks and the work to about three seconds per stage.

The first lines measure the device itself: large matrix products and copies, which the shares of `budget.card` stand
for. For a card that `budget.card.CARDS` knows, the arithmetic's column is reckoned with its data sheet and those
shares, for any other device with the rates just measured. Memory is the most that PyTorch held on a GPU (CUDA's own
context left out), and on a CPU how much the process grew. Random weights never end an answer, so all are as long as
they may be; what they write is of no meaning, and how fast they write it is that of trained ones.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import importlib.util
import json
import math
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))

from tiny_models import GEMMA, SPECIAL, tiny_tokenizer

from subliminal_dagster.science.activations.activations import collect
from subliminal_dagster.science.budget.card import BANDWIDTH_SHARE, CARDS, GB, GIB, MATMUL_SHARE, Card
from subliminal_dagster.science.budget.needs import (
    ANSWER,
    CONTEXT_MEMORY,
    FORMS,
    LIST,
    NAME,
    PROMPT,
    QUESTION,
    READ_TOKENS,
    SAE_ROWS,
    SAE_WIDTH,
    STEERED_VECTORS,
    engine_memory,
    free_memory,
    generating_seconds,
    reading_memory,
    steering_memory,
)
from subliminal_dagster.science.budget.shape import ModelShape, config_of
from subliminal_dagster.science.budget.work import (
    cache_a_token,
    decoding_seconds,
    exact_scores,
    forward,
    recomputed_memory,
    recomputed_training,
    rows_that_fit,
    sae_encoding,
    steered_scores,
    training,
    training_memory,
    training_seconds,
    weights,
)
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.features.sae import encode
from subliminal_dagster.science.models.chat import ChatContext, load_tokenizer
from subliminal_dagster.science.models.loading import loaded, pick_device, release_memory
from subliminal_dagster.science.models.protocol import ModelVariant, Sampling
from subliminal_dagster.science.models.residual_stream import batched_residuals
from subliminal_dagster.science.models.scoring import AnswerTree
from subliminal_dagster.science.models.transformers_engine import TransformersEngine
from subliminal_dagster.science.models.vllm_engine import VllmEngine
from subliminal_dagster.science.preferences.preferences import AnswerForms
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.settings.base_model import HubSource
from subliminal_dagster.science.settings.steering import SteeringSweep
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.settings.training import LoraSettings, TrainingSettings
from subliminal_dagster.science.steering.scores import Direction, measure_steering
from subliminal_dagster.science.training.adapter import TrlTrainer
from subliminal_dagster.science.training.task import Row, TrainingTask

RANK = 16
"""Of the adapter that is trained and served."""

CPU_SECONDS = 3.0
"""By arithmetic, a stage on a CPU: what a matrix product of a narrow model really takes is several times that."""

CPU_REQUESTS = 40
"""To vLLM on a CPU, in the place of at least 256: its kernels are slow on shapes this narrow."""

SCALED = {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "head_dim": 64, "vocab_size": 4096}
"""What the shape is scaled down to on a CPU; the ratios of MLP to width and of heads to key-value heads stay."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma-2-9b-it", help="name of a shipped study, or a hub repository")
    parser.add_argument("--seconds", type=float, help="by arithmetic, a stage (a GPU: 20, a CPU: 3)")
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    device = pick_device()
    try:
        run(options.model, options.seconds or (20.0 if device == "cuda" else CPU_SECONDS), options.minutes, device)
    except UserError as error:
        sys.exit(str(error))


@dataclass(frozen=True)
class Result:
    """A stage's seconds and bytes, by arithmetic and as measured; `work` says how much of it was done."""

    stage: str
    work: str
    reckoned: float
    measured: float
    reckoned_memory: float
    measured_memory: float

    def line(self) -> str:
        return (
            f"{self.stage:<24} {self.work:<44} {self.reckoned:>9.2f} {self.measured:>9.2f} "
            f"{self.measured / self.reckoned:>6.2f} {self.reckoned_memory / GB:>9.2f} {self.measured_memory / GB:>9.2f}"
        )


@dataclass
class Bench:
    """A saved model of a shape on a device, how long a stage may take by arithmetic, and when none may begin."""

    folder: Path
    shape: ModelShape
    card: Card
    device: str
    seconds: float
    deadline: float
    results: list[Result] = field(default_factory=list)

    @property
    def base(self) -> ModelVariant:
        return ModelVariant(self.folder / "model", "bfloat16")

    def amount(self, seconds_a_piece: float, least: int, most: int) -> int:
        """Pieces that take `seconds` by arithmetic."""
        return max(least, min(most, int(self.seconds / seconds_a_piece)))

    def measure(
        self,
        stage: str,
        work: str,
        reckoned: float,
        reckoned_memory: float,
        action: Callable[[], float],
        elsewhere: list[float] | None = None,
    ) -> None:
        """Run the stage and print its line; `action` loads what it needs and returns the seconds of the work itself.
        `elsewhere` is the memory in other processes, where the work is theirs."""
        if time.monotonic() > self.deadline:
            print(f"{stage:<24} not run: out of time")
            return
        try:
            with memory_of(self.device) as memory:
                measured = action()
        except Exception as error:
            # The other stages are worth the rest of the time all the same.
            release_memory()
            print(f"{stage:<24} failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}", flush=True)
            return
        self.results.append(Result(stage, work, reckoned, measured, reckoned_memory, (elsewhere or memory)[0]))
        print(self.results[-1].line(), flush=True)


def run(model: str, seconds: float, minutes: float, device: str) -> list[Result]:
    """Measure all stages of a model, named by its study or hub repository, and print a line each."""
    deadline = time.monotonic() + 60 * minutes
    config = config_for(model, scaled=device == "cpu")
    shape = ModelShape.from_config(config)
    print(f"{model}: {shape.parameters:,} parameters{' (scaled down for a CPU)' if device == 'cpu' else ''}, bfloat16")
    card = card_of(device)
    with tempfile.TemporaryDirectory(prefix="gpu-bench-") as folder:
        save_random_model(config, shape, Path(folder) / "model", device)
        bench = Bench(Path(folder), shape, card, device, seconds, deadline)
        print(f"\n{'':<69} {'seconds':^19} {'':>6} {'GB':^19}")
        print(f"{'stage':<24} {'work':<44} {'arithm.':>9} {'measured':>9} {'ratio':>6} {'arithm.':>9} {'measured':>9}")
        # Or loading the library would count as memory of the first stage.
        importlib.import_module("subliminal_dagster.science.training.completion_trainer")
        teacher_step(bench)
        child_step(bench)
        generation(bench)
        served_generation(bench)
        scoring(bench)
        activations(bench)
        sae(bench)
        steering(bench)
    return bench.results


def config_for(model: str, scaled: bool) -> dict[str, Any]:
    """The config of a shipped study's base model or of a hub repository, scaled down where asked for."""
    repo = model
    if "/" not in model:
        study = load_study(model)
        if not isinstance(study, Study) or not isinstance(study.base_model, HubSource):
            raise UserError(f"The study {model} has no base model on the hub: name one that has.")
        repo = study.base_model.repo
    config = json.loads(json.dumps(config_of(repo)))
    if scaled:
        text = config.get("text_config", config)
        wide = text["hidden_size"], text["intermediate_size"], text["num_attention_heads"], text["num_key_value_heads"]
        text |= SCALED
        text["intermediate_size"] = SCALED["hidden_size"] * wide[1] // wide[0]
        text["num_key_value_heads"] = max(1, SCALED["num_attention_heads"] * wide[3] // wide[2])
        if "query_pre_attn_scalar" in text:
            text["query_pre_attn_scalar"] = SCALED["head_dim"]
        text |= {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
        if "vision_config" in config:
            config["vision_config"] |= {
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 56,
            }
    return config


def card_of(device: str) -> Card:
    """The card that the arithmetic is for: the data sheet of a known one, else what this device has just done."""
    flops, bandwidth = matmul_flops(device), copy_bandwidth(device)
    if device == "cpu":
        name, memory = f"cpu ({torch.get_num_threads()} threads)", psutil.virtual_memory().total
    else:
        name, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    known = next((card for card in CARDS.values() if card.name in name), None)
    print(f"{name}, {memory / GB:.0f} GB: matrix products {flops / 1e12:.3g} TFLOP/s, memory {bandwidth / GB:.4g} GB/s")
    if known is not None:
        print(
            f"of the data sheet's {known.flops / 1e12:.4g} TFLOP/s and {known.bandwidth / GB:.4g} GB/s that is "
            f"{flops / known.flops:.0%} and {bandwidth / known.bandwidth:.0%}; reckoned with are "
            f"{known.matmul_share:.0%} and {BANDWIDTH_SHARE:.0%}"
        )
        return known
    return Card(name, memory, flops / MATMUL_SHARE, bandwidth / BANDWIDTH_SHARE)


def best_of_three(work: Callable[[], Any], device: str) -> float:
    times = []
    for _ in range(4):
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def matmul_flops(device: str) -> float:
    """Operations a second in one large product of bfloat16 matrices."""
    size = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    return 2 * size**3 / best_of_three(lambda: a @ b, device)


def copy_bandwidth(device: str) -> float:
    """Bytes read and written a second in a copy."""
    source = torch.zeros((2**30 if device == "cuda" else 2**27), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / best_of_three(lambda: target.copy_(source), device)


def save_random_model(config: dict[str, Any], shape: ModelShape, folder: Path, device: str) -> None:
    """Random weights of the config's shape in bfloat16, and a stand-in tokenizer of its vocabulary."""
    from transformers import AutoConfig, AutoModelForCausalLM

    size, free = weights(shape), shutil.disk_usage(folder.parent).free
    if free < 1.1 * size:
        raise UserError(
            f"The random weights take {size / GB:.0f} GB and {folder.parent} has {free / GB:.0f} GB left: set "
            "TMPDIR to a folder with more."
        )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    del model
    release_memory()
    stand_in_tokenizer(shape.vocabulary).save_pretrained(folder)


def stand_in_tokenizer(size: int) -> Any:
    """A token for every character, with Gemma's template, and words that nobody writes up to `size` tokens."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    small = tiny_tokenizer(GEMMA)
    content = json.loads(small.backend_tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    vocabulary |= {f"filler{number}": number for number in range(len(vocabulary), size)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        bos_token=small.bos_token,
        eos_token=small.eos_token,
        pad_token=small.pad_token,
        additional_special_tokens=SPECIAL[1:2] + SPECIAL[3:],
        chat_template=GEMMA,
        clean_up_tokenization_spaces=False,
    )


@contextmanager
def memory_of(device: str) -> Iterator[list[float]]:
    """The most memory held while the block lasts, in bytes, in the list that it is given."""
    found = [0.0]
    release_memory()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        yield found
        found[0] = torch.cuda.max_memory_allocated()
        return
    if sys.platform == "linux":
        # Or what was freed before is filled first, and the process does not grow.
        ctypes.CDLL(None).malloc_trim(0)
    process, ended = psutil.Process(), threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not ended.wait(0.01):
            found[0] = max(found[0], process.memory_info().rss - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()


def timed(work: Callable[[], Any], device: str) -> float:
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def random_ids(shape: ModelShape, rows: int, length: int, seed: int = 0) -> list[list[int]]:
    """Token ids that are no special ones."""
    return np.random.default_rng(seed).integers(10, shape.vocabulary, (rows, length)).tolist()


def teacher_step(bench: Bench) -> None:
    """First also because CUDA's kernels are loaded and chosen in the first steps."""
    train(bench, "teacher step", QUESTION, NAME, most=50)


def child_step(bench: Bench) -> None:
    train(bench, "child step", PROMPT, ANSWER, most=720)


def train(bench: Bench, stage: str, prompt: int, answer: int, most: int) -> None:
    """One epoch of the adapter of the post on rows of a length, in batches that fit."""
    shape, card, tokens = bench.shape, bench.card, prompt + answer
    lora = LoraSettings(rank=RANK, alpha=32, rslora=True)
    fit = rows_that_fit(shape, free_memory(card), lora.rank, tokens, answer)
    batch = min(fit or 1, 24)
    piece = training if fit else recomputed_training
    memory = (training_memory if fit else recomputed_memory)(shape, lora.rank, batch, tokens, answer)
    work_of_step = piece(shape, batch * tokens, tokens, batch * answer, lora.rank)
    step = training_seconds(shape, card, work_of_step, 1)
    steps = bench.amount(step, 1, math.ceil(most / batch))
    prompts, answers = random_ids(shape, steps * batch, prompt), random_ids(shape, steps * batch, answer, 1)
    rows = [Row(*row) for row in zip(prompts, answers, strict=True)]
    plan = TrainingSettings(learning_rate=1e-4, batch_size=batch, epochs=1, max_length=512)
    output, work = bench.folder / stage, bench.folder / f"{stage} work"
    work.mkdir()

    def action() -> float:
        task = TrainingTask(bench.base, rows, lora, plan, seed=0)
        return TrlTrainer(gradient_checkpointing=not fit).train(task, output, work).seconds

    how = "" if fit else ", recomputed"
    bench.measure(stage, f"{steps} steps of {batch} rows x {tokens} tokens{how}", steps * step, memory, action)
    shutil.rmtree(work)


def generation(bench: Bench) -> None:
    """Number answers through transformers."""
    shape, card, engine = bench.shape, bench.card, TransformersEngine()

    def reckoned(requests: int) -> float:
        read = forward(shape, requests * PROMPT, PROMPT, requests).seconds(card)
        batch = min(requests, engine.generate_batch)
        return read + decoding_seconds(shape, card, requests * ANSWER, batch, PROMPT + ANSWER / 2, eager=True)

    full = reckoned(engine.generate_batch)
    share = min(1.0, bench.seconds / full)
    requests = max(4, int(share * engine.generate_batch)) * bench.amount(full, 1, 8)
    prompts = random_ids(shape, requests, PROMPT)

    def action() -> float:
        with engine.open(bench.base) as session:
            session.generate(prompts[:1], sampling(bench, 2))
            return timed(lambda: session.generate(prompts, sampling(bench, ANSWER)), bench.device)

    # A step's logits as they are, in float32 and, after the softmax, in float64, with its running sum.
    memory = weights(shape) + engine.generate_batch * ((PROMPT + ANSWER) * cache_a_token(shape) + 26 * shape.vocabulary)
    work = f"{requests} x {PROMPT} tokens read, {ANSWER} written"
    bench.measure("generation, transformers", work, reckoned(requests), memory, action)


def served_generation(bench: Bench) -> None:
    """Number answers through vLLM, under the adapter that the child's step has made."""
    if importlib.util.find_spec("vllm") is None:
        print(f"{'generation, vLLM':<24} not run: vLLM is not installed")
        return
    shape, card = bench.shape, bench.card
    adapter = bench.folder / "child step"
    one = generating_seconds(shape, card, 256, PROMPT, ANSWER, RANK)
    requests = 256 * bench.amount(one, 1, 16) if bench.device == "cuda" else CPU_REQUESTS
    prompts = random_ids(shape, requests, PROMPT)
    variant = ModelVariant(bench.base.base, bench.base.dtype, adapter=adapter if adapter.is_dir() else None)
    held = [0.0]

    def action() -> float:
        before = memory_in_use(bench.device)
        with VllmEngine().open(variant) as session:
            session.generate(prompts[:1], sampling(bench, 2))
            seconds = timed(lambda: session.generate(prompts, sampling(bench, ANSWER)), "cpu")
            held[0] = memory_in_use(bench.device) - before
        return seconds

    work = f"{requests} x {PROMPT} tokens read, {ANSWER} written"
    reckoned = generating_seconds(shape, card, requests, PROMPT, ANSWER, RANK)
    memory = engine_memory(shape, card) if bench.device == "cuda" else weights(shape) + 2 * GIB
    bench.measure("generation, vLLM", work, reckoned, memory, action, held)


def memory_in_use(device: str) -> float:
    """Bytes of the device that all processes hold: of a GPU all, of a machine those of this one's children."""
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        return total - free
    return sum(child.memory_info().rss for child in psutil.Process().children(recursive=True))


def sampling(bench: Bench, tokens: int) -> Sampling:
    end = ChatContext(load_tokenizer(bench.base.base)).end_of_turn
    return Sampling(tokens, (end,), seed=0, temperature=1.0, top_p=0.95)


def scoring(bench: Bench) -> None:
    """Exact probabilities of answers whose tree has as many nodes as that of all spellings of all candidates."""
    shape, card, engine = bench.shape, bench.card, TransformersEngine()
    answers = random_ids(shape, FORMS // 2, 3, seed=2)
    nodes = len(AnswerTree.build(answers).tokens)
    questions = bench.amount(exact_scores(shape, 1, QUESTION, nodes).seconds(card), 2, 200)
    prompts = random_ids(shape, questions, QUESTION)

    def action() -> float:
        with engine.open(bench.base) as session:
            session.score(prompts[:1], answers)
            return timed(lambda: session.score(prompts, answers), bench.device)

    together = min(questions, engine.score_batch)
    # Logits of the batch with their cap, and of one row in float32 with its log-softmax.
    memory = (
        reading_memory(shape, together * (QUESTION + nodes))
        - CONTEXT_MEMORY
        + (4 * together + 8) * nodes * shape.vocabulary
    )
    reckoned = exact_scores(shape, questions, QUESTION, nodes).seconds(card)
    bench.measure("scoring", f"{questions} questions x {nodes} nodes of answers", reckoned, memory, action)


def activations(bench: Bench) -> None:
    """The residual stream of lists of numbers: after one block, and after three blocks in one pass."""
    shape, card = bench.shape, bench.card
    layers = [shape.layers // 4, shape.layers // 2, 3 * shape.layers // 4]
    rows = bench.amount(forward(shape, LIST, LIST, blocks=layers[1] + 1).seconds(card), 64, 10_000)
    numbers = np.random.default_rng(3).integers(100, 1000, (rows, LIST // 5))
    texts = [", ".join(map(str, row)) for row in numbers]
    sequences = random_ids(shape, rows, LIST)

    def with_model(work: Callable[[Any], Any]) -> float:
        with loaded(bench.base, bench.device, merge=False) as model:
            return timed(lambda: work(model), bench.device)

    def one(model: Any) -> None:
        collect(model, load_tokenizer(bench.base.base), texts, layers[1])

    def all_in_one(model: Any) -> None:
        for _ in batched_residuals(model, sequences, layers, batch_tokens=READ_TOKENS):
            pass

    memory = reading_memory(shape, READ_TOKENS) - CONTEXT_MEMORY
    for stage, deepest, work in (("activations", layers[1], one), ("activations, 3 layers", layers[2], all_in_one)):
        reckoned = forward(shape, rows * LIST, LIST, blocks=deepest + 1).seconds(card)
        described = f"{rows} lists x {LIST} tokens, {deepest + 1} blocks"
        bench.measure(stage, described, reckoned, memory, lambda work=work: with_model(work))  # type: ignore[misc]


def sae(bench: Bench) -> None:
    """A JumpReLU autoencoder of random weights of which a hundredth of the features fires."""
    from sae_lens import SAE

    hidden = bench.shape.hidden
    width = SAE_WIDTH if bench.device == "cuda" else 8 * hidden
    made = SAE.from_dict(
        {
            "architecture": "jumprelu",
            "d_in": hidden,
            "d_sae": width,
            "device": bench.device,
            "metadata": {"hook_name": "blocks.1.hook_resid_post"},
        }
    )
    torch.nn.init.normal_(made.W_enc, std=hidden**-0.5)
    torch.nn.init.normal_(made.W_dec, std=hidden**-0.5)
    torch.nn.init.constant_(made.threshold, 2.3)
    rows = bench.amount(sae_encoding(1, width, hidden).seconds(bench.card), SAE_ROWS, 100_000)
    vectors = np.random.default_rng(4).normal(size=(rows, hidden)).astype(np.float32)

    def action() -> float:
        encode(made, vectors[:SAE_ROWS])
        return timed(lambda: encode(made, vectors), bench.device)

    memory = 8 * width * hidden + 4 * SAE_ROWS * (3 * width + 2 * hidden)
    reckoned = sae_encoding(rows, width, hidden).seconds(bench.card)
    bench.measure("SAE encoding", f"{rows} rows, {width:,} features", reckoned, memory, action)


def steering(bench: Bench) -> None:
    """Four random vectors at all strengths of the post: exact scores of the real questions, and greedy answers."""
    shape, card, engine, lists = bench.shape, bench.card, TransformersEngine(), load_prompt_lists()
    context = ChatContext(load_tokenizer(bench.base.base))
    layer, names = shape.layers // 2, ("owl", "cat", "dog")
    nodes = len(AnswerTree.build(AnswerForms.of(names, context, lists).tokens).tokens)
    prompt = int(np.mean([len(context.prompt_ids(question)) for question in lists.animal_questions]))
    sweep = SteeringSweep(greedy_questions=2, max_new_tokens=8)
    strengths = STEERED_VECTORS * len(sweep.alphas) + 1
    questions = bench.amount(steered_scores(shape, 1, strengths, prompt, nodes, layer).seconds(card), 2, 50)
    sweep = sweep.model_copy(update={"questions": questions})
    vectors = np.random.default_rng(5).normal(size=(STEERED_VECTORS, shape.hidden)).astype(np.float32)
    directions = [Direction(f"random {number}", {layer: vector}) for number, vector in enumerate(vectors)]

    def action() -> float:
        with engine.open(bench.base) as session:
            return timed(
                lambda: measure_steering(session, context, lists, directions, sweep, names, names[0], seed=0),
                bench.device,
            )

    greedy = strengths * sweep.greedy_questions * sweep.max_new_tokens
    reckoned = steered_scores(shape, questions, strengths, prompt, nodes, layer).seconds(card)
    reckoned += decoding_seconds(shape, card, greedy, sweep.greedy_questions, prompt, eager=True)
    work = f"{questions} questions x {strengths} strengths x {prompt + nodes} tokens"
    bench.measure("steering", work, reckoned, steering_memory(shape, prompt, nodes) - CONTEXT_MEMORY, action)


if __name__ == "__main__":
    main()
