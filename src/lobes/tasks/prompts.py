"""Prompts: how a causal language model is asked a classification task, and what it may answer."""

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lobes.errors import ConfigError
from lobes.tasks.columns import listed, suggest
from lobes.tasks.task import TaskSpec


@dataclass(frozen=True, slots=True)
class Prompt:
    """A template with text columns in braces, and the word that stands for each label.

    `words` are in the order of the labels, or a dictionary leads from each label to its word, in
    any order: Prompt("Review: {text}\\nSentiment:", {"neg": "bad", "pos": "good"}).

    In `template` each text column stands in braces, as in "Review: {sentence}\\nSentiment:"; a
    brace that is no column is doubled. The word comes after the prompt, with a space between
    unless the template ends in white space. A word may be several. `check` gives the prompt with
    the words of a dictionary in the order of a task's labels.

    Raises ConfigError for a template without a column or with other fields than columns, and for
    fewer than two words, an empty one, or equal ones.
    """

    template: str
    words: Sequence[str] | Mapping[str, str]
    # the labels that `words` are for, where a dictionary said so
    _labels: tuple[str, ...] | None = field(init=False, repr=False)
    # what stands before each column, and after the last: ((text, column or None), ...)
    _parts: tuple[tuple[str, str | None], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.template, str):
            raise ConfigError(
                f"A prompt's template is text such as 'Review: {{sentence}}', not "
                f"{self.template!r}."
            )
        given = self.words
        if isinstance(given, set | frozenset) or not isinstance(given, Iterable):
            what = "a set of words, which has no order" if given else f"{given!r} as its words"
            raise ConfigError(
                f"The prompt {self.template!r} has {what}: expected a list in the order of the "
                f"labels, or a dictionary from label to word."
            )
        labels, words = None, (given,) if isinstance(given, str) else tuple(given)
        if isinstance(given, Mapping):
            labels, words = tuple(given), tuple(given.values())
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "_labels", labels)
        object.__setattr__(self, "_parts", _parsed(self.template))
        if len(words) < 2:
            raise ConfigError(
                f"The prompt {self.template!r} has the words {listed(words)}: expected one for "
                f"each label, two or more."
            )
        for word in words:
            if not isinstance(word, str) or not word.strip():
                raise ConfigError(
                    f"The prompt {self.template!r} has the word {word!r}: expected text for the "
                    f"model to say."
                )
            if [str(other).strip() for other in words].count(word.strip()) > 1:
                raise ConfigError(
                    f"The prompt {self.template!r} has the word {word!r} for two labels: give "
                    f"each label its own."
                )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the template names, each once, in its order."""
        return tuple(dict.fromkeys(column for _, column in self._parts if column is not None))

    @property
    def separator(self) -> str:
        """The space between the prompt and the word, or "" where the template ends in one."""
        return "" if self.template[-1].isspace() else " "

    def fill(self, texts: Mapping[str, str]) -> str:
        """Return the prompt for one example, whose `texts` are given by column."""
        return "".join(
            before + (texts[column] if column is not None else "") for before, column in self._parts
        )

    def check(self, spec: TaskSpec) -> "Prompt":
        """Return the prompt with its words in the order of the task's labels.

        Raises `ConfigError` where the prompt does not fit the task.
        """
        for column in self.columns:
            if column not in spec.text:
                raise ConfigError(
                    f"Task {spec.name!r}: the prompt names {{{column}}}, which is none of the "
                    f"task's text columns {listed(spec.text)}.{suggest(column, spec.text)}"
                )
        if spec.labels is None:
            raise ConfigError(
                f"Task {spec.name!r} is a regression, which has no label for a word to stand for: "
                f"expected a task with classes."
            )
        if spec.is_multi_label:
            raise ConfigError(
                f"Task {spec.name!r} has several labels for one example, but a prompt is answered "
                f"with one word: train a classifier for it, or ask of each label in a task of its "
                f"own."
            )
        if len(self.words) != len(spec.labels):
            raise ConfigError(
                f"Task {spec.name!r}: the prompt has {len(self.words)} words "
                f"({listed(self.words)}) for {len(spec.labels)} labels ({listed(spec.labels)}): "
                f"expected one for each, in their order."
            )
        return Prompt(self.template, self._ordered(spec.name, spec.labels))

    def _ordered(self, task: str, labels: tuple[str, ...]) -> tuple[str, ...]:
        """The words in the order of the labels."""
        words = tuple(self.words)
        if self._labels is None:
            if words != labels and set(words) == set(labels):
                raise ConfigError(
                    f"Task {task!r}: the prompt's words {listed(words)} are the labels in another "
                    f"order: give them in the order {listed(labels)}, or a dictionary from label "
                    f"to word."
                )
            return words
        for label in self._labels:
            if label not in labels:
                raise ConfigError(
                    f"Task {task!r}: the prompt has a word for {label!r}, which is none of the "
                    f"labels {listed(labels)}.{suggest(str(label), labels)}"
                )
        return tuple(words[self._labels.index(label)] for label in labels)


def _parsed(template: str) -> tuple[tuple[str, str | None], ...]:
    try:
        fields = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(
            f"The template {template!r} cannot be read ({error}): expected columns in braces, as "
            f"in 'Review: {{sentence}}', and {{{{ or }}}} for a brace itself."
        ) from error
    if not any(name is not None for _, name, _, _ in fields):
        raise ConfigError(
            f"The template {template!r} has no column: expected one in braces, as in "
            f"'Review: {{sentence}}'."
        )
    for _, name, form, conversion in fields:
        if name is not None and (not name or form or conversion):
            raise ConfigError(
                f"The template {template!r} has a field that is no column's name alone: expected "
                f"one as in 'Review: {{sentence}}', and {{{{ or }}}} for a brace itself."
            )
    return tuple((text, name) for text, name, _, _ in fields)
