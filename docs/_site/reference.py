"""Directives that write the reference from the code: Python, commands and settings.

:::{lobes-python}         the signature and docstring of every name in the tables of the page
:::{lobes-commands}       every command of `lobes`, with its arguments and options
:::{lobes-settings}       every key of a study file, with type, default and accepted values
"""

import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer
from docutils import nodes
from docutils.statemachine import StringList
from pydantic.fields import FieldInfo
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import lobes
from lobes.cli import app as lobes_app
from lobes.config import settings
from lobes.config.study import StudyConfig


class Written(SphinxDirective):
    """A directive whose content is Markdown that the code writes."""

    def run(self) -> list[nodes.Node]:
        found = nodes.section()
        lines = StringList("\n".join(self.markdown()).splitlines(), source=self.name)
        self.state.nested_parse(lines, self.content_offset, found, match_titles=True)
        return found.children

    def markdown(self) -> Iterator[str]:
        raise NotImplementedError


NAMED = re.compile(r"^\| `([\w.]+)` \| ", re.M)  # a row of docs/python.md
WITH_MEMBERS = "   :members:"


def documented(page: str) -> Iterator[tuple[str, Any]]:
    """Yield the full name of each row of the page's tables, and the object of that name."""
    for short in NAMED.findall(page):
        name = short if short.startswith("lobes.") else f"lobes.{short}"
        yield name, pkgutil.resolve_name(name)


class Python(Written):
    """What docs/python.md names, in its order."""

    def markdown(self) -> Iterator[str]:
        page = Path(self.env.doc2path(self.env.docname)).read_text(encoding="utf-8")
        yield "```{eval-rst}"
        for name, found in documented(page):
            yield from _directive(name, found)
        yield "```"


def _directive(name: str, found: Any) -> Iterator[str]:
    if inspect.ismodule(found):
        names = [each for each, value in vars(found).items() if _is_public_error(found, value)]
        yield f".. automodule:: {name}\n{WITH_MEMBERS} {', '.join(names)}"
    elif not inspect.isclass(found):
        yield f".. autofunction:: {name}"
    elif issubclass(found, Exception):
        yield f".. autoexception:: {name}"
    else:
        yield f".. autoclass:: {name}\n{WITH_MEMBERS}"
    yield ""


def _is_public_error(module: Any, value: Any) -> bool:
    is_error = inspect.isclass(value) and issubclass(value, Exception)
    return is_error and value.__module__ == module.__name__ and value is not lobes.LobesError


class Commands(Written):
    """Every command in the order of `lobes --help`."""

    def markdown(self) -> Iterator[str]:
        for name, command in commands():
            yield from _command(name, command)


def commands() -> Iterator[tuple[str, Any]]:
    """Yield the name and the command of every command that `lobes --help` lists."""
    group: Any = typer.main.get_command(lobes_app)
    for name, command in group.commands.items():
        if not command.hidden:
            yield name, command


def _command(name: str, command: Any) -> Iterator[str]:
    text, _, example = (inspect.getdoc(command.callback) or "").partition("\n\nExample: ")
    yield f"## lobes {name}\n\n{text}\n"
    if example:
        yield f"```\n{example.strip()}\n```\n"
    context = command.context_class(command, info_name=name)
    yield "| argument or option | meaning |"
    yield "|---|---|"
    for parameter in command.get_params(context):
        if record := parameter.get_help_record(context):
            names, meaning = record
            yield f"| `{_cell(names)}` | {_cell(meaning)} |"
    yield ""


# The tables of a study file in the order in which docs/study.md describes them.
TABLES = {
    "At the top": StudyConfig,
    "`[[tasks]]`": settings.TaskConfig,
    "`[training]`": settings.TrainingConfig,
    "`[iat]`": settings.IatConfig,
    "`[iap]`": settings.IapConfig,
    "`[growth]`": settings.GrowthConfig,
    "`[compare]`": settings.CompareConfig,
    "`[transfer]`": settings.TransferConfig,
}


# What a study's file is read with, before its types check it.
FILLED_IN = {"name": "the file's name", "output": "`runs/NAME`"}


class Settings(Written):
    """Every key of a study file, from the types that check it."""

    def markdown(self) -> Iterator[str]:
        for title, table in TABLES.items():
            yield f"## {title}\n"
            yield "| key | type | default | accepted |"
            yield "|---|---|---|---|"
            for key, field in table.model_fields.items():
                default = FILLED_IN.get(key, "") if table is StudyConfig else ""
                row = (_type(field.annotation), default or _value(field), _accepted(field))
                yield f"| `{key}` | {' | '.join(map(_cell, row))} |"
            yield ""


def _type(annotation: Any) -> str:
    """A type in TOML's words: `list of float`."""
    parts = [part for part in get_args(annotation) if part is not type(None)]
    name = getattr(annotation, "__name__", str(annotation))
    words = {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}
    if name in words:
        return words[name]
    if name == "Annotated":
        return _type(parts[0])
    if name == "Literal":
        return "text"
    if name in ("tuple", "Sequence"):
        return f"list of {_type(parts[0])}"
    if name == "dict":
        return "table"
    if parts:
        return " or ".join(dict.fromkeys(map(_type, parts)))
    return "table"


def _value(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "–"
    if isinstance(value, settings.Section):
        return "its defaults"
    return f"`{settings.shown(value)}`"


def _accepted(field: FieldInfo) -> str:
    """What the message for another value says is expected."""
    rules = [each for each in field.metadata if type(each).__module__ == "lobes.limits"]
    rules += [
        each
        for part in get_args(field.annotation)
        for each in getattr(part, "__metadata__", ())
        if type(each).__module__ == "lobes.limits"
    ]
    if field.description:
        return field.description
    if rules:
        return str(rules[0])
    parts = (field.annotation, *get_args(field.annotation))
    names = [name for part in parts if _is_literal(part) for name in get_args(part)]
    return ", ".join(f'"{name}"' for name in names)


def _is_literal(annotation: Any) -> bool:
    return getattr(annotation, "__name__", "") == "Literal"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def plain_docstring(
    app: Sphinx, kind: str, name: str, of: Any, options: Any, lines: list[str]
) -> None:
    """Make a docstring with Markdown's code spans one that docutils reads as it is meant."""
    parts = re.split(r"(``?[^`]+``?)", "\n".join(lines))
    for place, part in enumerate(parts):
        if part.startswith("`"):
            parts[place] = f"``{part.strip('`')}``"
        else:
            parts[place] = re.sub(r"([*|]|_\b)", r"\\\1", part)
    lines[:] = "".join(parts).split("\n")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives, as Sphinx asks of an extension."""
    app.add_directive("lobes-python", Python)
    app.add_directive("lobes-commands", Commands)
    app.add_directive("lobes-settings", Settings)
    app.connect("autodoc-process-docstring", plain_docstring)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
