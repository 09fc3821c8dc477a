"""Records that others can write: JSON text read as a dataclass, with strict types."""

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


def parse_record(cls: type[T], text: bytes | str, where: str) -> T:
    """An instance of dataclass `cls` from JSON, converting nothing; other keys are ignored.

    Raises ValueError that begins with `where` for other text, and for absent or ill-typed fields.
    """
    try:
        return TypeAdapter(cls).validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError(f"{where}: {faults(error, 'record')}") from error


def faults(error: ValidationError, whole: str) -> str:
    """Every fault as `field: what`, on one line; `whole` names the record itself."""
    found = [f"{'.'.join(map(str, e['loc'])) or whole}: {e['msg']}" for e in error.errors()]
    rest = f"; and {len(found) - 5} more" if len(found) > 5 else ""
    return "; ".join(found[:5]) + rest
