"""Names of registered models."""

import unicodedata

FORBIDDEN = "/:.%\"'"  # in MLflow's names, or in the filters in which they are searched
LONGEST = 250


def check_model_name(name: str) -> str:
    """`name` if MLflow accepts it; otherwise ValueError with the characters to replace."""
    wrong = [c for c in dict.fromkeys(name) if c in FORBIDDEN or unicodedata.category(c) == "Cc"]
    if wrong:
        raise ValueError(
            f"name={name!r}: {' '.join(map(_shown, wrong))} cannot be in the name of a registered "
            "model; write - instead"
        )
    if not name.strip():
        raise ValueError(f"name={name!r}: one character or more is needed")
    if len(name) > LONGEST:
        raise ValueError(f"name={name[:20]}…: {len(name)} characters; at most {LONGEST} are stored")
    return name


def _shown(character: str) -> str:
    return character if character.isprintable() else repr(character)
