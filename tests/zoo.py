"""A tiny model of every type that the installed transformers knows, from one generic recipe.

`tiny_config(type)` shrinks a type's default configuration: whatever it calls its sizes, the same
few small numbers stand for them, in every part of it. `OVERRIDES` holds what a type demands
beyond that. `build(type)` is the `AutoModel` of it, in evaluation mode and float32, with noise on
every parameter, so that none is zero or a constant.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    PretrainedConfig,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from lobes.discovery.inputs import guess_inputs
from zoo_exceptions import EXCEPTIONS

HIDDEN, HEADS, GROUPS, HEAD_DIM, LAYERS, INNER, VOCABULARY, POSITIONS = 32, 4, 2, 8, 2, 48, 99, 64

# The first pattern that a setting's whole name matches gives its value, or each of a list of them.
RULES: tuple[tuple[str, int], ...] = (
    # state space and linear attention
    (r"mamba_n_heads|mamba_num_heads|n_mamba_heads|linear_num_value_heads", 8),
    (r"mamba_d_head|mamba_head_dim|mamba_headdim|mamba_d_state|state_size|ssm_state_size", 8),
    (r"mamba_d_ssm", 64),
    (r"mamba_n_groups|n_groups|linear_num_key_heads", 2),
    (r"mamba_chunk_size|chunk_size", 8),
    (r"mamba_dt_rank|time_step_rank", 4),
    # latent attention
    (r"(kv|q|o)_lora_rank", 16),
    (r"qk_head_dim", 16),
    (r"index_head_dim", 16),
    (r"index_topk", 8),
    # experts
    (r"moe_k|top_k_experts|num_experts_per_tok(en)?|moe_topk", 2),
    (r"(moe_)?num_(local_|routed_)?experts|n_routed_experts|num_moe_experts", 4),
    (r"n_group|topk_group|num_expert_group", 1),
    (r"first_k_dense_replace", 1),
    # heads
    (r"(.*_)?num_(key_value|kv)(_attention)?_heads.*|num_query_groups|index_kv_heads", GROUPS),
    (r"(.*_)?(attention|attn)_heads(_per_.*)?|n_heads?|(.*_)?num_heads|index_n_heads", HEADS),
    (r"(.*_)?heads", HEADS),
    (r"(.*_)?head_dim|d_kv|d_head|attention_head_size|attention_head_dim|kv_channels", HEAD_DIM),
    # layers
    (r"num_kv_shared_layers", 0),
    (r"num_feat_extract_layers", 7),
    (r"num_hidden_groups|num_adapter_layers|c2f_num_blocks", 1),
    (r"depths|num_block_repeats|stage_num_blocks|layers_per_block", 1),
    (
        r"depth|n_layers?|(.*_)?(hidden|encoder|decoder|attention|num|text|temporal|spatial)_layers",
        2,
    ),
    (r"(.*_)?num_layers|num_.*_layers|layers", LAYERS),
    # tokens and positions
    (r"(.*_)?vocab_size(_per_layer_input)?|vocab_size_per_layer_input", VOCABULARY),
    (r"type_vocab_size|task_type_vocab_size", 3),
    (r"max_(2d_)?position_embeddings|n_positions|n_ctx|max_seq_len|.*_max_position_embeddings", 64),
    (r"max_source_positions|max_target_positions|context_length", POSITIONS),
    (r"sliding_window|attention_window|sliding_window_size|local_attention", 8),
    # widths
    (r"(.*_)?(intermediate_size|ffn_dim|ffn_hidden_size|mlp_dim|d_ff|d_inner|inner_dim)", INNER),
    (r"(.*_)?(dim_feedforward|feedforward_dim|intermediate_dim|feed_forward_size|dim_ff)", INNER),
    (r"n_inner", INNER),
    (r"rotary_dim", 4),
    (r"query_dim", 4),
    (r"context_size", 32),
    (r"(.*_)?(hidden_sizes?|hidden_dim|d_model|n_embd|embed_dims?|embedding_size|emb_dim)", HIDDEN),
    (r"(.*_)?(model_dim|dim|projection_dim|embedding_dim|dim_model|output_dim|proj_dim)", HIDDEN),
    (r"(.*_)?(projection_size|output_size|proj_size|conv_dim|tdnn_dim|d_latents)", HIDDEN),
    # pictures and sound
    (r"image_size", 32),
    (r"num_filters", 8),
    (r"base_channels", 32),
    (r"num_mel_bins", 16),
    (r"num_queries|num_query_tokens|num_latents|latent_query_num", 7),
    (r"num_position_embeddings", 16),
    (r"num_conv_pos_embeddings", 16),
    (r"num_conv_pos_embedding_groups", 4),
    (r"upsample_groups|num_groups", 4),
)
_TOKEN_ID = re.compile(r".*token_(id|index)(_list)?|.*_token_ids?")
_INDICES = re.compile(r".*(indexes|indices|idxs|attn_indexes|attention_blocks)")


def _resnet() -> PretrainedConfig:
    """A convolutional backbone in place of one from timm."""
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16, 32, 32], "depths": [1, 1, 1, 1]}
    return transformers.ResNetConfig(**sizes, out_features=["stage2", "stage3", "stage4"])


def _clip_vision() -> PretrainedConfig:
    """A vision transformer in place of one from timm."""
    return tiny_config("clip_vision_model")


_ONE_KEY_EACH = {"num_key_value_heads": HEADS}
_HYBRID = ["linear_attention", "full_attention"]
_RESNET = {"backbone_config": _resnet, "use_timm_backbone": False}
_SERIES = {"prediction_length": 5, "context_length": 11, "lags_sequence": [1, 2, 3]}
_SAM2_STAGES = {
    "hidden_size": 16,
    "embed_dim_per_stage": [16, 32, 64, 64],
    "num_attention_heads_per_stage": [2, 4, 4, 4],
    "blocks_per_stage": [1, 1, 1, 1],
    "window_size_per_stage": [8, 4, 4, 4],
    "global_attention_blocks": [2],
    "image_size": 64,
}
_SAM2_VISION = {
    "backbone_config": _SAM2_STAGES,
    "backbone_channel_list": [64, 64, 32, 16],
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
}
_DETECTOR = {
    "backbone_config": _resnet,
    "encoder_in_channels": [16, 32, 32],
    "decoder_in_channels": [HIDDEN] * 3,
}
_ROPE_EACH = {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}
_INDEXER = {
    "layer_types": ["linear_attention", "indexed_attention"],
    "indexer_n_heads": HEADS,
    "indexer_kv_heads": 1,
    "indexer_head_dim": HEAD_DIM,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
}

# What a type demands beyond the rules; a part's overrides stand under its name.
VERSION = "5.23"  # of transformers: the one that the table of exceptions is about
OVERRIDES: dict[str, dict[str, Any]] = {
    "big_bird": {"attention_type": "original_full"},  # else it exchanges its attention modules
    "bigbird_pegasus": {"attention_type": "original_full"},
    "codegen": {"n_head": 8, "n_embd": 64},  # its code deals heads out to four shards
    "align": {"projection_dim": 640},
    "aria": {"projector_patch_to_query_dict": {16: 4}},
    "autoformer": _SERIES,
    "bamba": {"attn_layer_indices": [1]},
    "blip-2": {"image_token_index": 90},
    "bridgetower": {
        "hidden_size": 128,
        "text_config": {"hidden_size": 128},
        "vision_config": {"hidden_size": 128},
    },
    "bros": {"hidden_size": 128},
    "chameleon": {"vocabulary_map": {"<image>": 90}},
    "clap": {"audio_config": {"spec_size": 64}},
    "cohere_compass": {
        "text_config": {"layer_types": ["full_attention"] * 2, "rope_parameters": _ROPE_EACH}
    },
    "cohere_compass_text": {"layer_types": ["full_attention"] * 2, "rope_parameters": _ROPE_EACH},
    "conditional_detr": _RESNET,
    "d_fine": _DETECTOR,
    "dab-detr": _RESNET,
    "dbrx": {"attn_config": {"kv_n_heads": GROUPS, "rope_theta": 10000.0, "clip_qkv": 8}},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", "sparse"]}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "deformable_detr": {**_RESNET, "num_feature_levels": 3},
    "deimv2": _DETECTOR,
    "depth_pro": {"patch_size": 32},
    "detr": _RESNET,
    "donut-swin": {"image_size": 64, "window_size": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "efficientloftr": {"hidden_size": 256},
    "emu3": {"vocabulary_map": {"<image>": 90}},
    "esm": {"vocab_size": VOCABULARY, "pad_token_id": 1},
    "esmc": _ONE_KEY_EACH,
    "fast_vlm": {"vision_config": _clip_vision},
    "flava": {"image_config": {"image_size": 32}},
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": 8}},
    "gemma3": {"mm_tokens_per_image": 4},
    "glm5_next": {"text_config": {"index_topk": 16, "qk_rope_head_dim": 0}},
    "glm5_next_text": {"index_topk": 16, "qk_rope_head_dim": 0},
    "gpt_neo": {
        "attention_types": [[["global", "local"], 1]],
        "attention_layers": ["global", "local"],
    },
    "granite4_vision": {"deepstack_layer_map": [(-1, 0)]},
    "granitemoehybrid": {"layer_types": _HYBRID},
    "grounding-dino": {
        "backbone_config": {"image_size": 64, "window_size": 2},
        "num_feature_levels": 3,
    },
    "informer": _SERIES,
    "instructblip": {"image_token_index": 90},
    "instructblipvideo": {"video_token_index": 90},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "layoutlmv3": {"coordinate_size": 4, "shape_size": 8},
    "levit": {"image_size": 64},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lilt": {"channel_shrink_ratio": 4, "hidden_size": 48},
    "lw_detr": {
        "backbone_config": {"image_size": 64, "num_windows": 4, "window_block_indices": [0]}
    },
    "mamba2": {"num_heads": 8},
    "mistral4": {"qk_rope_head_dim": 8},
    "mm-grounding-dino": {
        "backbone_config": {"image_size": 64, "window_size": 2},
        "num_feature_levels": 3,
    },
    "mobilebert": {"true_hidden_size": 32, "intra_bottleneck_size": 32},
    "mobilevit": {"image_size": 64},
    "mobilevitv2": {"image_size": 64},
    "molmo2": {"adapter_config": {"vision_feature_layer": [1, 0]}},
    "moonshine": {"encoder_num_key_value_heads": HEADS, "decoder_num_key_value_heads": HEADS},
    "omdet-turbo": _RESNET,
    "perception_lm": {"vision_config": _clip_vision},
    "pp_doclayout_v4": _DETECTOR,
    "qwen4_exp": {"text_config": _INDEXER},
    "qwen4_exp_text": _INDEXER,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": HIDDEN},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [4, 16]},
    "rt_detr": _DETECTOR,
    "rt_detr_v2": _DETECTOR,
    "sam": {"prompt_encoder_config": {"image_size": 32, "patch_size": 8}},
    "sam2": {"vision_config": _SAM2_VISION},
    "sam2_hiera_det_model": _SAM2_STAGES,
    "sam2_vision_model": _SAM2_VISION,
    "sam_hq": {"prompt_encoder_config": {"image_size": 32, "patch_size": 8}},
    "sapiens2": _ONE_KEY_EACH,
    "seggpt": {"merge_index": 0, "intermediate_hidden_state_indices": [1], "patch_size": 8},
    "sew": {"num_feat_extract_layers": 13},
    "sew-d": {"num_feat_extract_layers": 13},
    "siglip2": {"vision_config": {"num_patches": 16}},
    "step3p7": {"text_config": {"sliding_window": 8}},
    "swin": {"image_size": 64, "window_size": 2},
    "table-transformer": _RESNET,
    "time_series_transformer": _SERIES,
    "unlimited_ocr": {"text_config": _ONE_KEY_EACH},
    "vipllava": {"vision_feature_layers": [-1, -2]},
    "voxtral": {"audio_config": {"intermediate_size": 64}},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
}


def tiny_config(kind: str) -> PretrainedConfig:
    """The tiny configuration of the model type `kind`."""
    return _shrunk(CONFIG_MAPPING[kind](), OVERRIDES.get(kind, {}), {})


def _shrunk(
    config: PretrainedConfig, overrides: Mapping[str, Any], tokens: dict[str, int]
) -> PretrainedConfig:
    """A small configuration of the same class; `tokens` are the special tokens named so far."""
    settings = {name: value for name, value in vars(config).items() if name[:1] != "_"}
    changed: dict[str, Any] = {}
    for name, value in settings.items():
        given = overrides.get(name, {})
        if callable(given):
            changed[name] = given()
        elif isinstance(value, PretrainedConfig):
            changed[name] = _shrunk(value, given, tokens)
        elif name not in overrides:
            small = _small(name, value, settings, tokens)
            if small is not value:
                changed[name] = small
    plain = {k: v for k, v in overrides.items() if not callable(v) and k not in changed}
    small = type(config)(**changed | plain)
    names = getattr(small, "stage_names", ())
    if kept := [name for name in getattr(config, "out_features", None) or () if name in names]:
        small.out_features = kept
    return small


def _small(name: str, value: Any, settings: Mapping[str, Any], tokens: dict[str, int]) -> Any:
    if _TOKEN_ID.fullmatch(name):
        high = isinstance(value, int) and value >= 40
        return tokens.setdefault(name, VOCABULARY - 3 - len(tokens)) if high else value
    if name == "num_key_value_heads":
        # latent attention has a key and a value for each head
        return HEADS if "kv_lora_rank" in settings else GROUPS
    if name == "head_dim" and "num_attention_heads" in settings:
        return HEAD_DIM
    if isinstance(value, dict):
        return _small_rope(value)
    if isinstance(value, (list, tuple)) and len(value) == _depth(settings) > 2:
        return _two(value)
    if isinstance(value, (list, tuple)) and _INDICES.fullmatch(name):
        return type(value)([1]) if max(value, default=0) > 1 else value
    if name == "image_grid_pinpoints":
        return [[32, 64], [64, 32]]
    if name == "patch_size":
        return _like(value, 8, smaller=True)
    for pattern, small in RULES:
        if re.fullmatch(pattern, name):
            return _like(value, small)
    return value


def _depth(settings: Mapping[str, Any]) -> int:
    """How many layers the default configuration has; 0 where it has stages of layers."""
    names = ("num_hidden_layers", "n_layer", "n_layers")
    return next((settings[name] for name in names if isinstance(settings.get(name), int)), 0)


def _two(values: Any) -> Any:
    """Two of a value for each layer: the first kind, and full attention or another kind."""
    kinds = list(dict.fromkeys(values)) if all(isinstance(v, str) for v in values) else []
    if len(kinds) < 2:
        return type(values)(values[:2])
    full = [kind for kind in kinds if kind in ("full_attention", "attention", "hybrid")]
    first = next(kind for kind in kinds if kind not in full)
    return type(values)([first, (full or [k for k in kinds if k != first])[0]])


def _like(value: Any, small: int, smaller: bool = False) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_like(one, small, smaller) for one in value)
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    return min(value, small) if smaller else small


def _small_rope(value: dict[str, Any]) -> dict[str, Any]:
    if "rope_theta" not in value:
        return value
    half = int(HEAD_DIM * value.get("partial_rotary_factor", 1.0)) // 2
    return {**value, "mrope_section": [half - 2 * (half // 3), half // 3, half // 3]}


def build(kind: str, *, attention: str | None = "eager", seed: int = 0) -> nn.Module:
    """The tiny `AutoModel` of a type, with noise everywhere, so that no parameter is a constant."""
    if kind in OTHERS:
        return noisy(OTHERS[kind], seed)
    return noisy(lambda: _auto(tiny_config(kind), attention), seed)


def _auto(config: PretrainedConfig, attention: str | None) -> nn.Module:
    model_class = transformers.AutoModel._model_mapping[type(config)]
    if isinstance(model_class, (list, tuple)):
        model_class = model_class[0]
    return model_class._from_config(config, attn_implementation=attention)


def noisy(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """What `make` returns, in evaluation mode, its parameters disturbed."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = make()
        for parameter in model.parameters():
            if parameter.is_floating_point():
                inputs = max(25, parameter[0].numel() if parameter.dim() > 1 else 0)
                parameter.add_(torch.randn_like(parameter), alpha=inputs**-0.5)
    return model.eval()


def _wrapped(model_class: str, first: str, second: str) -> Callable[[], nn.Module]:
    """A model of one of transformers' classes that join two others."""

    def make() -> nn.Module:
        joined = getattr(transformers, model_class)
        first_config, second_config = tiny_config(first), tiny_config(second)
        if model_class == "VisionTextDualEncoderModel":
            pair = joined.config_class.from_vision_text_configs(first_config, second_config)
        else:
            pair = joined.config_class.from_encoder_decoder_configs(first_config, second_config)
        return joined._from_config(pair, attn_implementation="eager")

    return make


def _timm(name: str, **sizes: Any) -> Callable[[], nn.Module]:
    """A model of timm without the classifier."""

    def make() -> nn.Module:
        import timm

        return timm.create_model(name, num_classes=0, **sizes)

    return make


_TORCH = {"d_model": 24, "nhead": 4, "dim_feedforward": 34, "batch_first": True, "dropout": 0.0}
_TIMM_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
_TIMM_SWIN = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 32}

# Models that no `AutoModel` type stands for.
OTHERS: dict[str, Callable[[], nn.Module]] = {
    "encoder-decoder(bert,gpt2)": _wrapped("EncoderDecoderModel", "bert", "gpt2"),
    "speech-encoder-decoder(wav2vec2,gpt2)": _wrapped(
        "SpeechEncoderDecoderModel", "wav2vec2", "gpt2"
    ),
    "vision-encoder-decoder(vit,gpt2)": _wrapped("VisionEncoderDecoderModel", "vit", "gpt2"),
    "vision-text-dual-encoder(vit,bert)": _wrapped("VisionTextDualEncoderModel", "vit", "bert"),
    "timm.beit": _timm("beit_base_patch16_224", **_TIMM_VIT),
    "timm.cait": _timm("cait_xxs24_224", **_TIMM_VIT),
    "timm.deit": _timm("deit_tiny_distilled_patch16_224", **_TIMM_VIT),
    "timm.eva": _timm("eva02_tiny_patch14_224", **_TIMM_VIT),
    "timm.swin": _timm(
        "swin_tiny_patch4_window7_224", **_TIMM_SWIN, depths=(1, 2), num_heads=(2, 4)
    ),
    "timm.vit": _timm("vit_tiny_patch16_224", **_TIMM_VIT),
    "torch.nn.Transformer": lambda: nn.Transformer(
        num_encoder_layers=2, num_decoder_layers=2, **_TORCH
    ),
    "torch.nn.TransformerDecoder": lambda: nn.TransformerDecoder(
        nn.TransformerDecoderLayer(**_TORCH), 2
    ),
    "torch.nn.TransformerEncoder": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(**_TORCH), 2
    ),
}
TYPES = (*sorted(MODEL_MAPPING_NAMES), *OTHERS)

# The shapes of softmaxes of three or more dimensions that are no attention with an output
# projection: routers, poolings, the weights of deformable attention, an index's scores.
OTHER_EVENTS: dict[str, tuple[tuple[int, ...], ...]] = {
    "d_fine": ((1, 7, 4, 12),),
    "deimv2": ((1, 7, 4, 12),),
    "deepseek_v4": ((2, 13, 4, 4), (2, 3, 8, 8), (2, 3, 8, 16)),
    "deformable_detr": ((1, 84, 4, 12), (1, 7, 4, 12)),
    "glm5_next": ((1, 17, 4, 4), (1, 2, 16, 16)),
    "glm5_next_text": ((2, 13, 4, 4), (2, 1, 16, 16)),
    "grounding-dino": ((1, 84, 4, 12), (1, 7, 4, 12)),
    "groupvit": ((1, 64, 16), (1, 8, 64)),
    "inkling2": ((2, 13, 1, 2), (2, 13, 3, 2)),
    "inkling2_text": ((2, 13, 1, 2), (2, 13, 3, 2)),
    "mask2former": ((1, 21, 4, 12),),
    "mgp-str": ((1, 27, 65),),
    "mm-grounding-dino": ((1, 84, 4, 12), (1, 7, 4, 12)),
    "ovis2": ((1, 16, 94),),
    "pp_doclayout_v4": ((1, 7, 4, 12),),
    "rf_detr": ((1, 7, 4, 4),),
    "rt_detr": ((1, 7, 4, 12),),
    "rt_detr_v2": ((1, 7, 4, 12),),
    "switch_transformers": ((2, 13, 4),),
    "zaya": ((2, 13, 5),),
}

# Found and ablated, but what a head is there cannot be checked by the plain rule, and why.
UNVERIFIED = {
    "convbert": "half of its heads are convolutions whose kernels a softmax makes",
    "diffllama": "a head has two maps of attention, one of which is taken off the other",
    "florence2": "part of its attention is between channels, each of them a head",
    "jetmoe": "a router chooses which of its heads each position uses",
    "nystromformer": "a head's map is a product of three, with a convolution beside it",
}

# Examples of a batch are not alone there, and why.
MIXED_EXAMPLES = {
    "blip-2": "the text has fewer places for a picture than there are features of it",
    "fastspeech2_conformer": "how long the speech gets depends on the whole batch",
    "instructblip": "the text has fewer places for a picture than there are features of it",
}

# Types that are not tried, and why.
_NO_KEYS = "its windows leave positions of a short sound without a key, so that nothing is a number"
SKIPPED = {
    "nemotron3_5_asr": _NO_KEYS,
    "nemotron_asr_streaming": _NO_KEYS,
    "nemotron_asr_streaming_encoder": _NO_KEYS,
    "vits": "the noise of discovery makes it speak for a minute",
}


@cache
def exceptions(check: str) -> dict[str, str]:
    """{type: what the refusal says} for one check."""
    return {
        kind: reason
        for reason, kinds in EXCEPTIONS.get(check, {}).items()
        for kind in kinds.split()
    }


# Inputs that cannot be guessed.
def _noise(**shapes: tuple[int, ...]) -> Callable[[], dict[str, Tensor]]:
    return lambda: {name: torch.randn(*shape) for name, shape in shapes.items()}


def _series() -> dict[str, Tensor]:
    past, future = {"past_values": (2, 14), "past_time_features": (2, 14, 0)}, (2, 5)
    given = _noise(**past, future_values=future, future_time_features=(*future, 0))()
    return given | {"past_observed_mask": torch.ones(2, 14)}


def _seen_and_said() -> dict[str, Tensor]:
    words = {"input_ids": torch.randint(4, VOCABULARY, (2, 13))}
    return words | _noise(visual_feats=(2, 5, HIDDEN), visual_pos=(2, 5, HIDDEN))()


def _moves() -> dict[str, Tensor]:
    one = {"states": (2, 7, HIDDEN), "actions": (2, 7, HIDDEN), "rewards": (2, 7, 1)}
    times = torch.arange(7).expand(2, 7).contiguous()
    return _noise(**one, returns_to_go=(2, 7, 1))() | {"timesteps": times}


_PICTURE = _noise(x=(2, 3, 32, 32))
EXAMPLES: dict[str, Callable[[], dict[str, Tensor]]] = {
    **{kind: _PICTURE for kind in OTHERS if kind.startswith("timm.")},
    "autoformer": _series,
    "blip_2_qformer": _noise(query_embeds=(2, 7, HIDDEN), encoder_hidden_states=(2, 9, HIDDEN)),
    "decision_transformer": _moves,
    "informer": _series,
    "lxmert": _seen_and_said,
    "patchtst": _noise(past_values=(2, 64, 1)),
    "perceiver": _noise(inputs=(2, 13, HIDDEN)),
    "time_series_transformer": _series,
    "torch.nn.Transformer": _noise(src=(2, 11, 24), tgt=(2, 13, 24)),
    "torch.nn.TransformerDecoder": _noise(tgt=(2, 13, 24), memory=(2, 11, 24)),
    "torch.nn.TransformerEncoder": _noise(src=(2, 13, 24)),
}


def needs_example(kind: str) -> bool:
    """Whether the inputs of this type cannot be guessed."""
    return kind in EXAMPLES


def inputs(kind: str, model: nn.Module) -> dict[str, Tensor]:
    """Inputs for one forward pass: guessed, or the example for this type."""
    if kind not in EXAMPLES:
        return guess_inputs(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return EXAMPLES[kind]()


def build_generator(kind: str) -> nn.Module | None:
    """The tiny model of this type that generates text; None where transformers has none."""
    if kind in OTHERS:
        return None
    config = tiny_config(kind)
    if getattr(config, "is_encoder_decoder", False) and not getattr(
        config, "decoder_start_token_id", None
    ):
        config.decoder_start_token_id = 1
    for mapping in (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING):
        if type(config) in mapping:
            make = partial(mapping[type(config)]._from_config, config, attn_implementation="eager")
            with suppress(AttributeError):  # a class that reads what only a part's settings have
                return noisy(make)
    return None
