"""What a real Kubeflow server says about a run: its steps' changes, durations, and its end.

The server lists every node of the workflow: for each task a driver and an executor, with one more
for each attempt, and the graph, its loops and their iterations. Only the pipeline's own tasks are
reported, under the names that the pipeline gives them. KFP 2.17 tells a step from the cache only by
its executor, which is skipped, and never says why a step failed.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

GOOD = ("SUCCEEDED", "SKIPPED")
ENDED = (*GOOD, "FAILED", "CANCELED")
STOPPED = {"CANCELING", "CANCELED"}
DRIVER = "-driver"  # ends the name of the node that starts a task
WIDTH = 24  # characters of a step's name
Titles = Mapping[str, str]  # a task's name in the pipeline -> the name for people, in order


class Task(NamedTuple):
    """One task of the pipeline, as the server last described it."""

    key: str  # unique in the run: a loop runs a task several times
    name: str
    title: str
    state: str  # empty for a task that was not run
    start: datetime | None
    end: datetime | None  # None while it runs
    cached: bool

    @property
    def since(self) -> str:
        """When it changed to its state, by the local clock."""
        time = self.end if self.state in ENDED else self.start
        return f"{(time or datetime.now().astimezone()).astimezone():%H:%M:%S}"

    @property
    def what(self) -> str:
        """Its state as text."""
        if self.cached:
            return "from the cache"
        if self.state in ENDED and self.start and self.end:
            joint = "in" if self.state in GOOD else "after"
            return f"{self.state.lower()} {joint} {lasted(self.end - self.start)}"
        return self.state.lower()


def lasted(duration: timedelta) -> str:
    """A duration in its two largest units: `48 s`, `4 min 5 s`, `2 h 0 min`, `1 d 3 h`."""
    seconds = max(0, round(duration.total_seconds()))
    for large, name, small, rest in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"),
                                     (60, "min", 1, "s")):  # fmt: skip
        if seconds >= large:
            return f"{seconds // large} {name} {seconds % large // small} {rest}"
    return f"{seconds} s"


def tasks(run: Any, titles: Titles) -> list[Task]:
    """The run's own tasks by start; those of a loop are numbered."""
    nodes = _nodes(run)
    names = {title: name for name, title in titles.items()} | {name: name for name in titles}
    skipped = {n.start_time for n in nodes if n.display_name == "executor" and n.state == "SKIPPED"}
    found: list[Task] = []
    count: dict[str, int] = {}
    for node in nodes:
        if node.display_name in names:
            name = names[node.display_name]
            count[name] = count.get(name, 0) + 1
            number = f" {count[name]}" if count[name] > 1 else ""
            end = node.end_time if node.end_time and node.end_time.year > 1 else None
            cached = node.state == "SUCCEEDED" and end == node.start_time and end in skipped
            found.append(
                Task(node.task_id, name, f"{titles[name]}{number}", node.state or "",
                     node.start_time, end, cached)
            )  # fmt: skip
    return found


def _nodes(run: Any) -> list[Any]:
    """The nodes of the workflow by start, then by id."""
    details = run.run_details.task_details if run.run_details else None
    known = [node for node in details or [] if node.display_name]
    return sorted(known, key=lambda node: (str(node.start_time), str(node.task_id)))


def progress(found: list[Task], titles: Titles) -> str:
    """One line on a running run."""
    done = {task.name for task in found} - {t.name for t in found if t.state not in GOOD}
    running = [t for t in found if t.state and t.state not in ENDED]
    now = ", ".join(
        f"{t.title} {lasted(datetime.now().astimezone() - t.start) if t.start else t.state}"
        for t in running
    )
    return f"{len(done)} of {len(titles)} steps done; {now or 'waiting for the next step'}"


def durations(run: Any, titles: Titles) -> list[str]:
    """A line for each step: its duration, or that it came from the cache or was not run."""
    lines, found = [], tasks(run, titles)
    for name, title in titles.items():
        ran = [t for t in found if t.name == name and t.state]
        starts = [t.start for t in ran if t.start]
        ends = [t.end for t in ran if t.end]
        if ran and all(t.cached for t in ran):
            text = "from the cache"
        elif starts and ends:
            text = lasted(max(ends) - min(starts)) + (f", {len(ran)} times" if ran[1:] else "")
        else:
            text = "not run"
        lines.append(f"  {title:<{WIDTH}} {text}")
    return lines


def total(run: Any) -> str:
    """How long the run took, or empty text."""
    both = run.created_at and run.finished_at and run.finished_at.year > 1
    return lasted(run.finished_at - run.created_at) if both else ""


def stopped(run: Any) -> bool:
    """Whether the run was told to end: KFP then calls it failed, like any other."""
    return run.state in STOPPED or any(one.state in STOPPED for one in run.state_history or ())


class Failure(NamedTuple):
    """A step that failed, with the message that the server gives, mostly none."""

    name: str
    title: str
    message: str


def failures(run: Any, titles: Titles) -> list[Failure]:
    """The steps that failed; a failed driver counts as its step, unless the step failed itself."""
    found: dict[str, Failure] = {}
    own = {task.key: task for task in tasks(run, titles)}
    for node in _nodes(run):
        name = node.display_name.removesuffix(DRIVER)
        task = own.get(node.task_id)
        if node.state == "FAILED" and (task or (name != node.display_name and name in titles)):
            name, title = (task.name, task.title) if task else (name, f"{titles[name]}, its driver")
            message = (node.error.message if node.error else "") or ""
            if task or name not in found:
                found[name] = Failure(name, title, message)
    return list(found.values())
