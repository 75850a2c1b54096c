"""How the pages of this folder become a site: `make docs`.

The pages are Markdown (MyST), the reference is generated from the docstrings. Every warning is
an error, so a link that leads nowhere, a page that no list names and a name that is gone end the
build. Links to files of the checkout are held by tests/test_docs.py.
"""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import Any

project = "convoca"
author = "The convoca authors"
project_copyright = "The convoca authors, Apache-2.0"
release = version = version_of("convoca")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "images"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": False}
add_module_names = False
python_use_unqualified_type_names = True
default_role = "code"
suppress_warnings = ["ref.python"]  # "Step" is a word of two packages

html_theme = "furo"
html_title = "convoca"
html_static_path: list[str] = []
html_extra_path = ["llms.txt"]
html_show_sphinx = False
html_copy_source = False


def _draw_what_is_indented(
    _app: object, _what: str, _name: str, _obj: object, _options: object, lines: list[str]
) -> None:
    """Docstrings indent examples and drawings by four, as Markdown does; here they are literal."""
    shown: list[str] = []
    depth, literal = 0, False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line.strip():
            after_blank = bool(shown) and not shown[-1].strip()
            if literal and indent <= depth:
                literal = False
            if not literal and after_blank and indent >= depth + 4:
                shown += [" " * depth + "::", ""]
                literal = True
            if not literal:
                depth = indent
        shown.append(line)
    lines[:] = shown


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _draw_what_is_indented, priority=400)
