"""A whole study of images on files: trained, stopped, continued, measured, reported, pruned."""

import json
from pathlib import Path

import numpy as np
import pytest
import transformers

from lobes.config.study import load_study, override
from lobes.errors import ConfigError, DataError, LobesError
from lobes.experiments.heads_to_prune import Choice
from lobes.experiments.loading import load_tasks, task_fingerprint
from lobes.experiments.open_model import export_run
from lobes.experiments.predict import predict_run
from lobes.experiments.prune import prune_model
from lobes.experiments.task_listing import describe_task
from lobes.measure.evaluation import evaluate
from lobes.modeling import MultiTaskModel, load_task_model
from lobes.report.page import html
from lobes.report.run.page import page_of
from lobes.results import RunResults, read
from lobes.tasks.images import Picture
from plain_results import compare_study, run_study
from tiny_images import COLOURS, SHAPES, image_rows, save_picture, tiny_processor
from tiny_models import tiny_model
from tiny_study import timeless

STUDY = """
model = "model"
output = "{folder}/run"
precision = "fp32"

[[tasks]]
name = "shape"
train = "shape/train"
validation = "shape/validation"
image = "image"

[[tasks]]
name = "colour"
train = "colour.csv"
image = "file"
label = "paint"
labels = ["blue", "green", "red"]

[training]
steps = 24
batch_size = 8
learning_rate = 3e-3
save_every = 6

[iat]
delta = 0.25
importance_examples = 20

[iap]
fractions = [0.2, 0.5]
controls = 2
importance_examples = 31
resamples = 50

[compare]
seeds = 2
methods = ["multi", "probe"]
evaluations = 2
"""


def write_study(folder):
    tiny_model("vit").save_pretrained(folder / "model")
    tiny_processor().save_pretrained(folder / "model")
    generator = np.random.default_rng(21)
    lines = ["file,paint"]
    for number, row in enumerate(image_rows(90, generator)):
        split = "train" if number < 60 else "validation"
        place = folder / "shape" / split / SHAPES[row["shape"]] / f"{number}.png"
        save_picture(row["image"], place)
        lines.append(f"{place.relative_to(folder)},{list(COLOURS)[row['colour']]}")
    (folder / "colour.csv").write_text("\n".join(lines))
    (folder / "study.toml").write_text(STUDY.replace("{folder}", str(folder)))
    return folder / "study.toml"


@pytest.fixture
def path(tmp_path):
    return write_study(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study that went through all its stages, and its results."""
    path = write_study(tmp_path_factory.mktemp("images"))
    study = load_study(path)
    return study, run_study(study)


class Killed(BaseException):
    """What no handler of errors catches."""


def test_a_study_that_is_killed_and_continued(finished, path):
    _, results = finished

    def kill(stage, done, total):
        if (stage, done) == ("training", 15):
            raise Killed

    with pytest.raises(Killed):
        run_study(load_study(path), progress=kill)
    continued = run_study(load_study(path))
    assert timeless_study(continued) == timeless_study(results)


def timeless_study(results):
    copy = timeless(results)
    copy["config"]["model"] = ""
    for task in copy["config"]["tasks"]:
        for key in ("train", "validation"):
            task[key] = task[key] and Path(task[key]).name
    copy["model"]["name"] = ""
    del copy["training"]["iat"]["seconds"]
    return json.dumps(copy, sort_keys=True)


def test_what_a_study_leaves_behind(finished):
    study, results = finished
    assert [task["name"] for task in results["tasks"]] == ["shape", "colour"]
    assert results["tasks"][0]["labels"] == ["cross", "square"]
    assert results["tasks"][0]["n_train"] == 60
    assert results["tasks"][1]["n_validation"] == 9
    page = Path(study.output, "report.html").read_text()
    assert page == html(page_of(read(study.output, RunResults), Path(study.output)))
    assert "texts" not in page.replace("keep_texts", "")
    assert "tokenizer" not in page
    model = load_task_model(Path(study.output, "model"))
    scores = evaluate(model, load_tasks(study)).scores()[0]
    np.testing.assert_allclose(scores, [task["base"] for task in results["tasks"]])


def test_the_run_is_pruned_and_not_exported(finished, tmp_path):
    study, _ = finished
    run = Path(study.output)
    record = prune_model(Choice(drop="0:1,3"), tmp_path / "small", model=str(run))
    assert record["n_heads"] == [10, 8]
    small = MultiTaskModel.from_pretrained(tmp_path / "small")
    assert evaluate(small, load_tasks(study)).scores().shape == (1, 2)
    with pytest.raises(ConfigError, match="only tasks of texts can be exported"):
        export_run(run, "shape", tmp_path / "exported")


def test_the_run_predicts(finished, tmp_path):
    study, results = finished
    (record,) = predict_run(Path(study.output), tmp_path, split="validation", tasks=["shape"])[
        "predictions"
    ]
    assert record["score"] == pytest.approx(results["tasks"][0]["base"])
    header, *lines = (tmp_path / record["file"]).read_text().splitlines()
    assert header.split("\t") == ["index", "image", "label", "prediction", "p_cross", "p_square"]
    assert len(lines) == 30
    for line in lines:
        cells = line.split("\t")
        assert Path(cells[1]).parent.name == cells[2]


def test_methods_are_compared_on_images(path):
    results = compare_study(load_study(path))
    assert set(results["scores"]) == {"multi", "probe"}


def test_a_model_as_it_is(path):
    config = tiny_model("vit").config
    config.id2label = dict(enumerate(SHAPES))
    config.label2id = {name: i for i, name in enumerate(SHAPES)}
    model = transformers.ViTForImageClassification(config)
    model.save_pretrained(path.parent / "labelled")
    tiny_processor().save_pretrained(path.parent / "labelled")
    text = path.read_text().replace('"model"', '"labelled"').split("[[tasks]]")
    settings = "[training]\nenabled = false\n[iap]\ncontrols = 1\nresamples = 0\n"
    path.write_text("[[tasks]]".join(text[:2]) + settings)
    results = run_study(load_study(path))
    assert results["training"] is None
    assert [task["name"] for task in results["tasks"]] == ["shape"]


def test_a_description_shows_files(path):
    study = load_study(path)
    facts = describe_task("colour", study=study)
    assert (facts["text"], facts["image"]) == ([], "file")
    assert facts["sizes"][0]["examples"] == 90
    assert facts["sizes"][0]["tokens"] is None
    for example in facts["examples"]:
        assert example["text"] == []
        assert example["image"].startswith(str(path.parent))
        assert example["label"] in COLOURS
    json.dumps(facts)


def test_a_fingerprint_heeds_every_pixel(path):
    before = task_fingerprint(load_tasks(load_study(path))[1])
    assert task_fingerprint(load_tasks(load_study(path))[1]) == before
    file = next(path.parent.glob("shape/train/cross/*.png"))
    pixels = np.asarray(Picture(str(file), b"", "").load()).copy()
    pixels[0, 0, 0] ^= 1
    save_picture(pixels, file)
    assert task_fingerprint(load_tasks(load_study(path))[1]) != before


def test_a_broken_picture_is_found_before_training(path):
    file = sorted(path.parent.glob("shape/train/square/*.png"))[2]
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(DataError, match=r"Task 'shape': train row \d+ has a picture that cannot"):
        run_study(load_study(path))
    assert not (path.parent / "run").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ('tasks.shape.text="a"', "tasks.shape.image and tasks.shape.text are both there"),
        ("max_length=9", "max_length is 9, but tasks.colour has images; expected it in studies"),
        ("tasks.shape.image=", "tasks.shape.text is missing; expected the name of one text"),
        ("tasks.shape.image=5", "tasks.shape.image is 5; expected the name of one column of im"),
    ],
)
def test_refused_settings(path, setting, said):
    with pytest.raises(ConfigError) as caught:
        override(load_study(path), setting)
    assert said in str(caught.value)


def test_texts_and_images_are_not_mixed(path):
    text = path.read_text().replace('image = "file"', 'text = "file"')
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"tasks.shape has images, but tasks.colour has texts"):
        load_study(path)
    task = '[transfer.task]\nname = "sst2"\n'
    path.write_text(STUDY + task)
    with pytest.raises(ConfigError, match=r"tasks.colour has images, but transfer.task has texts"):
        load_study(path)


def test_prompts_are_for_texts(path):
    words = 'prompt = "{file}"\nwords = ["a", "b"]\nlabel = "paint"'
    path.write_text(path.read_text().replace('label = "paint"', words))
    with pytest.raises(ConfigError, match=r"tasks.colour.image and tasks.colour.prompt are both"):
        load_study(path)


def test_a_text_model_for_images(path):
    tiny_model("bert").save_pretrained(path.parent / "model")
    with pytest.raises(LobesError, match="BertModel does not turn pictures of"):
        run_study(load_study(path))
