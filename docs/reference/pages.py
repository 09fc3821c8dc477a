"""Generates a page of the API reference for each package when the site is built.

mkdocs calls this file as a hook, so that a new module is documented without being listed.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PACKAGES = ("training", "components", "pipelines")
SECTION = "API reference"  # in the site's navigation; pages are added to it


def packages() -> list[str]:
    """Dotted names of every package, a package before those in it."""
    found = [path.parent for name in PACKAGES for path in (ROOT / name).rglob("__init__.py")]
    names = [".".join(path.relative_to(ROOT).parts) for path in found]
    return sorted(names, key=lambda name: (PACKAGES.index(name.split(".")[0]), name))


def page(package: str) -> str:
    """Markdown that documents a package and each module directly in it."""
    folder = ROOT.joinpath(*package.split("."))
    modules = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
    parts = [
        f"# {package}\n",
        f"::: {package}\n    options:\n      members: false\n      show_root_heading: false\n",
        *(f"::: {package}.{module}\n    options:\n      heading_level: 2\n" for module in modules),
    ]
    return "\n".join(parts)


def on_config(config: MkDocsConfig) -> None:
    """Add the pages to the navigation."""
    section = next(item[SECTION] for item in config.nav or [] if SECTION in item)
    section += [{name: f"reference/{name}.md"} for name in packages()]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages to the site."""
    for name in packages():
        files.append(File.generated(config, f"reference/{name}.md", content=page(name)))
