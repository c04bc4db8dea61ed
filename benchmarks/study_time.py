"""Where the time of a study that was made went, by the records in DAGSTER_HOME and the artifact store.

    DAGSTER_HOME=... python benchmarks/study_time.py [--study NAME_OR_FILE] [--workers N]

Prints the seconds of every asset, how long the workers had nothing to do, when the verdict was there, and how many
tokens per second training and generation made, beside what arithmetic allows: the speed of a large matrix product,
measured now on this machine with the threads that one worker has, through the operations of a token (4 x parameters
forward and backward through frozen weights, 2 x parameters forward). So run it on the machine that made the study,
while nothing else is at work. Scoring of fixed answers is part of no rate.

Idle is the time of the workers in which no run was theirs, while the command was at work: a minute without any run is
taken for its end. As many workers are assumed as ever were at work at once, unless --workers says how many.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg
import torch

from subliminal_dagster.build import overrides_from_environment, resources_from_environment, study_frame
from subliminal_dagster.cli import DEFAULT_STUDY
from subliminal_dagster.execution.instance import open_instance
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.planning.priority import VERDICT
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.records import Manifest
from subliminal_dagster.science.storage.store import ArtifactStore

OVER_AFTER_SECONDS = 60.0
TRAINING, GENERATION = 4, 2
"""Floating-point operations a token and parameter."""

Span = tuple[float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default=DEFAULT_STUDY)
    parser.add_argument("--workers", type=int, help="how many could be at work at once")
    options = parser.parse_args()
    frame = study_frame(load_study(options.study, overrides_from_environment()))
    made = manifests(frame, resources_from_environment()["store"].create())
    if not made:
        raise SystemExit(f"Nothing of {frame.study.name} was made yet.")
    with open_instance() as instance:
        spans = runs(instance, frame)
    assets(made)
    workers = options.workers or most_at_once(spans)
    idle(spans, workers, made)
    speed(made, threads=max(1, (os.cpu_count() or 1) // max(workers, 1)))


def manifests(frame: Frame, store: ArtifactStore) -> dict[str, list[Manifest]]:
    """What there is of every asset."""
    study = frame.study.name
    found = {
        name: [store.manifest(study, name, p) for p in frame.partitions(name) if store.exists(study, name, p)]
        for name in frame.nodes
    }
    return {name: of_asset for name, of_asset in found.items() if of_asset}


def runs(instance: dg.DagsterInstance, frame: Frame) -> list[Span]:
    """Start and end of the study's runs that have ended, in seconds since 1970, in the order of their starts."""
    steps = {frame.key(name).to_python_identifier() for name in frame.nodes}
    return sorted(
        (record.start_time, record.end_time)
        for record in instance.get_run_records()
        if record.start_time and record.end_time
        if any(step.step_key in steps for step in instance.get_run_step_stats(record.dagster_run.run_id))
    )


def assets(made: dict[str, list[Manifest]]) -> None:
    seconds = {name: sum(m.info["wall_seconds"] for m in of_asset) for name, of_asset in made.items()}
    whole = sum(seconds.values())
    print(f"{'asset':28} {'parts':>5} {'seconds':>8} {'share':>6}")
    for name in sorted(seconds, key=seconds.__getitem__, reverse=True):
        print(f"{name:28} {len(made[name]):5} {seconds[name]:8.1f} {seconds[name] / whole:6.1%}")
    print(f"{'all':28} {sum(map(len, made.values())):5} {whole:8.1f}")


def most_at_once(spans: list[Span]) -> int:
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    at_once, most = 0, 0
    for _, change in changes:
        at_once += change
        most = max(most, at_once)
    return most


def idle(spans: list[Span], workers: int, made: dict[str, list[Manifest]]) -> None:
    if not spans:
        print("\nDAGSTER_HOME has no run of it, so when workers were idle is unknown")
        return
    print(f"\n{len(spans)} runs on {workers} workers")
    verdict = made[VERDICT][0].created.timestamp() if VERDICT in made else None
    for session in sessions(spans):
        begin, end = session[0][0], max(end for _, end in session)
        parts = {"whole": end}
        if verdict is not None and begin <= verdict <= end:
            parts = {f"until {VERDICT}": verdict, "whole": end}
        for what, until in parts.items():
            there = workers * (until - begin)
            busy = sum(min(e, until) - s for s, e in session if s < until)
            print(
                f"{what}: {until - begin:.0f} s, workers idle {there - busy:.0f} s ({1 - busy / there:.1%} of theirs)"
            )


def sessions(spans: list[Span]) -> Iterator[list[Span]]:
    """The runs of every time that the command was at work."""
    current: list[Span] = []
    for span in spans:
        if current and span[0] - max(end for _, end in current) > OVER_AFTER_SECONDS:
            yield current
            current = []
        current.append(span)
    yield current


@dataclass
class Tokens:
    """How many of an asset's tokens went through the model, and in how many seconds."""

    count: float = 0
    seconds: float = 0


def speed(made: dict[str, list[Manifest]], threads: int) -> None:
    parameters = made["base_model"][0].info["host"]["parameters"] if "base_model" in made else None
    if parameters is None:
        return
    limits = peaks(threads)
    shown = ", ".join(f"{name} {flops / 1e9:.0f} GFLOP/s" for name, flops in limits.items())
    print(f"\n{parameters / 1e6:.1f} million parameters; a large matrix product here, {threads} threads: {shown}")
    print(f"{'tokens a second':28} {'tokens':>9} {'measured':>9} " + " ".join(f"{'of ' + name:>12}" for name in limits))
    for operations, facts in ((TRAINING, trained), (GENERATION, generated)):
        sums: dict[str, Tokens] = defaultdict(Tokens)
        for name, of_asset in made.items():
            for manifest in of_asset:
                count, seconds = facts(manifest.info["host"])
                sums[name].count += count
                sums[name].seconds += seconds
        for name, tokens in sums.items():
            if tokens.seconds:
                rate = tokens.count / tokens.seconds
                shares = " ".join(f"{rate * operations * parameters / flops:12.1%}" for flops in limits.values())
                print(f"{name:28} {tokens.count:9.0f} {rate:9.1f} {shares}")


def trained(facts: dict[str, Any]) -> tuple[float, float]:
    return (facts["trained_tokens"], facts["seconds"]) if facts.get("trained_tokens") else (0, 0)


def generated(facts: dict[str, Any]) -> tuple[float, float]:
    count, rate = facts.get("generated_tokens", 0), facts.get("generated_tokens_per_second", 0)
    return (count, count / rate) if count and rate else (0, 0)


def peaks(threads: int) -> dict[str, float]:
    """Floating-point operations a second of a large matrix product, by type; types that it cannot do are left out."""
    torch.set_num_threads(threads)
    device, size = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 1024)
    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        try:
            one = torch.randn(size, size, device=device).to(dtype)
            one @ one
        except RuntimeError:
            continue
        found[name] = 2 * size**3 / min(seconds_of_product(one) for _ in range(40))
    return found


def seconds_of_product(one: torch.Tensor) -> float:
    started = time.perf_counter()
    one @ one
    if one.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
