"""Inputs are guessed from a model's signature and configuration, whatever media it takes."""

import pytest
import torch
import transformers
from torch import Tensor, nn

import lobes
import zoo
from lobes.discovery.inputs import guess_inputs
from lobes.errors import ModelError


@pytest.fixture(autouse=True, scope="module")
def quiet():
    """What transformers says of tiny configurations is not for the log."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(verbosity)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("bert", {"input_ids"}),
        ("t5", {"input_ids", "decoder_input_ids"}),
        ("vit", {"pixel_values"}),
        ("whisper", {"input_features", "decoder_input_ids"}),
        ("wav2vec2", {"input_values"}),
        ("parakeet_encoder", {"input_features"}),
        ("videomae", {"pixel_values"}),
        ("clip", {"input_ids", "attention_mask", "pixel_values"}),
        ("llava", {"input_ids", "attention_mask", "pixel_values"}),
        (
            "qwen2_audio",
            {"input_ids", "attention_mask", "input_features", "feature_attention_mask"},
        ),
        ("layoutlm", {"input_ids", "bbox"}),
    ],
)
def test_every_medium_that_a_model_takes_is_guessed(kind: str, expected: set[str]):
    model = zoo.build(kind)
    inputs = guess_inputs(model)
    assert inputs.keys() == expected
    with torch.no_grad():
        model(**inputs)


def test_a_picture_has_a_place_in_the_text_for_each_of_its_features():
    model = zoo.build("llava")
    inputs = guess_inputs(model)
    with torch.no_grad():
        features = model.get_image_features(inputs["pixel_values"]).pooler_output
    places = int((inputs["input_ids"] == model.config.image_token_id).sum())
    assert places == sum(map(len, features)) > 1


def test_pictures_and_video_as_rows_of_patches_come_with_their_grid():
    inputs = guess_inputs(zoo.build("qwen2_vl"))
    for pixels, grid in (
        ("pixel_values", "image_grid_thw"),
        ("pixel_values_videos", "video_grid_thw"),
    ):
        assert len(inputs[pixels]) == int(inputs[grid].prod())
    assert set(inputs["mm_token_type_ids"].unique().tolist()) == {0, 1, 2}


@pytest.mark.parametrize(("kind", "frames"), [("parakeet_encoder", 1), ("whisper", 2)])
def test_the_shape_of_sound_is_the_one_that_runs(kind: str, frames: int):
    model = zoo.build(kind)
    sound = guess_inputs(model)["input_features"]
    bands = model.config.num_mel_bins
    assert sound.shape[3 - frames] == bands
    assert sound.shape[frames] != bands


def test_without_its_pictures_where_those_do_not_run():
    model = zoo.build("llava")

    def refuse(*_: object, **__: object) -> None:
        raise ValueError

    model.get_image_features = refuse
    assert guess_inputs(model).keys() == {"input_ids"}


class Pictures(nn.Module):
    """What a vision transformer of timm says of its pictures."""

    def __init__(self, img_size: tuple[int, int] | None) -> None:
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 20, 28), "num_classes": 5}
        self.patch_embed = nn.Conv2d(1, 24, 4, 4)
        self.patch_embed.img_size = img_size
        self.attention = nn.MultiheadAttention(24, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.patch_embed.img_size is not None:
            assert x.shape[2:] == self.patch_embed.img_size
        rows = self.patch_embed(x).flatten(2).transpose(1, 2)
        return self.attention(rows, rows, rows)[0]


def test_a_model_of_timm_says_how_large_its_pictures_are():
    for img_size in (None, (12, 16)):
        (pictures,) = guess_inputs(Pictures(img_size)).values()
        assert pictures.shape == (2, 1, *(img_size or (20, 28)))
    model = Pictures((12, 16)).eval()
    smaller = lobes.prune(model, "0:1,3")
    x = torch.randn(3, 1, 12, 16)
    with torch.no_grad(), lobes.ablate(model, "0:1,3"):
        torch.testing.assert_close(smaller(x), model(x))


def test_timm_s_own_models_need_no_example():
    timm = pytest.importorskip("timm")
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
    for more in ({}, {"in_chans": 1}):
        model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **sizes, **more).eval()
        assert lobes.find_heads(model).shape == (2, 4)
        x = torch.randn(3, more.get("in_chans", 3), 32, 32)
        smaller = lobes.prune(model, "0:1 1:0")
        with torch.no_grad(), lobes.ablate(model, "0:1 1:0"):
            torch.testing.assert_close(smaller(x), model(x))


class Strange(nn.Module):
    """A model that asks for what nobody knows."""

    config = transformers.BertConfig()

    def forward(self, input_ids: Tensor, moon: Tensor) -> Tensor:
        return input_ids + moon


def test_what_cannot_be_guessed_is_asked_for_by_name():
    with pytest.raises(ModelError, match="Cannot guess moon of Strange: give find_heads example_"):
        guess_inputs(Strange())


def test_guessing_leaves_no_gradient_and_no_random_state():
    model = zoo.build("llava")
    before = torch.get_rng_state()
    guess_inputs(model)
    assert torch.equal(before, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())
