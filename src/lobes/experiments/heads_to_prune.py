"""Which heads are to be pruned: named one by one, or the least important of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from lobes.errors import ConfigError, RunError
from lobes.experiments.manifest import check_files
from lobes.experiments.open_model import trained_model
from lobes.heads import HeadLayout, HeadSet
from lobes.results import RunResults, read
from lobes.scores import HeadScores


@dataclass(frozen=True)
class Choice:
    """`drop` as in "0:1,5 3:2", or the least important `fraction` of all heads in `run`.

    Importance is that of `task`, as the run measured it; without a task, each head's rank among
    all heads, as a mean over the run's tasks. Ranks, since the scores of different tasks have no
    scale in common. Raises `ConfigError` for anything but one of the two ways.
    """

    drop: str | None = None
    run: Path | None = None
    fraction: float | None = None
    task: str | None = None

    def __post_init__(self) -> None:
        if (self.drop is None) == (self.run is None):
            raise ConfigError(
                "Which heads are to go? Expected either --drop with their numbers or --from-run "
                "with a run's folder, and not both."
            )
        if self.run is None and (self.fraction is not None or self.task is not None):
            raise ConfigError(
                "--fraction and --task choose heads by the importance that a run measured: give "
                "--from-run with them, or --drop alone."
            )
        if self.run is not None and not 0 < (self.fraction or 0) < 1:
            given = "" if self.fraction is None else f", not {self.fraction:g}"
            raise ConfigError(
                f"--from-run needs --fraction, a share of all heads above 0 and below 1 such as "
                f"0.3{given}."
            )

    @property
    def rule(self) -> str:
        """The choice in a few words."""
        if self.run is None:
            return "named one by one"
        whom = "mean rank over all tasks" if self.task is None else f"for {self.task}"
        return f"the least important {100 * (self.fraction or 0):g} % {whom}"

    def model(self) -> str:
        """Return the model that the run trained, or the one it measured."""
        if self.run is None:
            raise ConfigError("Which model is to be pruned? Expected MODEL, a folder or a name.")
        model = trained_model(self.run)
        if model is not None:
            return str(model)
        check_files(self.run, "results.json")
        results = read(self.run, RunResults)
        measured = results.config.get("model")
        if results.training is not None or not isinstance(measured, str):
            raise RunError(
                f"There is no trained model in {self.run}: name the model to prune as MODEL."
            )
        return measured

    def heads(self, layout: HeadLayout) -> HeadSet:
        """Return the heads to remove from a model with this layout.

        Raises `HeadError` for one that does not exist, `ConfigError` where none is chosen and for
        a task or a model that is not the run's, and `RunError` for a run without importance.
        """
        if self.run is None:
            chosen = layout.check(HeadSet.parse(self.drop or ""))
            if not chosen:
                raise ConfigError('--drop names no head; expected some, such as "0:1,5 3:2".')
            return chosen
        check_files(self.run, "results.json")
        results = read(self.run, RunResults)
        measured = [site.n_heads for site in results.model.sites]
        if measured != [site.n_heads for site in layout.sites]:
            raise ConfigError(
                f"The run in {self.run} measured a model with other heads than this one's: leave "
                f"MODEL out, or name the model that was measured."
            )
        ranking = self._ranking(results)
        chosen = ranking.bottom(self.fraction or 0.0)
        if not chosen:
            raise ConfigError(
                f"--fraction {self.fraction:g} of {ranking.total} heads is less than one head: "
                f"give a larger one."
            )
        return chosen

    def scores(self, heads: HeadSet) -> list[dict[str, Any]]:
        """Return what the run measured of its tasks: with all heads, and with these ablated.

        `ablated` is None where no lesion of the run put zeros in the place of just these heads.
        """
        if self.run is None:
            return []
        results = read(self.run, RunResults)
        names = [task.name for task in results.tasks]
        every = HeadSet(
            (s, h) for s, site in enumerate(results.model.sites) for h in range(site.n_heads)
        )
        zeros = results.lesioning.value == "zero"
        under = next(
            (
                fraction.scores[names.index(task)].tolist()
                for fraction in results.fractions
                for task, lesion in fraction.lesions.items()
                if zeros and heads == (every - lesion if results.lesioning.keeps else lesion)
            ),
            [None] * len(names),
        )
        return [
            {"task": task.name, "metric": task.metric_name, "whole": task.base, "ablated": score}
            for task, score in zip(results.tasks, under, strict=True)
        ]

    def _ranking(self, results: RunResults) -> HeadScores:
        scores = {entry.task: HeadScores(entry.values) for entry in results.importance}
        if not scores:
            raise RunError(
                f"The run in {self.run} holds no importance of heads: measure it with `lobes iap`."
            )
        if self.task is None:
            return mean_rank(list(scores.values()))
        if self.task not in scores:
            raise ConfigError(
                f"The run in {self.run} has no importance for the task {self.task!r}; expected "
                f"one of {', '.join(scores)}."
            )
        return scores[self.task]


def mean_rank(scores: Sequence[HeadScores]) -> HeadScores:
    """Return each head's rank among all heads, 1 the least important, as a mean over tasks.

    Heads with equal scores share the mean of their ranks.
    """
    known = ~np.isnan(scores[0].values)
    values = np.full(known.shape, np.nan)
    values[known] = np.mean([rankdata(one.values[known]) for one in scores], axis=0)
    return HeadScores(values, {"method": "mean rank"})
