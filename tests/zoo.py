"""A tiny model of every type that the installed transformers knows, from one generic recipe.

`tiny_config(type)` shrinks a type's default configuration: whatever it calls its sizes, the same
few small numbers stand for them, in every part of it. `OVERRIDES` holds what a type demands
beyond that. `build(type)` is the `AutoModel` of it, in evaluation mode and float32, with noise on
every parameter, so that none is zero or a constant.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

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
    (r"(.*_)?(hidden_sizes?|hidden_dim|d_model|n_embd|embed_dims?|embedding_size|emb_dim)", HIDDEN),
    (r"(.*_)?(model_dim|dim|projection_dim|embedding_dim|dim_model|output_dim|proj_dim)", HIDDEN),
    (r"(.*_)?(projection_size|output_size|proj_size|conv_dim|tdnn_dim|d_latents)", HIDDEN),
    # pictures and sound
    (r"num_mel_bins", 16),
    (r"num_queries|num_query_tokens|num_latents|latent_query_num", 7),
    (r"num_position_embeddings", 16),
    (r"num_conv_pos_embeddings", 16),
    (r"num_conv_pos_embedding_groups", 4),
    (r"upsample_groups|num_groups", 4),
)
_TOKEN_ID = re.compile(r".*token_(id|index)(_list)?|.*_token_ids?")
_INDICES = re.compile(r".*(indexes|indices|idxs|attn_indexes|attention_blocks)")

OVERRIDES: dict[str, dict[str, Any]] = {}


def tiny_config(kind: str) -> PretrainedConfig:
    """The tiny configuration of the model type `kind`."""
    return _shrunk(CONFIG_MAPPING[kind](), OVERRIDES.get(kind, {}), {})


def _shrunk(
    config: PretrainedConfig, overrides: Mapping[str, Any], tokens: dict[str, int]
) -> PretrainedConfig:
    """A small configuration of the same class; `tokens` are the special tokens named so far."""
    settings = {name: value for name, value in vars(config).items() if name[:1] != "_"}
    depth = getattr(config, "num_hidden_layers", None)
    changed: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, PretrainedConfig):
            inner = overrides.get(name, {})
            changed[name] = inner if inner is None else _shrunk(value, inner, tokens)
        elif name not in overrides:
            small = _small(name, value, depth, tokens)
            if small is not value:
                changed[name] = small
    plain = {k: v for k, v in overrides.items() if not isinstance(changed.get(k), PretrainedConfig)}
    return type(config)(**changed | plain)


def _small(name: str, value: Any, depth: Any, tokens: dict[str, int]) -> Any:
    if _TOKEN_ID.fullmatch(name):
        if isinstance(value, int) and value >= 40:
            return tokens.setdefault(name, VOCABULARY - 3 - len(tokens))
        return value
    if isinstance(value, dict):
        return _small_rope(value)
    if isinstance(value, (list, tuple)) and isinstance(depth, int) and len(value) == depth > 2:
        return _two(value)
    if isinstance(value, (list, tuple)) and _INDICES.fullmatch(name):
        return type(value)(i for i in range(LAYERS))[-1:] if max(value, default=0) > 1 else value
    if name == "image_size":
        return _like(value, 32)
    if name == "patch_size":
        return _like(value, 8, smaller=True)
    for pattern, small in RULES:
        if re.fullmatch(pattern, name):
            return _like(value, small)
    return value


def _two(values: Any) -> Any:
    """Two of a value for each layer: the first kind, and full attention or another kind."""
    kinds = list(dict.fromkeys(values)) if all(isinstance(v, str) for v in values) else []
    if len(kinds) < 2:
        return type(values)(values[:2])
    full = [kind for kind in kinds if kind == "full_attention"]
    first = next(kind for kind in kinds if kind not in full)
    return type(values)([first, (full or [k for k in kinds if k != first])[0]])


def _like(value: Any, small: int, smaller: bool = False) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_like(one, small, smaller) for one in value)
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    return min(value, small) if smaller else small


def _small_rope(value: dict[str, Any]) -> dict[str, Any]:
    if isinstance(value.get("mrope_section"), (list, tuple)):
        half = int(HEAD_DIM * value.get("partial_rotary_factor", 1.0)) // 2
        sections = [half - 2 * (half // 3), half // 3, half // 3]
        return {**value, "mrope_section": sections[: len(value["mrope_section"])]}
    return value


def build(kind: str, *, attention: str | None = "eager", seed: int = 0) -> nn.Module:
    """The tiny `AutoModel` of a type, with noise of a standard deviation of 0.2 everywhere."""
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
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


TYPES = tuple(sorted(MODEL_MAPPING_NAMES))
