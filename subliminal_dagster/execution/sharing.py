"""A study's results on their way to others: which artifacts go along, and where the study's settings end up.

Belongs here: what of sharing takes a study to know. Does not belong here: the archive (`science.storage.archive`), what
is printed (`cli`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from subliminal_dagster.planning.frame import Frame, shown
from subliminal_dagster.science.errors import UserError, meant
from subliminal_dagster.science.settings.study import AnyStudy
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.storage.archive import Archive, Contents, Entry, State, opened, pack
from subliminal_dagster.science.storage.store import ArtifactStore

# Big, under a licence of its owner's, and to be had where the study says.
_LEFT_OUT = "base_model"
_NAMED = 3


def export_study(frame: Frame, store: ArtifactStore, file: Path, without: Collection[str] = ()) -> Contents:
    """Write what there is of a study into one file, but for the files of `base_model` and of the assets in `without`.

    Raises UserError as `archive.pack` does, and for an asset that the study does not have.
    """
    strangers = sorted({*without} - {*frame.nodes})
    if strangers:
        near = meant(strangers[0], frame.nodes)
        choice = f"leave out one of {', '.join(frame.nodes)}"
        raise UserError(f"{frame.study.name} has no asset {strangers[0]!r}: {choice}.{near}")
    parts = [(name, partition) for name in frame.nodes for partition in frame.partitions(name)]
    settings = yaml.safe_dump(frame.study.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
    return pack(store, frame.study.name, parts, settings, file, {_LEFT_OUT, *without})


@dataclass(frozen=True)
class Imported:
    """What came of an import. `settings_file` is where the study's settings were written; None for a study of these
    settings that comes with the package."""

    study: AnyStudy
    contents: Contents
    settings_file: Path | None
    new: list[Entry] = field(default_factory=list)
    there: list[Entry] = field(default_factory=list)
    replaced: list[Entry] = field(default_factory=list)


def import_study(file: Path, store: ArtifactStore, folder: Path, replace: bool = False) -> Imported:
    """Put the artifacts in an archive into a store, and the study's settings into `folder` as <study>.yaml.

    Nothing is written before the whole archive was read and held against its hashes. An import that was killed has put
    whole artifacts there, and the same call goes on. Where the store has other results of the same parts nothing is
    imported, unless they are to be replaced; the store keeps them as the versions before.

    Raises UserError where the archive cannot be read, is cut or changed, holds settings that cannot be read or are of
    another study, and where results or a file of other settings are in the way.
    """
    with opened(file) as archive:
        study, settings_file = _settings(archive, folder)
        archive.verify()
        found: dict[State, list[Entry]] = {"new": [], "there": [], "different": []}
        for entry, state in archive.states(store):
            found[state].append(entry)
        if found["different"] and not replace:
            raise UserError(_in_the_way(found["different"], store))
        if settings_file:
            settings_file.write_text(archive.contents.settings, encoding="utf-8")
        for entry in (*found["new"], *found["different"]):
            archive.unpack(store, entry)
    return Imported(study, archive.contents, settings_file, found["new"], found["there"], found["different"])


def _settings(archive: Archive, folder: Path) -> tuple[AnyStudy, Path | None]:
    """The archive's study, and the file that its settings are to be in; None where they come with the package."""
    contents = archive.contents
    target = folder / f"{contents.study}.yaml"
    with tempfile.TemporaryDirectory() as aside:
        path = Path(aside) / target.name
        path.write_text(contents.settings, encoding="utf-8")
        try:
            study = load_study(path)
        except UserError as error:
            raise UserError(
                f"{archive.file} holds settings that this version of the software cannot use: "
                f"{str(error).removeprefix(f'{path}: ')}"
            ) from None
    if study.name != contents.study:
        raise UserError(
            f"{archive.file} holds artifacts of {contents.study} and settings of {study.name}: get it again from "
            "where it came from."
        )
    with suppress(UserError):
        if load_study(study.name) == study:
            return study, None
    if target.exists() and target.read_text(encoding="utf-8", errors="replace") != contents.settings:
        raise UserError(
            f"{target} is there already and says something else than the archive: move it away, or import in another "
            "folder."
        )
    return study, target


def _in_the_way(entries: list[Entry], store: ArtifactStore) -> str:
    names = [shown(entry.key.asset, entry.key.partition) for entry in entries]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (
        f"Nothing was imported, because {store.root} holds other results of {', '.join(names[:_NAMED])}{more}: import "
        "with SUBLIMINAL_ARTIFACTS set to another folder, or with --replace to put the archive's in their place."
    )
