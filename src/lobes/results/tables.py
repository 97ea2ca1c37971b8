"""The Parquet tables beside `results.json`: predictions, importance and texts.

One writer and one reader for each, side by side. What stands in which column is in docs/results.md.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from lobes.clean import clean
from lobes.dissociation import Lesion, LesionMatrix
from lobes.dissociation.matrix import Sampled
from lobes.dissociation.pairs import PairEffects
from lobes.errors import LobesError, RunError, first_line
from lobes.heads import HeadSet
from lobes.results.run import RunResults
from lobes.scores import HeadScores

if TYPE_CHECKING:
    import lobes.tasks.task

ROWS_IN_A_GROUP = 2**18  # of predictions.parquet: what is in memory at once
_HALVES = ("first_half", "second_half")
ROWS_OF_TEXTS = 10_000  # the same of texts.parquet


def write_importance(matrix: LesionMatrix, file: IO[bytes]) -> None:
    """All importance scores as Parquet, one row for each head.

    Columns: task, site, head, importance, and that from each of two random halves of the examples,
    first_half and second_half, null where they are unknown.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"task": task, "site": site, "head": head, "importance": scores[site, head]}
        | dict(zip(_HALVES, _halves_of(scores, site, head), strict=True))
        for task, scores in matrix.importance.items()
        for site, head in sorted(scores.ranked())
    ]
    schema = pa.schema(
        [
            ("task", pa.string()),
            ("site", pa.int32()),
            ("head", pa.int32()),
            ("importance", pa.float64()),
            *((name, pa.float64()) for name in _HALVES),
        ]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), file, compression="zstd")


def _halves_of(scores: HeadScores, site: int, head: int) -> Sequence[float | None]:
    return (None, None) if scores.halves is None else scores.halves[:, site, head].tolist()


def write_texts(tasks: Sequence["lobes.tasks.task.Task"], file: IO[bytes]) -> None:
    """What the validation examples say, as Parquet: task, example, texts (a list of strings).

    Of images, the names of their files.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [("task", pa.string()), ("example", pa.int32()), ("texts", pa.list_(pa.string()))]
    )
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for task in tasks:
            assert task.validation is not None
            examples = task.validation
            for start in range(0, len(examples), ROWS_OF_TEXTS):
                stop = min(start + ROWS_OF_TEXTS, len(examples))
                if examples.images is None:
                    texts = [list(each) for each in examples.texts[start:stop]]
                else:
                    texts = [[picture.name] for picture in examples.images[start:stop]]
                rows = [[task.name] * (stop - start), list(range(start, stop)), texts]
                columns = [
                    pa.array(values, field.type) for values, field in zip(rows, schema, strict=True)
                ]
                writer.write_table(pa.table(columns, schema=schema))


def write_predictions(matrix: LesionMatrix, file: IO[bytes]) -> None:
    """All predictions as Parquet, one row for each lesion, task and example.

    Columns: lesion (its number, 0 is the base), kind, lesioned_task, fraction, replicate, heads;
    task, example (its place in the validation data), label and prediction (class indices, or
    values of a regression). Of a task with several labels for one example these two are null, and
    labels and predictions hold lists of class indices, which are null for the other tasks.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer, waiting = None, []
    written = _lesions_of(matrix)
    for number, (source, row, examples) in enumerate(written):
        waiting += [
            _predictions(source, row, number, task, None if examples is None else examples[task])
            for task in matrix.tasks
        ]
        if number == len(written) - 1 or sum(map(len, waiting)) >= ROWS_IN_A_GROUP:
            group = pa.concat_tables(waiting).unify_dictionaries()
            writer = writer or pq.ParquetWriter(file, group.schema, compression="zstd")
            writer.write_table(group)
            waiting = []
    if writer is not None:
        writer.close()


def _lesions_of(
    matrix: LesionMatrix,
) -> list[tuple[LesionMatrix, int, Mapping[str, np.ndarray] | None]]:
    """Every lesion as (matrix, row in it, places of its examples).

    Of a sample, the exchanged and random lesions.
    """
    found: list[tuple[LesionMatrix, int, Mapping[str, np.ndarray] | None]] = [
        (matrix, row, None) for row in range(len(matrix.lesions))
    ]
    if matrix.sampled is not None:
        within, examples = matrix.sampled.matrix, matrix.sampled.examples
        found += [
            (within, row, examples)
            for row, lesion in enumerate(within.lesions)
            if lesion.kind in ("exchanged", "random")
        ]
    return found


def _predictions(
    matrix: LesionMatrix, row: int, number: int, task: str, examples: np.ndarray | None
) -> Any:
    """One task's predictions under one lesion, as a table; what all rows share is stored once."""
    import pyarrow as pa

    labels, predictions = matrix.labels[task], matrix.predictions[task][row]
    lesion, n = matrix.lesions[row], len(matrix.labels[task])

    def same(value: Any, kind: Any) -> Any:
        dictionary = pa.array([value], kind)
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, "int32")), dictionary)

    return pa.table(
        {
            "lesion": same(number, pa.int32()),
            "kind": same(lesion.kind, pa.string()),
            "lesioned_task": same(lesion.task, pa.string()),
            "fraction": same(lesion.fraction, pa.float64()),
            "replicate": same(lesion.replicate, pa.int32()),
            "heads": same(str(lesion.heads), pa.string()),
            "task": same(task, pa.string()),
            "example": pa.array(np.arange(n) if examples is None else examples, pa.int32()),
            **_answers("label", labels),
            **_answers("prediction", predictions),
        }
    )


def _answers(name: str, values: np.ndarray) -> dict[str, Any]:
    """Two columns: one answer for each example, and several; one of the two is null."""
    import pyarrow as pa

    nothing = pa.nulls(len(values), pa.float64())
    if values.ndim == 1:
        lists = pa.nulls(len(values), pa.list_(pa.int32()))
        return {name: pa.array(values, pa.float64()), f"{name}s": lists}
    ends = np.cumsum([0, *values.sum(axis=1, dtype=np.int64)])
    lists = pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()), pa.array(np.nonzero(values)[1], pa.int32())
    )
    return {name: nothing, f"{name}s": lists}


def read_matrix(folder: Path, results: RunResults) -> LesionMatrix:
    """Read the lesion matrix that a finished run measured, from its tables.

    `results` are the folder's own. Raises `RunError` where the tables are missing or damaged.
    """
    import pyarrow.parquet as pq

    with _damage_named(folder):
        table = pq.read_table(folder / "predictions.parquet")
        importance = pq.read_table(folder / "importance.parquet").to_pydict()
        classes = {
            task.name: len(task.labels) if task.multi_label and task.labels else None
            for task in results.tasks
        }
        return _matrix(table, importance, results, classes)


@contextmanager
def _damage_named(folder: Path) -> Iterator[None]:
    """Turn what a missing or damaged table raises inside the block into one clear `RunError`."""
    try:
        yield
    except RunError:
        raise
    except (OSError, LookupError, TypeError, ValueError, AttributeError, LobesError) as error:
        # Arrow's own errors are among these; HeadSet and LesionMatrix refuse what cannot be
        detail = f"no {error}" if isinstance(error, KeyError) else first_line(error)
        raise RunError(
            f"The tables in {folder} are damaged ({detail}): run the study again, it continues "
            f"where it was."
        ) from error


def _matrix(
    table: Any,
    importance: Mapping[str, Sequence[Any]],
    results: RunResults,
    classes: Mapping[str, int | None],
) -> LesionMatrix:
    table = table.combine_chunks()
    lesion = _plain(table["lesion"]).to_numpy(zero_copy_only=False)
    task = _plain(table["task"]).to_numpy(zero_copy_only=False)
    starts = np.flatnonzero((lesion[1:] != lesion[:-1]) | (task[1:] != task[:-1])) + 1
    bounds = [0, *starts.tolist(), len(lesion)]
    metrics = {task.name: task.metric for task in results.tasks}
    numbers = {task.name for task in results.tasks if task.labels is None}
    lesions: list[Lesion] = []
    labels: dict[str, np.ndarray] = {}
    places: dict[str, np.ndarray] = {}
    predictions: dict[str, list[np.ndarray]] = {name: [] for name in classes}
    for start, stop in pairwise(bounds):
        name, part = str(task[start]), table.slice(start, stop - start)
        if int(lesion[start]) == len(lesions):
            first = part.slice(0, 1).to_pylist()[0]
            about = (first["lesioned_task"], float(first["fraction"]), int(first["replicate"]))
            lesions.append(Lesion(HeadSet.parse(first["heads"]), first["kind"], *about))
        whole = name not in numbers
        if name not in labels:
            labels[name] = _read_answers(part, "label", classes[name], whole)
        elif len(part) < len(labels[name]):
            places[name] = part["example"].to_numpy()
        predictions[name].append(_read_answers(part, "prediction", classes[name], whole))

    def matrix(
        chosen: Sequence[int], examples: Mapping[str, np.ndarray], **others: Any
    ) -> LesionMatrix:
        def within(name: str, values: np.ndarray) -> np.ndarray:
            some = examples.get(name)
            return values if some is None or len(values) == len(some) else values[some]

        return LesionMatrix(
            tuple(classes),
            tuple(metrics.values()),
            {name: within(name, each) for name, each in labels.items()},
            tuple(lesions[row] for row in chosen),
            {
                name: np.array([within(name, rows[row]) for row in chosen])
                for name, rows in predictions.items()
            },
            keep=results.lesioning.keeps,
            look=results.controls.look,
            settings=results.iap,
            **others,
        )

    everything = range(len(lesions))
    scores = _importance(importance, list(classes))
    pairs = {
        (pair.first, pair.second): PairEffects(
            np.array(pair.compared_effects), pair.control_effects
        )
        for pair in (results.largest.pairs if results.largest else ())
    }
    if not places:
        return matrix(everything, {}, importance=scores, exchanged_pairs=pairs)
    for name, each in labels.items():  # a task with no more examples than the sample
        places.setdefault(name, np.arange(len(each)))
    fixed = [row for row in everything if lesions[row].kind in ("none", "task")]
    sampled = Sampled(matrix(everything, places), places)
    return matrix(fixed, {}, importance=scores, sampled=sampled, exchanged_pairs=pairs)


def _plain(column: Any) -> Any:
    """A column without its dictionary."""
    import pyarrow as pa

    chunk = column.combine_chunks()
    chunk = chunk.chunk(0) if isinstance(chunk, pa.ChunkedArray) else chunk
    return chunk.dictionary_decode() if pa.types.is_dictionary(chunk.type) else chunk


def _read_answers(part: Any, name: str, classes: int | None, whole: bool) -> np.ndarray:
    """Labels or predictions [examples], or [examples, classes] of several labels."""
    if classes is None:
        values = part[name].to_numpy()
        return values.astype(np.int64) if whole else values
    found = np.zeros((len(part), classes), dtype=np.int64)
    for row, chosen in enumerate(part[f"{name}s"].to_pylist()):
        found[row, chosen] = 1
    return found


def _importance(table: Mapping[str, Sequence[Any]], tasks: Sequence[str]) -> dict[str, HeadScores]:
    shape = 3, max(table["site"]) + 1, max(table["head"]) + 1
    values = {name: np.full(shape, np.nan) for name in tasks if name in set(table["task"])}
    columns = ("task", "site", "head", "importance", *_HALVES)
    for name, site, head, *found in zip(*(table[column] for column in columns), strict=True):
        values[name][:, site, head] = found  # None is NaN
    return {
        name: HeadScores(each[0], halves=None if np.isnan(each[1:]).all() else each[1:])
        for name, each in values.items()
    }


@dataclass(frozen=True)
class TaskRows:
    """One task's predictions, a row for each lesion and example; arrays [rows].

    `lesion` is the number of the task whose lesion it is, −1 with nothing ablated.
    """

    lesion: np.ndarray
    example: np.ndarray
    label: np.ndarray
    prediction: np.ndarray


def read_task_lesions(
    folder: Path, names: Sequence[str], fraction: float, *, own_only: bool = False
) -> list[TaskRows]:
    """Read what each task is predicted with nothing ablated and under tasks' lesions.

    Only rows at this fraction are kept, and the table is read in pieces: a million rows need little
    memory. A task whose predictions are no single numbers has no rows. `own_only` leaves out rows
    under other tasks' lesions. Raises `RunError` where the table is damaged.
    """
    import pyarrow.parquet as pq

    shared = ["kind", "lesioned_task", "task"]
    numbers = ["example", "label", "prediction"]
    kept: dict[str, list[np.ndarray]] = {name: [] for name in ("lesion", "task", *numbers)}
    with _damage_named(folder):
        file = pq.ParquetFile(folder / "predictions.parquet", read_dictionary=shared)
        columns = [*shared, "fraction", *numbers] if _has_numbers(file) else []
        for batch in file.iter_batches(batch_size=2**17, columns=columns) if columns else ():
            kinds = _codes(batch["kind"], ("none", "task"))
            at = batch["fraction"].to_numpy(zero_copy_only=False)
            wanted = (kinds == 0) | ((kinds == 1) & (np.abs(at - fraction) < 1e-9))
            lesion = np.where(kinds == 0, -1, _codes(batch["lesioned_task"], names))
            task = _codes(batch["task"], names)
            if own_only:
                wanted &= (lesion == -1) | (lesion == task)
            kept["lesion"].append(lesion[wanted].astype(np.int16))
            kept["task"].append(task[wanted].astype(np.int16))
            for name in numbers:
                kept[name].append(batch[name].to_numpy(zero_copy_only=False)[wanted])
        rows = {
            name: np.concatenate(parts) if parts else np.empty(0) for name, parts in kept.items()
        }
        task = rows.pop("task")
        order = np.argsort(task, kind="stable")  # each task's rows together, found once for all
        ends = np.searchsorted(task[order], np.arange(len(names) + 1))
        return [
            TaskRows(**{name: column[order[start:end]] for name, column in rows.items()})
            for start, end in pairwise(ends)
        ]


def _has_numbers(file: Any) -> bool:
    import pyarrow as pa

    schema = file.schema_arrow
    return all(
        name in schema.names and pa.types.is_floating(schema.field(name).type)
        for name in ("label", "prediction")
    )


def _codes(column: Any, names: Sequence[str]) -> np.ndarray:
    """Each row's place in `names`; −2 for anything else."""
    place = {name: k for k, name in enumerate(names)}
    known = [place.get(clean(value), -2) for value in column.dictionary.to_pylist()]
    codes = column.indices.fill_null(len(known)).to_numpy(zero_copy_only=False)
    return np.array([*known, -2])[codes]


def read_texts(
    folder: Path, names: Sequence[str], wanted: Set[tuple[int, int]]
) -> dict[tuple[int, int], tuple[str, ...]]:
    """Read the texts of some examples, by (number of the task, example).

    Empty where texts were not kept. Raises `RunError` where the table is damaged.
    """
    import pyarrow.parquet as pq

    path = folder / "texts.parquet"
    if not path.is_file():
        return {}
    most = max((example for _, example in wanted), default=0)
    found = {}
    with _damage_named(folder):
        file = pq.ParquetFile(path, read_dictionary=["task"])
        for batch in file.iter_batches(batch_size=2**14, columns=["task", "example", "texts"]):
            tasks = _codes(batch["task"], names)
            examples = batch["example"].to_numpy(zero_copy_only=False)
            for row in np.flatnonzero((tasks >= 0) & (examples <= most)).tolist():
                key = int(tasks[row]), int(examples[row])
                if key in wanted:
                    found[key] = tuple(clean(text) for text in batch["texts"][row].as_py())
    return found
