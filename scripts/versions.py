"""The versions of all shipped studies' assets: what a user's artifacts are fresh by.

    python scripts/versions.py record                 after a change that is meant: writes tests/planning/versions.json

Code that was given another shape and makes the same, byte for byte, keeps its version, so that nobody has to rebuild
anything. For that, show first that the results are the same: make a study with the code before and after, with
`subliminal_dagster/planning/reshaped.json` holding `{}`, and compare the content hashes of all artifacts. Then

    python scripts/versions.py slices > before.json   at the commit before
    python scripts/versions.py keep before.json       at the one after: writes reshaped.json

What is named after `--but` is left out. An entry counts until somebody edits code that its asset uses, and a test fails
as long as there is one that no longer counts: `keep` drops it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from subliminal_dagster.build import study_frame
from subliminal_dagster.planning import code_slice
from subliminal_dagster.planning.recipe import Node
from subliminal_dagster.science.settings.study_file import load_study, shipped_studies

VERSIONS = Path(__file__).parents[1] / "tests" / "planning" / "versions.json"


def assets() -> dict[str, Node]:
    """Every asset of the shipped studies, by "study/asset"."""
    frames = [study_frame(load_study(study)) for study in shipped_studies()]
    return {f"{frame.study.name}/{name}": node for frame in frames for name, node in frame.nodes.items()}


def keep(before: dict[str, dict[str, Any]], but: list[str]) -> int:
    code_slice.RESHAPED.write_text("{}\n")
    code_slice.forget()
    entries: dict[str, dict[str, Any]] = {}
    for name, node in assets().items():
        if name in before and node.name not in but:
            entry = code_slice.reshaped_entry(before[name]["code"], node.recipe.code)
            if entry is not None and entries.setdefault(node.function, entry) != entry:
                raise SystemExit(f"{node.function} makes several assets, and {name} had other code than another.")
    code_slice.RESHAPED.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n")
    return len(entries)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
commands = parser.add_subparsers(dest="command", required=True)
commands.add_parser("record")
commands.add_parser("slices")
keeping = commands.add_parser("keep")
keeping.add_argument("before", type=Path)
keeping.add_argument("--but", nargs="*", default=[], metavar="ASSET")
options = parser.parse_args()
if options.command == "record":
    VERSIONS.write_text(json.dumps({name: node.recipe.version for name, node in assets().items()}, indent=1) + "\n")
elif options.command == "slices":
    print(json.dumps({name: {"code": node.recipe.code} for name, node in assets().items()}))
else:
    print(f"{keep(json.loads(options.before.read_bytes()), options.but)} functions keep the version they had")
