"""Commands on tasks and models: tasks, ag-pair, heads, prune."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lobes.cli.app import Debug, Json, Quiet, TrustRemoteCode, command


class Export(StrEnum):
    """The values of `lobes prune --export`."""

    native = "native"
    zeroed = "zeroed"


@command()
def tasks(
    name: Annotated[
        str | None,
        typer.Argument(help="A known task, or one of the study's.", show_default=False),
    ] = None,
    study: Annotated[
        Path | None, typer.Option(help="A study, for its tasks and tokenizer.", show_default=False)
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="A folder that holds the data of known tasks.", show_default=False),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Whose tokenizer counts tokens.", show_default=False)
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """The known tasks, or one task with its sizes, token lengths and three examples.

    Example: lobes tasks sst2 --model bert-base-uncased
    """
    from lobes.config.study import load_study
    from lobes.experiments.task_listing import describe_task, known_tasks
    from lobes.terminal import show_task, show_tasks

    if name is None:
        known = known_tasks()
        if as_json:
            print(json.dumps(known, indent=1))
        else:
            show_tasks(known)
        return
    task = describe_task(
        name,
        study=load_study(study) if study else None,
        data_dir=str(data_dir) if data_dir else None,
        model=model,
        trust_remote_code=trust_remote_code,
    )
    if as_json:
        print(json.dumps(task, indent=1, ensure_ascii=False))
    else:
        show_task(task)


@command()
def ag_pair(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            help="AG's News CSV, or any CSV, TSV, JSON lines or Parquet file with topics.",
            show_default=False,
        ),
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="The file to write: .csv, .tsv, .jsonl or .parquet.",
            show_default=False,
        ),
    ],
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="A column of text; repeatable: joined as `title - description`. By default "
            "`text`.",
            show_default=False,
        ),
    ] = None,
    topic: Annotated[
        str | None,
        typer.Option(help="The column of topics, by default `label`.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="What decides the pairs.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """The task AG-Pair: pairs of articles, of the same topic or of different ones.

    Example: lobes ag-pair ag_news_csv/train.csv data/ag-pair/train.parquet
    """
    from lobes.experiments.ag_pair import make_pairs
    from lobes.terminal import say, show_pairs

    record = make_pairs(source, target, text=text, topic=topic, seed=seed)
    if as_json:
        print(json.dumps(record, ensure_ascii=False, indent=1))
    else:
        show_pairs(record)
    say(f"Pairs: {target}")


@command()
def heads(
    model: Annotated[
        str,
        typer.Argument(
            help="A model of the hub, a folder that holds one, pruned or not, or a run's folder.",
            show_default=False,
        ),
    ],
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Where a model's attention heads are, and which can be ablated, trained alone and pruned.

    Example: lobes heads bert-base-uncased
    """
    from lobes.experiments.open_model import describe_heads, find_model_heads
    from lobes.terminal import show_heads

    layout = find_model_heads(model, trust_remote_code=trust_remote_code)
    if as_json:
        print(json.dumps({"model": model, **describe_heads(layout)}, indent=1))
    else:
        show_heads(layout, model)


@command()
def prune(
    to: Annotated[Path, typer.Option(help="The folder to write.", show_default=False)],
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model of the hub or a folder; with --from-run by default the run's model.",
            show_default=False,
        ),
    ] = None,
    drop: Annotated[
        str | None,
        typer.Option(
            metavar="HEADS",
            help='The heads to remove, as "0:1,5 3:2" (site:head,head).',
            show_default=False,
        ),
    ] = None,
    from_run: Annotated[
        Path | None,
        typer.Option(
            help="Remove the heads that were the least important in this run.", show_default=False
        ),
    ] = None,
    fraction: Annotated[
        float | None,
        typer.Option(help="With --from-run: which share of all heads.", show_default=False),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="With --from-run: the least important for this task. Without it: those with the "
            "lowest rank among all heads, as a mean over the run's tasks.",
            show_default=False,
        ),
    ] = None,
    export: Annotated[
        Export | None,
        typer.Option(
            help="For transformers without lobes: with fewer heads in its own configuration, or at "
            "full size with zeros.",
            show_default=False,
        ),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens of each text on which the speed is measured; 128 where it is not given.",
            show_default=False,
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Replace what `lobes prune` wrote there before.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Remove heads for good: a smaller model whose outputs equal ablation.

    Example: lobes prune bert-base-uncased --drop "0:1,5 3:2" --to smaller

    Example: lobes prune --from-run runs/demo --fraction 0.3 --task sentiment --to smaller
    """
    from lobes.experiments.heads_to_prune import Choice
    from lobes.experiments.prune import prune_model
    from lobes.terminal import ProgressDisplay, say, show_pruning

    kind: Any = export and export.value
    choice = Choice(drop=drop, run=from_run, fraction=fraction, task=task)
    with ProgressDisplay(quiet=quiet) as progress:
        record = prune_model(
            choice,
            to,
            model=model,
            export=kind,
            length=length,
            fresh=fresh,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    if as_json:
        print(json.dumps({**record, "folder": str(to)}, ensure_ascii=False, indent=1))
    else:
        show_pruning(record)
    say(f"Model: {to}")
