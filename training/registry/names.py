"""Names of registered models."""

import re
import unicodedata

from training.core.names import marked

LIMIT = 250  # characters; a lock's name is longer, and MLflow's limit is 256
REFUSED = "/:.%\"'@"  # MLflow's, and the sign of an alias
SHOWN = 60  # characters of a refused name in the message


def check_model_name(name: str) -> None:
    """Raise ValueError, with a name that would do, unless a model can be registered as `name`."""
    bad = "".join(dict.fromkeys(c for c in name if c in REFUSED))
    if bad:
        why = f"{' '.join(bad)} cannot be in a registered model's name"
    elif any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name):
        why = "a registered model's name is one line of visible characters"
    elif name != name.strip() or not name:
        why = "a registered model's name does not begin or end with a space, and is not empty"
    elif len(name) > LIMIT:
        why = f"{len(name)} characters; a registered model's name has {LIMIT} at most"
    else:
        return
    shown = name if len(name) <= SHOWN else f"{name[:SHOWN]}…"
    plain = re.sub(r"[^\w ]+", "-", name).strip("- ")[:LIMIT] or "model"
    line = shown if shown.isprintable() else ascii(shown)
    raise ValueError(f"name={line}: {why}; write name={plain if plain.isprintable() else 'model'}")


def model_name(text: str) -> str:
    """A registered model's name made from any text: unchanged if it has only letters, digits and -.

    All else becomes `-`, and a digest keeps what folds to one name apart.
    """
    if re.fullmatch(r"[A-Za-z0-9-]{1,120}", text):
        return text
    return marked(text, re.sub(r"[\W_]+", "-", text).strip("-"), 120)
