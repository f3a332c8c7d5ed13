"""Keep every page at home: MathJax from the installed package, no Thebe.

The theme's stack loads MathJax and Thebe from the network. MathJax is taken from `sphinx-mathjax-offline` (the
files of mathjax 3.2.2, unchanged); Thebe, which would run cells on somebody's server, is left out.
"""

import re
from importlib.util import find_spec
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.fileutil import copy_asset

MATHJAX = "mathjax/tex-chtml.js"
FONTS = "mathjax/output/chtml/fonts/woff-v2"
THEBE_CONFIG = re.compile(r'<script type="text/x-thebe-config">.*?</script>\s*', re.DOTALL)


def _packaged() -> Path:
    found = find_spec("sphinx-mathjax-offline")
    if found is None or found.origin is None:
        raise RuntimeError("sphinx-mathjax-offline is not installed; run: pip install -r requirements.txt")
    return Path(found.origin).parent / "static"


def _point_to_mathjax(app: Sphinx, config: Config) -> None:
    config.mathjax_path = MATHJAX


def _copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        for part in (MATHJAX, FONTS):
            source, target = _packaged() / part, Path(app.outdir) / "_static" / part
            copy_asset(str(source), str(target if source.is_dir() else target.parent))


def _leave_out_thebe(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    scripts = context.get("script_files", [])
    context["script_files"] = [script for script in scripts if "thebe" not in _words(script)]
    if "body" in context:
        context["body"] = THEBE_CONFIG.sub("", context["body"])


def _words(script: object) -> str:
    """A script's file name and attributes, whatever Sphinx wraps them in."""
    return f"{getattr(script, 'filename', script)} {getattr(script, 'attributes', '')}".lower()


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx."""
    app.connect("config-inited", _point_to_mathjax, priority=900)
    app.connect("html-page-context", _leave_out_thebe, priority=900)
    app.connect("build-finished", _copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
