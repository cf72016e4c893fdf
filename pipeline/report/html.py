"""One HTML file that needs nothing else, neither network nor scripts.

Labels, paths and causes come from files that we did not write, so templates escape everything, and a page's own policy forbids whatever is
not in it.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup


def render_page(template: str, **values: Any) -> str:
    """A page as text; the template is given the style beside these values."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reelscribe.pipeline.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = resources.files("reelscribe.pipeline.report").joinpath("page.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(
        **values,
        style=Markup(style),  # noqa: S704 - our own file
        style_digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
    )
