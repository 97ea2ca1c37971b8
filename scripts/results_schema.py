"""Write docs/results.schema.json and docs/results.md from the types of `lobes.results`.

Run it after a change of the types; a test compares the files with what it would write.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lobes.results.files import KINDS, schemas

DOCS = Path(__file__).parent.parent / "docs"

INTRODUCTION = """\
# What the files of results say

Each study leaves one JSON file: `results.json` (a run), `comparison.json` (`lobes compare`),
`transfer.json` (`lobes transfer`), `runs.json` (`lobes report` over several runs) or `sweep.json`
(`lobes sweep`). Other programs can read them: [results.schema.json](results.schema.json) holds the
JSON schema of each. In Python:

```python
from lobes.results import RunResults, read

results = read("runs/demo", RunResults)  # validated; RunError says what is damaged
print(results.verdicts[0].headline, results.largest.dissociation.column.mean)
```

Undefined numbers are `null`. Arrays are lists of lists, with the tasks in the order of `tasks` and
sites and heads counted from 0. A set of heads is a text: `0:1,5 3:2` is heads 1 and 5 of site 0 and
head 2 of site 3. `sha256` is a digest of the rest of the file, and is not part of the schema.
The formulas are on [the method's page](method.md).

## The tables beside `results.json`

| file | one row for | columns |
|---|---|---|
| `importance.parquet` | each head of each task | task, site, head, importance |
| `predictions.parquet` | each lesion, task and example | lesion (its number, 0 with nothing \
ablated), kind (none, task, exchanged, random), lesioned_task, fraction, replicate, heads; task, \
example, label, prediction; labels and predictions (lists of classes) where an example has several |
| `texts.parquet` | each validation example | task, example, texts; the file's name of an image |
"""


def page() -> str:
    """The content of docs/results.md."""
    return "\n".join([INTRODUCTION, *(_kind(kind.FILE, schemas()[kind.FILE]) for kind in KINDS)])


def schema() -> str:
    """The content of docs/results.schema.json."""
    return json.dumps(schemas(), indent=1, ensure_ascii=False) + "\n"


def _kind(file: str, schema: dict[str, Any]) -> str:
    parts = [f"## `{file}`", "", schema["description"], "", *_rows(schema)]
    for name, found in schema.get("$defs", {}).items():
        parts += ["", f"### {name} in `{file}`", "", found["description"].splitlines()[0], ""]
        parts += _rows(found)
    return "\n".join([*parts, ""])


def _rows(schema: dict[str, Any]) -> Iterator[str]:
    yield "| field | type | meaning |"
    yield "|---|---|---|"
    for name, found in schema.get("properties", {}).items():
        meaning = " ".join(found.get("description", "").split()).replace("|", "\\|")
        yield f"| `{name}` | {_type(found)} | {meaning} |"


def _type(found: dict[str, Any]) -> str:
    """A type in words: `list of list of number or null`."""
    if "$ref" in found:
        return found["$ref"].rpartition("/")[2]
    if "anyOf" in found:
        return " or ".join(_type(each) for each in found["anyOf"])
    if "const" in found:
        return f"`{json.dumps(found['const'])}`"
    if "enum" in found:
        return ", ".join(f"`{json.dumps(each)}`" for each in found["enum"])
    if "prefixItems" in found:
        return f"[{', '.join(_type(each) for each in found['prefixItems'])}]"
    if found.get("type") == "array":
        return f"list of {_type(found.get('items', {}))}"
    if isinstance(found.get("additionalProperties"), dict):
        return f"object of {_type(found['additionalProperties'])}"
    kind = found.get("type", "any")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


if __name__ == "__main__":
    (DOCS / "results.md").write_text(page(), encoding="utf-8")
    (DOCS / "results.schema.json").write_text(schema(), encoding="utf-8")
