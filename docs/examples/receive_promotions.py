"""Receive MLflow's signed messages about promotions and print them, one JSON line each.

    WEBHOOK_SECRET=… python docs/examples/receive_promotions.py --port 8080

Needs Python only. Messages that are not signed with the secret or are older than five minutes are
refused, and one that comes twice counts once. The server speaks plain http on loopback: put it
behind a proxy with https.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import sys
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOLERANCE = 300.0  # s between the clocks of MLflow and of this machine
LARGEST = 1 << 20  # bytes of a message


def refusal(headers: Mapping[str, str], body: bytes, secret: str, now: float) -> str:
    """Why a message is refused; empty if it is signed with `secret` and was sent lately.

    MLflow 3.17 signs `<delivery id>.<timestamp>.<body>` with HMAC-SHA256, as mlflow/webhooks/
    delivery.py shows: the header is `v1,` and the base64 of the digest.
    """
    sent, delivery = headers.get("X-MLflow-Timestamp", ""), headers.get("X-MLflow-Delivery-Id", "")
    text = f"{delivery}.{sent}.".encode() + body
    digest = hmac.new(secret.encode(), text, hashlib.sha256).digest()
    expected = b"v1," + base64.b64encode(digest)
    if not hmac.compare_digest(expected, headers.get("X-MLflow-Signature", "").encode()):
        return "not signed with this secret"
    return "" if abs(now - float(sent)) <= TOLERANCE else "too old"


class Receiver(BaseHTTPRequestHandler):
    """Answers 204 to a message that is accepted, 401 to one that is refused."""

    secret = ""
    seen: set[str] = set()  # noqa: RUF012 - deliveries, for the life of this process

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(min(size, LARGEST))
        delivery = self.headers.get("X-MLflow-Delivery-Id", "")
        if why := refusal(self.headers, body, self.secret, time.time()):
            self.answer(401)
            sys.stderr.write(f"refused: {why}\n")
            return
        self.answer(204)
        if delivery in self.seen:  # sent again, as the answer was lost
            return
        self.seen.add(delivery)
        message = json.loads(body)
        data = message["data"]
        if message["entity"] == "model_version_alias" and data.get("alias") == "champion":
            # What should happen on a new champion goes here.
            event = {"action": message["action"], **data}
            sys.stdout.write(f"{json.dumps(event)}\n")
            sys.stdout.flush()

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=8080)
    port = parser.parse_args().port
    Receiver.secret = os.environ.get("WEBHOOK_SECRET", "")
    if not Receiver.secret:
        raise SystemExit("set WEBHOOK_SECRET, the one that `release webhook create` had")
    with ThreadingHTTPServer(("127.0.0.1", port), Receiver) as server:
        sys.stderr.write(f"listening on http://127.0.0.1:{server.server_port}\n")
        sys.stderr.flush()
        server.serve_forever()


if __name__ == "__main__":
    main()
