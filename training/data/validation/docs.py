"""Great Expectations' own pages (Data Docs), with every name and value escaped.

Great Expectations 1 puts what it found into HTML as it is, so that a label could carry a script.
"""

import html
from pathlib import Path
from typing import Any

from great_expectations.render.renderer import ValidationResultsPageRenderer


def escaped(value: Any) -> Any:
    """`value` with the texts in it, at any depth, escaped for HTML; keys stay."""
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, dict):
        return {key: escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [escaped(item) for item in value]
    return value


class Renderer(ValidationResultsPageRenderer):
    """The page of one validation."""

    def render(self, validation_results: Any, suite_parameters: Any = None) -> Any:
        for found in validation_results.results:
            found.result = escaped(found.result)
            found.expectation_config.kwargs = escaped(found.expectation_config.kwargs)
            found.exception_info = escaped(found.exception_info)
        return super().render(validation_results, suite_parameters)


def write_docs(context: Any, docs: Path) -> None:
    """Write a page about each validation that the context has run, and an index of them."""
    sections = {
        "expectations": "none",  # each validation's page states them, and these are not escaped
        "validations": {"renderer": {"module_name": __name__, "class_name": "Renderer"}},
    }
    site = {
        "class_name": "SiteBuilder",
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "site_section_builders": sections,
        "store_backend": {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(docs.resolve()),
        },
    }
    context.add_data_docs_site(site_name="docs", site_config=site)
    context.build_data_docs(site_names=["docs"])
