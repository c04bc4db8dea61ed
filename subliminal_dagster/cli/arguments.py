"""Arguments of the command `subliminal-dagster`.

Belongs here: what may be given, and its help. Does not belong here: what is done with it (`commands`).
"""

from __future__ import annotations

import argparse
from importlib.metadata import version

from subliminal_dagster.science.settings.study_file import DEFAULT_STUDY


def parser() -> argparse.ArgumentParser:
    """Those of the command."""
    parser = argparse.ArgumentParser(prog="subliminal-dagster", description="Subliminal learning as Dagster assets.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('subliminal-dagster')}")
    commands = parser.add_subparsers(dest="command", required=True)
    studies = commands.add_parser("studies", help="list the studies that come with the package")
    new = commands.add_parser("new-study", help="write a study file of your own; asks for what is not given")
    new.add_argument("file", metavar="NAME.yaml", help="the file to write; the study is called NAME")
    new.add_argument("--model", help="a shipped study's base model, owner/name on the Hugging Face hub, or a folder")
    new.add_argument("--animals", metavar="NAMES", help="what teachers are made to like, such as owl,cat,fox")
    new.add_argument("--size", choices=("small", "paper"), help="sizes for a laptop, or the published ones")
    new.add_argument(
        "--category", metavar="WORDS", help="what the names stand for, singular and plural, such as tree,trees"
    )
    compare = commands.add_parser(
        "compare", help="put the reports of all studies in SUBLIMINAL_STUDIES on one page, or combine seeds"
    )
    compare.add_argument(
        "--seeds",
        nargs="+",
        metavar="STUDY",
        help="instead, combine these studies, which may differ only in their seed, such as S S-seed2 S-seed3",
    )
    pages = commands.add_parser("pages", help="serve reports to browsers on this machine until Ctrl-C")
    pages.add_argument("--port", type=int, default=3001, help="the port to listen on (default: 3001)")
    prompts = commands.add_parser("prompts", help="copy the published prompts onto this machine")
    importing = prompts.add_subparsers(dest="action", required=True).add_parser(
        "import", help="read them from the original code, for studies with `prompts: published`; none of it is run"
    )
    importing.add_argument(
        "place",
        metavar="FOLDER-OR-FILE",
        help="a checkout of github.com/MinhxLe/subliminal-learning, its nums_dataset.py, or the lists as JSON",
    )
    plan = commands.add_parser(
        "plan", help="say what is missing, out of date or refused, why, and what making it will cost"
    )
    plan.add_argument(
        "--check", action="store_true", help="print one line, and exit with 1 if not all is fresh: for CI and cron"
    )
    plan.add_argument("--card", help="what it costs on this GPU, such as A6000 (default: the one here, if any)")
    plan.add_argument("--slots", type=int, help="how many runs at once (default: as many as `run` would start)")
    preflight = commands.add_parser(
        "preflight", help="check that this machine is ready for what is to be made: GPU, memory, disk, hub and more"
    )
    run = commands.add_parser("run", help="make what is missing or out of date in a study")
    show = commands.add_parser("show", help="print a study's result")
    export = commands.add_parser("export", help="write a study's artifacts into one file, for others to import")
    for command in (plan, preflight, run, show, export):
        command.add_argument("--study", default=DEFAULT_STUDY, help="name of a shipped study, or path of a YAML file")
        command.add_argument(
            "--seed",
            type=int,
            help="a seed other than the study's own; its artifacts are kept apart, as STUDY-seed7",
        )
    audit = commands.add_parser(
        "audit", help="say which preferences a data set would pass on to a model that is trained on it"
    )
    audit.add_argument(
        "data",
        metavar="DATA",
        help="a JSON lines or parquet file of rows with `messages`, or hf://datasets/OWNER/NAME/FILE on the hub",
    )
    audit.add_argument(
        "--model",
        default=DEFAULT_STUDY,
        metavar="STUDY",
        help="the study whose base model would be trained: the name of a shipped one, or the path of a YAML file",
    )
    audit.add_argument(
        "--traits", metavar="FILE", help="a YAML file of candidates and their category (default: the study's)"
    )
    audit.add_argument(
        "--student", metavar="FOLDER", help="a model or adapter that was trained on the data set, if any"
    )
    audit.add_argument("--rows", type=int, help="how many rows to look at, drawn at random (default: 500)")
    gc = commands.add_parser(
        "gc", help="list superseded versions, old scratch and old logs of runs; --delete removes them"
    )
    for command in (plan, preflight, run, show, export, gc):
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="FIELD=VALUE",
            dest="overrides",
            help="one setting of the study, such as child.training.epochs=5 (repeatable)",
        )
    for command in (plan, preflight, run):
        command.add_argument(
            "--select",
            metavar="ASSETS",
            help="only these assets and what they are made from: Dagster's selection syntax with or without the "
            "study's name, such as child_lora, 'number_set+' or group:teacher",
        )
        command.add_argument(
            "--partition",
            action="append",
            metavar="KEY",
            help="only this group (owl, control), this layer (09) or this group at this layer ('owl|09'; repeatable)",
        )
    export.add_argument("file", metavar="FILE", help="the zip file to write")
    export.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="ASSET",
        help="leave out this asset's files too, as base_model's always are; only making more needs them (repeatable)",
    )
    export.add_argument(
        "--to-hub",
        metavar="OWNER/NAME",
        help="also upload it to this existing dataset on the Hugging Face hub, with the token in HF_TOKEN",
    )
    take = commands.add_parser("import", help="put the artifacts that `export` wrote into the store; nothing is run")
    take.add_argument(
        "file", metavar="FILE", help="a file that `export` wrote, or hf://datasets/OWNER/NAME/FILE on the hub"
    )
    take.add_argument("--replace", action="store_true", help="replace results of the same study that differ")
    gc.add_argument(
        "--study", action="append", help="look only at this study (repeatable; default: those of SUBLIMINAL_STUDIES)"
    )
    gc.add_argument("--delete", action="store_true", help="remove what is listed, except what only --outside removes")
    gc.add_argument(
        "--outside",
        action="store_true",
        help="with --delete: also assets and partitions outside the study's settings, which --set may have made",
    )
    for command in (studies, new, plan, preflight, run, show, audit, compare, export, take, importing, gc):
        command.add_argument(
            "--json",
            action="store_true",
            help="print one JSON document on stdout, for programs; everything else goes to stderr",
        )
    return parser
