"""Sphinx's settings: `sphinx-build -W docs docs/_build/html`, without a network."""

from importlib.metadata import version as installed_version

project = "bluesky-bayes"
copyright = "2026, the bluesky_bayes developers"
release = version = installed_version("bluesky-bayes")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

# No mathematics: it would be set by a script from the network, and beamlines have none.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autosummary_ignore_module_all = False
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# A public name is described where it is imported from and where it is defined.
suppress_warnings = ["ref.python"]

html_theme = "pydata_sphinx_theme"
html_title = project
html_theme_options = {"header_links_before_dropdown": 4, "navigation_with_keys": False}
# Pages of the first level have nothing to show at their left.
html_sidebars = {"*": []}
