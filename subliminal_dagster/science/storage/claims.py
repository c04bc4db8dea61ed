"""Who is making what: so that two processes sharing a store never make the same artifact side by side.

A claim is a small file that only one process can create, and that nobody changes afterwards:

    <root>/.claims/<study>/<asset>/<partition or "_">.json    who holds it
    <root>/.claims/.beats/<token>                             a count that rises for as long as the holder lives

A holder that was killed leaves its claim behind. On its own host it is known to be gone at once; from another host,
when its count stands still.

Belongs here: taking, breaking, releasing and listing claims. Does not belong here: which artifact a file's name stands
for (`keys`), or what to do while another process holds a claim.

Part of no version: who made an artifact does not change it.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.processes import is_hidden, start_of, this_boot
from subliminal_dagster.science.storage.root import Root

BEAT_SECONDS = 10.0
ABANDONED_AFTER_SECONDS = 120.0
LONG_SILENT_AFTER_SECONDS = 900.0
"""Who looks once, as a plan does, takes a holder on another host for gone after this; clocks differ by less."""

_NEW_FOR_SECONDS = 86_400.0
_NEW, _BEATS = ".new/", ".beats/"

_clock = time.monotonic
_REFUSED = (409, 412)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True)
class Holder:
    """A process at one place in time.

    `started`: when it started, in clock ticks since boot (seconds since 1970 where there is no /proc), which tells it
    from a later process of the same number. `boot`: which start of the system, and which numbering of its processes
    (containers on one host have their own). `token` is new for every claim.
    """

    host: str
    process: int
    started: str
    boot: str
    token: str

    @classmethod
    def this_process(cls) -> Holder:
        """Of this process, with a new token."""
        process = os.getpid()
        return cls(socket.gethostname(), process, start_of(process) or "", this_boot(), uuid.uuid4().hex)

    @classmethod
    def parsed(cls, content: bytes) -> Holder | None:
        """What `content` gave; None where that is not the JSON of a holder."""
        try:
            holder = cls(**json.loads(content))
        except (ValueError, TypeError):
            return None
        texts = (holder.host, holder.started, holder.boot, holder.token)
        return holder if isinstance(holder.process, int) and all(isinstance(text, str) for text in texts) else None

    @property
    def content(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self)).encode()

    @property
    def shown(self) -> str:
        """Fit for a message: "process 1234 on gpu1"."""
        return f"process {self.process} on {self.host}"

    def lives(self) -> bool | None:
        """Whether the process is still there; None where this process cannot know."""
        if self.host != socket.gethostname():
            return None
        boot, _, numbering = self.boot.partition("/")
        boot_here, _, numbering_here = this_boot().partition("/")
        if boot != boot_here:
            return False
        if numbering != numbering_here:
            return None
        started = start_of(self.process)
        if started is not None:
            return started == self.started
        # A process that exists and says nothing of itself is another user's on a system that hides those.
        return None if is_hidden(self.process) else False


class ClaimedElsewhere(UserError):  # noqa: N818
    """Another process is making this artifact; `holder` says which."""

    def __init__(self, message: str, holder: Holder) -> None:
        super().__init__(message)
        self.holder = holder

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.holder)


class Claims:
    """The claims below a root.

    Names of claims are relative posix paths below their folder. Every method raises OSError where that cannot be read
    or written.

    An instance remembers since when it has seen the claims of other hosts stand still, so keep one to look with.
    """

    def __init__(self, root: Root) -> None:
        self._fs = root.fs
        self._folder = root.path(".claims")
        self._local = root.local is not None
        self._seen: dict[str, tuple[tuple[bytes, bytes | None], float]] = {}
        self._mine: dict[str, Holder] = {}
        self._exclusive = self._local

    @contextmanager
    def held(self, name: str) -> Iterator[Holder | None]:
        """Hold a claim during the `with` block: gives None, or whoever holds it already, this process included."""
        mine = Holder.this_process()
        other = self._take(name, mine)
        if other is not None:
            yield other
            return
        ended = threading.Event()
        threading.Thread(target=self._beat, args=(name, mine, ended), daemon=True).start()
        self._mine[name] = mine
        try:
            yield None
        finally:
            self._mine.pop(name, None)
            # A forked copy of this process that leaves the block too holds nothing.
            if mine.process == os.getpid():
                ended.set()
                self._release(name, mine)

    def is_lost(self, name: str) -> bool:
        """Whether a claim that this instance holds was broken: its process stood still for so long, as one suspended
        does, that another one took it for gone. False for a claim that it does not hold."""
        mine = self._mine.get(name)
        return mine is not None and self._read(name) != mine.content

    def all(self, below: str) -> dict[str, Holder]:
        """The claims in a folder that living processes hold: name -> holder."""
        self._fs.invalidate_cache()
        try:
            paths = self._fs.find(f"{self._folder}/{below}")
        except FileNotFoundError:
            return {}
        names = [str(path)[len(self._folder) + 1 :] for path in paths]
        found = {}
        for name in names:
            content = self._read(name) if name.endswith(".json") else None
            if content is None or self._is_abandoned(name, content):
                continue
            holder = _holder(content)
            if holder.lives() is not None or not self._is_older(
                LONG_SILENT_AFTER_SECONDS, name, f".beats/{holder.token}"
            ):
                found[name] = holder
        return found

    def leftovers(self) -> list[str]:
        """Names of what killed processes left here that nobody would look at again: claims of this host's, counts
        without a claim, and files that were to become claims."""
        self._fs.invalidate_cache()
        try:
            paths = self._fs.find(self._folder)
        except FileNotFoundError:
            return []
        names = sorted(str(path)[len(self._folder) + 1 :] for path in paths)
        contents = {name: self._read(name) for name in names if not name.startswith((_NEW, _BEATS))}
        holders = {name: _holder(content) for name, content in contents.items() if content is not None}
        counted = {_BEATS + holder.token for holder in holders.values()}
        left = [name for name, holder in holders.items() if holder.lives() is False]
        left += [name for name in names if name.startswith(_BEATS) and name not in counted]
        left += [name for name in names if name.startswith(_NEW) and self._is_older(_NEW_FOR_SECONDS, name)]
        return left

    def remove_leftover(self, name: str) -> int:
        """Remove one of the `leftovers`, unless a living process has taken the claim since. Returns the bytes freed."""
        content = self._read(name)
        if content is None:
            return 0
        if name.startswith((_NEW, _BEATS)):
            self._remove(name)
        elif _holder(content).lives() is False:
            self._remove_once(name, content)
        else:
            return 0
        return len(content)

    def path(self, name: str) -> str:
        """Where a claim, or a leftover of one, lies."""
        return f"{self._folder}/{name}"

    def _is_older(self, seconds: float, *names: str) -> bool:
        """Whether these were all written longer ago than that, by this machine's clock; False where none is there."""
        written = []
        for name in names:
            with suppress(FileNotFoundError):
                when = self._fs.modified(self.path(name))
                written.append(when if when.tzinfo else when.replace(tzinfo=UTC))
        return bool(written) and (datetime.now(UTC) - max(written)).total_seconds() > seconds

    def _take(self, name: str, mine: Holder) -> Holder | None:
        """Create a claim, breaking one whose holder is gone. Gives None, or who holds it."""
        while True:
            if self._create(name, mine.content):
                return None
            content = self._read(name)
            if content is None:
                continue
            if not self._is_abandoned(name, content):
                return _holder(content)
            self._remove_once(name, content)

    def _remove_once(self, name: str, content: bytes) -> None:
        """Remove a claim if it is still this one.

        Between looking and removing, somebody else could remove it and a third take it. So whoever wants to remove
        one first takes the claim to do that, which a process killed on the way leaves to be broken like any other.
        """
        removing = f"{name}.{_holder(content).token}.removing"
        mine = Holder.this_process()
        if self._take(removing, mine) is not None:
            # Somebody else is about to.
            time.sleep(0.01)
            return
        if self._read(name) == content:
            self._remove(f".beats/{_holder(content).token}")
            self._remove(name)
        self._remove(removing)

    def _release(self, name: str, mine: Holder) -> None:
        # Where nothing helps the claim ends with the process.
        with suppress(Exception):
            if self._read(name) == mine.content:
                self._remove_once(name, mine.content)
        with suppress(Exception):
            # A full disk has no room for the claim to remove one.
            if self._read(name) == mine.content:
                self._remove(name)
            self._remove(f".beats/{mine.token}")

    def _beat(self, name: str, mine: Holder, ended: threading.Event) -> None:
        count = 0
        while not ended.wait(BEAT_SECONDS):
            count += 1
            # One beat missed is nothing, whatever the reason.
            with suppress(Exception):
                if self._read(name) != mine.content:
                    return
                self._write(f".beats/{mine.token}", str(count).encode())
        with suppress(Exception):
            self._remove(f".beats/{mine.token}")

    def _is_abandoned(self, name: str, content: bytes) -> bool:
        holder = _holder(content)
        lives = holder.lives()
        if lives is not None:
            return not lives
        sign = (content, self._read(f".beats/{holder.token}"))
        now = _clock()
        seen, since = self._seen.get(name, (None, now))
        if seen != sign:
            since = now
        self._seen[name] = (sign, since)
        return now - since >= ABANDONED_AFTER_SECONDS

    # Files

    def _create(self, name: str, content: bytes) -> bool:
        """Whether it was this call that created the file, whole."""
        path = self.path(name)
        if self._local:
            return _create_locally(Path(path), Path(self.path(".new")), content)
        self._require_exclusive()
        with _CREATING:
            self._create_remotely(path, content)
        # Also where the store says that there was one: the answer to a first try may have been lost.
        return self._read(name) == content

    def _require_exclusive(self) -> None:
        """Try once whether the remote root refuses to create a file that is there, which claims rest on. Raises
        UserError where it does not: two runs would make the same part, each sure that it alone does."""
        if self._exclusive:
            return
        path = self.path(f"{_NEW}{uuid.uuid4().hex}")
        refused = False
        with suppress(TypeError, NotImplementedError):
            self._create_remotely(path, b"first")
            refused = not self._create_remotely(path, b"second") and self._fs.cat_file(path) == b"first"
        with suppress(FileNotFoundError, NotImplementedError):
            self._fs.rm_file(path)
        if not refused:
            raise UserError(
                f"The artifact root at {self._folder.removesuffix('/.claims')} creates a file although there is one, "
                "so no run could claim a part: use a store that knows conditional writes (S3, or MinIO of 2024 or "
                "later), or a shared folder."
            )
        self._exclusive = True

    def _create_remotely(self, path: str, content: bytes) -> bool:
        """Whether the store accepted a file as new; a lost answer may hide that it did."""
        try:
            self._fs.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            # s3fs knows the refusal by an element that only Amazon sends, and not at all that of two at once.
            response = getattr(error.__cause__, "response", None) or {}
            if response.get("ResponseMetadata", {}).get("HTTPStatusCode") not in _REFUSED:
                raise
            return False
        return True

    def _read(self, name: str) -> bytes | None:
        try:
            content: bytes = self._fs.cat_file(self.path(name))
        except FileNotFoundError:
            return None
        return content

    def _write(self, name: str, content: bytes) -> None:
        if self._local:
            Path(self.path(name)).parent.mkdir(parents=True, exist_ok=True)
        self._fs.pipe_file(self.path(name), content)

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm_file(self.path(name))


# fsspec's file system in memory looks first and creates then.
_CREATING = threading.Lock()


def _create_locally(path: Path, aside: Path, content: bytes) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside.mkdir(parents=True, exist_ok=True)
    new = aside / uuid.uuid4().hex
    try:
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            # Unlike a rename this never replaces, and unlike an exclusive open it never shows half a file.
            os.link(new, path)
        except FileExistsError:
            # Over NFS that may be the answer to a request repeated after it was fulfilled.
            return os.stat(new).st_nlink == 2
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create_without_links(path, content)
        return True
    finally:
        new.unlink(missing_ok=True)


def _create_without_links(path: Path, content: bytes) -> bool:
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _holder(content: bytes) -> Holder:
    """Whose claim this is. One that cannot be read is somebody's, whose count nobody will see rise."""
    return Holder.parsed(content) or Holder("an unknown host", 0, "", "", "unreadable")
