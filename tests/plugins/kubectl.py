"""kubectl on the cluster that KUBECONFIG names: the only way in which the live tests reach it."""

import base64
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from socket import socket
from threading import Event, Thread
from typing import Any, TypeVar

import pytest
import yaml

from pipelines.local.stack import free_ports

Object = dict[str, Any]
T = TypeVar("T")


class KubectlError(RuntimeError):
    """A command failed: the command and what it said."""


def eventually(ask: Callable[[], T], within: float, what: str, every: float = 2.0) -> T:
    """The first answer that is not empty; the test fails with `what` after `within` seconds.

    A command that fails counts as no answer: tests stop servers.
    """
    end = time.monotonic() + within
    while True:
        last = ""
        try:
            if found := ask():
                return found
        except KubectlError as error:
            last = f"; {error}"
        if time.monotonic() > end:
            pytest.fail(f"not within {within:.0f} s: {what}{last}")
        time.sleep(every)


def stream(objects: tuple[Object, ...]) -> str:
    return yaml.safe_dump_all(objects, sort_keys=False)


class Kubectl:
    """Commands in one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def __call__(self, *words: str, stdin: str = "", timeout: float = 120) -> str:
        """What a command prints on stdout. Raises KubectlError if it fails or takes too long."""
        line = ["kubectl", "--namespace", self.namespace, *words]
        try:
            done = subprocess.run(
                line, input=stdin, capture_output=True, text=True, timeout=timeout
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise KubectlError(f"{' '.join(line)}: no end within {timeout:.0f} s") from error
        if done.returncode:
            raise KubectlError(f"{' '.join(line)}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def get(self, kind: str, name: str) -> Object | None:
        text = self("get", kind, name, "--ignore-not-found", "--output", "json")
        return json.loads(text) if text.strip() else None

    def items(self, kind: str, selector: str = "") -> list[Object]:
        """Objects of a kind with these labels."""
        return list(json.loads(self("get", kind, "-l", selector, "--output", "json"))["items"])

    def absent(self, *objects: Object) -> list[Object]:
        """Those of the objects that the cluster does not have."""
        text = self("get", "--filename", "-", "--ignore-not-found", "--output", "json",
                    stdin=stream(objects))  # fmt: skip
        items = json.loads(text)["items"] if text.strip() else []  # of one object as well
        there = {(one["kind"], one["metadata"]["name"]) for one in items}
        return [one for one in objects if (one["kind"], one["metadata"]["name"]) not in there]

    def version(self, group: str) -> str:
        """GROUP/VERSION that the server prefers of an API group; empty if it lacks the group."""
        groups = json.loads(self("get", "--raw", "/apis"))["groups"]
        found = [one["preferredVersion"]["groupVersion"] for one in groups if one["name"] == group]
        return str(found[0]) if found else ""

    def knows(self, kind: str) -> bool:
        """Whether the server knows a kind, given as NAME.GROUP."""
        name, _, group = kind.partition(".")
        version = self.version(group)
        found = json.loads(self("get", "--raw", f"/apis/{version}")) if version else {}
        return name in {one["name"] for one in found.get("resources", ())}

    def apply(self, *objects: Object, dry_run: bool = False) -> str:
        """Apply objects; with `dry_run` the server checks them and keeps nothing."""
        return self._given("apply", objects, *(("--dry-run=server",) if dry_run else ()))

    def create(self, *objects: Object, dry_run: bool = False) -> str:
        """The same for objects that must not exist."""
        return self._given("create", objects, *(("--dry-run=server",) if dry_run else ()))

    def delete(self, *objects: Object) -> None:
        """Delete objects and wait until they are gone; what is not there is not an error."""
        self._given("delete", objects, "--ignore-not-found", timeout=600)

    def _given(
        self, verb: str, objects: tuple[Object, ...], *options: str, timeout: float = 120
    ) -> str:
        if not objects:
            return ""
        return self(verb, *options, "--filename", "-", stdin=stream(objects), timeout=timeout)

    def kill(self, pod: str) -> None:
        """Delete a pod at once, as if its node were lost."""
        self("delete", "pod", pod, "--force", "--grace-period=0")

    def secret(self, name: str) -> dict[str, str]:
        found = self.get("secret", name)
        if found is None:
            raise KubectlError(f"{self.namespace}: no secret {name}")
        return {key: base64.b64decode(text).decode() for key, text in found["data"].items()}

    @contextmanager
    def forward(self, target: str, port: int) -> Iterator[str]:
        """An address on loopback that leads to a port of a service, whichever pod it has then.

        A forwarding ends with the pod that it was started for: another one takes its place.
        """
        (local,) = free_ports(1)
        ended = Event()

        def again() -> None:
            while not ended.is_set():
                with subprocess.Popen(
                    ["kubectl", "--namespace", self.namespace, "port-forward", "--address",
                     "127.0.0.1", target, f"{local}:{port}"], stdout=subprocess.DEVNULL,
                ) as process:  # fmt: skip
                    while process.poll() is None and not ended.wait(0.5):
                        pass
                    process.terminate()
                ended.wait(1)

        thread = Thread(target=again, daemon=True)
        thread.start()
        try:
            eventually(lambda: listens(local), 60, f"kubectl port-forward {target} {port}")
            yield f"http://127.0.0.1:{local}"
        finally:
            ended.set()
            thread.join()


def listens(port: int) -> bool:
    with closing(socket()) as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
