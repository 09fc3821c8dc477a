"""Great Expectations' Data Docs, with every name and value escaped.

Great Expectations 1 writes values into HTML unescaped, so a label could contain a script.
"""

import html
from pathlib import Path
from typing import Any

from great_expectations.render.renderer import ValidationResultsPageRenderer


def escaped(value: Any) -> Any:
    """`value` with all nested texts escaped for HTML; keys are unchanged."""
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, dict):
        return {key: escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [escaped(item) for item in value]
    return value


class Renderer(ValidationResultsPageRenderer):
    """Render the page of one validation."""

    def render(self, validation_results: Any, suite_parameters: Any = None) -> Any:
        for result in validation_results.results:
            result.result = escaped(result.result)
            result.expectation_config.kwargs = escaped(result.expectation_config.kwargs)
            result.exception_info = escaped(result.exception_info)
        return super().render(validation_results, suite_parameters)


def write_docs(context: Any, docs: Path) -> None:
    """Write a page for each validation that the context has run, and an index."""
    sections = {
        "expectations": "none",  # the validation pages list them; these pages are not escaped
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
