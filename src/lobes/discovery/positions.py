"""Find the real (not padding) positions of a batch, at the sites of encoder and decoder."""

from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from lobes.discovery.contexts import contexts_of
from lobes.discovery.scope import Hook, Scope
from lobes.heads import HeadLayout
from lobes.sites import Site


def real_positions(
    inputs: Mapping[str, Any], *, decoder: bool = False
) -> Bool[Tensor, "batch length"] | None:
    """Return the mask of a batch's real positions; None if the batch has no mask and all count.

    `attention_mask` says it, for a decoder beside an encoder `decoder_attention_mask`, or else
    the labels that are not -100, which torch leaves out of a loss. Models of sentence-transformers
    take one dictionary, `input`, that holds the mask.
    """
    if isinstance(inputs.get("input"), Mapping):
        inputs = inputs["input"]
    mask = inputs.get("decoder_attention_mask" if decoder else "attention_mask")
    labels = inputs.get("labels")
    if decoder and mask is None and _are_tokens(labels):
        mask = labels != -100
    return mask != 0 if isinstance(mask, Tensor) and mask.dim() == 2 else None


def decoder_sites(
    model: nn.Module, layout: HeadLayout, inputs: Mapping[str, Any]
) -> frozenset[int]:
    """Return the sites at a decoder's positions in an encoder-decoder model; none in other models.

    Where a batch gives inputs to both, they are told by running it twice, the second time with
    one position less for the decoder.
    """
    parts = [name for name in inputs if name.startswith("decoder_")]
    if _are_tokens(inputs.get("labels")):
        is_decoded = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
        parts += ["labels"] if is_decoded else []
    parts = [name for name in parts if isinstance(inputs[name], Tensor) and inputs[name].dim() > 1]
    if not parts:
        return frozenset()
    other = {name: _one_less(inputs[name]) for name in parts}
    before, after = (_sizes(model, layout, run) for run in (inputs, {**inputs, **other}))
    return frozenset(site for site in before if before[site] != after.get(site))


def _are_tokens(labels: Any) -> TypeGuard[Tensor]:
    """Whether labels are tokens of a decoder's text: those of several classes are no integers."""
    return isinstance(labels, Tensor) and not labels.is_floating_point()


def _one_less(values: Tensor) -> Tensor:
    """One position less, or one more where there is only one."""
    # contiguous, since models take a view of their labels
    return values[:, :-1].contiguous() if values.shape[1] > 1 else torch.cat([values, values], 1)


def _sizes(model: nn.Module, layout: HeadLayout, inputs: Mapping[str, Any]) -> dict[int, int]:
    """How many numbers the contexts of each site are in one run."""
    sizes: dict[int, int] = {}

    def hook_of(site: Site) -> Hook:
        def hook(module: nn.Module, args: Any) -> None:
            sizes[site.index] = contexts_of(site, module, args[0]).numel()

        return hook

    hooks = {site.index: hook_of(site) for site in layout.sites}
    scope = Scope(model, layout, hooks, what="a measurement")
    with scope.entered(), torch.no_grad():
        model(**inputs)
    return sizes
