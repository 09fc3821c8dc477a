"""Many requests at once: the queue's bound, batches, time limits, clients that leave."""

import io
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from serving import BLOND, Answer, Held, Running, held, running, wait_for
from training.models.base import EditOptions
from training.serving import follow
from training.serving.batches import Batches, Edit
from training.serving.figures import Figures
from training.serving.served import Served
from training.serving.service import Limits

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own


@contextmanager
def held_server(faces: Served, **limits: Any) -> Iterator[tuple[Running, Held, ThreadPoolExecutor]]:
    """A server whose network waits, and threads for its clients."""
    served, translator = held(faces)
    with running(served, limits=Limits(**limits)) as server, ThreadPoolExecutor(20) as clients:
        try:
            yield server, translator, clients
        finally:
            translator.go.set()


def pixels(answer: Answer) -> np.ndarray:
    assert answer.status == 200, answer.body
    return np.asarray(Image.open(io.BytesIO(answer.body))).astype(int)


def waiting(server: Running, count: int) -> None:
    """Until this many edits are in the network's queue."""
    wait_for(lambda: server.figures()["stargan_serve_queue_length"] == count)


def test_the_queue_is_bounded_and_says_when_to_come_back(faces: Served, photo: bytes) -> None:
    with held_server(faces, queue=3) as (server, translator, clients):
        inside = [clients.submit(server.edit, photo, *BLOND) for _ in range(3)]
        wait_for(lambda: server.service.inside == 3)
        refused = server.edit(photo, *BLOND)
        assert refused.status == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert refused.json["what"] == "3 edits are waiting or running, the limit"
        assert server.get("/v2/health/ready").status == 200
        translator.go.set()
        assert [future.result().status for future in inside] == [200, 200, 200]
        assert server.edit(photo, *BLOND).status == 200


def test_what_waits_runs_in_one_pass_with_each_edits_own_result(
    faces: Served, portrait: Image.Image
) -> None:
    """Different pictures and labels are one batch, another intensity is not."""
    photos = [portrait.rotate(90 * turn) for turn in range(4)]
    data = []
    for one in photos:
        buffer = io.BytesIO()
        one.save(buffer, "PNG")
        data.append(buffer.getvalue())
    texts = [BLOND, (*BLOND, ("label", "Male")), BLOND, (*BLOND, ("has", "Male"))]
    stronger = (*BLOND, ("intensity", "2.5"))
    with held_server(faces, queue=9) as (server, translator, clients):
        first = clients.submit(server.edit, data[0], *BLOND)
        wait_for(lambda: translator.passes == [1])
        many: list[Future[Answer]] = []
        for index, (picture, wanted) in enumerate(zip(data, texts, strict=True)):
            many.append(clients.submit(server.edit, picture, *wanted))
            waiting(server, index + 1)
        other = clients.submit(server.edit, data[0], *stronger)
        waiting(server, 5)
        translator.go.set()
        together = [pixels(future.result()) for future in many]
        assert translator.passes == [1, 4, 1]
        alone = [pixels(server.edit(d, *t)) for d, t in zip(data, texts, strict=True)]
        for left, right in zip(together, alone, strict=True):
            assert np.abs(left - right).max() <= 1
        apart = [np.abs(alone[0] - one).max() for one in (alone[1], alone[2], alone[3])]
        assert min(apart) > 1
        assert np.abs(pixels(other.result()) - pixels(server.edit(data[0], *stronger))).max() <= 1
        assert np.array_equal(pixels(first.result()), alone[0])


def test_a_batch_is_no_larger_than_allowed(faces: Served, photo: bytes) -> None:
    with held_server(faces, queue=9, batch=2) as (server, translator, clients):
        futures = [clients.submit(server.edit, photo, *BLOND)]
        wait_for(lambda: translator.passes == [1])
        futures += [clients.submit(server.edit, photo, *BLOND) for _ in range(5)]
        waiting(server, 5)
        translator.go.set()
        assert {future.result().status for future in futures} == {200}
        assert translator.passes == [1, 2, 2, 1]


@pytest.mark.parametrize("name", ["moods", "units", "joint"])
def test_styles_and_seeds_of_a_batch_stay_apart(at_shelf: Any, name: str) -> None:
    """Each edit of a batch is what it is alone, with seeds, with references, and with masks."""
    served = follow.first(f"{name}@champion")
    width, size = served.space.dim_g, served.size
    torch.manual_seed(0)
    kinds: list[list[EditOptions]] = [[EditOptions()] * 3]
    if name == "moods":
        kinds.append([EditOptions(seed=seed) for seed in (1, 2, 1)])
        kinds.append([EditOptions(reference=torch.rand(1, 3, size, size)) for _ in range(3)])
    for options in kinds:
        edits = [
            Edit(served, torch.rand(n, 3, size, size), None, torch.eye(width)[:n], one)
            for n, one in zip((1, 1 if options[0].reference is not None else 2, 1), options,
                              strict=True)
        ]  # fmt: skip
        batches = Batches(8, Figures())
        with batches._changed:  # so that all of them wait
            results = [batches._waiting.append(edit) or edit.result for edit in edits]
            batches._changed.notify()
        for edit, result in zip(edits, results, strict=True):
            keep, content = result.result(60)
            alone = replace(served.translator, options=edit.options)
            expected = alone.paint(edit.image, None, edit.target)
            assert torch.allclose(content, expected[1], atol=1e-5)
            assert (keep is None) is (expected[0] is None)
        batches.end()
        figures = batches.figures.text().decode()
        assert "stargan_serve_batch_size_count 1.0" in figures
        assert f"stargan_serve_batch_size_sum {sum(edit.rows for edit in edits)}.0" in figures


def test_an_edit_that_takes_too_long_is_given_up(faces: Served, photo: bytes) -> None:
    with held_server(faces, seconds=0.5) as (server, translator, clients):
        running_ = clients.submit(server.edit, photo, *BLOND)
        wait_for(lambda: translator.passes == [1])  # else both could be one batch
        waits = clients.submit(server.edit, photo, *BLOND)
        for future in (running_, waits):
            answer = future.result()
            assert answer.status == 504
            assert "retry-after" in answer.headers
        assert server.service.inside == 0
        (given_up,) = server.service._batches._waiting
        wait_for(given_up.result.cancelled)  # a moment after the answer
        translator.go.set()
        assert server.edit(photo, *BLOND).status == 200
        assert translator.passes == [1, 1]  # the edit that was given up while it waited never ran


def test_a_body_that_never_comes_is_given_up(faces: Served) -> None:
    with running(faces, limits=Limits(seconds=0.5)) as server:
        target = urlsplit(server.address)
        with socket.create_connection((target.hostname, target.port), 20) as link:
            link.sendall(b"POST /translate HTTP/1.1\r\nHost: localhost\r\n"
                         b"Content-Length: 100\r\n\r\n12345")  # fmt: skip
            assert link.recv(100).startswith(b"HTTP/1.1 408 ")
        wait_for(lambda: server.service.inside == 0)


def test_the_edit_of_a_client_that_left_is_not_run(faces: Served, photo: bytes) -> None:
    with held_server(faces) as (server, translator, clients):
        first = clients.submit(server.edit, photo, *BLOND)
        wait_for(lambda: translator.passes == [1])
        target = urlsplit(server.address)
        with socket.create_connection((target.hostname, target.port), 20) as link:
            head = (f"POST /translate?label=Male&frame=centre HTTP/1.1\r\nHost: localhost\r\n"
                    f"Content-Length: {len(photo)}\r\n\r\n")  # fmt: skip
            link.sendall(head.encode() + photo)
            waiting(server, 1)
        wait_for(lambda: server.service.inside == 1)
        translator.go.set()
        assert first.result().status == 200
        assert server.edit(photo, *BLOND).status == 200
        assert translator.passes == [1, 1]


@dataclass(frozen=True)
class Breaking(Held):
    """Fails for images of which any wants the last label."""

    def paint(
        self, image: Tensor, source: Tensor | None, target: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        result = super().paint(image, source, target)
        if bool(target[:, -1].any()):
            raise RuntimeError("broken on purpose")
        return result


def test_an_edit_that_fails_does_not_fail_those_of_its_batch(
    faces: Served, photo: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    own = faces.translator
    broken = Breaking(own.model, own.nets, own.space, own.size, own.config)
    with running(replace(faces, translator=broken)) as server, ThreadPoolExecutor(9) as clients:
        futures = [clients.submit(server.edit, photo, *BLOND)]
        wait_for(lambda: broken.passes == [1])
        futures += [clients.submit(server.edit, photo, *BLOND, ("label", text))
                    for text in ("Male=0", "Male", "Male=0")]  # fmt: skip
        waiting(server, 3)
        broken.go.set()
        assert [future.result().status for future in futures] == [200, 200, 500, 200]
        assert futures[2].result().json["what"] == "the server failed"
        assert "broken on purpose" not in futures[2].result().body.decode()
        assert server.edit(photo, *BLOND).status == 200
    assert "broken on purpose" in caplog.text


def test_a_stopping_server_is_not_ready_and_finishes_what_it_has(
    faces: Served, photo: bytes
) -> None:
    with held_server(faces) as (server, translator, clients):
        inside = [clients.submit(server.edit, photo, *BLOND) for _ in range(3)]
        wait_for(lambda: server.service.inside == 3)
        server.server.handle_exit(15, None)
        for path in ("/v2/health/ready", "/v2/models/faces/ready"):
            assert server.get(path).status == 503
        assert server.get("/v2/health/live").status == 200
        late = server.edit(photo, *BLOND)
        assert (late.status, late.json["what"]) == (503, "the server is stopping")
        assert late.headers["retry-after"] == "1"
        time.sleep(0.3)  # longer than uvicorn's tick
        translator.go.set()
        assert [future.result().status for future in inside] == [200, 200, 200]
        wait_for(lambda: server.server.should_exit)


def test_edits_are_answered_until_others_have_seen_that_it_leaves(
    faces: Served, photo: bytes
) -> None:
    with running(faces) as server:
        server.server.drain = 60
        server.server.handle_exit(15, None)
        assert server.get("/v2/health/ready").status == 503
        assert server.edit(photo, *BLOND).status == 200
        server.server._leave = time.monotonic()
        wait_for(lambda: server.server.should_exit)
        assert server.service.stopping
        wait_for(lambda: not server.server.server_state.connections)
    assert server.server.ended == "stopped; no edit was lost"


def test_a_second_signal_says_that_answers_are_lost(faces: Served, photo: bytes) -> None:
    with held_server(faces) as (server, _, clients):
        lost = clients.submit(server.edit, photo, *BLOND)
        wait_for(lambda: server.service.inside == 1)
        for _ in range(2):
            server.server.handle_exit(15, None)
        assert lost.exception() or lost.result().status == 500
        assert server.server.ended == "stopped; answers that were not sent yet are lost"
