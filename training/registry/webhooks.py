"""Messages about the alias of registered models, sent by MLflow's server to an address of yours.

    python -m training.release webhook create https://example.com/promotions
    python -m training.release webhook list
    python -m training.release webhook test ID
    python -m training.release webhook remove ID

MLflow posts JSON with the model's name, its version and the alias after each promotion and each
rollback. It signs a message with WEBHOOK_SECRET, so that the receiver can tell it from a forged
one. A receiver that is down neither delays nor fails a promotion.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from training.core import environment
from training.core.shown import shown
from training.tracking import client as tracking

EVENTS = "model_version_alias.created,model_version_alias.deleted"


def create(url: str, name: str, events: str, *, unsigned: bool) -> str:
    """Send messages to an address; one that has them already gets the new secret and events.

    `events` are MLflow's names, A,B. Raises ValueError without a secret, unless `unsigned`.
    """
    secret = "" if unsigned else environment.WEBHOOK_SECRET.get()
    if not secret and not unsigned:
        raise ValueError(
            f"{environment.WEBHOOK_SECRET.name} is not set, so that the receiver could not tell a "
            "forged message: set it here and at the receiver (openssl rand -hex 32 makes one), or "
            "add --unsigned"
        )
    wanted, api = [event.strip() for event in events.split(",")], _server()
    with _refusals():
        known = [hook for hook in _all(api) if hook.url == url]
        if known:
            made = api.update_webhook(known[0].webhook_id, name=name, events=wanted, secret=secret)
        else:
            made = api.create_webhook(name, url, wanted, secret=secret or None)
    signed = "unsigned" if unsigned else f"signed with {environment.WEBHOOK_SECRET.name}"
    did = "was there; now" if known else "made;"
    return f"{made.webhook_id} {did} sends {', '.join(wanted)} to {shown(url)}, {signed}"


def listed() -> str:
    """All of the server's, one line each: id, state, name, address, events."""
    api = _server()
    with _refusals():
        lines = [
            f"{hook.webhook_id}  {hook.status}  {hook.name}  {shown(hook.url)}  "
            f"{','.join(sorted(map(str, hook.events)))}"
            for hook in _all(api)
        ]
    return "\n".join(lines) or f"{shown(tracking.uri())}: no webhook"


def example(webhook: str) -> str:
    """Let the server post an example message; ValueError unless the receiver accepts it."""
    api = _server()
    with _refusals():
        result = api.test_webhook(webhook)
    if not result.success:
        answer = result.error_message or f"it answered {result.response_status}"
        raise ValueError(
            f"{webhook}: not received: {shown(answer)[:500]}; start the receiver, let MLflow's "
            "server reach it, and use the same secret at both"
        )
    return f"{webhook}: the receiver answered {result.response_status}"


def remove(webhook: str) -> str:
    """Send no more messages to the address."""
    api = _server()
    with _refusals():
        url = api.get_webhook(webhook).url
        api.delete_webhook(webhook)
    return f"{webhook}: nothing is sent to {shown(url)} any more"


def _server() -> Any:
    """A client of the MLflow server. Raises ValueError if there is a database but no server."""
    environment.put_default(MLFLOW_HTTP_REQUEST_MAX_RETRIES="1")  # MLflow's retries take minutes
    api = tracking.client()
    if not tracking.uri().startswith("http"):
        raise ValueError(
            f"{shown(tracking.uri())} is a database that each program writes itself; only a server "
            "sends messages. Start one over it (make ui), set MLFLOW_TRACKING_URI="
            "http://127.0.0.1:5000, and promote and roll back with that address"
        )
    return api


def _all(api: Any) -> list[Any]:
    found: list[Any] = []
    token = None
    while True:
        page = api.list_webhooks(page_token=token)
        found += page
        if not (token := page.token):
            return found


@contextmanager
def _refusals() -> Iterator[None]:
    """What the server refuses, as a ValueError with the fix."""
    errors = tracking.mlflow().exceptions
    try:
        yield
    except errors.RestException as error:
        text = " ".join(shown(error).split())[:500]
        if re.search("scheme|non-public|resolve", text):
            fix = (
                "MLflow posts to https addresses outside private networks only; a server of your "
                "own network is started with MLFLOW_WEBHOOK_ALLOWED_SCHEMES=https,http and "
                "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true"
            )
        elif "RESOURCE_DOES_NOT_EXIST" in text:
            fix = "`webhook list` has the ids"
        else:
            fix = "correct it, and run this again"
        raise ValueError(f"MLflow at {shown(tracking.uri())}: {text}; {fix}") from error
    except errors.MlflowException as error:
        text = " ".join(shown(error).split())[:500]
        if re.search(r"\b500\b", text):
            raise ValueError(
                f"MLflow at {shown(tracking.uri())}: {text}; it cannot read a secret that it "
                "stored under another key: start every process of the server with the "
                "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY of before, or, if there was none, delete "
                "the rows of webhook_events and webhooks in its database and make them again"
            ) from error
        if error.error_code != "INVALID_PARAMETER_VALUE" or "API request to" in text:
            raise
        raise ValueError(text) from error  # the client's own check
