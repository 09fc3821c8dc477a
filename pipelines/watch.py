"""Run the pipeline on this machine whenever the content of a folder has changed.

    python -m pipelines watch photos datasets=pets:folders preset=small
    python -m pipelines watch photos --once datasets=pets:folders preset=small     from cron

The data version of the run decides, not the files' times: the same content runs nothing, unless
people are to be forgotten since. The last decision is kept in `runs/watch`, so that a stopped run
is resumed and a finished one not repeated.
"""

import hashlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from filelock import FileLock, Timeout
from pydantic import Field

from pipelines import compiled
from pipelines.arguments import LOCAL, parse
from training.core import environment
from training.core.cli import means
from training.core.config import build
from training.core.files import canonical_json, read_json, sha256_bytes, write_json
from training.data import forgotten as tombstones
from training.data.versions import data_version, raw_folder, split_datasets, with_kind
from training.storage.store import open_store

Seconds = Annotated[float, Field(gt=0, le=86_400)]
OWN = ("raw", "revision")  # parameters that the watched folder decides


class Look(NamedTuple):
    """A folder at one moment: a mark that any change alters, number of files, newest change (s)."""

    mark: str
    files: int
    newest: float

    @classmethod
    def at(cls, folders: Sequence[Path]) -> "Look":
        """Read names, sizes, inodes and times, no content. Raises OSError for a missing folder."""
        whole, files, newest = hashlib.sha256(), 0, 0.0
        for path, stat, is_file in _entries(folders):
            facts = (path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
            whole.update(f"{facts}\n".encode(errors="surrogateescape"))
            files += is_file
            newest = max(newest, stat.st_ctime)  # a file that was moved here has an old mtime
        return cls(whole.hexdigest(), files, newest)


def _entries(folders: Sequence[Path]) -> Iterator[tuple[str, os.stat_result, bool]]:
    """Path, status and whether it is no folder, of the folders and everything below, sorted."""

    def refuse(error: OSError) -> None:
        raise error

    for folder in folders:
        for parent, inside, files in os.walk(os.path.realpath(folder), onerror=refuse):
            inside.sort()
            yield parent, Path(parent).stat(), False
            for name in sorted(files):
                path = Path(parent, name)
                yield str(path), path.stat() if path.exists() else path.lstat(), True


@dataclass(frozen=True)
class Last:
    """The last run of a watched folder: its data version, as `content_of` has it, and its end."""

    content: str
    state: str  # started, done or failed
    when: str
    reason: str = ""


@dataclass
class Watch:
    """A watched folder: the pipeline's arguments, the state's file, seconds of quiet before a run.

    `judged` is what there was a decision on last: the mark of a look, and the lists of forgotten
    people; `told` names the last line about a folder that cannot be judged yet, which is printed
    once.
    """

    folder: Path
    arguments: dict[str, Any]
    datasets: list[tuple[str, str]]
    state: Path
    quiet: float
    judged: tuple[str, str] = ("", "")
    told: str = ""

    def look(self) -> Look:
        raw, alone = self.arguments["raw"], len(self.datasets) == 1
        return Look.at([raw_folder(raw, name, alone) for name, _ in self.datasets])

    def step(self) -> None:
        """Look at the folder once; run the pipeline if its content is new and it is quiet."""
        try:
            now = self.look()
            names = [name for name, _ in self.datasets]
            forgotten = tombstones.references(names, open_store())
            if (now.mark, forgotten) == self.judged:
                return
            age = time.time() - now.newest
            if age < self.quiet:
                self._tell_once("changing", "changing", f"{now.files} files, the last change "
                                f"{max(age, 0):.0f} s ago; a run needs {self.quiet:g} s without "
                                "one")  # fmt: skip
                return
            md5 = data_version(self.datasets, self.arguments["raw"], "")[0]
            if self.look().mark != now.mark:  # changed while it was read
                return
        except (ValueError, OSError) as error:
            self._tell_once(str(error), "unusable", f"{error}; waiting for a change")
            return
        self.judged, self.told = (now.mark, forgotten), ""
        self._decide(content_of(md5, forgotten), now.files)

    def last(self) -> Last | None:
        """The last run. Raises ValueError for a damaged state file."""
        return build(Last, read_json(self.state), "watch.") if self.state.is_file() else None

    def _decide(self, content: str, files: int) -> None:
        last = self.last()
        what = f"{files} files, content {content}"
        if last is None or last.content != content:
            tell("run", f"{what}: {'new' if last is None else f'was {last.content}'}")
        elif last.state == "started":
            tell("resume", f"{what}: its run of {last.when} was stopped")
        elif last.state == "done":
            tell("same", f"{what}: done {last.when}; nothing to do")
            return
        else:
            tell("failed", f"{what}: failed {last.when}, tried again when the content changes: "
                 f"{last.reason}")  # fmt: skip
            return
        self._run(content)

    def _run(self, content: str) -> None:
        """Run the pipeline and keep how it ended; a failed run does not end the watch."""
        from pipelines.local import outcome
        from pipelines.local.run import StepError, execute

        self._keep(Last(content, "started", stamp()))
        try:
            done = execute({"image": LOCAL, **self.arguments}, compiled.fitting(self.arguments))
        except (StepError, ValueError, OSError) as error:
            reason = error.run.failure if isinstance(error, StepError) else str(error)
            self._keep(Last(content, "failed", stamp(), reason))
            tell("failed", f"content {content}: {error}")
            for path in outcome.rescue(error.run) if isinstance(error, StepError) else ():
                tell("report", str(path))
            return
        # What was trained: the folder may have changed since it was judged.
        resolved = done.outputs["resolve"]
        trained = content_of(str(resolved["data_md5"]), str(resolved["forgotten"]))
        sys.stdout.write(f"{outcome.summary(done)}\n")
        self._keep(Last(trained, "done", stamp()))
        tell("done", f"content {trained}")

    def _keep(self, last: Last) -> None:
        write_json(self.state, asdict(last))

    def _tell_once(self, key: str, what: str, text: str) -> None:
        if key != self.told:
            tell(what, text)
        self.told = key


def content_of(md5: str, forgotten: str) -> str:
    """A run's data version: that of the raw data, and a hash of the lists of forgotten people."""
    return f"{md5}-{sha256_bytes(forgotten.encode())[:12]}" if forgotten else md5


def stamp() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def tell(what: str, text: str) -> None:
    sys.stdout.write(f"watch: {stamp()}  {what:<8}  {text}\n")
    sys.stdout.flush()


def opened(folder: Path, pairs: Sequence[str], quiet: float) -> Watch:
    """The watch of a folder; its settings are checked. Raises ValueError as `run` does."""
    from training.models import configure

    if own := [pair for pair in pairs if pair.partition("=")[0] in OWN]:
        raise ValueError(f"{own[0]}: the watched folder is the data; leave it out")
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    known = compiled.parameters()
    arguments = parse([f"raw={folder.absolute()}", *pairs], known)
    whole = {name: p.default for name, p in known.items()} | arguments
    config = configure.resolve(
        whole["model"], whole["preset"], configure.parse(whole["overrides"]), whole["datasets"]
    )
    datasets = split_datasets(config.data.datasets)
    for name, kind in datasets:
        with_kind(name, kind, None)
    key = sha256_bytes(canonical_json(arguments))[:16]
    state = environment.runs("watch", f"{key}.json").absolute()
    return Watch(folder, arguments, datasets, state, quiet)


@contextmanager
def alone(state: Path) -> Iterator[bool]:
    """Whether no other process watches with this state, which the block then locks."""
    state.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(state.with_suffix(".lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def watch(
    folder: Annotated[Path, means("the raw data; its subfolders for several data sets")],
    /,
    *pairs: Annotated[str, means("key=value, as for run")],
    once: Annotated[bool, means("decide once and exit, for cron; 1 if the run failed")] = False,
    every: Annotated[Seconds, means("seconds between two looks at the folder")] = 10.0,
    quiet: Annotated[Seconds, means("seconds without a change before a run starts")] = 60.0,
) -> None:
    """Run on this machine whenever a folder's content has changed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    one = opened(folder, pairs, quiet)
    with alone(one.state) as free:
        if not free:
            if once:
                tell("busy", "another process runs this folder; it sees what changes meanwhile")
                return
            raise ValueError(f"{folder}: another process watches it with these settings; end that")
        try:
            tell("watching", f"{folder.absolute()}; state {one.state}")
            one.step()
            while not once:
                time.sleep(every)
                one.step()
        except KeyboardInterrupt:
            sys.stderr.write("\nstopped; the same command goes on\n")
            raise SystemExit(130) from None
        last = one.last()
        if last and last.state == "failed":
            raise SystemExit(1)
