"""Tasks of lm-evaluation-harness that let a model generate text, scored by the harness's own code.

An example's texts are its prompt and, as for other tasks of the harness, JSON: the reference text
as a continuation, from whose likelihood importance comes, and the names of the document and of the
`Judge` that scores what a model says. A judge needs the harness's own objects, so that it lives in
the process that made the task.
"""

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lobes.errors import ConfigError, DataError, first_line
from lobes.limits import short
from lobes.tasks.columns import listed

# Sampling changes a score from run to run. The harness takes a temperature above 0 for it, too.
_SAMPLING = ("do_sample", "temperature", "top_p", "top_k")


@dataclass(frozen=True, eq=False)
class Judge:
    """Gives the values of a metric for generated texts, as `lm_eval.simple_evaluate` does.

    `name` is that of the task in the harness, `source` the harness's own object, `metric` and
    `filter` are the parts of what it prints as "exact_match,strict-match".
    """

    name: str
    source: Any
    metric: str
    filter: str
    documents: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    kwargs: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The name under which the texts of examples know the judge: what decides a value."""
        config = self.source.config
        parts = [config.filter_list, config.metric_list, config.generation_kwargs]
        if (own := _own_scoring(self.source)) is not None:
            parts.append(own)
        digest = sha256(_as_json(parts).encode()).hexdigest()[:12]
        return f"{self.name} {self.metric},{self.filter} {digest}"

    @property
    def shown(self) -> str:
        """The metric as a page names it: with its filter where the task has several."""
        alone = len(self.source._filters) == 1
        return self.metric if alone else f"{self.metric},{self.filter}"

    def keep(self, request: Any) -> str:
        """Keep the document of a request of the harness; return its name."""
        document, kwargs = request.doc, request.args[1]
        name = sha256(_as_json([document, kwargs]).encode()).hexdigest()[:16]
        self.documents[name], self.kwargs[name] = document, kwargs
        return name

    def longest(self, document: str, default: int) -> int:
        """Return how many tokens the harness lets the model generate for a document."""
        from lm_eval.models.utils import normalize_gen_kwargs

        return int(normalize_gen_kwargs(self.kwargs[document], default)["max_gen_toks"])

    def values(
        self, documents: Sequence[str], texts: Sequence[str]
    ) -> Float[np.ndarray, " examples"]:
        """Return the metric's value of each generated text, which answers the document beside it.

        Raises `DataError` where the task's code fails, and for values outside of 0 to 1.
        """
        chosen = [self.documents[name] for name in documents]
        values: list[Any] = [row.get(self.metric) for row in self.rows(chosen, texts)]
        for value in values:
            if not (_is_number(value) and 0 <= value <= 1):
                shown = f"{value:g}" if _is_number(value) else short(value)
                raise DataError(
                    f"{self.name!r} gives the {self.metric} {shown} to a text: lobes measures "
                    f"metrics from 0 to 1."
                )
        return np.array(values, dtype=np.float64)

    def rows(
        self, documents: Sequence[Mapping[str, Any]], texts: Sequence[str]
    ) -> list[Mapping[str, Any]]:
        """Return what the harness's own code says of each text: {metric: value}."""
        from lm_eval.api.instance import Instance

        requests = [
            Instance("generate_until", dict(document), (), 0, (self.name, number, 1), [text])
            for number, (document, text) in enumerate(zip(documents, texts, strict=True))
        ]
        (pipeline,) = (each for each in self.source._filters if each.name == self.filter)
        try:
            pipeline.apply(requests)
            return [
                dict(self.source.process_results(each.doc, [each.filtered_resps[self.filter]]))
                for each in requests
            ]
        except Exception as error:  # of a task's code
            raise DataError(
                f"The harness cannot score what a model says to {self.name!r}, and says: "
                f"{first_line(error)}. Check the task's metric and its filters."
            ) from error


_judges: dict[str, Judge] = {}


def judge_of(name: str, source: Any, requests: Sequence[Any], metric: str | None) -> Judge:
    """Return what scores the texts that a model generates for a task; it knows the documents.

    `metric` is a name such as "exact_match" or, where the task has several filters,
    "exact_match,strict-match"; None takes the first that can be measured. Raises `ConfigError` for
    tasks that sample, repeat their prompts or run what the model writes, and for a metric that is
    no mean of values from 0 to 1, of which more is better.
    """
    _check_generation(name, source, requests)
    wanted, _, only = (metric or "").partition(",")
    filters = [each.name for each in source._filters if only in ("", each.name)]
    faults: dict[str, str] = {}
    for one in filters:
        judge = Judge(name, source, "", one)
        (row,) = judge.rows([requests[0].doc], [reference_of(source, requests[0].doc)])
        for found in row:
            faults[f"{found},{one}"] = fault = _fault(source, found, row[found])
            if found == wanted or (not fault and not wanted):
                if fault:
                    raise ConfigError(
                        f"{name!r} has the metric {found!r}, {fault}: lobes measures means of "
                        f"values from 0 to 1 of each text, of which more is better."
                    )
                return _kept(Judge(name, source, found, one), requests)
    if wanted:
        raise ConfigError(
            f"{name!r} has the metrics {listed(faults) or 'of other filters'}, and not {metric!r}."
        )
    what = "; ".join(f"{key} {fault}" for key, fault in faults.items())
    raise ConfigError(
        f"{name!r} has no metric that lobes measures, a mean of values from 0 to 1 of each text: "
        f"{what}."
    )


def _kept(judge: Judge, requests: Sequence[Any]) -> Judge:
    judge = _judges.setdefault(judge.key, judge)
    for request in requests:
        judge.keep(request)
    return judge


def _check_generation(name: str, source: Any, requests: Sequence[Any]) -> None:
    fault = None
    if getattr(source, "UNSAFE_CODE", False):
        fault = "runs the code that a model writes"
    elif (source.config.repeats or 1) > 1:
        fault = f"asks each question {source.config.repeats} times (repeats)"
    for request in requests:
        fault = fault or _fault_of(request.args[1])
    if fault:
        raise ConfigError(
            f"{name!r} {fault}: lobes measures greedy decoding, once for each document; change the "
            f"generation_kwargs and repeats of a copy of the task's file."
        )
    # such as ifeval's, whose own code scores a text without one
    number = isinstance(source.config.doc_to_target, int) and source.config.doc_to_choice is None
    if number or not any(reference_of(source, each.doc).strip() for each in requests):
        raise ConfigError(
            f"{name!r} has no reference texts: its doc_to_target is "
            f"{short(source.config.doc_to_target)}; expected the text that an answer should be, "
            f"from whose likelihood importance is computed."
        )


def _fault_of(kwargs: Mapping[str, Any]) -> str | None:
    """What greedy decoding cannot do of a request's generation_kwargs."""
    from lm_eval.models.utils import normalize_gen_kwargs

    try:
        asked = normalize_gen_kwargs(dict(kwargs), 1)
    except (TypeError, ValueError) as error:
        return f"has generation_kwargs that the harness cannot read ({first_line(error)})"
    if asked["do_sample"]:
        given = ", ".join(f"{key}: {kwargs[key]}" for key in _SAMPLING if key in kwargs)
        return f"draws texts at random ({given})"
    if asked["max_gen_toks"] < 1:
        return f"lets the model generate {asked['max_gen_toks']} tokens"
    wrong = [each for each in asked["until"] if not isinstance(each, str)]
    return f"has the stop string {short(wrong[0])}, no text (until)" if wrong else None


def _own_scoring(source: Any) -> Any:
    """The function of a task's file, or the class, that scores a text where it is its own."""
    from lm_eval.api.task import ConfigurableTask

    own = source.config.process_results
    return own or (None if type(source) is ConfigurableTask else type(source))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number | np.bool_)


def _fault(source: Any, metric: str, value: Any) -> str:
    """Why a metric cannot be measured; "" where it can. `value` is that of a reference text."""
    aggregation = source.aggregation().get(metric)
    name = getattr(aggregation, "__name__", str(aggregation))
    if aggregation is not None and name != "mean":
        return f"whose values are not averaged but go together into {name!r}"
    if not source.higher_is_better().get(metric, True):
        return "of which less is better"
    if not _is_number(value):
        return f"whose value for one text is a {type(value).__name__}, no number"
    if not 0 <= value <= 1:
        return f"which gives {value:g} to the reference"
    return ""


def reference_of(source: Any, document: Mapping[str, Any]) -> str:
    """Return the text that a document's answer should be, the first of several."""
    target = source.doc_to_target(document)
    if source.config.doc_to_choice is not None and isinstance(target, int):
        target = source.doc_to_choice(document)[target]
    while isinstance(target, list | tuple) and target:
        target = target[0]
    if not isinstance(target, str | int | float):
        raise DataError(
            f"A document has the target {target!r}: expected the text that the answer should be."
        )
    return str(target)


def written_prompt(judge: Judge, request: Any) -> tuple[str, str]:
    """Return an example's texts: the prompt, and its reference and document as JSON."""
    prompt, delimiter = request.args[0], judge.source.config.target_delimiter or ""
    if prompt[-1:].isspace():
        delimiter = ""
    row = {
        "text": delimiter + reference_of(judge.source, request.doc),
        "document": judge.keep(request),
        "judge": judge.key,
    }
    return prompt, json.dumps([row], ensure_ascii=False)


def asked_of(texts: Sequence[str]) -> tuple[Judge, str]:
    """Return the judge and the document of an example that `written_prompt` wrote.

    Raises `DataError` for one that another process made.
    """
    (row,) = json.loads(texts[1])
    judge = _judges.get(row.get("judge", ""))
    if judge is None or row["document"] not in judge.documents:
        raise DataError(
            "The texts of this task are scored by the harness's own objects, which are not in this "
            "process: make the task here, with lobes.harness_task."
        )
    return judge, row["document"]


def _text(function: Any) -> str:
    """The text of the file that a function or class is in: what it calls there counts, too."""
    try:
        return Path(inspect.getsourcefile(function) or "").read_text(encoding="utf-8")
    except (OSError, TypeError, ValueError):
        return ""


def _as_json(value: Any) -> str:
    """Plain values as JSON; functions by names and text, without addresses in memory."""

    def named(each: Any) -> str:
        name = getattr(each, "__qualname__", "")
        return f"{name} {_text(each)}" if name else str(getattr(each, "isoformat", str)())

    return json.dumps(value, sort_keys=True, default=named)
