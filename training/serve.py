"""Serve a promoted model: a page to edit faces, an API, and the Open Inference Protocol.

    python -m training.serve stargan@champion
    python -m training.serve stargan@champion --port 9000 --queue 32
    SERVE_TOKEN=… python -m training.serve stargan@champion --host 0.0.0.0

The version is verified first; no code from the registry is run. A promotion or rollback is followed
within seconds. No picture is stored or logged.
"""

import logging
import sys
from typing import Annotated

from pydantic import Field

from training.core import cli, environment
from training.core.cli import means

main = cli.program("python -m training.serve", __doc__)
Count = Annotated[int, Field(ge=1, le=1024)]
Seconds = Annotated[float, Field(gt=0, le=3600)]
NAMES = means("further name of this server in requests, repeatable; needs a token", "--name")


@main.default
def serve(
    version: Annotated[str, means("NAME@champion, which is followed, or NAME/VERSION")],
    /,
    *,
    host: Annotated[str, means("address to listen on; others than loopback need a token")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, Field(ge=0, le=65535), means("port; 0: a free one")] = 8080,
    names: Annotated[list[str] | None, NAMES] = None,
    queue: Annotated[Count, means("edits that wait or run at once; others get 429")] = 16,
    batch: Annotated[Count, means("most pictures in one pass of the network")] = 8,
    time_limit: Annotated[Seconds, means("seconds to receive a request, and to answer it")] = 30.0,
    max_bytes: Annotated[int, Field(ge=1024), means("bytes of a request")] = 20 * 2**20,
    max_pixels: Annotated[int, Field(ge=1024), means("pixels of a picture")] = 16_000_000,
    every: Annotated[Seconds, means("seconds between two looks at the registry")] = 2.0,
    drain: Annotated[float, Field(ge=0, le=600), means(
        "seconds after SIGTERM in which the server is not ready but still edits"
    )] = 0.0,
) -> str:  # fmt: skip
    """Serve a version until SIGTERM or Ctrl-C; edits that have begun are finished.

    Raises ValueError for an unknown or altered version and an address that needs a token, and
    OSError for one that is taken.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # A registry that is down is asked again soon; MLflow would try for minutes.
    environment.put_default(MLFLOW_HTTP_REQUEST_TIMEOUT="10", MLFLOW_HTTP_REQUEST_MAX_RETRIES="1")
    from training.serving import follow, guard
    from training.serving.app import application
    from training.serving.figures import Figures
    from training.serving.server import Server, address, listener
    from training.serving.service import Limits, Service

    who = guard.access(host, tuple(names or ()))
    figures = Figures()
    limits = Limits(queue, batch, time_limit, max_bytes, max_pixels)
    with listener(host, port) as bound:
        served = follow.first(version)
        service = Service(served, limits, figures)
        follower = follow.Follower(version, served, service.swap, every, figures)
        server = Server(application(service, who), service, drain)
        follower.start()
        bound.listen()  # from here on nobody is refused
        sys.stdout.write(
            f"{address(bound)}: {served.name} version {served.version}; Ctrl-C stops it\n"
        )
        sys.stdout.flush()
        server.run([bound])
        follower.end()
        service.end()
    return server.ended


if __name__ == "__main__":
    cli.entry_point(main)
