"""torch's multi-head attention with fewer channels inside than its embedding has.

`torch.nn.MultiheadAttention` gives its weights to one function, which wants them square. A pruned
one computes the same step by step; where its rows are is torch's documented layout, and need not
be discovered.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lobes.pruning.kept_rows import Unfit
from lobes.sites import OwnedRows, Site

_SEPARATE = ("q_proj_weight", "k_proj_weight", "v_proj_weight")


def owner_of(model: nn.Module, site: Site) -> nn.MultiheadAttention | None:
    """Return the `torch.nn.MultiheadAttention` of a site's output projection, or None."""
    owner = model.get_submodule(site.projection.rpartition(".")[0])
    return owner if isinstance(owner, nn.MultiheadAttention) else None


def known_rows(owner: nn.MultiheadAttention, site: Site) -> tuple[OwnedRows, ...]:
    """Return the rows of each head in queries, keys and values, stacked or separate.

    Raises `Unfit` for keys and values that are added to those of the sequence.
    """
    if owner.bias_k is not None or owner.bias_v is not None or owner.add_zero_attn:
        raise Unfit("it adds keys and values of its own (add_bias_kv, add_zero_attn)")
    path = site.projection.rpartition(".")[0]
    fused = owner.in_proj_weight is not None
    parts = dict.fromkeys(["in_proj_weight"] if fused else _SEPARATE, 3 if fused else 1)
    if owner.in_proj_bias is not None:
        parts["in_proj_bias"] = 3
    return tuple(
        OwnedRows(f"{path}.{name}", 0, tuple(_stacked(site, h, n) for h in range(site.n_heads)))
        for name, n in parts.items()
    )


def _stacked(site: Site, head: int, parts: int) -> tuple[tuple[int, int], ...]:
    """A head's rows where `parts` projections lie one after the other."""
    starts = [part * site.width + head * site.head_dim for part in range(parts)]
    return tuple((start, start + site.head_dim) for start in starts)


class NarrowMultiheadAttention(nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` after some of its heads were removed."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute attention as torch does; `is_causal` is not needed beside `attn_mask`."""
        alone = query.dim() == 2
        first = 0 if self.batch_first else 1
        q, k, v = (one.unsqueeze(first) if alone else one for one in (query, key, value))
        if not self.batch_first:
            q, k, v = (one.transpose(0, 1) for one in (q, k, v))
        q, k, v = (self._split(one) for one in self._projected(q, k, v))
        mask = self._mask(attn_mask, key_padding_mask, q)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) / self.head_dim**0.5
            weights = (scores if mask is None else scores + mask).softmax(-1)
            weights = F.dropout(weights, dropout)
            contexts = weights @ v
        else:
            contexts = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        output = self.out_proj(contexts.transpose(1, 2).flatten(2))
        output = output if self.batch_first else output.transpose(0, 1)
        if weights is not None and average_attn_weights:
            weights = weights.sum(1) / max(self.num_heads, 1)
        if alone:
            output = output.squeeze(first)
            weights = None if weights is None else weights.squeeze(0)
        return output, weights

    def _reset_parameters(self) -> None:
        """Random weights, as torch draws them, wherever they lie."""
        self._qkv_same_embed_dim = self.in_proj_weight is not None
        super()._reset_parameters()
        self._qkv_same_embed_dim = False

    def _projected(self, *inputs: Tensor) -> list[Tensor]:
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3)
        else:
            weights = tuple(getattr(self, name) for name in _SEPARATE)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return [F.linear(*one) for one in zip(inputs, weights, biases, strict=True)]

    def _split(self, x: Tensor) -> Tensor:
        """[batch, length, heads * head_dim] as [batch, heads, length, head_dim]."""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _mask(
        self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, like: Tensor
    ) -> Tensor | None:
        """What is added to the scores [batch, heads, length, keys]."""
        mask = _added(attn_mask, like)
        if mask is not None and mask.dim() == 3:
            mask = mask.unflatten(0, (-1, self.num_heads))
        padding = _added(key_padding_mask, like)
        if padding is None:
            return mask
        padding = padding.view(-1, 1, 1, padding.shape[-1])
        return padding if mask is None else mask + padding


def _added(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """A mask as numbers to add: true stands for what may not be attended to."""
    if mask is None or mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -torch.inf)


def narrow(model: nn.Module, attention: Any) -> None:
    """Let an attention module of torch's compute step by step, whatever surrounds it."""
    attention.__class__ = NarrowMultiheadAttention
    # Layers of torch's that run as one kernel would pass over it; this tells them not to.
    attention._qkv_same_embed_dim = False
    for encoder in model.modules():
        if isinstance(encoder, nn.TransformerEncoder) and attention in set(encoder.modules()):
            encoder.use_nested_tensor = False
