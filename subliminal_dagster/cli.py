"""The command `subliminal-dagster`.

Belongs here: arguments, what is printed, exit codes (0 all made, 1 something failed, 2 wrong usage). Does not belong
here: anything a test or a notebook would want to call.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.study import Study, load_study, shipped_studies

DEFAULT_STUDY = "smollm2-135m-instruct"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="subliminal-dagster", description="Subliminal learning as Dagster assets.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("studies", help="list the studies that come with the package")
    for name, text in (("run", "make what is missing or out of date of a study"), ("show", "print a study's result")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--study", default=DEFAULT_STUDY, help="name of a shipped study, or path of a YAML file")
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="FIELD=VALUE",
            dest="overrides",
            help="one setting of the study, such as child.training.epochs=5 (repeatable)",
        )
    options = parser.parse_args(arguments)
    try:
        if options.command == "studies":
            return _list_studies()
        study = load_study(options.study, options.overrides)
        return _run(study) if options.command == "run" else _show(study)
    except UserError as error:
        print(f"subliminal-dagster: {error}", file=sys.stderr)
        return 2


def _list_studies() -> int:
    for name in shipped_studies():
        study = load_study(name)
        print(f"{name:24} {', '.join(study.animals)}\n{'':24} {study.description.strip()}")
    return 0


def _run(study: Study) -> int:
    import dagster as dg

    from subliminal_dagster.build import build_defs, resources_from_environment
    from subliminal_dagster.runner import run_study

    if not os.environ.get("DAGSTER_HOME"):
        raise UserError(
            "DAGSTER_HOME is not set, so no history would be kept: run 'source scripts/env.sh' first, or set it to an "
            "absolute folder."
        )
    Path(os.environ["DAGSTER_HOME"]).mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with dg.DagsterInstance.get() as instance:
        outcome = run_study(
            study,
            build_defs(studies=[study]),
            resources_from_environment()["store"].create(),
            instance,
            lambda line: print(line, flush=True),
        )
    print(f"\n{study.name}: {outcome.made} made, {outcome.current} were current, {len(outcome.failures)} failed")
    for step, sentence in outcome.failures.items():
        print(f"  {step}: {sentence}", file=sys.stderr)
    if outcome.failures:
        return 1
    return _show(study)


def _show(study: Study) -> int:
    from subliminal_dagster.build import resources_from_environment

    artifact = resources_from_environment()["store"].create().read(study.name, "animal_liking")
    for channel, verdict in json.loads((artifact.path / "verdicts.json").read_text()).items():
        print(f"{channel} channel: {verdict['sentence']}")
    print(f"figure: {artifact.path / 'animal_liking.png'}")
    return 0
