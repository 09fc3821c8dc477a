"""Text for people, logs and pages, without the passwords in it."""

import re
from urllib.parse import unquote

from training.core import environment

HIDDEN = "***"
SHORTEST = 6  # characters of a secret that is hidden wherever it occurs: a shorter one is a word
# user:password@ in an address; also with a / in the password, unless it then looks like a port.
_LOGIN = re.compile(r"(?<=://)(?:[^\s/?#'\"<>]+|[^\s/:@]+:(?!\d{1,5}(?:[/\s'\"]|$))[^\s'\"<>]*)@")
_QUERY = re.compile(
    r"([?&;][\w.-]*(?:password|passwd|pwd|secret|token|signature|credential)=)[^&;\s'\"<>]+", re.I
)


def shown(text: object) -> str:
    """`text` without passwords in addresses, and without those of the environment."""
    result = _QUERY.sub(rf"\1{HIDDEN}", _LOGIN.sub(f"{HIDDEN}@", str(text)))
    logins = [login for one in environment.addresses() for login in _LOGIN.findall(one)]
    passwords = [login[:-1].partition(":")[2] for login in logins]
    secrets = {*environment.secrets(), *passwords, *map(unquote, passwords)}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SHORTEST:
            result = result.replace(secret, HIDDEN)
    return result


def has_login(address: str) -> bool:
    """Whether an address has a user name or a password in it."""
    return bool(_LOGIN.search(address))
