"""Models of images equal plain transformers, and are measured and trained like any other."""

import json
import pickle
from functools import partial

import numpy as np
import pytest
import torch
import transformers
from torch.nn.functional import cross_entropy

from lobes.ablation import HeadSamples, ablate, record_contexts
from lobes.discovery import find_heads
from lobes.errors import ConfigError, DataError, ModelError
from lobes.heads import HeadSet
from lobes.measure.evaluation import evaluate
from lobes.measure.iap import IapSettings, lesion_matrix
from lobes.measure.importance import head_importance
from lobes.measure.resampling import partners_of
from lobes.measure.workload import prepare
from lobes.modeling import MultiTaskModel, PromptedModel, load_task_model
from lobes.modeling.export_task import export_task
from lobes.tasks.examples import Examples
from lobes.tasks.prompts import Prompt
from lobes.tasks.task import Task
from lobes.training.arguments import training_arguments
from lobes.training.iat import IAT
from lobes.training.trainer import MultiTaskTrainer
from tiny_images import COLOURS, SIZES, image_model, image_task, tiny_processor
from tiny_models import tiny_model
from tiny_tasks import mood_task, tiny_tokenizer

TASKS = [image_task("shape"), image_task("colour"), image_task("light")]


def dinov2():
    config = transformers.Dinov2Config(
        hidden_size=30,
        num_hidden_layers=2,
        num_attention_heads=5,
        image_size=12,
        patch_size=4,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.Dinov2Model(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


def encoder_of(name):
    if name == "dinov2":
        return dinov2()
    model = image_model(name)
    return model.vision_model if name == "clip" else model


def model_of(name="vit", tasks=TASKS, **settings):
    processor = tiny_processor(SIZES[name])
    return MultiTaskModel(
        encoder_of(name), None, tasks, image_processor=processor, dropout=0.0, **settings
    ).eval()


def pixels_of(task, size=12, split="validation"):
    images = [picture.load() for picture in getattr(task, split).images]
    return tiny_processor(size)(images, return_tensors="pt")["pixel_values"]


# Parity

# what "auto" is, and how a reader of transformers' documentation would write it
POOLINGS = {
    "vit": ("pooler", lambda outputs: outputs.pooler_output),
    "swin": ("pooler", lambda outputs: outputs.last_hidden_state.mean(1)),
    "clip": ("pooler", lambda outputs: outputs.pooler_output),
    "siglip_vision_model": ("pooler", lambda outputs: outputs.pooler_output),
    "dinov2": ("pooler", lambda outputs: outputs.last_hidden_state[:, 0]),
}


@pytest.mark.parametrize("name", POOLINGS)
def test_logits_are_those_of_plain_transformers(name):
    model, (pooling, pool) = model_of(name), POOLINGS[name]
    assert model.pooling == pooling
    assert model.tokenizer is None
    found = evaluate(model, TASKS[:2])
    encoder = encoder_of(name)
    for task in TASKS[:2]:
        with torch.no_grad():
            pooled = pool(encoder(pixel_values=pixels_of(task, SIZES[name])))
            expected = model.classifiers[task.name](pooled)
        np.testing.assert_allclose(found.logits[task.name][0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_the_contexts_of_another_picture_stand_in_for_ablated_heads(name):
    model, task, lesion = model_of(name), TASKS[1], HeadSet([(0, 1), (1, 0)])
    found = evaluate(model, [task], [lesion], value="resample", seed=5).logits[task.name][0]
    inputs, number = model.encode(task.name, task.validation).distinct()
    runs = [
        partial(model.task_logits, task.name, **inputs.collate([i])) for i in range(len(inputs))
    ]
    contexts = []
    with torch.no_grad():
        for run in runs:
            with record_contexts(model) as record:
                run()
            contexts.append(HeadSamples(tuple(map(tuple, record.calls))))
        partners = partners_of(inputs.lengths, seed=5)
        rows = []
        for run, partner in zip(runs, partners, strict=True):
            with ablate(model, lesion, value="resample", data=contexts[partner]):
                rows.append(run()[0].numpy())
    np.testing.assert_allclose(found, np.stack(rows)[number], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "pooling", "pool"),
    [
        ("vit", "first", lambda states: states[:, 0]),
        ("vit", "mean", lambda states: states.mean(1)),
        ("swin", "mean", lambda states: states.mean(1)),
        ("siglip_vision_model", "mean", lambda states: states.mean(1)),
    ],
)
def test_other_poolings(name, pooling, pool):
    model = model_of(name, pooling=pooling)
    pixels = pixels_of(TASKS[0], SIZES[name])
    with torch.no_grad():
        expected = pool(encoder_of(name)(pixel_values=pixels).last_hidden_state)
        torch.testing.assert_close(model.pooled(pixel_values=pixels), expected)


def test_what_is_pooled_without_a_trained_pooler():
    vit = image_model("vit")
    torch.nn.init.zeros_(vit.pooler.dense.bias)
    made = MultiTaskModel(vit, None, TASKS, image_processor=tiny_processor())
    assert made.pooling == "first"
    bare = image_model("siglip_vision_model")
    bare.use_head = getattr(bare, "vision_model", bare).use_head = False
    assert model_of("swin").max_length == 64 + 1
    assert model_of("vit").max_length == 9 + 1
    made = MultiTaskModel(bare, None, TASKS, image_processor=tiny_processor())
    assert made.pooling == "mean"


@pytest.mark.parametrize("pooling", ["last", "pooler"])
def test_a_pooling_that_the_encoder_lacks(pooling):
    config = transformers.ViTConfig(
        hidden_size=30, num_hidden_layers=1, num_attention_heads=5, image_size=12, patch_size=4
    )
    bare = transformers.ViTModel(config, add_pooling_layer=False)
    with pytest.raises(ConfigError, match=f"ViTModel cannot be pooled by '{pooling}': choose"):
        MultiTaskModel(bare, None, TASKS, image_processor=tiny_processor(), pooling=pooling)


# Measuring


@pytest.mark.parametrize("name", ["vit", "swin", "clip"])
@pytest.mark.parametrize("aggregate", ["token", "sequence"])
def test_importance_equals_that_of_batches_and_a_loss(name, aggregate):
    model, task = model_of(name), TASKS[1]
    pixels = pixels_of(task, SIZES[name], "train")
    labels = torch.tensor(task.train.labels)
    batches = [
        {"pixel_values": pixels[i : i + 13], "labels": labels[i : i + 13], "task": "colour"}
        for i in range(0, 61, 13)
    ]

    def loss(outputs, batch):
        return cross_entropy(outputs.logits, batch["labels"], reduction="none")

    plain = head_importance(model, batches=batches, loss=loss, aggregate=aggregate)
    found = head_importance(model, task, aggregate=aggregate)
    np.testing.assert_allclose(found.values, plain.values, rtol=1e-4)
    assert found.settings["examples"] == 61
    one = head_importance(model, task, aggregate=aggregate, tokens_per_batch=1)
    np.testing.assert_allclose(one.values, found.values, rtol=1e-4)


@pytest.mark.parametrize("name", ["vit", "swin", "clip"])
def test_lesions_equal_ablation(name):
    model = model_of(name)
    heads = HeadSet.parse("0:1 1:0,2")
    found = evaluate(model, TASKS[:2], [HeadSet(), heads])
    with torch.no_grad(), ablate(model, heads):
        expected = model.logits(pixel_values=pixels_of(TASKS[0], SIZES[name]))
    for task in TASKS[:2]:
        np.testing.assert_allclose(
            found.logits[task.name][1], expected[task.name], rtol=1e-4, atol=1e-5
        )
        assert not np.allclose(found.logits[task.name][0], found.logits[task.name][1])


def test_discovery_reads_pixels_alone():
    layout = find_heads(model_of("vit"))
    assert [site.n_heads for site in layout.sites] == [5, 5]
    assert find_heads(model_of("clip")).total == 6  # of its vision model only


def test_tasks_over_the_same_images_share_the_encoder():
    work = prepare(model_of(), TASKS, split="validation")
    assert len(work.inputs) == 31
    assert int(work.inputs.lengths.sum()) == 31 * 10
    again = Task(
        "again",
        validation=Examples(((),) * 4, np.array([0, 1, 1, 0]), TASKS[0].validation.images[:2] * 2),
        image="image",
        labels=("a", "b"),
    )
    work = prepare(model_of(tasks=[again]), [again], split="validation")
    assert len(work.inputs) == 2
    assert work.places["again"].tolist() == [0, 1]
    assert work.examples["again"].tolist() == [0, 1, 0, 1]


def test_a_lesion_matrix_in_bf16():
    settings = IapSettings(fractions=(0.3,), controls=2, importance_examples=20)
    matrix = lesion_matrix(model_of("swin"), TASKS, settings, precision="bf16")
    assert matrix.base.shape == (3,)
    assert np.isfinite(matrix.base).all()


# Training


def trainer_of(tmp_path, steps, iat=None, name="vit", rate=4e-3):
    tasks = [image_task("shape", 211, 61), image_task("colour", 211, 61)]
    args = training_arguments(
        tmp_path / "run", steps=steps, batch_size=16, learning_rate=rate, precision="fp32"
    )
    return MultiTaskTrainer(model_of(name, tasks), args, tasks=tasks, iat=iat), tasks


def test_training_learns_shape_and_colour(tmp_path):
    trainer, tasks = trainer_of(tmp_path, 150)
    before = evaluate(trainer.model, tasks).scores()[0]
    trainer.train()
    shape, colour = evaluate(trainer.model, tasks).scores()[0]
    assert before.max() < 0.7
    assert min(shape, colour) > 0.9, (shape, colour)
    assert trainer.evaluate()["eval_colour_accuracy"] == pytest.approx(colour)


def test_other_processes_can_make_the_batches(tmp_path):
    data = trainer_of(tmp_path, 1)[0].data
    copy = pickle.loads(pickle.dumps(data))  # as it gets to a worker of the loader
    one, other = data.collate([3, 5]), copy.collate([3, 5])
    assert torch.equal(one["pixel_values"], other["pixel_values"])
    assert one["task"] == other["task"] == "shape"
    assert one["pixel_values"].shape == (2, 3, 12, 12)


def test_iat_trains_only_the_heads_of_a_task(tmp_path):
    trainer, _ = trainer_of(tmp_path, 6, IAT(alpha=0.3, delta=0.5, importance_examples=20))
    trainer.train()
    assert trainer.iat_record["switch_step"] == 3
    assert {len(HeadSet.parse(text)) for text in trainer.iat_record["heads"].values()} == {3}


def test_a_broken_picture_ends_training_with_its_row(tmp_path):
    trainer, (task, _) = trainer_of(tmp_path, 40)
    gone = tmp_path / "gone.png"
    task.train.images[7].load().save(gone)
    rows = [
        {"image": picture, "shape": int(label)}
        for picture, label in zip(task.train.images, task.train.labels, strict=True)
    ]
    rows[7]["image"] = str(gone)
    broken = Task("shape", train=rows, image="image", label="shape", labels=task.labels)
    gone.unlink()
    trainer = MultiTaskTrainer(model_of(tasks=[broken]), trainer.args, tasks=[broken])
    with pytest.raises(DataError, match=r"Task 'shape': train row 7 names the picture"):
        trainer.train()


# Saving and loading


@pytest.mark.parametrize("name", ["vit", "swin", "clip"])
def test_save_and_load_give_the_same_logits(tmp_path, name):
    model = model_of(name)
    model.save_pretrained(tmp_path / "saved")
    pixels = pixels_of(TASKS[0], SIZES[name])
    for loaded in (
        MultiTaskModel.from_pretrained(tmp_path / "saved"),
        load_task_model(tmp_path / "saved", TASKS),
    ):
        loaded.eval()
        assert loaded.tasks == model.tasks
        assert loaded.pooling == model.pooling
        assert loaded.max_length == model.max_length
        for task, logits in model.logits(pixel_values=pixels).items():
            torch.testing.assert_close(loaded.logits(pixel_values=pixels)[task], logits)
        assert evaluate(loaded, TASKS).scores().shape == (1, 3)
    with pytest.raises(ConfigError, match="max_length = 9 is for texts"):
        MultiTaskModel.from_pretrained(tmp_path / "saved", max_length=9)


def saved_encoder(folder, name="vit"):
    tiny_model(name).save_pretrained(folder)
    tiny_processor(SIZES[name]).save_pretrained(folder)
    return folder


def test_a_new_model_from_a_folder(tmp_path):
    model = MultiTaskModel.from_pretrained(saved_encoder(tmp_path / "vit"), TASKS)
    assert model.pooling == "pooler"
    expected = model_of()
    pixels = pixels_of(TASKS[0])
    torch.testing.assert_close(
        model.eval().pooled(pixel_values=pixels), expected.pooled(pixel_values=pixels)
    )
    # a checkpoint without a pooler
    labelled = transformers.ViTForImageClassification(tiny_model("vit").config)
    labelled.save_pretrained(tmp_path / "labelled")
    tiny_processor().save_pretrained(tmp_path / "labelled")
    assert MultiTaskModel.from_pretrained(tmp_path / "labelled", TASKS).pooling == "first"


def test_of_a_model_with_two_towers_the_vision_tower_is_taken(tmp_path):
    model = MultiTaskModel.from_pretrained(saved_encoder(tmp_path / "clip", "clip"), TASKS)
    assert type(model.encoder).__name__ == "CLIPVisionModel"
    pixels = pixels_of(TASKS[0])
    torch.testing.assert_close(
        model.eval().pooled(pixel_values=pixels),
        model_of("clip").pooled(pixel_values=pixels),
        rtol=1e-4,
        atol=1e-5,
    )
    model.save_pretrained(tmp_path / "saved")
    again = MultiTaskModel.from_pretrained(tmp_path / "saved")
    assert type(again.encoder).__name__ == "CLIPVisionModel"


def test_a_vision_tower_that_cannot_be_loaded_by_itself(tmp_path):
    folder = saved_encoder(tmp_path / "clip", "clip")
    weights = transformers.CLIPModel.from_pretrained(folder).state_dict()
    other = {f"deep.{key}": value for key, value in weights.items()}
    from safetensors.torch import save_file

    save_file(other, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="that reads images cannot be loaded by itself"):
        MultiTaskModel.from_pretrained(folder, TASKS)


def test_an_image_classification_model_as_it_is(tmp_path):
    config = tiny_model("vit").config
    config.id2label = dict(enumerate(("red", "blue", "green")))
    config.label2id = {name: i for i, name in config.id2label.items()}
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    loaded = load_task_model(tmp_path, [TASKS[1]])
    found = evaluate(loaded, [TASKS[1]]).logits["colour"][0]
    with torch.no_grad():
        logits = model(pixel_values=pixels_of(TASKS[1])).logits
    order = [("red", "blue", "green").index(colour) for colour in COLOURS]
    np.testing.assert_allclose(found, logits[:, order], rtol=1e-4, atol=1e-6)
    assert loaded.max_length == 10
    assert head_importance(loaded, TASKS[1]).values.shape == (2, 5)
    with pytest.raises(ModelError, match="or a ForSequenceClassification model"):
        load_task_model(tmp_path, [mood_task()])
    with pytest.raises(ModelError, match="or a ForImageClassification model"):
        load_task_model(saved_encoder(tmp_path / "vit"), [TASKS[1]])


# Refusals


def test_tasks_of_one_model_are_of_one_kind():
    with pytest.raises(ConfigError, match=r"'shape' has images and task 'mood' has texts: the"):
        model_of(tasks=[mood_task(), TASKS[0]])


def test_the_model_and_its_tasks_are_of_one_kind():
    texts = MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), [mood_task()])
    mood = Task("mood", train=TASKS[0].train, image="image", labels=("bad", "good"))
    with pytest.raises(DataError, match="'mood' has images, but the model reads texts: give it"):
        head_importance(texts, mood)
    shape = Task("shape", train=mood_task().train, text="text", labels=("bad", "good"))
    with pytest.raises(DataError, match="'shape' has texts, but the model reads images"):
        head_importance(model_of(), shape)
    with pytest.raises(ConfigError, match="'shape' has images: give the model its image processor"):
        MultiTaskModel(tiny_model("vit"), tiny_tokenizer(), TASKS)
    with pytest.raises(ConfigError, match="'mood' has texts: give the model its tokenizer, and no"):
        MultiTaskModel(
            tiny_model("bert"), tiny_tokenizer(), [mood_task()], image_processor=tiny_processor()
        )


def test_encoders_that_do_not_read_such_pictures():
    with pytest.raises(ModelError, match=r"BertModel does not turn pictures of \[3, 12, 12\] into"):
        MultiTaskModel(tiny_model("bert"), None, TASKS, image_processor=tiny_processor())
    with pytest.raises(ModelError, match=r"ViTModel does not turn pictures of \[3, 20, 20\] into"):
        MultiTaskModel(tiny_model("vit"), None, TASKS, image_processor=tiny_processor(20))


def test_encoders_that_do_not_treat_pictures_alike():
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 5, "image_size": 12, "patch_size": 4}
    masking = transformers.ViTMAEModel(transformers.ViTMAEConfig(hidden_size=30, **sizes))
    with pytest.raises(ModelError, match="ViTMAEModel does not give each picture of a batch"):
        MultiTaskModel(masking, None, TASKS, image_processor=tiny_processor())
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 3, "image_size": 12, "patch_size": 4}
    joined = transformers.PixtralVisionModel(
        transformers.PixtralVisionConfig(hidden_size=24, intermediate_size=20, **sizes)
    )
    with pytest.raises(ModelError, match="PixtralVisionModel does not give each picture of a"):
        MultiTaskModel(joined, None, TASKS, image_processor=tiny_processor())


class Ragged:
    """A processor that leaves pictures as large as they are."""

    def __call__(self, images, return_tensors):
        return {"pixel_values": torch.zeros(1, 3, images[0].height, images[0].width)}


class Masked:
    def __call__(self, images, return_tensors):
        return {"pixel_values": torch.zeros(1, 3, 8, 8), "pixel_mask": torch.ones(1, 8, 8)}


def test_image_processors_that_cannot_be_used():
    model = tiny_model("vit")
    with pytest.raises(ModelError, match=r"Ragged makes pictures of several sizes, \[3, 48, 64\]"):
        MultiTaskModel(model, None, TASKS, image_processor=Ragged())
    with pytest.raises(ModelError, match="Masked makes pixel_mask, pixel_values: expected only"):
        MultiTaskModel(model, None, TASKS, image_processor=Masked())


def test_a_picture_that_the_processor_cannot_take():
    class Picky(type(tiny_processor())):
        def __call__(self, images, **options):
            if any(image.width == 13 for image in images):
                raise ValueError("13 is no size")
            return super().__call__(images, **options)

    processor = Picky(size={"height": 12, "width": 12})
    model = MultiTaskModel(tiny_model("vit"), None, TASKS, image_processor=processor)
    widths = [picture.load().width for picture in TASKS[0].validation.images]
    row = widths.index(13)
    with pytest.raises(DataError, match=rf"row {row} has a picture of 13 x .* \(13 is no size\)"):
        evaluate(model, TASKS[:1])


def test_folders_without_a_processor(tmp_path):
    tiny_model("vit").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="comes with no image processor that can be loaded: save"):
        MultiTaskModel.from_pretrained(tmp_path, TASKS)
    settings = tmp_path / "preprocessor_config.json"
    settings.write_text("{")
    with pytest.raises(ModelError, match="comes with no image processor that can be loaded"):
        MultiTaskModel.from_pretrained(tmp_path, TASKS)
    settings.write_text(json.dumps({"image_processor_type": "DINOv3ViTImageProcessorFast"}))
    with pytest.raises(ModelError, match="needs torchvision: pip install torchvision"):
        MultiTaskModel.from_pretrained(tmp_path, TASKS)


def test_prompts_and_export_are_for_texts(tmp_path):
    prompt = {"shape": Prompt("{text} is", ["a", "b"])}
    with pytest.raises(ConfigError, match="'shape' has images, but prompts are for texts"):
        PromptedModel(tiny_model("gpt2"), tiny_tokenizer(), [TASKS[0]], prompt)
    with pytest.raises(ConfigError, match="'shape' has images, but only tasks of texts can be"):
        export_task(model_of(), "shape", tmp_path / "export")
