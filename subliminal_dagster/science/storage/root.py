"""The root of a store: a local folder or any fsspec URL, and this machine's own places beside it.

Belongs here: opening a root, reading, listing, measuring and deleting what lies below it whichever kind it is, the
locks between processes of this machine, and saying what is wrong with a disk. Does not belong here: what lies there and
in which order it is written.

Part of no version: how an artifact is kept does not change it.
"""

from __future__ import annotations

import copy
import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import filelock
import fsspec
from fsspec.implementations.local import LocalFileSystem

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage.files import folder_size, folders_in, replace_durably
from subliminal_dagster.science.storage.keys import Key, shown

# Also a chain of them (`dir::s3://bucket`).
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*::)*[A-Za-z][A-Za-z0-9+.-]*://")
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


class OutOfReach(UserError):  # noqa: N818
    """A remote root does not answer, or not this user: another try may find it again."""


class Root:
    """A root, opened; the arguments are those of `ArtifactStore`.

    What it is asked about a file or folder below it takes the parts of the path, which may hold slashes themselves.
    """

    name: str
    """What messages call it: without a password."""
    fs: Any
    """The fsspec file system, which takes what `path` gives."""
    local: Path | None
    """The folder; None where the root is remote."""
    cache: Path
    """What makes reading faster and may go at any time."""
    copies: Path
    """Copies of remote artifacts, at <study>/<asset>/<partition>/<SHA-256 of the manifest>."""
    verified: Path
    """The record of files already verified."""
    scratch: Path
    """Drafts and locks."""
    work: Path
    """Work that can be resumed."""

    def __init__(self, root: str | Path, cache_dir: Path | None = None, work_dir: Path | None = None) -> None:
        self.name, self.fs, path = _opened(root)
        self._path = path.rstrip("/")
        self.local = Path(path) if isinstance(self.fs, LocalFileSystem) else None
        if cache_dir is not None:
            cache_dir = Path(cache_dir).expanduser().absolute()
        default_cache = self.local / ".cache" if self.local else Path.home() / ".cache" / "subliminal-dagster"
        self.cache = cache_dir or default_cache
        # A folder that serves several roots must not mix up what two of them call by the same name.
        of_this_root = default_cache
        if cache_dir is not None or self.local is None:
            name = str(self.local or self.name.rstrip("/"))
            of_this_root = self.cache / hashlib.sha256(name.encode()).hexdigest()[:16]
        self.copies = of_this_root / "copies"
        self.verified = of_this_root / "verified"
        # Drafts become versions by a rename, which needs them on the same file system as what they become.
        self.scratch = self.local or self.cache
        self.work = (cache_dir or self.scratch) / ".work"
        if work_dir is not None:
            name = hashlib.sha256(str(self.local or self.name.rstrip("/")).encode()).hexdigest()[:16]
            self.work = Path(work_dir) / name

    def looked_at_through(self, fs: Any) -> Root:
        """This root where `fs` answers for its file system, as far as looking at artifacts takes."""
        other = copy.copy(self)
        other.fs = fs
        return other

    # Paths

    def path(self, *parts: str) -> str:
        """A path as `fs` takes it."""
        return "/".join([self._path, *parts])

    def location(self, *parts: str) -> str:
        """A path fit to be shown."""
        return "/".join([self.name.rstrip("/"), *parts])

    # Looking

    def read(self, *parts: str) -> bytes:
        """The content of a small file. Raises FileNotFoundError."""
        path = self.path(*parts)
        if self.local:
            # For files this small, what fsspec does around it takes longer than the reading.
            with open(path, "rb") as file:
                return file.read()
        content: bytes = self.fs.cat_file(path)
        return content

    def exists(self, *parts: str) -> bool:
        """Whether there is such a file or folder."""
        return bool(self.fs.exists(self.path(*parts)))

    def folders(self, *parts: str) -> list[str]:
        """The names of the folders in a folder, sorted; none where it does not exist."""
        path = self.path(*parts)
        if self.local:
            return folders_in(Path(path))
        self.fs.invalidate_cache()
        try:
            entries = self.fs.ls(path, detail=True)
        except FileNotFoundError:
            return []
        folders = [entry["name"].rstrip("/") for entry in entries if entry["type"] == "directory"]
        return sorted(PurePosixPath(folder).name for folder in folders if folder != path)

    def names(self, *parts: str) -> list[str]:
        """The names of all that is in a folder, sorted; none where it does not exist."""
        path = self.path(*parts)
        self.fs.invalidate_cache()
        try:
            paths = self.fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
        return sorted(PurePosixPath(each).name for each in paths if each.rstrip("/") != path)

    def sizes(self, *parts: str) -> dict[str, int]:
        """The files below a folder: relative path -> bytes."""
        folder = self.path(*parts)
        self.fs.invalidate_cache()
        return {path[len(folder) + 1 :]: info["size"] for path, info in self.fs.find(folder, detail=True).items()}

    def size(self, *parts: str) -> int:
        """The bytes of a file, or of all that is in a folder."""
        if self.local:
            return folder_size(self.local.joinpath(*parts))
        self.fs.invalidate_cache()
        return int(self.fs.du(self.path(*parts)))

    # Changing

    def replace(self, content: bytes, *parts: str) -> None:
        """Write a small file in one atomic step, whether or not there is one."""
        if self.local:
            path = self.local.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_durably(path, content)
        else:
            self.fs.pipe_file(self.path(*parts), content)

    def remove_file(self, *parts: str) -> None:
        """Delete a file. Raises OSError, FileNotFoundError only where the kind of root can tell."""
        self.fs.rm_file(self.path(*parts))

    def remove(self, *parts: str) -> None:
        """Delete a file, or a folder and all that is in it. Raises FileNotFoundError and other OSErrors."""
        self.fs.rm(self.path(*parts), recursive=True)

    def remove_empty_folder(self, *parts: str) -> None:
        """Raises OSError; a local one also where something is in it, of another kind nobody can be sure."""
        self.fs.rmdir(self.path(*parts))

    @contextmanager
    def lock(self, key: Key) -> Iterator[None]:
        """Be the only process of this machine that changes an artifact during the `with` block."""
        path = self.scratch / ".locks" / f"{key.relative}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path):
            yield

    # What is wrong with a disk

    @contextmanager
    def explaining_disk(self, outcome: str, key: Key) -> Iterator[None]:
        """Turn what only the user can mend, a disk that is full or may not be written to, into a UserError.

        `outcome` says, for the sentence, what of the artifact came of it.
        """
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            where = getattr(error, "filename", None)
            again = f"and {key.materialize} again"
            if _is_full_disk(error):
                raise UserError(
                    f"The disk of {where or self.scratch} is full or the quota on it is used up; {outcome}: free some "
                    f"space there {again}."
                ) from error
            if self._is_misnamed(error):
                raise UserError(f"{self.out_of_reach(error)}; {outcome}, {again.removeprefix('and ')}.") from error
            if self._is_unwritable(error):
                raise UserError(
                    f"This process may not write to {where or self.name} ({_reason(error)}); {outcome}: get the right "
                    f"to write there or set SUBLIMINAL_ARTIFACTS to another folder, {again}."
                ) from error
            raise

    @contextmanager
    def explaining_reach(self) -> Iterator[None]:
        """Turn an error that says that a remote root cannot be looked at into OutOfReach."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if not self._is_out_of_reach(error):
                raise
            raise OutOfReach(f"{self.out_of_reach(error)}.") from error

    def out_of_reach(self, error: Exception) -> str:
        """What is wrong with a remote root, without a full stop."""
        return (
            f"The artifact root {self.name} cannot be used ({_reason(error)}): check its name, the endpoint and the "
            "credentials (for s3:// the variables AWS_...)"
        )

    def _is_out_of_reach(self, error: Exception) -> bool:
        """Whether an error is one of a remote root's service: no network, no such bucket, no credentials, no right."""
        if self.local is not None:
            return False
        services = ("botocore", "aiobotocore", "aiohttp", "s3fs", "gcsfs", "google", "adlfs", "azure")
        of_service = any(kind.__module__.partition(".")[0] in services for kind in type(error).__mro__)
        unheard = isinstance(error, ConnectionError | TimeoutError | PermissionError)
        return of_service or self._is_misnamed(error) or unheard

    def _is_misnamed(self, error: Exception) -> bool:
        """Whether an error says that there is no such bucket, or nobody to ask it as."""
        if self.local is not None:
            return False
        no_bucket = isinstance(error, FileNotFoundError) and "bucket" in str(error)
        return no_bucket or "Credentials" in type(error).__name__

    def _is_unwritable(self, error: Exception) -> bool:
        """Whether an error says that the store may not be written to; one about a file elsewhere says nothing."""
        if not isinstance(error, OSError):
            return False
        own = [folder for folder in (self.local, self.scratch, self.cache, self.work) if folder is not None]
        if isinstance(error, FileExistsError | NotADirectoryError):
            return any(path.is_file() for folder in own for path in (folder, *folder.parents))
        if error.errno not in _UNWRITABLE and not isinstance(error, PermissionError):
            return False
        if error.filename is None:
            return self.local is None
        path = Path(os.fsdecode(error.filename))
        return any(path.is_relative_to(folder) or folder.is_relative_to(path) for folder in own)


def _opened(root: str | Path) -> tuple[str, Any, str]:
    """The name of a root, its file system, and its path there."""
    if not str(root).strip() or "\0" in str(root):
        raise UserError(
            "The artifact root is blank or holds a null character: set SUBLIMINAL_ARTIFACTS to a folder or to the "
            "URL of one."
        )
    url = str(root).strip()
    if not _URL.match(url):
        # Not by fsspec, which reads "a::b" and "file:x" as more than names.
        folder = os.path.abspath(os.path.expanduser(root))
        return folder, LocalFileSystem(), folder
    # A URL may carry a password, and the root is named in messages.
    name = re.sub(r"//[^/@]*@", "//", url)
    caching = re.search(r"\b(\w*cache)::", url)
    if caching:
        # A cached pointer hides new results, and a claim that such a layer answers for is given to two.
        raise UserError(
            f"The artifact root {name} goes through {caching[1]}: leave that out, the store keeps copies of its own."
        )
    try:
        return name, *fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UserError(f"The artifact root {name} cannot be opened: {error}.") from error


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or shown(str(error))


def _is_full_disk(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL_DISK:
        return True
    # safetensors and others wrap the system's error in their own and keep only its text.
    return any(os.strerror(code) in str(error) for code in _FULL_DISK)
