"""One HTML page that needs nothing but itself: style, script and figures are in the page.

A content security policy forbids every load from elsewhere, and every script but the page's own.
"""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lobes.files import check_replaceable, disk_faults, writing


def render_page(template: str, *, script: str = "", **shown: Any) -> str:
    """The page of a template that extends `page.html`; `shown` are its variables.

    `script` names the template folder's file that holds the page's own script, if it has one.
    """
    code = own_text(script) if script else ""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(
            **shown,
            style=Markup(own_text("report.css")),
            script=Markup(code),
            script_hash=f"sha256-{digest}",
        )
    )


def macro(template: str, name: str, *arguments: object) -> str:
    """What one macro of a template draws."""
    return str(getattr(_environment().get_template(template).module, name)(*arguments))


def own_text(name: str) -> str:
    """One of the template folder's own files, as it is."""
    loader = _environment().loader
    assert loader is not None
    return loader.get_source(_environment(), name)[0]


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("lobes.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_page(page: str, html_path: str | Path) -> Path:
    """Write the page in one step and return where it is.

    A reader of `html_path` sees the old page or the new one, never half of it. Raises `RunError`
    when it cannot be written.
    """
    target = Path(html_path)
    check_replaceable(target)
    with disk_faults(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with writing(target) as file:
        file.write(page.encode())
    return target
