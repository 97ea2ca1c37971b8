"""The report as one HTML page that needs nothing but itself.

Style, script and figures are in the page; a content security policy forbids every load from
elsewhere, and every script but the page's own.
"""

import base64
import hashlib
import os
import tempfile
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lobes.errors import RunError
from lobes.report import figures
from lobes.report.findings import Results
from lobes.report.source import read_results
from lobes.report.view import TINTS, view


def render(results: Results) -> str:
    """The whole page; `results` is the content of a `results.json`.

    Raises `RunError` when the results are damaged or of a newer version.
    """
    environment = Environment(
        loader=PackageLoader("lobes.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _own_text(environment, "report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html").render(
        report=view(results),
        style=Markup(_own_text(environment, "report.css")),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        palette=figures.palette(),
        tints=TINTS,
    )


def write_report(results_path: str | Path, html_path: str | Path) -> Path:
    """Read `results.json`, write the page in one step, and return where it is.

    A reader of `html_path` sees the old page or the new one, never half of it. Raises `RunError`
    when the results cannot be read or the page cannot be written.
    """
    page = render(read_results(results_path))
    target = Path(html_path)
    temporary = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(page)
        # mkstemp makes the file private; the page gets the rights of any new file.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise RunError(f"Cannot write the report {target}: {error.strerror}.") from None
    return target


def _own_text(environment: Environment, name: str) -> str:
    """One of the package's own files, put into the page as it is."""
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
