"""Guess inputs for one forward pass from a model's signature and its configuration.

A model says by the names of its arguments what it takes (text, pictures, video, sound), and by
its configuration how large. Where that leaves several shapes open, they are tried in turn, the
ones with the most media first, so that every encoder of a multimodal model runs.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, product
from typing import Any, cast

import torch
from torch import Tensor, nn

from lobes.errors import ModelError

_LENGTH = 13
# where the configuration leaves the size open
_IMAGE_SIDE, _CHANNELS, _PATCH, _PICTURES = 64, 3, 16, 2
_SAMPLES, _FRAMES, _BANDS = 9600, 104, 80
_CHARACTERS = 128
_TRIALS = 48

Inputs = dict[str, Any]  # tensors, or a dictionary of them


def check_inputs(example_inputs: object) -> None:
    """Raise `ModelError` for what are no keyword arguments of a forward pass, nor None."""
    if not isinstance(example_inputs, Mapping | None):
        raise ModelError(
            f"example_inputs are keyword arguments for one forward pass, {{name: tensor}}, not "
            f"a {type(example_inputs).__name__}."
        )


def guess_inputs(model: nn.Module) -> Inputs:
    """Return keyword arguments for one forward pass of `model`, on its device and in its precision.

    Known are text (`input_ids`, with what an encoder-decoder needs, boxes on a page), pictures and
    video (`pixel_values`, `pixel_values_videos`, as pictures or as rows of patches) and sound
    (`input_values`, `input_features`), alone or with their places in a text. Raises `ModelError`
    for any other required argument and for a model without a configuration. A model that makes its
    inputs itself, as those of sentence-transformers do, is asked for them; a model of timm says how
    large its pictures are.
    """
    if prepared := _prepared(model):
        return prepared
    described = _described(model)
    if pictures := _of_timm(described, model):
        return pictures
    config = getattr(described, "config", None)
    if config is None:
        raise ModelError(
            f"{type(described).__name__} has no configuration to guess its inputs from: give "
            f"find_heads example_inputs={{name: tensor}} for one forward pass."
        )
    guess = _Guess(described, config)
    candidates = (_placed(inputs, model) for inputs in guess.candidates())
    tried = list(islice(candidates, 2))
    if not tried:
        raise _unknown(described, guess.missing() or "the inputs")
    if len(tried) == 1:
        return tried[0]
    for inputs in (*tried, *islice(candidates, _TRIALS)):
        if _runs(model, inputs):
            return inputs
    return tried[0]


_TEXTS = ("The quick brown fox jumps over the lazy dog.", "Five wizards boxed.")


def _prepared(model: nn.Module) -> Inputs:
    """What a model of sentence-transformers makes of two texts, or of pairs if it compares them.

    Its forward pass has one argument, `input`, a dictionary. Nothing for any other model.
    """
    prepare = getattr(model, "preprocess", None) or getattr(model, "tokenize", None)
    needed = [
        name
        for name, one in inspect.signature(model.forward).parameters.items()
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if needed != ["input"] or not callable(prepare):
        return {}
    pairs = hasattr(model, "predict") and not hasattr(model, "encode")  # a cross-encoder
    features = prepare([_TEXTS, _TEXTS[::-1]] if pairs else list(_TEXTS))
    device = next((p.device for p in model.parameters()), None)
    placed = {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in features.items()
    }
    return {"input": placed}


def _of_timm(described: nn.Module, model: nn.Module) -> Inputs:
    """Pictures for a model of timm, as large as it was made for; nothing for any other model.

    `pretrained_cfg` says for what the weights were trained, [channels, height, width]; what cuts a
    picture into patches knows for what this model was made, which may be another size.
    """
    given = getattr(described, "pretrained_cfg", None)
    size = given.get("input_size") if isinstance(given, Mapping) else None
    if size is None:
        return {}
    channels, *sides = size
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    channels = channels if first is None else first.in_channels
    own = getattr(getattr(described, "patch_embed", None), "img_size", None)
    name = next(iter(inspect.signature(described.forward).parameters))
    generator = torch.Generator().manual_seed(0)
    guesses = [
        _placed({name: torch.randn(_PICTURES, channels, *each, generator=generator)}, model)
        for each in ([own] if own is not None else []) + [sides]
    ]
    return next((guess for guess in guesses if _runs(model, guess)), guesses[0])


def _described(model: nn.Module) -> nn.Module:
    """The model, or the first module in it that names its arguments, if it passes all on.

    So do compiled models and adapters.
    """
    for module in model.modules():
        parameters = inspect.signature(module.forward).parameters.values()
        if any(p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
            return module
    return model


def _unknown(model: nn.Module, what: str) -> ModelError:
    return ModelError(
        f"Cannot guess {what} of {type(model).__name__}: give find_heads "
        f"example_inputs={{name: tensor}} for one forward pass."
    )


def _placed(inputs: Inputs, model: nn.Module) -> Inputs:
    """The inputs on the model's device, numbers in the precision of its first parameters."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return {
        name: value.to(like) if value.is_floating_point() else value.to(like.device)
        for name, value in inputs.items()
    }


def _runs(model: nn.Module, inputs: Inputs) -> bool:
    try:
        with torch.no_grad():
            model(**inputs)
    except Exception:
        return False
    return True


# What each medium's argument is called, how a model is asked for its features, and the settings
# that name the token which stands for one of them in a text.
_MEDIA = {
    "pixel_values_videos": ("get_video_features", ("video_token_id", "video_token_index")),
    "pixel_values": ("get_image_features", ("image_token_id", "image_token_index")),
    "input_features": ("get_audio_features", ("audio_token_id", "audio_token_index")),
    "input_values": ("get_audio_features", ("audio_token_id", "audio_token_index")),
    "hidden_states": ("", ()),  # patches, where the argument `grid_thw` stands beside it
}
_KINDS = {"pixel_values": 1, "pixel_values_videos": 2}  # of tokens, in mm_token_type_ids
_TEXT = ("input_ids", "decoder_input_ids", "qformer_input_ids", "attention_mask")


class _Guess:
    """The guesses for one model, from the most to the least of what it can take at once."""

    def __init__(self, model: nn.Module, config: Any) -> None:
        self.model, self.config = model, config
        # a model that could read several media may say which it does
        named = getattr(model, "input_names", None)
        self.parameters = {
            name: one
            for name, one in inspect.signature(model.forward).parameters.items()
            if named is None or name in named
        }
        self.required = [
            name
            for name, one in self.parameters.items()
            if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        ]
        self.main = getattr(model, "main_input_name", "input_ids")
        self.generator = torch.Generator().manual_seed(0)
        self.vocabulary = _vocabulary(model, config) if "input_ids" in self.parameters else 0
        if self.main == "input_ids" in self.parameters:
            self.vocabulary = self.vocabulary or _CHARACTERS

    def missing(self) -> str:
        """Return the first required argument that nothing is known about."""
        known = (*_MEDIA, *_COMPANIONS, *_TEXT)
        return next((n for n in self.required if n not in known and not _embeds(n)), "")

    def candidates(self) -> Iterator[Inputs]:
        """Yield whole sets of inputs, each with all that is required."""
        if self.missing():
            return
        for chosen in self._selections():
            for media in product(*(self._media[name] for name in chosen)):
                for text in self._texts(media):
                    inputs = text | {name: one for m in media for name, one in m.inputs.items()}
                    if inputs and all(name in inputs for name in self.required):
                        yield inputs

    @cached_property
    def _media(self) -> dict[str, list["_Medium"]]:
        """The media that the model takes, and what each may look like."""
        names = [name for name in _MEDIA if name in self.parameters]
        if "grid_thw" not in self.parameters and "hidden_states" in names:
            names.remove("hidden_states")
        media = {name: list(self._forms(name)) for name in names}
        return {name: forms for name, forms in media.items() if forms}

    def _selections(self) -> Iterator[tuple[str, ...]]:
        """Which media go in: all, then without video, then one by one, then none."""
        media = list(self._media)
        needed = {name for name in media if name in self.required or name == self.main}
        choices = [media, [n for n in media if n != "pixel_values_videos"], *([n] for n in media)]
        if not needed:
            choices.append([])
        seen = [tuple(n for n in media if n in choice or n in needed) for choice in choices]
        yield from dict.fromkeys(seen)

    # Text

    def _texts(self, media: Sequence["_Medium"]) -> Iterator[Inputs]:
        """Tokens, with a place for each feature of the media; with boxes, in either unit."""
        batch = 1 if media or self.main != "input_ids" else 2
        text: Inputs = {}
        if self.vocabulary:
            ids = _tokens(self.config, self.vocabulary, (batch, _LENGTH), self.generator)
            text["input_ids"] = _between(ids, [torch.full((m.places,), m.token) for m in media])
            if media or "attention_mask" in self.required:
                text["attention_mask"] = torch.ones_like(text["input_ids"])
            if media and "mm_token_type_ids" in self.parameters:
                kinds = [torch.full((m.places,), _KINDS.get(m.name, 3)) for m in media]
                text["mm_token_type_ids"] = _between(torch.zeros_like(ids), kinds)
        text |= self._other_texts(batch)
        if "bbox" not in self.parameters or "input_ids" not in text:
            yield text
            return
        half = min(1000, _look(self.config, "max_2d_position_embeddings") or 1000) // 2
        boxes = torch.randint(half, (*text["input_ids"].shape, 4), generator=self.generator)
        boxes[..., 2:] += boxes[..., :2]
        yield text | {"bbox": boxes}
        yield text | {"bbox": boxes / 1000}

    def _other_texts(self, batch: int) -> Inputs:
        texts: Inputs = {}
        passes_on = any(one.kind is one.VAR_KEYWORD for one in self.parameters.values())
        takes = passes_on or "decoder_input_ids" in self.parameters
        if takes and getattr(self.config, "is_encoder_decoder", False):
            decoder = getattr(self.config, "decoder", self.config)
            size = getattr(decoder, "vocab_size", None) or self.vocabulary
            size = size or _look(self.config, "vocab_size")
            if size:
                ids = _tokens(decoder, size, (batch, _LENGTH), self.generator)
                texts["decoder_input_ids"] = ids
        if "qformer_input_ids" in self.parameters:
            inner = self.config.qformer_config
            ids = _tokens(inner, inner.vocab_size, (batch, _LENGTH), self.generator)
            texts["qformer_input_ids"] = ids
        for name in self.required:
            if _embeds(name) and (width := _look(self.config, "hidden_size")):
                texts[name] = self._noise(batch, _LENGTH, width)
        return texts

    # Pictures, video and sound

    def _forms(self, name: str) -> Iterator["_Medium"]:
        """What a medium may look like: the first form whose features the model can compute.

        All forms, where it has no method that computes them by themselves.
        """
        getter, settings = _MEDIA[name]
        token = next((t for one in settings if (t := _look(self.config, one)) is not None), None)
        pictures = name in ("pixel_values", "pixel_values_videos", "hidden_states")
        shapes = self._pictures(name) if pictures else self._sounds(name)
        features = getattr(self.model, getter, None) if getter else None
        known = {*self.parameters, *(inspect.signature(features).parameters if features else ())}
        for shape in shapes:
            inputs = {key: value for key, value in shape.items() if key in known}
            mine = {key: value for key, value in inputs.items() if key in self.parameters}
            if features is None:
                yield _Medium(name, mine, token or 0, 0 if token is None else 1)
                continue
            try:
                with torch.no_grad():
                    count = _count(features(**_placed(inputs, self.model)))
            except Exception:
                continue
            yield _Medium(name, mine, token or 0, 0 if token is None else count)
            return

    def _sounds(self, name: str) -> Iterator[Inputs]:
        for shape in _sound_shapes(self.config, name):
            frames = shape[0] if shape[-1] == _bands(self.config) else shape[-1]
            ones = torch.ones(1, frames, dtype=torch.int64)
            masks = {"input_features_mask": ones, "feature_attention_mask": ones}
            yield {name: self._noise(1, *shape)} | masks

    def _pictures(self, name: str) -> Iterator[Inputs]:
        config = getattr(self.config, "vision_config", None) or self.config
        channels = next(
            (n for key in ("num_channels", "in_channels", "in_chans") if (n := _look(config, key))),
            _CHANNELS,
        )
        channels = channels if isinstance(channels, int) else _CHANNELS
        side = _look(config, "image_size") or _IMAGE_SIDE
        sides = (side, side) if isinstance(side, int) else tuple(side)
        patch = _look(config, "patch_size") or _PATCH
        patch = patch if isinstance(patch, int) else patch[-1]
        grid_name = _GRIDS[name]
        if grid_name not in self.parameters and name == "pixel_values":
            grid_name = "grid_thw"
        grid = 2 * (_look(config, "spatial_merge_size") or 2)
        if grid_name in self.parameters:
            merge = torch.tensor([grid // 2])
            sized = {grid_name: torch.tensor([[1, grid, grid]])}
            sized |= {n: merge for n in _COMPANIONS if n.endswith("merge_sizes")}
            square = patch**2
            for depth in dict.fromkeys((_look(config, "temporal_patch_size") or 1, 1, 2)):
                yield {name: self._noise(grid * grid, channels * depth * square)} | sized
            yield {name: self._noise(grid * grid, channels, patch, patch)} | sized
        if "spatial_shapes" in self.parameters:
            rows = {name: self._noise(1, grid * grid, channels * patch**2)}
            mask = torch.ones(1, grid * grid, dtype=torch.int64)
            sized = {"spatial_shapes": torch.tensor([[grid, grid]]), "pixel_attention_mask": mask}
            yield rows | sized
        frames = _look(config, "num_frames") or _PICTURES
        counts = [(n,) for n in dict.fromkeys((frames, 1, 3, 5))]
        for pictures in [(), *counts] if name == "pixel_values" else counts:
            pixels = {name: self._noise(1, *pictures, channels, *sides)}
            yield pixels
            if "image_sizes" in self.parameters:
                yield pixels | {"image_sizes": torch.tensor([sides])}

    def _noise(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)


_GRIDS = {
    "pixel_values": "image_grid_thw",
    "pixel_values_videos": "video_grid_thw",
    "hidden_states": "grid_thw",
}
# arguments that go with those above
_COMPANIONS = (
    *("grid_thw", "image_grid_thw", "video_grid_thw", "spatial_shapes", "image_sizes"),
    *("merge_sizes", "image_merge_sizes", "video_merge_sizes", "pixel_attention_mask"),
    *("input_features_mask", "feature_attention_mask", "bbox"),
)


@dataclass(frozen=True, eq=False)
class _Medium:
    """One medium: its arguments, and the token that stands for each of its features in a text."""

    name: str
    inputs: Inputs
    token: int
    places: int


def _count(features: Any) -> int:
    """How many features a model computed, in whatever it puts them."""
    pooled = getattr(features, "pooler_output", None)
    features = features if pooled is None else pooled
    if isinstance(features, Tensor):
        return features.numel() // features.shape[-1]
    return sum(_count(one) for one in features)


def _between(ids: Tensor, inside: list[Tensor]) -> Tensor:
    """Tokens [batch, length] with others put into every text, after its first."""
    rows = [one.to(ids).expand(len(ids), -1) for one in inside]
    return torch.cat([ids[:, :1], *rows, ids[:, 1:]], dim=1)


def _embeds(name: str) -> bool:
    return name.endswith("_embeds")


def _vocabulary(model: nn.Module, config: Any) -> int:
    """How many tokens the model knows; 0 where that cannot be told."""
    embeddings = None
    with suppress(AttributeError, NotImplementedError):
        embeddings = cast(Any, model).get_input_embeddings()
    if isinstance(embeddings, nn.Embedding):
        return embeddings.num_embeddings
    return _look(config, "vocab_size") or 0


def _tokens(
    config: Any, vocabulary: int, shape: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Random ordinary tokens [batch, length]; the last one ends the text, where there is such."""
    named = {
        name: value
        for part in (config, *_parts(config))
        if hasattr(part, "to_dict")
        for name, value in part.to_dict().items()
        if name.endswith(("_token_id", "_token_index")) and isinstance(value, int)
    }
    special = torch.tensor([*named.values()], dtype=torch.int64)
    ordinary = torch.arange(min(vocabulary, 1000))
    ordinary = ordinary[~torch.isin(ordinary, special)]
    picks = torch.randint(len(ordinary), shape, generator=generator)
    ids = ordinary[picks]
    end = _look(config, "eos_token_id")
    if isinstance(end, int) and 0 <= end < vocabulary:
        ids[:, -1] = end
    return ids


def _bands(config: Any) -> int:
    names = ("num_mel_bins", "feature_size", "input_feat_per_channel", "input_size")
    return next((n for name in names if (n := _look(config, name))), _BANDS)


def _sound_shapes(config: Any, name: str) -> Iterator[tuple[int, ...]]:
    """The shapes that one recording may have: [bands, frames], [frames, bands] or [samples]."""
    bands = _bands(config)
    if name == "input_features":
        frames = 2 * (_look(config, "max_source_positions") or 0) or _FRAMES
        yield bands, frames
        yield frames, bands
        if width := _look(config, "feature_projection_input_dim"):
            yield frames, width
        return
    if (frames := _look(config, "max_length")) and _look(config, "num_mel_bins"):
        yield frames, bands
    yield (_SAMPLES,)
    yield 1, _SAMPLES


def _look(config: Any, name: str) -> Any:
    """A setting of a configuration or of its first part that has it; None where none has."""
    for part in (config, *_parts(config)):
        if getattr(part, name, None) is not None:
            return getattr(part, name)
    return None


def _parts(config: Any) -> list[Any]:
    """The configurations inside a configuration, text first: they say most about the whole."""
    inner = {name: value for name, value in vars(config).items() if hasattr(value, "to_dict")}
    return sorted(inner.values(), key=lambda part: part is not inner.get("text_config"))
