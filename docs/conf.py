"""The site: `python -m sphinx -W -n docs docs/_build/html` from the repository's root, with the extra `docs`."""

import os
import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

import reference  # noqa: E402

import jaxnas  # noqa: E402

project = "jaxnas"
author = "The jaxnas authors"
project_copyright = "the jaxnas authors"
release = jaxnas.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "jaxnas"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "source_repository": "https://github.com/jaxnas/jaxnas/",
    "source_branch": "main",
    "source_directory": "docs/",
}
html_show_sourcelink = False

# Markdown, and the notebooks with the outputs that they were stored with
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "off"

# Reference: see reference.py
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_use_ivar = True
napoleon_use_rtype = False
default_role = "py:obj"
add_module_names = False
toc_object_entries_show_parents = "hide"
nitpick_ignore_regex = [("py:.*", r"(?!jaxnas\.).*|.*\._.*")]  # what is called jaxnas.something has to be there

# Pages that lie elsewhere in the repository, told here as they are there.
TOLD_ELSEWHERE = {
    "experiments": "experiments/README.md",
    "benchmarks": "benchmarks/README.md",
    "scores": "results/README.md",
    "contributing": "CONTRIBUTING.md",
    "changelog": "CHANGELOG.md",
}
REPOSITORY = "https://github.com/jaxnas/jaxnas/blob/main"


def relinked(text: str, folder: Path, page: Path) -> str:
    """Links of a Markdown text that lies in `folder` as those of the site's page `page`: to a page where the site has
    what is linked to, to the picture itself, else to the repository."""
    pages = {(ROOT / source).resolve(): HERE / f"{name}.md" for name, source in TOLD_ELSEWHERE.items()}

    def link(found: re.Match) -> str:
        target, anchor = re.fullmatch(r"([^#]*)(#.*)?", found[2]).groups()
        if "://" in target or not target:
            return found[0]
        path = (folder / target).resolve()
        path = pages.get(path, path)
        if path.is_relative_to(HERE):
            there = os.path.relpath(path, page.parent)
            return f"{found[1]}({there}{anchor or ''})"
        return f"{found[1]}({REPOSITORY}/{path.relative_to(ROOT)}{anchor or ''})"

    return re.sub(r"(\]|\]:)\(([^)\s]+)\)", link, text)


def read_told_elsewhere(app, docname: str, source: list[str]) -> None:
    """A page that says nothing but where it is told has that text."""
    if docname in TOLD_ELSEWHERE:
        path = ROOT / TOLD_ELSEWHERE[docname]
        source[0] = relinked(path.read_text(), path.parent, HERE / f"{docname}.md")


def copy_notebooks() -> None:
    """Notebooks are read where Sphinx looks for pages."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        shutil.copy(path, HERE / "tutorials" / path.name)


def setup(app) -> None:
    copy_notebooks()
    reference.setup(app)
    app.connect("source-read", read_told_elsewhere)
