"""Tiny models with random weights, by name; nothing is downloaded.

`tiny_model("bert")` is an `AutoModel` in evaluation mode and float32, `tiny_inputs(model)` is a
batch for it, `TINY[name].sites` says where its heads are: one (heads, head_dim, kind) for each
site, in the order of execution. Dimensions differ wherever an architecture lets them, and no
weight is zero, one or a constant, so that nothing can be mixed up unseen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

VOCABULARY = 61
POSITIONS = 64
BATCH, LENGTH, DECODER_LENGTH = 2, 7, 11

SiteShape = tuple[int, int, str]


@dataclass(frozen=True)
class Tiny:
    """How to build a tiny model, and what `find_heads` has to say about it.

    `projection` ends the path of every output projection; where there are several kinds, it is
    a tuple. `attentions` are the implementations of attention that the model has.
    """

    config: Callable[[], Any]
    sites: tuple[SiteShape, ...]
    projection: str | tuple[str, ...]
    prunable: bool = True
    attentions: tuple[str, ...] = ("eager", "sdpa")


def tiny_model(name: str, *, attention: str = "eager", seed: int = 0) -> nn.Module:
    """The tiny model called `name`: an `AutoModel` in evaluation mode, in float32, on the CPU.

    Every parameter differs from its usual start by noise of a standard deviation of 0.2 drawn
    with `seed`. The global random state is left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = TINY[name].config()
        if not transformers.AutoModel._model_mapping[type(config)]._supports_sdpa:
            attention = "eager"  # T5 in older transformers
        model = transformers.AutoModel.from_config(config, attn_implementation=attention)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


def tiny_inputs(
    model: nn.Module, *, batch: int = BATCH, length: int = LENGTH, seed: int = 0
) -> dict[str, Tensor]:
    """A batch of random inputs for a tiny model: tokens, pixels, sound, or several of them.

    Tokens start at 4, so that none is a special one. Decoders get `DECODER_LENGTH` tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    config = model.config

    def tokens(length: int) -> Tensor:
        return torch.randint(4, VOCABULARY, (batch, length), generator=generator)

    def noise(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator)

    def pixels(config: Any) -> Tensor:
        return noise(config.num_channels, config.image_size, config.image_size)

    match config.model_type:
        case "clip":
            return {"input_ids": tokens(length), "pixel_values": pixels(config.vision_config)}
        case "vit" | "swin" | "siglip_vision_model":
            return {"pixel_values": pixels(config)}
        case "whisper":
            sound = noise(config.num_mel_bins, 2 * config.max_source_positions)
            return {"input_features": sound, "decoder_input_ids": tokens(DECODER_LENGTH)}
        case "wav2vec2":
            return {"input_values": noise(400)}
    inputs = {"input_ids": tokens(length)}
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens(DECODER_LENGTH)
    return inputs


_BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 30,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "intermediate_size": 34,
    "max_position_embeddings": POSITIONS,
}
_LLAMA = {**_BERT, "hidden_size": 22, "num_attention_heads": 6, "num_key_value_heads": 3}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_BART = {
    "vocab_size": VOCABULARY,
    "d_model": 30,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 5,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 34,
    "decoder_ffn_dim": 38,
    **_SPECIAL,
    "decoder_start_token_id": 1,
}
_SELF = ((5, 6, "self"),) * 2
_GROUPED = ((6, 4, "self"),) * 2
_SEQ2SEQ = (*((5, 6, "self"),) * 2, *((3, 10, "self"), (3, 10, "cross")) * 2)


def _config(kind: str, *parts: dict[str, Any], **settings: Any) -> Callable[[], Any]:
    """What builds a configuration of the class called `kind` from settings; later ones win."""
    merged: dict[str, Any] = {}
    for part in (*parts, settings):
        merged |= part
    return lambda: getattr(transformers, f"{kind}Config")(**merged)


def _clip() -> Any:
    text = {**_BERT, **_SPECIAL}
    vision = {"hidden_size": 12, "num_attention_heads": 3, "image_size": 12, "patch_size": 4}
    vision |= {"intermediate_size": 22, "num_hidden_layers": 2}
    return transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=13)


_DENSE = "attention.output.dense"
TINY: dict[str, Tiny] = {
    "bert": Tiny(_config("Bert", _BERT), _SELF, _DENSE),
    "roberta": Tiny(_config("Roberta", _BERT, pad_token_id=1), _SELF, _DENSE),
    "electra": Tiny(_config("Electra", _BERT, embedding_size=14), _SELF, _DENSE),
    "distilbert": Tiny(
        _config(
            "DistilBert",
            vocab_size=VOCABULARY,
            dim=30,
            n_layers=2,
            n_heads=5,
            hidden_dim=34,
            max_position_embeddings=POSITIONS,
        ),
        _SELF,
        "attention.out_lin",
    ),
    "albert": Tiny(
        _config("Albert", _BERT, embedding_size=14), _SELF[:1], "albert_layers.0.attention.dense"
    ),
    "deberta-v2": Tiny(
        _config(
            "DebertaV2",
            _BERT,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_buckets=8,
        ),
        _SELF,
        _DENSE,
        attentions=("eager",),
    ),
    "modernbert": Tiny(
        _config("ModernBert", _BERT, _SPECIAL, cls_token_id=1, sep_token_id=2),
        _SELF,
        "attn.Wo",
    ),
    "mpnet": Tiny(
        _config("MPNet", _BERT, pad_token_id=1),
        _SELF,
        "attention.attn.o",
        attentions=("eager",),
    ),
    "gpt2": Tiny(
        _config(
            "GPT2",
            _SPECIAL,
            vocab_size=VOCABULARY,
            n_embd=30,
            n_layer=2,
            n_head=5,
            n_inner=34,
            n_positions=POSITIONS,
        ),
        _SELF,
        "attn.c_proj",
    ),
    "gpt_neox": Tiny(_config("GPTNeoX", _BERT, _SPECIAL, rotary_pct=0.4), _SELF, "attention.dense"),
    "bloom": Tiny(
        _config("Bloom", _SPECIAL, vocab_size=VOCABULARY, hidden_size=30, n_layer=2, n_head=5),
        _SELF,
        "self_attention.dense",
        attentions=("eager",),
    ),
    "falcon": Tiny(
        _config("Falcon", _BERT, multi_query=True, new_decoder_architecture=False, alibi=False),
        _SELF,
        "self_attention.dense",
    ),
    "opt": Tiny(
        _config(
            "OPT", _BERT, ffn_dim=34, word_embed_proj_dim=30, **_SPECIAL, do_layer_norm_before=True
        ),
        _SELF,
        "self_attn.out_proj",
    ),
    "llama": Tiny(
        _config("Llama", _LLAMA, hidden_size=18, head_dim=4), _GROUPED, "self_attn.o_proj"
    ),
    "qwen3": Tiny(_config("Qwen3", _LLAMA, head_dim=4), _GROUPED, "self_attn.o_proj"),
    "phi3": Tiny(_config("Phi3", _LLAMA, _SPECIAL, hidden_size=24), _GROUPED, "self_attn.o_proj"),
    "gemma2": Tiny(
        _config("Gemma2", _LLAMA, hidden_size=18, head_dim=4),
        _GROUPED,
        "self_attn.o_proj",
        attentions=("eager",),
    ),
    "olmo2": Tiny(_config("Olmo2", _LLAMA, hidden_size=24), _GROUPED, "self_attn.o_proj"),
    "t5": Tiny(
        _config(
            "T5",
            vocab_size=VOCABULARY,
            d_model=22,
            d_kv=4,
            num_heads=6,
            num_layers=2,
            num_decoder_layers=2,
            d_ff=34,
            relative_attention_num_buckets=8,
            decoder_start_token_id=0,
        ),
        (*((6, 4, "self"),) * 2, *((6, 4, "self"), (6, 4, "cross")) * 2),
        ("SelfAttention.o", "EncDecAttention.o"),
    ),
    "bart": Tiny(
        _config("Bart", _BART, max_position_embeddings=POSITIONS),
        _SEQ2SEQ,
        ("self_attn.out_proj", "encoder_attn.out_proj"),
    ),
    "whisper": Tiny(
        _config(
            "Whisper",
            _BART,
            num_mel_bins=13,
            max_source_positions=17,
            max_target_positions=POSITIONS,
        ),
        _SEQ2SEQ,
        ("self_attn.out_proj", "encoder_attn.out_proj"),
    ),
    "vit": Tiny(
        _config(
            "ViT",
            hidden_size=30,
            num_hidden_layers=2,
            num_attention_heads=5,
            intermediate_size=34,
            image_size=12,
            patch_size=4,
        ),
        _SELF,
        "attention.o_proj",
    ),
    "swin": Tiny(
        _config(
            "Swin",
            embed_dim=12,
            depths=[1, 2],
            num_heads=[2, 3],
            window_size=2,
            image_size=16,
            patch_size=2,
        ),
        ((2, 6, "self"), (3, 8, "self"), (3, 8, "self")),
        "attention.o_proj",
    ),
    "wav2vec2": Tiny(
        _config(
            "Wav2Vec2",
            _BERT,
            conv_dim=(10, 10),
            conv_stride=(5, 4),
            conv_kernel=(8, 4),
            num_feat_extract_layers=2,
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
        ),
        _SELF,
        "attention.out_proj",
    ),
    "bitnet": Tiny(
        # a norm over all heads' contexts stands before the projection
        _config("BitNet", _LLAMA, _SPECIAL, hidden_size=24),
        _GROUPED,
        "self_attn.attn_sub_norm",
        prunable=False,
    ),
    "diffllama": Tiny(
        # a head is the difference of two maps of attention
        _config("DiffLlama", _LLAMA, hidden_size=24, num_attention_heads=6, num_key_value_heads=6),
        ((3, 8, "self"),) * 2,
        "self_attn.o_proj",
    ),
    "squeezebert": Tiny(
        # projections are convolutions over single positions, in groups
        _config(
            "SqueezeBert",
            _BERT,
            embedding_size=30,
            q_groups=1,
            k_groups=2,
            v_groups=3,
            intermediate_groups=1,
            output_groups=1,
        ),
        _SELF,
        "post_attention.conv1d",
        attentions=("eager",),
    ),
    "convbert": Tiny(
        # two heads attend, two weigh a window
        _config("ConvBert", _BERT, num_attention_heads=4, head_ratio=2, hidden_size=24),
        ((4, 6, "self"),) * 2,
        "attention.output.dense",
        prunable=False,
        attentions=("eager",),
    ),
    "jetmoe": Tiny(
        # the positions of a batch lie sorted by expert
        _config(
            "JetMoe",
            _BERT,
            hidden_size=24,
            num_key_value_heads=3,
            kv_channels=4,
            num_local_experts=3,
            num_experts_per_tok=2,
        ),
        ((3, 4, "self"),) * 2,
        "experts.output_linear",
        prunable=False,
    ),
    "fsmt": Tiny(
        # [length, batch, width]
        _config(
            "FSMT",
            _BART,
            langs=["a", "b"],
            src_vocab_size=VOCABULARY,
            tgt_vocab_size=VOCABULARY,
            max_position_embeddings=POSITIONS,
        ),
        _SEQ2SEQ,
        ("self_attn.out_proj", "encoder_attn.out_proj"),
        attentions=("eager",),
    ),
    "siglip_vision_model": Tiny(
        # the pooling at the end is torch's own multi-head attention
        _config(
            "SiglipVision",
            hidden_size=30,
            num_hidden_layers=1,
            num_attention_heads=5,
            intermediate_size=34,
            image_size=12,
            patch_size=4,
        ),
        ((5, 6, "self"), (5, 6, "cross")),
        ("self_attn.out_proj", "head.attention.out_proj"),
    ),
    "clip": Tiny(_clip, (*((3, 4, "self"),) * 2, *_SELF), "self_attn.out_proj"),
}
NAMES = tuple(TINY)
