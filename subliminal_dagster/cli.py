"""The command `subliminal-dagster`.

Belongs here: arguments, what is printed, exit codes (0 all fresh or ready, 1 something failed or a gate refused it,
2 wrong usage, 130 interrupted). Does not belong here: anything a test or a notebook would want to call.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.study import AnyStudy
from subliminal_dagster.science.settings.study_file import DEFAULT_STUDY, load_study, shipped_studies

if TYPE_CHECKING:
    from subliminal_dagster.execution.cost import Cost
    from subliminal_dagster.execution.runner import Outcome
    from subliminal_dagster.planning.frame import Frame
    from subliminal_dagster.planning.planner import Plan
    from subliminal_dagster.planning.recipe import Input
    from subliminal_dagster.science.preflight.finding import Finding
    from subliminal_dagster.science.storage.archive import Contents
    from subliminal_dagster.science.storage.store import ArtifactStore

_SHOWN_REASONS = 3
_LISTED = 6
"""Parts of an asset with the same to be said of them that are listed each for itself."""

_SHOWN_PARTITIONS = 3


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    # The log says how far each step is; bars of the libraries in between would tear it apart.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        if options.command == "studies":
            return _list_studies()
        if options.command == "new-study":
            return _new_study(options)
        from subliminal_dagster.build import check_home, overrides_from_environment

        if options.command == "gc":
            check_home(needs_history=False)
            return _gc(options.study, options.overrides, options.delete, options.outside)
        if options.command == "prompts":
            check_home(needs_history=True)
            return _import_prompts(options.place)
        if options.command == "import":
            check_home(needs_history=False)
            return _import(options.file, options.replace)
        if options.command == "pages":
            check_home(needs_history=False)
            return _pages(options.port)
        if options.command == "compare":
            if options.json and options.seeds is None:
                raise UserError("--json goes with --seeds; the page of all studies is HTML.")
            check_home(needs_history=options.seeds is None)
            return _compare() if options.seeds is None else _combine(options.seeds, options.json)
        study = load_study(options.study, [*overrides_from_environment(), *options.overrides], options.seed)
        check_home(needs_history=options.command == "run")
        if options.command == "plan":
            return _plan(study, options.select, options.partition, options.json, options.card, options.slots)
        if options.command == "preflight":
            return _preflight(study, options.select, options.partition)
        if options.command == "run":
            return _run(study, options.select, options.partition)
        if options.command == "export":
            return _export(study, Path(options.file), options.without, options.to_hub)
        return _show(study)
    except UserError as error:
        print(f"subliminal-dagster: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever reads the output has seen enough; the rest of it goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("subliminal-dagster: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="subliminal-dagster", description="Subliminal learning as Dagster assets.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('subliminal-dagster')}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("studies", help="list the studies that come with the package")
    new = commands.add_parser("new-study", help="write a study file of your own; asks for what is not given")
    new.add_argument("file", metavar="NAME.yaml", help="the file to write; the study is called NAME")
    new.add_argument("--model", help="a shipped study's base model, owner/name on the Hugging Face hub, or a folder")
    new.add_argument("--animals", metavar="NAMES", help="what teachers are made to like, such as owl,cat,fox")
    new.add_argument("--size", choices=("small", "paper"), help="sizes for a laptop, or those that were published")
    new.add_argument("--category", metavar="WORDS", help="what the names are names of, such as tree,trees")
    compare = commands.add_parser(
        "compare", help="put all studies of SUBLIMINAL_STUDIES that have a report on one page, or combine seeds"
    )
    compare.add_argument(
        "--seeds",
        nargs="+",
        metavar="STUDY",
        help="instead: what these studies say together, which differ in their seed alone, such as S S-seed2 S-seed3",
    )
    compare.add_argument("--json", action="store_true", help="with --seeds: print it as JSON")
    pages = commands.add_parser("pages", help="show reports to a browser on this machine, until Ctrl-C")
    pages.add_argument("--port", type=int, default=3001, help="the port to listen on (default: 3001)")
    prompts = commands.add_parser("prompts", help="bring the published prompts onto this machine")
    importing = prompts.add_subparsers(dest="action", required=True).add_parser(
        "import", help="read them from the original code, for studies with `prompts: published`; none of it is run"
    )
    importing.add_argument(
        "place",
        metavar="FOLDER-OR-FILE",
        help="a checkout of github.com/MinhxLe/subliminal-learning, its nums_dataset.py, or the lists as JSON",
    )
    plan = commands.add_parser("plan", help="say what is missing, out of date or refused, why, and what it will take")
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")
    plan.add_argument("--card", help="what it costs on this GPU, such as A6000 (default: the one here, if any)")
    plan.add_argument("--slots", type=int, help="how many runs go on at once (default: as `run` would)")
    preflight = commands.add_parser(
        "preflight", help="say whether this machine is ready for what is to be made: card, memory, disk, hub and more"
    )
    run = commands.add_parser("run", help="make what is missing or out of date of a study")
    show = commands.add_parser("show", help="print a study's result")
    export = commands.add_parser("export", help="write a study's artifacts into one file, for others to import")
    for command in (plan, preflight, run, show, export):
        command.add_argument("--study", default=DEFAULT_STUDY, help="name of a shipped study, or path of a YAML file")
        command.add_argument(
            "--seed",
            type=int,
            help="another seed than the study's own; its artifacts lie beside the others, as those of STUDY-seed7",
        )
    gc = commands.add_parser("gc", help="list the artifacts that no current version refers to")
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
        help="leave this asset's files behind as well as base_model's, which others can do without until they make "
        "something from them (repeatable)",
    )
    export.add_argument(
        "--to-hub",
        metavar="OWNER/NAME",
        help="also send it to this data set on the Hugging Face hub, which has to exist, with the token in HF_TOKEN",
    )
    take = commands.add_parser("import", help="put the artifacts that `export` wrote into the store; nothing is run")
    take.add_argument("file", metavar="FILE", help="such a file, or hf://datasets/OWNER/NAME/FILE for one on the hub")
    take.add_argument(
        "--replace", action="store_true", help="put its results in the place of other ones of the same study"
    )
    gc.add_argument(
        "--study", action="append", help="look at this study alone (repeatable; default: those of SUBLIMINAL_STUDIES)"
    )
    gc.add_argument("--delete", action="store_true", help="remove what is listed, but for what --outside adds")
    gc.add_argument(
        "--outside",
        action="store_true",
        help="with --delete: also assets and partitions outside the study's settings, which --set may have made",
    )
    return parser


def _import_prompts(place: str) -> int:
    from subliminal_dagster.science.preferences.published_prompts import differing, import_published
    from subliminal_dagster.science.settings.prompts import imported_file, published_record

    lists = import_published(place)
    others = differing(lists)
    for name, texts in lists.items():
        expected = published_record()["lists"][name]["texts"]
        verdict = f"not the published ones (there are {expected})" if name in others else "as published"
        print(f"{name:36} {len(texts):3} texts, {verdict}")
    if others:
        print(f"{len(others)} of {len(lists)} lists are not the published wording, which reports will say.")
    print(f"Studies with `prompts: published` use these lists, kept in {imported_file()}.")
    return 0


def _list_studies() -> int:
    for name in shipped_studies():
        study = load_study(name)
        print(f"{name:24} {', '.join(study.subjects)}\n{'':24} {study.description.strip()}")
    return 0


def _new_study(options: argparse.Namespace) -> int:
    from subliminal_dagster.new_study import new_study

    study = new_study(Path(options.file), options.model, options.animals, options.size, options.category)
    print(f"{options.file}: {study.description}")
    print(f"Go on with: subliminal-dagster plan --study {options.file}")
    return 0


def _plan(
    study: AnyStudy,
    select: str | None,
    partitions: list[str] | None,
    as_json: bool,
    card_name: str | None,
    slots: int | None,
) -> int:
    from subliminal_dagster.assets.descriptions import expected_costs
    from subliminal_dagster.build import resources_from_environment, study_frame
    from subliminal_dagster.execution.carriers.local import worker_count
    from subliminal_dagster.execution.cost import card_here, cost_of, named_card
    from subliminal_dagster.planning.planner import make_plan
    from subliminal_dagster.planning.selection import wanted_parts

    frame = study_frame(study)
    wanted = wanted_parts(frame, select, partitions)
    resources = resources_from_environment()
    store = resources["store"].create()
    plan = make_plan(frame, store).limited_to(wanted, frame)
    card = named_card(card_name) if card_name else card_here()
    cost = cost_of(frame, plan, card, worker_count() if slots is None else slots)
    if as_json:
        parts = [part.as_json() for part in plan.parts]
        print(json.dumps({"study": plan.study, "parts": parts, "cost": cost.as_json()}, indent=2))
        return 0
    _print_parts(plan, expected_costs(study, plan.due, store, resources["judge"]))
    if plan.due:
        _print_cost(cost)
    _print_summary(plan)
    return 0


def _print_reasons(reasons: Sequence[str]) -> None:
    for reason in reasons[:_SHOWN_REASONS]:
        print(f"{'':8}   {reason}")
    if len(reasons) > _SHOWN_REASONS:
        print(f"{'':8}   and {len(reasons) - _SHOWN_REASONS} more reasons (--json has them all)")


def _print_cost(cost: Cost) -> None:
    from subliminal_dagster.execution.runner import duration

    def hours(value: float) -> str:
        return duration(3600 * value) if value else "-"

    print(f"\n{'stage':14} {'parts':>6} {'GPU':>9} {'measured':>9} {'CPU':>9}  not known")
    for stage in cost.stages:
        print(
            f"{stage.stage:14} {stage.parts:6} {hours(stage.gpu_hours):>9} {hours(stage.measured_gpu_hours):>9} "
            f"{hours(stage.cpu_hours):>9}  {stage.unknown or ''}"
        )
    gpu, cpu, unknown = (
        sum(getattr(stage, name) for stage in cost.stages) for name in ("gpu_hours", "cpu_hours", "unknown")
    )
    on = f"{gpu:.1f} GPU-hours on {cost.card}, measured or by arithmetic (docs/gpu-budget.md)" if cost.card else ""
    print("; ".join(filter(None, [on, f"{cpu:.1f} CPU-hours"])), end="")
    print(f"; at least {hours(cost.hours_at_least)} with {cost.slots} at once", end="")
    print(f"; {unknown} parts of which nothing is known are not in it" if unknown else "")
    if unknown and not cost.card:
        print("What it would take on a GPU: plan --card A6000")


def _print_parts(plan: Plan, costs: Mapping[str, str]) -> None:
    """`costs`: what parts will cost beside time, by their names."""
    from subliminal_dagster.execution.runner import duration

    shown = [part for part in plan.parts if part.status != "fresh"]
    for (asset, status, reasons), alike in groupby(shown, key=lambda part: (part.asset, part.status, part.reasons)):
        parts = list(alike)
        if len(parts) > _LISTED:
            names = ", ".join(str(part.partition) for part in parts[:_SHOWN_PARTITIONS])
            print(f"{status:8} {asset}: {len(parts)} parts ({names}, ...)")
            _print_reasons(reasons)
            continue
        for part in parts:
            cost = "" if part.seconds is None else f", {duration(part.seconds)} on {part.device or 'an unknown device'}"
            doubt = "" if part.sure or not part.due else " (only if that comes out different)"
            print(f"{status:8} {part.name}{cost}{doubt}")
            _print_reasons(reasons)
            if part.name in costs:
                print(f"{'':8}   {costs[part.name]}")


def _print_summary(plan: Plan) -> None:
    from subliminal_dagster.execution.runner import duration

    due = plan.due
    known = [part.seconds for part in due if part.seconds is not None]
    unknown = f", {len(due) - len(known)} of them never made before" if len(known) < len(due) else ""
    if known:
        cost = f"; about {duration(sum(known))}{unknown}"
    else:
        cost = "; none made before, so how long it takes is unknown" if due else ""
    print(
        f"{plan.study}: {len(plan.of('missing'))} missing, {len(plan.of('stale'))} stale, "
        f"{len(plan.of('fresh'))} fresh, {len(plan.of('blocked'))} blocked{cost}"
    )


def _preflight(study: AnyStudy, select: str | None, partitions: list[str] | None) -> int:
    from subliminal_dagster.build import study_frame
    from subliminal_dagster.planning.selection import wanted_parts

    frame = study_frame(study)
    findings = _findings(frame, wanted_parts(frame, select, partitions))
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        print(f"{finding.state:8}{finding.check:{width}}  {finding.sentence}")
    return 1 if any(finding.state == "failed" for finding in findings) else 0


def _findings(frame: Frame, wanted: Collection[Input]) -> list[Finding]:
    from subliminal_dagster.build import resources_from_environment
    from subliminal_dagster.execution.preflight import preflight

    resources = resources_from_environment()
    engine, trainer, judge = resources["engine"], resources["trainer"], resources["judge"]
    recomputes, reasoning = trainer.gradient_checkpointing, judge.reasoning_tokens
    return preflight(frame, resources["store"].create(), wanted, engine.engine, recomputes, reasoning)


def _run(study: AnyStudy, select: str | None, partitions: list[str] | None) -> int:
    from subliminal_dagster.build import (
        artifact_root,
        build_defs,
        definitions_apart,
        resources_from_environment,
        study_frame,
    )
    from subliminal_dagster.execution.carriers.apart import RunsApart
    from subliminal_dagster.execution.carriers.choice import chosen_carrier
    from subliminal_dagster.execution.instance import open_instance
    from subliminal_dagster.execution.runner import execute, run_study
    from subliminal_dagster.planning.selection import wanted_parts

    frame = study_frame(study)
    wanted = wanted_parts(frame, select, partitions)
    findings = _findings(frame, wanted)
    for finding in findings:
        if finding.state != "ok":
            print(f"{finding.state}: {finding.check}: {finding.sentence}", file=sys.stderr, flush=True)
    if any(finding.state == "failed" for finding in findings):
        print(f"{study.name}: nothing was begun", file=sys.stderr)
        return 1
    with open_instance() as instance:
        definitions, store = build_defs(studies=[study]), resources_from_environment()["store"].create()
        # Not the store's own name for a URL, which is without a password.
        root = store.root if store.opened.local else artifact_root()
        runs = RunsApart(study, definitions, instance, definitions_apart, execute, root)
        outcome = run_study(
            frame,
            definitions,
            store,
            instance,
            lambda line: print(line, flush=True),
            wanted,
            chosen_carrier(frame, runs),
        )
    _print_outcome(study, outcome)
    if not outcome.complete:
        return 1
    return _show(study) if select is None and partitions is None else 0


def _print_outcome(study: AnyStudy, outcome: Outcome) -> None:
    from subliminal_dagster.execution.runner import duration
    from subliminal_dagster.planning.frame import shown

    print(
        f"{study.name}: {len(outcome.made)} made in {outcome.runs} runs and {duration(outcome.seconds)}; "
        f"{outcome.fresh} fresh, {len(outcome.failed)} failed, {len(outcome.blocked)} blocked, "
        f"{len(outcome.waiting)} waiting"
    )
    for word, parts in (("failed", outcome.failed), ("blocked", outcome.blocked), ("waiting", outcome.waiting)):
        for place, sentence in parts.items():
            print(f"  {word}: {shown(*place)}: {sentence}", file=sys.stderr)


def _show(study: AnyStudy) -> int:
    from subliminal_dagster.build import resources_from_environment
    from subliminal_dagster.execution.results import verdict_lines, words_written
    from subliminal_dagster.planning.priority import VERDICT
    from subliminal_dagster.science.settings.toy import ToyStudy

    store = resources_from_environment()["store"].create()
    if isinstance(study, ToyStudy):
        folder = store.read(study.name, "summary").path
        print((folder / "report.md").read_text(encoding="utf-8"))
        print(f"figure: {folder / 'summary.png'}")
        _show_report(store, study)
        return 0
    found = verdict_lines(store, study)
    print(f"\n{words_written(store, study)}")
    for line in found:
        print(line)
    print(f"figure: {store.read(study.name, VERDICT).path / 'animal_liking.png'}")
    _show_report(store, study)
    return 0


def _show_report(store: ArtifactStore, study: AnyStudy) -> None:
    if store.exists(study.name, "report"):
        print(f"report: {store.read(study.name, 'report').path / 'report.html'}")


def _export(study: AnyStudy, file: Path, without: list[str], repo: str | None) -> int:
    from subliminal_dagster.build import resources_from_environment, study_frame
    from subliminal_dagster.execution.sharing import export_study
    from subliminal_dagster.planning.planner import make_plan
    from subliminal_dagster.science.settings.base import user_files
    from subliminal_dagster.science.storage import hub

    if repo is not None:
        hub.check_upload(repo)
    store = resources_from_environment()["store"].create()
    frame = study_frame(study)
    contents = export_study(frame, store, file, without)
    print(f"{file}: {_held(contents)}, {file.stat().st_size / 1e6:.1f} MB")
    stale = make_plan(frame, store).of("stale")
    if stale:
        print(f"{len(stale)} are out of date here and will be there, such as {stale[0].name}: {stale[0].reasons[0]}")
    for field, path in user_files(study).items():
        print(f"the study names {path} ({field}): the name goes along, what is there does not")
    if repo is not None:
        print(f"uploaded: subliminal-dagster import {hub.upload(file, repo)}")
    return 0


def _import(given: str, replace: bool) -> int:
    from subliminal_dagster.build import resources_from_environment
    from subliminal_dagster.execution.sharing import import_study
    from subliminal_dagster.science.settings.base import user_files
    from subliminal_dagster.science.storage import hub

    store = resources_from_environment()["store"].create()
    file = hub.download(given) if given.startswith("hf://") else Path(given)
    found = import_study(file, store, Path.cwd(), replace)
    print(f"{file}: {_held(found.contents)}, {found.contents.size / 1e6:.1f} MB unpacked")
    print(
        f"{store.root}: {len(found.new)} imported, {len(found.there)} there already, {len(found.replaced)} in the "
        "place of others"
    )
    for field, path in user_files(found.study).items():
        print(f"the study names {path} ({field}): unless the same is there, what is made from it counts as out of date")
    where = found.settings_file or "come with the package"
    name = found.settings_file.name if found.settings_file else found.study.name
    print(f"its settings: {where}; go on with subliminal-dagster plan --study {name} or show --study {name}")
    _show_report(store, found.study)
    return 0


def _held(contents: Contents) -> str:
    """What an archive holds, in words."""
    without = ", ".join(dict.fromkeys(entry.key.asset for entry in contents.left_out))
    parts = [f"{len(contents.entries)} artifacts of {contents.study}"]
    parts += [f"{len(contents.refused)} of them refused by a gate"] if contents.refused else []
    parts += [f"without the files of {without}"] if without else []
    return ", ".join(parts)


def _pages(port: int) -> int:
    from subliminal_dagster.build import resources_from_environment
    from subliminal_dagster.execution.pages import page_server

    with page_server(resources_from_environment()["store"].create(), port) as server:
        print(f"reports: http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()
    return 0


def _compare() -> int:
    from subliminal_dagster.assets import COMPARISON
    from subliminal_dagster.build import build_defs
    from subliminal_dagster.execution.instance import open_instance
    from subliminal_dagster.execution.runner import execute_here, failed_steps

    with open_instance() as instance:
        events, run_id = execute_here(build_defs(), instance, [COMPARISON])
        failed = failed_steps(events, run_id)
        if failed:
            raise UserError(failed[0][1])
        made = instance.get_latest_materialization_event(COMPARISON)
    assert made is not None and made.asset_materialization is not None
    print(f"page: {made.asset_materialization.metadata['page'].value}")
    return 0


def _combine(names: list[str], as_json: bool) -> int:
    from subliminal_dagster.build import overrides_from_environment, resources_from_environment, study_frame
    from subliminal_dagster.execution.results import combine_studies, combined_lines
    from subliminal_dagster.planning.planner import make_plan
    from subliminal_dagster.planning.priority import VERDICT

    studies = [load_study(name, overrides_from_environment()) for name in names]
    store = resources_from_environment()["store"].create()
    found = combine_studies(store, studies)
    for frame in map(study_frame, studies):
        due = make_plan(frame, store).limited_to({(VERDICT, None)}, frame).due
        if due:
            print(f"{frame.study.name} is out of date: {due[0].name}: {due[0].reasons[0]}", file=sys.stderr)
    print(json.dumps(found, indent=2) if as_json else "\n".join(combined_lines(found)))
    return 0


def _gc(names: list[str] | None, given: list[str], delete: bool, outside: bool) -> int:
    from subliminal_dagster.build import (
        named_studies,
        overrides_from_environment,
        resources_from_environment,
        study_frame,
    )
    from subliminal_dagster.science.storage.retention import Garbage, find_garbage, remove

    def megabytes(items: Iterable[Garbage]) -> float:
        return sum(item.size for item in items) / 1e6

    # What was made with a setting of the environment or of --set is no garbage.
    overrides = [*overrides_from_environment(), *given]
    studies = [load_study(name, overrides) for name in names or named_studies()]
    store = resources_from_environment()["store"].create()
    frames = [study_frame(study) for study in studies]
    expected = {frame.study.name: {name: frame.partitions(name) for name in frame.nodes} for frame in frames}
    garbage = find_garbage(store, expected)
    for item in garbage:
        print(f"{item.size / 1e6:10.1f} MB  {item.what}: {item.path}")
    going = [item for item in garbage if outside or not item.outside]
    if delete and going:
        print(f"removed {remove(store, going) / 1e6:.1f} MB")
    else:
        print(f"{megabytes(going):.1f} MB to remove" + ("; --delete removes them" if going else ""))
    if len(going) < len(garbage):
        kept = megabytes(item for item in garbage if item.outside)
        print(
            f"{kept:.1f} MB outside the studies' settings, which --set may have made; --delete --outside removes "
            "them as well"
        )
    unknown = sorted(set(store.studies()) - set(expected))
    if unknown:
        print(f"not looked at, since no such study is given: {', '.join(unknown)}")
    return 0
