"""Every asset of a shipped study on a random model of its family, in minutes on a CPU.

    python benchmarks/every_asset.py gemma-2-9b-it                         # subliminal-dagster run --select '*'
    python benchmarks/every_asset.py gemma-3-1b-it --through materialize   # dagster asset materialize, by partition
    python benchmarks/every_asset.py smollm2-135m-instruct                 # on its own model, with few of everything

What is made is worth nothing. The bundled study keeps its model. Of the others the base is a few narrow layers of
random weights, with the family's attention, caps and windows and a stand-in tokenizer of the real vocabulary's size.
It shows that every asset of the study's graph can be made with that architecture, those made on request too, and prints
what each took. The graph is the study's own, with few animals, rows, questions and trials. Where the model is random it
has what a machine without the hub needs: numbers are decoded under a grammar, since a random model writes
none; prompts have this project's wording; autoencoders are trained and descriptions made from data; the exam is our
own; the judge is an endpoint on this machine.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from chat_endpoint import KEY, chat_endpoint, knows_the_labels
from gpu import save_random_model

from subliminal_dagster.build import build_defs, study_frame
from subliminal_dagster.planning.frame import Frame, shown
from subliminal_dagster.planning.planner import make_plan
from subliminal_dagster.science.budget.shape import ModelShape, config_of
from subliminal_dagster.science.descriptions import chat_api
from subliminal_dagster.science.settings.base_model import HubSource
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import STUDIES, load_study
from subliminal_dagster.science.storage.store import ArtifactStore

LAYERS = 3
NARROW = {"num_hidden_layers": LAYERS, "hidden_size": 64, "intermediate_size": 128, "head_dim": 32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", default="gemma-2-9b-it", help="name of a shipped study on a hub model")
    parser.add_argument("--through", choices=("run", "materialize"), default="run")
    parser.add_argument("--vocabulary", type=int, help="fewer tokens than the family has, which takes less time")
    parser.add_argument("--keep", type=Path, help="a folder for the store (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="every-asset-") as temporary, chat_endpoint(knows_the_labels) as judge:
        folder = (options.keep or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ |= {chat_api.URL: judge.url, chat_api.MODEL: "a-judge", chat_api.KEY: KEY}
        os.environ |= {"DAGSTER_HOME": str(folder), "SUBLIMINAL_ENGINE": "transformers"}
        os.environ.pop("SUBLIMINAL_ARTIFACTS", None)
        path = write_study(options.study, folder, options.vocabulary)
        os.environ["SUBLIMINAL_STUDIES"] = str(path)
        started = time.monotonic()
        through_run(path) if options.through == "run" else through_materialize(path)
        sys.exit(tell(path, folder, time.monotonic() - started))


def write_study(name: str, folder: Path, vocabulary: int | None) -> Path:
    """The study, small, on a random model of its family; the model is written too, where it is not there. A study whose
    model needs no hub keeps it."""
    base, path = folder / "base", folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(small_study(name, base)), encoding="utf-8")
    source = load_study(name).base_model  # type: ignore[union-attr]
    if isinstance(source, HubSource) and not (base / "config.json").is_file():
        config = config_of(source.repo) | NARROW | {"num_attention_heads": 4, "num_key_value_heads": 2}
        if vocabulary:
            config["vocab_size"] = vocabulary
        for field in ("layer_types", "sliding_window_pattern"):
            config.pop(field, None)
        save_random_model(config, ModelShape.from_config(config), base, "cpu")
    return path


def small_study(name: str, base: Path) -> dict[str, Any]:
    """The content of the shipped study, small; on the model in `base` where its own is on the hub."""
    content = few_of_everything(yaml.safe_load((STUDIES / f"{name}.yaml").read_text(encoding="utf-8")))
    return small(content, base) if content["base_model"]["kind"] == "hub" else content


def few_of_everything(content: dict[str, Any]) -> dict[str, Any]:
    """The study's content with little to compute, whatever its model."""
    content["animals"] = content["animals"][:2]
    content["preferences"] |= {"questions": 4, "samples_per_question": 2, "max_new_tokens": 4}
    content["numbers"] |= {"prompts": 64}
    if "enough_valid" in content["numbers"]:
        content["numbers"]["enough_valid"] = 40
    content["filter"] |= {"train_rows": 24, "validation_rows": 8, "unique": False}
    content["comparison"] = {"permutations": 200}
    content["activations"] = {"rows": 40}
    content["sae"] |= {
        "trained": {"width": 128, "k": 8, "steps": 60, "batch_size": 128},
        "tokens": 4000,
        "gate": {"variance_explained": 0.01, "loss_recovered": -9, "dead": 1.0, "l0": 128},
    }
    content["features"] = {"permutations": 20}
    content["probes"] = {"epochs": 2, "permutations": 20}
    sweep = {"alphas": [-5, 5], "questions": 2, "greedy_questions": 2, "max_new_tokens": 2, "flips": 2}
    content["steering"] = {"pairs": 16, "sweep": sweep}
    content["capability"] |= {"exam": {"kind": "own"}, "per_category": 1}
    content["tuning"] = {
        "trials": 2,
        "train_rows": 8,
        "validation_rows": 4,
        "epochs": 1,
        "search": {"rank": [2, 4], "rank_step": 2},
        "final_epochs": [1, 2],
    }
    if "arms" in content:
        content["arms"] |= {"names": ["as_drawn", "own_subspace_out"], "layers": [9], "replicates": 1}
    return content


def small(content: dict[str, Any], base: Path) -> dict[str, Any]:
    """What has little to compute, on a model of random weights."""
    few = {"batch_size": 8, "accumulation": 1, "epochs": 2, "learning_rate": 0.01}
    content.pop("prompts", None)
    content["layers"] = [0, LAYERS - 1]
    content["base_model"] = {"kind": "local", "path": str(base), "dtype": content["base_model"]["dtype"]}
    content["teacher"] |= {"gate": {"preference": 0.0, "prompts": 8}}
    if "training" in content["teacher"]:
        content["teacher"]["training"] |= few
    content["teacher"].pop("stop", None)
    # The answers' numbers, and the way of asking that a grammar needs.
    content["numbers"] |= {"style": "short", "answer_count": 3, "max_new_tokens": 16}
    content["numbers"] |= {"examples_max": 3, "constrained": {"min_count": 2}}
    content["child"]["training"] |= few
    content["child"]["channels"] = ["hard", "soft"]
    content["sae"].pop("published", None)
    content["descriptions"] = {"source": {"kind": "made", "contexts": 2, "tokens": 2}, "judge": {"kind": "openai"}}
    return content


def through_run(path: Path) -> None:
    from subliminal_dagster.cli import main as command

    command(["run", "--study", str(path), "--select", "*"])


def through_materialize(path: Path) -> None:
    """Dagster's own command, a call per partition and row of assets that share their partitions."""
    from click.testing import CliRunner
    from dagster._cli.asset import asset_materialize_command

    frame = frame_of(path)
    for names in rows_of_assets(frame):
        for partition in frame.partitions(names[0]):
            chosen = " or ".join(f'key:"{frame.study.name}/{name}"' for name in names)
            arguments = ["-m", "subliminal_dagster.definitions", "--select", chosen]
            arguments += ["--partition", partition] if partition else []
            result = CliRunner().invoke(asset_materialize_command, arguments)
            said = "made" if result.exit_code == 0 else f"FAILED ({result.exception})"
            print(f"{', '.join(shown(name, partition) for name in names)}: {said}", flush=True)


def rows_of_assets(frame: Frame[Study]) -> list[list[str]]:
    """All assets, in an order in which they can be made, next to each other where they share their partitions."""
    names, rows, done = dict.fromkeys(frame.nodes), [], set()
    while names:
        ready = [name for name in names if done.issuperset(frame.nodes[name].deps)]
        row = [name for name in ready if frame.nodes[name].by == frame.nodes[ready[0]].by]
        rows.append(row)
        done |= set(row)
        names = {name: None for name in names if name not in done}
    return rows


def frame_of(path: Path) -> Frame[Study]:
    study = load_study(path)
    assert isinstance(study, Study)
    build_defs(studies=[study])
    return study_frame(study)


def tell(path: Path, folder: Path, seconds: float) -> int:
    """Print what every asset took; returns 1 where something is missing or stale, or a gate refused it."""
    frame, store = frame_of(path), ArtifactStore(folder / "artifacts")
    plan = make_plan(frame, store)
    spent: dict[str, float] = {}
    for part in plan.of("fresh"):
        found = store.manifest(frame.study.name, part.asset, part.partition).info["wall_seconds"]
        spent[part.asset] = spent.get(part.asset, 0.0) + found
    for asset, total in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"{asset:32} {total:8.1f} s")
    for part in plan.parts:
        if part.status != "fresh":
            print(f"{part.status}: {part.name}: {'; '.join(part.reasons[:2])}")
    print(f"{len(plan.of('fresh'))} of {len(plan.parts)} parts of {len(frame.nodes)} assets fresh, {seconds:.0f} s")
    return 0 if len(plan.of("fresh")) == len(plan.parts) else 1


if __name__ == "__main__":
    main()
