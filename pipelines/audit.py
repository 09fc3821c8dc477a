"""Look up known flaws of the images' packages: python -m pipelines.audit PYTHON torch==2.13.0

pip-audit asks pypi.org. Where it does not answer, or knows none of the packages (a mirror), nothing
was checked: that is said, and is no failure. A known flaw is one.
"""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated, Any

from pipelines.sbom import base
from training.core import cli
from training.core.cli import means

main = cli.program("python -m pipelines.audit", __doc__)
UNREACHABLE = (
    "ConnectionError", "Connection error", "Max retries exceeded", "Could not connect", "timed out",
    "NameResolutionError", "ProxyError", "SSLError",
)  # fmt: skip


def look_up(program: Path, *arguments: str) -> list[dict[str, Any]] | str:
    """The packages with their flaws, or why they could not be looked up.

    Raises ValueError if pip-audit fails in another way.
    """
    done = subprocess.run(
        [
            program, "-m", "pip_audit", "--progress-spinner", "off", "--format", "json",
            "--disable-pip", *arguments,
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.stdout.strip():
        return list(json.loads(done.stdout)["dependencies"])
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    if any(word in done.stderr for word in UNREACHABLE):
        return f"the database of known flaws does not answer: {last[-300:]}"
    raise ValueError(f"pip-audit: {last[-1000:]}")


def verdict(packages: list[dict[str, Any]]) -> str:
    """What was found. Raises ValueError with every known flaw."""
    skipped = [found["name"] for found in packages if "skip_reason" in found]
    if len(skipped) == len(packages):
        return f"skipped: the index knows none of the {len(packages)} packages; is it a mirror?"
    flaws = [
        f"{found['name']} {found['version']}: {flaw['id']}, fixed in "
        f"{', '.join(flaw['fix_versions']) or 'no version'}"
        for found in packages
        for flaw in found.get("vulns", ())
    ]
    if flaws:
        raise ValueError("\n".join([f"{len(flaws)} known flaws:", *flaws]))
    unknown = f"; {len(skipped)} not looked up: {', '.join(skipped)}" if skipped else ""
    return f"{len(packages) - len(skipped)} packages have no known flaw{unknown}"


@main.default
def audit(
    program: Annotated[Path, means("Python with pip-audit")],
    torch: Annotated[str, means("the steps' requirement of torch, with its version")],
    /,
) -> str:
    """Check requirements.lock and each image's torch; what was found. ValueError for a flaw."""
    with tempfile.TemporaryDirectory() as folder:
        asked = [("--require-hashes", "-r", "requirements.lock")]
        # The training image has its base's torch, not the steps'.
        for one in dict.fromkeys([torch.partition("+")[0], f"torch=={base()[1]}"]):
            file = Path(folder) / f"{one}.txt"
            file.write_text(one + "\n")
            asked.append(("--no-deps", "-r", str(file)))
        packages: list[dict[str, Any]] = []
        for arguments in asked:
            answer = look_up(program, *arguments)
            if isinstance(answer, str):
                return f"skipped: {answer}"
            packages += answer
    return verdict(packages)


if __name__ == "__main__":
    cli.entry_point(main)
