"""What README, docs and --help show is true: every Python block runs, and every command.

They run in a folder where tiny models, data and runs have the names that the pages give them.
"""

import csv
import inspect
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import typer
from typer.testing import CliRunner

import lobes
from lobes.cli import app
from lobes.config.study import load_study
from lobes.config.sweep import load_sweeps
from tiny_harness import write_tasks
from tiny_images import picture, save_picture, tiny_processor
from tiny_models import tiny_model
from tiny_study import write_study
from tiny_tasks import mood_task, pair_task, tiny_tokenizer, topic_task

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    )
}
# The pages' models, and the folder of the tiny one that stands in for each.
MODELS = {
    "sentence-transformers/all-MiniLM-L6-v2": "model",
    "bert-base-uncased": "model",
    "google/vit-base-patch16-224-in21k": "vit",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "decoder",
    '"HuggingFaceTB/SmolLM2-135M"': '"decoder"',
    '"gpt2"': '"decoder"',
}
RUNS = ("demo", "first", "glue", "seed0", "seed1", "seed2", "a", "b", "c")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.S | re.M)


def stand_in(text: str) -> str:
    for name, folder in MODELS.items():
        text = text.replace(name, folder)
    return text


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with the models, data and finished runs that the pages name."""
    folder = tmp_path_factory.mktemp("world")
    study = write_study(folder)
    _write_models(folder)
    _write_photos(folder / "photos")
    _write_tests_and_output(folder, study)
    (folder / "task-files").mkdir()
    write_tasks(folder / "task-files")
    (folder / "ag_news_csv").mkdir()
    for split in ("train", "test"):
        rows = [(1 + n % 4, f"title {n}", f"description {n}") for n in range(24)]
        with (folder / "ag_news_csv" / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)
    papers = [{"title": f"t{n}", "abstract": f"a{n}", "field": "xyz"[n % 3]} for n in range(12)]
    (folder / "papers.jsonl").write_text("\n".join(map(json.dumps, papers)))
    return folder


def _write_models(folder: Path) -> None:
    """Models with heads 0:1, 0:5 and 3:2, which the pages ablate and prune."""
    sizes = {"num_hidden_layers": 4, "num_attention_heads": 6, "hidden_size": 24}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vocabulary = len(tiny_tokenizer())
        bert = transformers.BertConfig(vocab_size=vocabulary, intermediate_size=29, **sizes)
        gpt2 = transformers.GPT2Config(vocab_size=vocabulary, n_layer=4, n_head=6, n_embd=24)
        transformers.BertModel(bert).save_pretrained(folder / "model")
        transformers.GPT2LMHeadModel(gpt2).save_pretrained(folder / "decoder")
    tiny_model("vit").save_pretrained(folder / "vit")
    tiny_processor().save_pretrained(folder / "vit")
    for name in ("model", "decoder"):
        tiny_tokenizer().save_pretrained(folder / name)


def _write_photos(folder: Path) -> None:
    generator = np.random.default_rng(7)
    for split in ("train", "validation"):
        for shape, animal in enumerate(("cat", "dog")):
            (folder / split / animal).mkdir(parents=True)
            for number in range(3):
                pixels = picture(shape, number, generator)
                save_picture(pixels, folder / split / animal / f"{number}.png")


def _write_tests_and_output(folder: Path, study: Path) -> None:
    """Give the study's tasks test data, and its run the name that the pages know."""
    text = study.read_text().replace(str(folder / "run"), "runs/demo")
    for name in ("mood.validation.csv", "topic.validation.jsonl"):
        test = name.replace("validation", "test")
        shutil.copy(folder / name, folder / test)
        text = text.replace(f'validation = "{name}"', f'validation = "{name}"\ntest = "{test}"')
    text = text.replace('model = "model"', 'model = "model"\npooling = "pooler"')
    study.with_name("sweep.toml").write_text('study = "study.toml"\n[axes]\nseed = [0, 1]\n')
    for key, usual, few in (
        ("steps", 23, 11),
        ("importance_examples", 41, 11),
        ("agreement_examples", 20, 5),
        ("similarity_examples", 20, 5),
    ):
        text = text.replace(f"{key} = {usual}", f"{key} = {few}")
    study.write_text(text + SMALL)


SMALL = """
[compare]
seeds = 2
evaluations = 2
methods = ["multi", "iat", "probe"]

[transfer]
fractions = [1.0]
seeds = 2
steps = 5

[transfer.task]
name = "subject"
train = "topic.train.jsonl"
validation = "topic.validation.jsonl"
text = "sentence"
"""


@pytest.fixture(scope="module")
def runs(world):
    """The world with runs of its study under each of the names that the pages give to runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        for seed, (made, *copies) in enumerate((RUNS[:4], RUNS[4::2], RUNS[5::2])):
            arguments = ["run", "study.toml", "--quiet", "--set", f"seed={seed}"]
            done = CliRunner().invoke(app, [*arguments, "--output", f"runs/{made}"])
            assert done.exit_code == 0, done.output
            for name in copies:
                shutil.copytree(f"runs/{made}", f"runs/{name}")
    return world


@pytest.fixture
def at_home(monkeypatch):
    """Commands of a user who has neither data nor a model on the hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("LOBES_DATA", raising=False)


# Python


def tasks_and_model() -> dict:
    """The names that a page takes as given: tasks, a model, inputs, heads."""
    tasks = [mood_task(29, 23), topic_task(31, 19)]
    model = lobes.MultiTaskModel.from_pretrained("model", tasks=tasks)
    heads = lobes.HeadSet.parse("0:1,5 3:2")
    return {"lobes": lobes, "torch": torch, "tasks": tasks, "model": model, "heads": heads}


def _generation() -> dict:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "left"
    config = transformers.GPT2Config(vocab_size=31, n_embd=18, n_layer=4, n_head=6, pad_token_id=0)
    model = transformers.GPT2LMHeadModel(config).eval()
    return {"model": model, "tokenizer": tokenizer, "texts": ["a boat", "the dull wind", "soup"]}


def _iat() -> dict:
    from lobes.training.arguments import training_arguments

    return {**tasks_and_model(), "args": training_arguments("trained", steps=10, batch_size=5)}


def _prompted() -> dict:
    def named(name: str, task: lobes.Task) -> lobes.Task:
        return lobes.Task(
            name,
            train=[{"sentence": t, "label": int(y)} for (t,), y in _examples(task.train)],
            validation=[{"sentence": t, "label": int(y)} for (t,), y in _examples(task.validation)],
            text="sentence",
            label="label",
            labels=task.labels,
        )

    return {
        "lobes": lobes,
        "sst2": named("sst2", mood_task(29, 23)),
        "ag": named("ag", topic_task(31, 19)),
    }


def _examples(examples):
    return zip(examples.texts, examples.labels, strict=True)


def _pruning() -> dict:
    def build_model() -> torch.nn.Module:
        return transformers.AutoModel.from_pretrained("model")

    model = build_model().eval()
    inputs = {"input_ids": torch.tensor([[2, 7, 5, 3]])}
    given = tasks_and_model()
    others = {"build_model": build_model, "inputs": inputs, "task": given["tasks"][0]}
    return {**given, "model": model, **others, "multi_task_model": given["model"].eval()}


def _tasks() -> dict:
    Path("data", "sst2").mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev", "test"):
        lines = ["sentence\tlabel", *["a fine day\t1", "a dull day\t0"] * 50]
        if split == "test":
            lines = ["index\tsentence", "0\ta fine day", "1\ta dull day"]
        Path("data", "sst2", f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return {}


# The words of prompts that the tiny tokenizer knows.
WORDS = {
    "negative": "dull",
    "positive": "fine",
    "world": "salt",
    "sport": "wave",
    "business": "star",
    # the harness's own task files take long to read
    "arc_easy": 'pick", include="task-files',
    "piqa": 'mood", include="task-files',
}
# What the blocks of a page take as given.
GIVEN = {
    "docs/generation.md": _generation,
    "docs/iat.md": _iat,
    "docs/lora.md": _iat,
    "docs/method.md": tasks_and_model,
    "docs/prompted.md": _prompted,
    "docs/pruning.md": _pruning,
    "docs/tasks.md": _tasks,
}


SLOW_PAGES = ("docs/export.md", "docs/scale.md")  # compile models; start workers


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page in SLOW_PAGES else ())
        for page in PAGES
        if blocks(page, "python")
    ],
)
@pytest.mark.filterwarnings(
    r"ignore:.torch\.jit\.:DeprecationWarning"
)  # torch.export's own imports
@pytest.mark.usefixtures("at_home")
def test_every_python_block_runs(page, request, tmp_path, monkeypatch):
    declared = {}  # metrics of the page, which other tests must not meet
    for module in ("metrics", "custom_metrics"):
        monkeypatch.setattr(f"lobes.{module}.DECLARED", declared)
    reads_runs = any("runs/" in code for code in blocks(page, "python"))
    place = request.getfixturevalue("runs" if reads_runs else "world")
    shutil.copytree(place, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    if not reads_runs:  # which another page may have made: this one's are to be made here
        shutil.rmtree("runs", ignore_errors=True)
    names = GIVEN.get(page, dict)()
    for code in blocks(page, "python"):
        for word, known in WORDS.items():
            code = code.replace(f'"{word}"', f'"{known}"')
        exec(compile(stand_in(code), page, "exec"), names)


# Commands

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
# What stands in for the placeholders of a command line, and for the names of tasks.
PLACES = {
    "sentiment": "mood",
    "sst2": "mood",
    "RUN1": "runs/seed0",
    "RUN2": "runs/seed1",
    "MODEL": "model",
    "STUDY": "study.toml",
    "FILE": "study.toml",
    "DIR": "new",
    "IN": "ag_news_csv/train.csv",
    "OUT": "pairs.csv",
    "[NAME]": "",
    "NAME": "",
    "…": "",
}
# Commands that need more than the tiny world: data sets, downloads, clusters, a figure's minutes.
NOT_RUN = re.compile(
    r"^demo|^init|^eval|LOBES_DATA|examples/|runs/four|sst2.toml|runs/sst2|^tasks sst2|^iap STUDY"
    r"|--on |programme.toml"
)


def shown_commands() -> list[str]:
    """Every `lobes …` line of the pages and of --help, without comments, each once."""
    found = []
    for text in PAGES.values():
        fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.S | re.M)
        code = "\n".join(block for language, block in fences if not language)
        indented = re.findall(r"\n\n((?: {4}.*\n)+)(?=\n|$)", text)
        code = re.sub(r" *\\\n *", " ", "\n".join([code, *indented]))  # one line for each command
        lines = re.findall(r"^ *(?:LOBES_DATA=\S+ )?lobes +(.+)$", code, re.M)
        lines += re.findall(r"`lobes ((?!tasks`)[^`\n]+)`", text)
        found += lines
    for command in typer.main.get_command(app).commands.values():
        found += re.findall(r"Example: lobes (.+)$", inspect.getdoc(command.callback) or "", re.M)
    cleaned = (re.sub(r"\s{2,}#.*$", "", line).strip() for line in found)
    return list(dict.fromkeys(line for line in cleaned if not line.startswith(("-", "≥"))))


def words_of(command: str) -> list[str]:
    """The words of a command, with names that exist here; each RUN is another run."""
    runs = iter(("runs/demo", "runs/b", "runs/c"))
    places = PLACES | {"DIR": "runs/first/model"} if "--model DIR" in command else PLACES
    words = (next(runs) if w == "RUN" else places.get(w, w) for w in shlex.split(command))
    return [stand_in(word) for word in words if word]


@pytest.mark.parametrize("command", shown_commands())
def test_every_command_has_these_options(command):
    name, *arguments = words_of(command)
    group = typer.main.get_command(app)
    assert name in group.commands, command
    if arguments:
        group.commands[name].make_context(name, arguments)


SLOW = (
    *("compare", "transfer", "prune", "sweep sweep.toml"),
    *("run FILE", "run STUDY", "run study.toml --", "iap study.toml --model DIR"),
)


def _runnable() -> list:
    shown = [c for c in shown_commands() if " " in c and not NOT_RUN.search(c)]
    commands = {tuple(words_of(c)): c for c in reversed(shown)}.values()  # the same words run once
    return [pytest.param(c, marks=pytest.mark.slow if c.startswith(SLOW) else ()) for c in commands]


@pytest.mark.timeout(900)  # a study with a hundred controls, on any machine
@pytest.mark.parametrize("command", _runnable())
@pytest.mark.usefixtures("at_home")
def test_every_command_runs(command, runs, tmp_path, monkeypatch):
    shutil.copytree(runs, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("webbrowser.open", lambda _: True)
    if command.startswith(("run", "iap", "train")):  # their output is not there yet
        used = "first" if command.startswith("iap") else ""
        for run in RUNS:
            if run != used:
                shutil.rmtree(Path("runs", run), ignore_errors=True)
    done = CliRunner().invoke(app, words_of(command))
    assert done.exit_code == 0, done.output


def test_every_target_of_make_exists():
    for page, text in PAGES.items():
        for target in re.findall(r"^ *make (\w[\w-]*)|`make (\w[\w-]*)", text, re.M):
            assert re.search(rf"^{''.join(target)}:", MAKEFILE, re.M), (page, target)


# Studies

TASKS = """
[[tasks]]
name = "mood"
train = "mood.csv"
text = "sentence"
[[tasks]]
name = "topic"
train = "topic.csv"
text = "sentence"
"""


def test_the_study_runs(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mood, pair = mood_task(), pair_task()
    for name, part in (("mood", mood.train), ("mood-test", mood.validation)):
        with Path(f"{name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["sentence", "label"])
            rows.writerows([text, mood.labels[label]] for (text,), label in _examples(part))
    with Path("answered.jsonl").open("w") as file:
        for (question, answer), label in _examples(pair.train):
            row = {"question": question, "answer": answer, "label": int(label)}
            file.write(json.dumps(row) + "\n")
    text = blocks("docs/start.md", "toml")[0]
    Path("study.toml").write_text(text.replace(next(iter(MODELS)), str(world / "model")))
    arguments = ["run", "study.toml", "--output", "run", "--quiet"]
    for setting in ("training.steps=2", "training.batch_size=4", "iap.controls=1"):
        arguments += ["--set", setting]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert Path("run", "report.html").exists()
    done = CliRunner().invoke(app, ["predict", "run", "--to", "answers"])
    assert done.exit_code == 0, done.output
    assert "answered: no test data, so nothing is predicted there" in done.stderr
    assert [path.name for path in Path("answers").glob("*.tsv")] == ["mood.test.tsv"]
    done = CliRunner().invoke(app, ["predict", "run", "--to", "held-out", "--split", "validation"])
    assert done.exit_code == 0, done.output
    results = json.loads(Path("run", "results.json").read_text())
    for task in results["tasks"]:  # what the run held out, and nothing else
        lines = Path("held-out", f"{task['name']}.validation.tsv").read_text().splitlines()
        assert len(lines) == 1 + task["n_validation"]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "toml")])
def test_every_study_shown_is_accepted(page, tmp_path, monkeypatch):
    """A fragment is completed with a model and tasks; what it says must be accepted."""
    monkeypatch.setenv("LOBES_DATA", "data")
    for number, text in enumerate(blocks(page, "toml")):
        path = tmp_path / f"{number}.toml"
        if base := re.search(r'^study *= *"(.*)"', text, re.M):  # a sweep
            (tmp_path / base[1]).write_text('model = "model"\n' + TASKS)
            path.write_text(text)
            assert all(sweep.runs for sweep in load_sweeps(path))
            continue
        whole = text
        if not re.search(r"^model *=", text, re.M):
            whole = 'model = "model"\n' + whole
        if not re.search(r"^(\[\[tasks\]\]|tasks *=)", text, re.M):
            whole += TASKS
        path.write_text(whole)
        load_study(path)
