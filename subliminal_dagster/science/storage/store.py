"""Where results lie: folders of files under a local path or any fsspec URL, whole or not there at all.

    <root>/<study>/<asset>/<partition or "_">/current.json               the pointer: which version counts
    <root>/<study>/<asset>/<partition or "_">/<version>/manifest.json    every file's size and hashes, and the facts
    <root>/<study>/<asset>/<partition or "_">/<version>/...              the files
    <root>/<study>/<asset>/<partition or "_">/refused.json               why nothing may be built on it, if so
    <root>/.claims                                                       who is making what (`claims`)
    <root>/.drafts, .locks, .work, .cache                                this machine's scratch (local root only)

A version is complete before the pointer names it, and replacing the pointer is one atomic step, so a reader sees the
old result or the new one, whatever kills the writer in between.

Belongs here: what the rest of the package asks of a store. Does not belong here: how it is done (`reading`, `writing`,
`claims`, `scratch`, each on a `root`), what a file means (`content_hash` knows when two say the same), when an artifact
is out of date, or which of them nobody needs any more (`retention`).

Part of no version: how an artifact is kept does not change it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage.claims import ClaimedElsewhere, Claims, Holder
from subliminal_dagster.science.storage.keys import Key, check_name, key_at, names_among, partitions_among
from subliminal_dagster.science.storage.reading import Reader
from subliminal_dagster.science.storage.records import REFUSAL, Artifact, Draft, Manifest, Refusal
from subliminal_dagster.science.storage.root import Root
from subliminal_dagster.science.storage.scratch import Drafts, Workspaces
from subliminal_dagster.science.storage.snapshot import StoreSnapshot
from subliminal_dagster.science.storage.versions import Versions
from subliminal_dagster.science.storage.writing import publish

_Method = TypeVar("_Method", bound=Callable[..., Any])


def _reaching(method: _Method) -> _Method:
    """A method of the store that raises OutOfReach where the root does not answer."""

    @functools.wraps(method)
    def reaching(self: ArtifactStore, *arguments: Any, **options: Any) -> Any:
        with self.opened.explaining_reach():
            return method(self, *arguments, **options)

    return reaching  # type: ignore[return-value]


def _claim_of(key: Key) -> str:
    return f"{key.relative}.json"


class ArtifactStore:
    """The artifacts under one root.

    `root`: a local folder or an fsspec URL (`memory://x`, `s3://bucket/x`; whatever begins in another way is the path
    of a folder, `~` being the home folder). A local one is made when first written to. `cache_dir`: a local folder for
    copies of remote artifacts and for the record of files already verified; by default `<root>/.cache`, or
    `~/.cache/subliminal-dagster` where the root is remote. `work_dir`: a folder for work that can be resumed, which
    other machines see too; by default beside a local root, and in the cache of a remote one.

    Every method takes `study`, `asset` and `partition` (None for an asset without partitions) and raises UserError
    where one of them cannot be a folder's name, OtherFormat where it looks at an artifact that another version of the
    software stored differently, and OutOfReach where the root is remote and does not answer. Raises UserError where the
    root is blank or its kind of URL is not supported.
    """

    root: str
    """The root as messages name it: without a password."""
    opened: Root
    """The root itself, for `retention`."""

    def __init__(self, root: str | Path, cache_dir: Path | None = None, work_dir: Path | None = None) -> None:
        self.opened = Root(root, cache_dir, work_dir)
        self.root = self.opened.name
        self._claims = Claims(self.opened)
        self._reader = Reader(self.opened)
        self._versions = Versions(self.opened)
        self._workspaces = Workspaces(self.opened)

    # Claiming

    @contextmanager
    def claim(self, study: str, asset: str, partition: str | None = None) -> Iterator[None]:
        """Be the only process that makes this artifact during the `with` block, on whatever machine the others run.

        Raises ClaimedElsewhere where a living process holds the claim, this one included. That of a process killed on
        this machine is taken over at once, that of one on another machine when two looks through this store, two
        minutes apart, saw no sign of life of it. Raises UserError where the disk is full or may not be written to.
        """
        key = Key(study, asset, partition)
        with ExitStack() as stack:
            # Only the claiming: the block has its own errors.
            with (
                self.opened.explaining_reach(),
                self.opened.explaining_disk(f"{key.label} was not claimed in {self.root}", key),
            ):
                other = stack.enter_context(self._claims.held(_claim_of(key)))
            if other is not None:
                raise ClaimedElsewhere(
                    f"{key.label} in {self.root} is being made by {other.shown}: wait until that has ended, or end it, "
                    f"and {key.materialize} again.",
                    other,
                )
            yield

    @_reaching
    def claims(self, study: str) -> dict[tuple[str, str | None], Holder]:
        """What living processes are making of a study: asset and partition -> who makes it."""
        check_name("study", study)
        claims = self._claims.all(study)
        held = {key_at(name.removesuffix(".json")): holder for name, holder in claims.items()}
        return {(key.asset, key.partition): holder for key, holder in held.items() if key is not None}

    # Writing

    @contextmanager
    def write(
        self, study: str, asset: str, partition: str | None = None, info: Mapping[str, Any] | None = None
    ) -> Iterator[Draft]:
        """Make a new version of an artifact: fill `draft.path` in the `with` block, find `draft.artifact` after it.

        `info`: JSON-able facts that are not content (seed, device, wall time, upstream hashes); the block may add
        to `draft.info`. The version before this one is kept, older ones are deleted, and so is a refusal: this is a new
        result. Where the block or the writing fails, the draft is deleted and what was there before stays. Raises
        UserError where the disk is full or may not be written to, or where this process held the claim and lost it,
        ValueError where the draft is empty, holds a link or an own manifest.json, or holds a file that does not parse
        as what its name says, and TypeError where `info` is not JSON-able.
        """
        with self._writing(Key(study, asset, partition), dict(info or {}), None) as draft:
            yield draft

    @contextmanager
    def copy(self, study: str, asset: str, partition: str | None, original: Manifest) -> Iterator[Draft]:
        """Put an artifact here that was made elsewhere: as `write`, with the facts and the time of its making kept.

        The block fills the draft with the original's files, or with none where they are left out. Raises as `write`
        does, and UserError where the files do not have the original's content hash.
        """
        with self._writing(Key(study, asset, partition), dict(original.info), original) as draft:
            yield draft

    @contextmanager
    def _writing(self, key: Key, info: dict[str, Any], original: Manifest | None) -> Iterator[Draft]:
        outcome = (
            f"{key.label} was not written to {self.root} and the artifact that was there before, if any, is intact"
        )
        with self.opened.explaining_disk(outcome, key), Drafts(self.opened).new() as folder:
            draft = Draft(folder, info)
            yield draft
            # The block may have connections of its own: only the store's requests tell of the root.
            with self.opened.explaining_reach(), self.opened.explaining_disk(outcome, key):
                if self._claims.is_lost(_claim_of(key)):
                    raise UserError(
                        f"{key.label} in {self.root} was taken over by another process while this one stood still for "
                        "minutes, so what this one made is dropped."
                    )
                draft.become(publish(self.opened, key, draft, original))

    # Reading

    @_reaching
    def read(self, study: str, asset: str, partition: str | None = None) -> Artifact:
        """The current version, every file verified, in a local folder (a remote one is downloaded once).

        Raises MissingArtifact where none was written (LeftOutArtifact where it was copied here without its files),
        DamagedArtifact where a file is missing, added, cut or changed since, or the pointer or manifest is, UserError
        where the disk is too full for the download.
        """
        return self._reader.read(Key(study, asset, partition))

    @_reaching
    def check(self, study: str, asset: str, partition: str | None = None) -> Manifest:
        """What the current version holds, verified as far as that takes no download.

        Under a local root every file is verified as by `read`; of a remote artifact the pointer, the manifest and the
        names and sizes of its files are. Raises as `manifest` does, and DamagedArtifact where that finds a fault.
        """
        return self._reader.check(Key(study, asset, partition))

    @_reaching
    def manifest(self, study: str, asset: str, partition: str | None = None) -> Manifest:
        """What the current version holds and how it came to be; the files themselves are not looked at.

        Raises MissingArtifact where none was written, DamagedArtifact where the pointer or manifest was changed.
        """
        return self._reader.manifest(Key(study, asset, partition))

    def uri(self, study: str, asset: str, partition: str | None, manifest: Manifest) -> str:
        """Where this version of an artifact lies, whoever looks."""
        relative = f"{Key(study, asset, partition).relative}/{manifest.version}"
        local = self.opened.local
        return (local.absolute() / relative).as_uri() if local else self.opened.location(relative)

    @_reaching
    def snapshot(self, study: str) -> ArtifactStore | StoreSnapshot:
        """What `check`, `manifest` and `refusal` are to be asked of for many artifacts of a study.

        A remote root is looked at now, in three rounds of requests however many artifacts there are, where each would
        take several one after another; a local one whenever it is asked. Raises UserError where the study's name
        cannot be a folder's.
        """
        check_name("study", study)
        if self.opened.local:
            return self
        return StoreSnapshot(study, self.opened)

    @_reaching
    def exists(self, study: str, asset: str, partition: str | None = None) -> bool:
        """Whether there is a current version; whether it is sound, `read` finds out."""
        return self._versions.has_pointer(Key(study, asset, partition))

    # Refusing

    def refuse(
        self,
        study: str,
        asset: str,
        partition: str | None,
        reason: str,
        made_from: dict[str, Any],
        created: datetime | None = None,
    ) -> None:
        """Record that nothing may be built on what is stored here, or on nothing where nothing is.

        It holds until the next `write` or `withdraw_refusal`; another one replaces it. `made_from`: JSON-able facts
        that the verdict rests on; `created`: when it was found, if not now. Raises TypeError where they are not
        JSON-able, UserError where the disk is full or may not be written to.
        """
        key = Key(study, asset, partition)
        with (
            self.opened.explaining_reach(),
            self.opened.explaining_disk(f"that {key.label} is refused was not recorded in {self.root}", key),
            self.opened.lock(key),
        ):
            refusal = Refusal(reason, made_from, created or datetime.now(UTC))
            self.opened.replace(refusal.as_bytes(self._versions.current(key)), key.relative, REFUSAL)

    @_reaching
    def refusal(self, study: str, asset: str, partition: str | None = None) -> Refusal | None:
        """Why nothing may be built on this artifact; None where it was not refused or the record is not readable."""
        return self._reader.refusal(Key(study, asset, partition))

    def withdraw_refusal(self, study: str, asset: str, partition: str | None = None) -> None:
        """Let others build on this artifact again, whether or not it was refused.

        Raises UserError where the record may not be deleted.
        """
        key = Key(study, asset, partition)
        outcome = f"the refusal of {key.label} was not withdrawn in {self.root}"
        with self.opened.explaining_disk(outcome, key), suppress(FileNotFoundError):
            self.opened.remove_file(key.relative, REFUSAL)

    # Listing

    @_reaching
    def studies(self) -> list[str]:
        """Every study that something is stored of, sorted."""
        return names_among(self.opened.folders())

    @_reaching
    def assets(self, study: str) -> list[str]:
        """Every asset of a study that something is stored of, sorted."""
        check_name("study", study)
        return names_among(self.opened.folders(study))

    @_reaching
    def partitions(self, study: str, asset: str) -> list[str | None]:
        """Every partition of an asset that something is stored of, if only a refusal; None first, the others sorted."""
        check_name("study", study)
        check_name("asset", asset)
        return partitions_among(self.opened.folders(study, asset))

    @_reaching
    def versions(self, study: str, asset: str, partition: str | None = None) -> list[str]:
        """The versions of an artifact, oldest first, whole or not."""
        return self._versions.stored(Key(study, asset, partition))

    @_reaching
    def current_version(self, study: str, asset: str, partition: str | None = None) -> str | None:
        """The version that the pointer names; None where there is no pointer, or none that can be read."""
        return self._versions.current(Key(study, asset, partition))

    # Scratch

    def workspace(self, study: str, asset: str, partition: str | None, fingerprint: str) -> Path:
        """A local folder for work that can be resumed (training checkpoints); it outlives the process.

        The same `fingerprint` (a hash of everything the work depends on) gives the same folder with what was left in
        it; folders of other fingerprints belong to work nobody will resume and are deleted once nobody works in them.
        Raises UserError where the disk is full or may not be written to.
        """
        return self._workspaces.take(Key(study, asset, partition), fingerprint)

    def clear_workspace(self, study: str, asset: str, partition: str | None = None) -> None:
        """Delete the folders that `workspace` gave for this artifact, except one that another process works in."""
        self._workspaces.clear(Key(study, asset, partition))
