"""How the model was trained: the settings that matter, and a loss and score curve of each task."""

from collections.abc import Iterator, Mapping

from lobes.report import formatting as fmt
from lobes.report import settings
from lobes.report.charts import line_chart
from lobes.report.sections import Block, Fact, Facts, Figure, Panel, Panels, Prose, Section
from lobes.results import RunResults

_USUAL = {"class_weights": None, "label_smoothing": 0.0, "weight": 1.0}


def section(results: RunResults) -> Section | None:
    """The training's curves; None for a model that was trained elsewhere."""
    training = results.training
    if training is None:
        return None
    facts = Facts(
        (
            Fact("Steps", fmt.thousands(training.steps)),
            Fact("Sampling", training.sampling or fmt.UNDEFINED),
            Fact("Time", fmt.duration(training.seconds)),
            Fact("Precision", training.precision or fmt.UNDEFINED),
            Fact("Seed", str(training.seed)),
            *_losses(results),
        )
    )
    panels = []
    for k, task in enumerate(results.tasks):
        losses = [(float(e.step), e.loss) for e in training.losses if e.task == task.name]
        scores = [
            (float(e.step), e.scores[task.name]) for e in training.scores if task.name in e.scores
        ]
        blocks: list[Block] = []
        loss = line_chart(losses, f"{task.name}: training loss", "loss")
        if loss is not None:
            blocks += [Prose("training loss", "axis"), Figure(f"loss-{k}", loss)]
        score = line_chart(scores, f"{task.name}: validation {task.metric_name}", "score")
        if score is not None:
            blocks += [Prose(f"validation {task.metric_name}", "axis"), Figure(f"score-{k}", score)]
        if blocks:
            panels.append(Panel(task.name, tuple(blocks)))
    shown = (facts, Panels(tuple(panels), "curves"))
    return Section(
        "training", "Training", shown, contents="Training", asks="How was the model trained?"
    )


def _losses(results: RunResults) -> Iterator[Fact]:
    """Yield the settings of each task whose loss is not the usual one."""
    given = results.config.get("tasks")
    for task in given if isinstance(given, list) else ():
        if not isinstance(task, Mapping):
            continue
        changed = [
            f"{key.replace('_', ' ')} {settings.plain(task[key])}"
            for key, usual in _USUAL.items()
            if task.get(key, usual) != usual
        ]
        if changed:
            yield Fact(f"Loss of {task.get('name', fmt.UNDEFINED)}", ", ".join(changed))
