"""The documentation site: `make docs` builds it into build/site, without a network.

The source folder is the root of the repository, so that a link of a page leads to the same file
here and on GitHub.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "docs" / "_site")]

import lobes  # noqa: E402 - the one of this repository

project = "lobes"
author = copyright = "the lobes developers"
version = release = lobes.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "reference",
    "titles",
]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "docs/results/*.md",
    "examples/*.ipynb",
    "examples/*.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
]
exclude_patterns = [".*", "build", "dist", "runs", "src", "tests", "benchmarks", "scripts"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # the anchors that GitHub makes
nb_execution_mode = "off"  # a test executes the notebooks; the site shows their stored outputs

autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
add_module_names = False
maximum_signature_line_length = 88
default_role = "code"
highlight_language = "none"  # of a block without a language

html_theme = "furo"
html_title = f"lobes {release}"
html_static_path = ["_site"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "tango"
pygments_dark_style = "monokai"
copybutton_exclude = ".linenos, .gp, .go"
