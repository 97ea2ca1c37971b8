"""Remove heads from a model for good: `prune`."""

import copy
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lobes.ablation import ablate
from lobes.discovery import find_heads, layout_of
from lobes.discovery.functional import opened
from lobes.discovery.inputs import check_inputs, guess_inputs
from lobes.discovery.kept import seeded
from lobes.discovery.scope import block_around
from lobes.discovery.wrappers import check_model
from lobes.errors import ConfigError, HeadError, ModelError
from lobes.heads import HeadLayout, Heads, HeadSet
from lobes.progress import Progress, shown_progress
from lobes.pruning import t5_and_bigbird
from lobes.pruning.blocks import Sample, block_path
from lobes.pruning.exports import native, zeroed
from lobes.pruning.kept_rows import Unfit
from lobes.pruning.plan import Plan, SitePlan, plans_of, store
from lobes.pruning.search import alone, plan_site
from lobes.pruning.surgery import operate
from lobes.pruning.verification import largest_difference, tensors, tolerance
from lobes.sites import Site


@torch.inference_mode(False)  # what it makes can be trained, wherever it is called
def prune(
    model: nn.Module,
    heads: Heads,
    *,
    layout: HeadLayout | None = None,
    example_inputs: Mapping[str, Any] | None = None,
    export: Literal["native", "zeroed"] | None = None,
    progress: Progress | bool | None = None,
) -> nn.Module:
    """Return a new, smaller model without `heads`; `model` stays as it is.

    `heads` has any form that `HeadSet.of` reads.

    What the new model gives equals what `model` gives while the heads are ablated, to rounding;
    this is tried out on one forward pass before the model is returned. It is smaller and faster,
    trains and generates as before, and `save_pretrained` saves it in a form that
    `lobes.load_pruned` loads. What is exact and what is not done: docs/pruning.md.

    With `export` the new model is an ordinary one that transformers loads by itself: "native" has
    a configuration with fewer heads, where the architecture can say so: most need the same number
    at every site; "zeroed" has its full size, with zeros for the heads removed.

    `layout` and `example_inputs` are those of `find_heads`, for models whose inputs cannot be
    guessed. `progress(done, total)` is called after each site; True shows a line on stderr.
    Raises `HeadError` for a head that the model does not have and when no head would be left, and
    `ModelError`, naming the site and the reason, for what cannot be pruned exactly.
    """
    if export not in (None, "native", "zeroed"):
        raise ConfigError(f'export is "native", "zeroed" or None, not {export!r}.')
    report = shown_progress(progress, "pruning")
    check_model(model)
    check_inputs(example_inputs)
    _check_state(model)
    if export == "zeroed" and _was_pruned(model):
        raise ModelError(
            f"{type(model).__name__} was pruned before, and has not the full size that "
            f"transformers builds: remove all heads from the whole model at once, or leave "
            f"export out."
        )
    if layout is None:
        layout = find_heads(model, example_inputs=example_inputs)
    layout = layout_of(model, layout)
    heads = HeadSet.of(heads, layout)
    if len(heads) == layout.total:
        raise HeadError(
            f"All {layout.total} heads were to be pruned: a model without any attention head is "
            f"no use; leave at least one."
        )
    inputs = guess_inputs(model) if example_inputs is None else example_inputs
    expected = _ablated(model, layout, heads, inputs)
    if export == "zeroed":
        # tried as well: a site's projection may be read elsewhere, where zeros would show
        return _tried(zeroed(model, layout, heads), inputs, expected)
    touched = [layout.sites[index] for index in heads.by_site()]
    for site in touched:
        if not site.prunable:
            raise _cannot(site, site.reason)
    smaller = copy.deepcopy(model)
    plans: list[SitePlan] = []
    for step in _steps(smaller, layout, heads, inputs):
        if isinstance(step, tuple):
            raise _cannot(*step)
        plans.append(step)
        if report is not None:
            report(min(len(plans), len(touched)), len(touched))
    _remember(smaller, heads, plans)
    smaller = _tried(smaller, inputs, expected)
    return _tried(native(smaller), inputs, expected) if export == "native" else smaller


def tried_out(
    model: nn.Module,
    layout: HeadLayout | None = None,
    *,
    example_inputs: Mapping[str, Any] | None = None,
) -> HeadLayout:
    """Return the layout with `prunable` and `reason`, found by trying to prune a head of each site.

    Discovery says of a site that it is prunable where its heads' rows are known; whether the
    block's code runs with fewer heads shows only when it is run. Costs a copy of the model.
    """
    layout = layout or find_heads(model, example_inputs=example_inputs)
    try:
        _check_state(model)
    except ModelError as error:
        return _unprunable(layout, dict.fromkeys(range(len(layout.sites)), str(error)))
    inputs = guess_inputs(model) if example_inputs is None else example_inputs
    heads = HeadSet((site.index, 0) for site in layout.sites if site.prunable)
    steps = _steps(copy.deepcopy(model), layout, heads, inputs)
    refused = [step for step in steps if isinstance(step, tuple)]
    return _unprunable(layout, {site.index: reason for site, reason in refused})


def _unprunable(layout: HeadLayout, reasons: Mapping[int, str]) -> HeadLayout:
    return HeadLayout(
        tuple(
            replace(site, prunable=False, reason=reasons[site.index])
            if site.prunable and site.index in reasons
            else site
            for site in layout.sites
        )
    )


def _steps(
    smaller: nn.Module, layout: HeadLayout, heads: HeadSet, inputs: Mapping[str, Any]
) -> Iterator[SitePlan | tuple[Site, str]]:
    """Make a model smaller site by site: what was done at each, or (site, why it could not be)."""
    by_site = heads.by_site()
    touched = []
    for site in (layout.sites[index] for index in by_site):
        try:
            touched.append(alone(smaller, site, layout))
        except Unfit as error:
            yield site, str(error)
    stacks = t5_and_bigbird.stacks(smaller, {block_path(site) for site in touched})
    paths = {block_path(site) for site in touched} | {stack[0] for stack in stacks}
    # open, since torch's layers run as one kernel would call no block whose arguments can be kept
    with opened(smaller, [site.projection for site in touched]):
        samples = _samples(smaller, paths, inputs)
    stacks = [stack for stack in stacks if stack[0] in samples and samples[stack[0]].lacks_bias]
    # before the sites, whose blocks are tried with the tables that they will have
    for plan in t5_and_bigbird.own_tables(smaller, stacks):
        operate(smaller, plan)
        yield plan
    for site in touched:
        sample = samples.get(block_path(site))
        if sample is None:
            yield (
                site,
                f"{block_path(site)}, which holds its projections, is not called as a module",
            )
            continue
        kept = [head for head in range(site.n_heads) if head not in by_site[site.index]]
        try:
            plan = plan_site(smaller, site, kept, sample)
        except Unfit as error:
            yield site, str(error)
            continue
        # carried out at once: where sites share parameters, the next one starts from what is left
        operate(smaller, plan)
        yield plan


def _cannot(site: Site, reason: str) -> ModelError:
    return ModelError(
        f"Heads of site {site.index} ({site.name}) cannot be pruned: {reason}. They can be ablated "
        f'(lobes.ablate), or set to zero for good (lobes.prune with export="zeroed").'
    )


def _check_state(model: nn.Module) -> None:
    """Raise `ModelError` for a model in a state in which it cannot be cut and compared."""
    kind = type(model).__name__
    parameters = list(model.parameters())
    if hasattr(model, "_orig_mod") or model._compiled_call_impl is not None:
        raise ModelError(
            f"{kind} is compiled: prune the model itself (model._orig_mod), and compile the result."
        )
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        raise ModelError(
            f"The model is wrapped in {kind}: prune the model inside (model.module), and wrap the "
            f"result."
        )
    if any(hasattr(p, "device_mesh") for p in parameters) or "FSDP" in kind:
        raise ModelError(
            f"{kind} is sharded over processes: prune it before it is sharded, or save it whole "
            f"and prune that."
        )
    if any(p.is_meta for p in parameters):
        raise ModelError(
            f"{kind} has parameters on the meta device, without values: load its weights first."
        )
    config = getattr(model, "config", None)
    packed = [p for p in parameters if not p.is_floating_point()]
    if packed or getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            f"{kind} is quantized, and rows of packed weights cannot be cut: prune the model in "
            f"full precision, and quantize the result."
        )
    if any(hasattr(module, "base_layer") for module in model.modules()):
        able = [path for path, part in model.named_modules() if hasattr(part, "merge_and_unload")]
        path = ".".join(("model", *able[:1])).rstrip(".")
        raise ModelError(
            f"{kind} holds adapters (LoRA): merge them first ({path} = {path}.merge_and_unload()), "
            f"and prune the model then."
        )
    if t5_and_bigbird.exchanges_modules(model):
        raise ModelError(
            f"{kind} exchanges its attention modules when a text is short: set attention_type to "
            f'"original_full" in its configuration before it is loaded, and prune that.'
        )
    if (what := block_around(model)) is not None:
        raise ModelError(
            f"{kind} is inside a block of {what}, of which a smaller copy would keep a part: prune "
            f"it after the block."
        )
    if any(module.training for module in model.modules()):
        raise ModelError(
            f"{kind} is in training mode, in which dropout hides whether pruning changed what it "
            f"computes: call model.eval() first, and train() on the result."
        )


@contextmanager
def _plainly() -> Iterator[None]:
    """No gradients, and the same random numbers each time: some models mask inputs at random."""
    with torch.no_grad(), seeded(0):
        yield


def _samples(
    model: nn.Module, paths: Iterable[str], inputs: Mapping[str, Any]
) -> dict[str, Sample]:
    """The first call of each block in one run of the model, by the blocks' paths."""
    samples: dict[str, Sample] = {}

    def hook_of(path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if path not in samples:
                samples[path] = Sample(*copy.deepcopy((args, kwargs)))

        return hook

    with ExitStack() as stack:
        stack.enter_context(_plainly())
        for path in paths:
            block = model.get_submodule(path)
            # first, to see what comes before the hooks of an earlier pruning
            hook = block.register_forward_pre_hook(hook_of(path), prepend=True, with_kwargs=True)
            stack.callback(hook.remove)
        model(**inputs)
    return samples


def _ablated(
    model: nn.Module, layout: HeadLayout, heads: HeadSet, inputs: Mapping[str, Any]
) -> list[Tensor]:
    """What the model gives while the heads are ablated."""
    with _plainly(), ablate(model, heads, layout=layout):
        return list(tensors(model(**inputs)))


def _tried(smaller: nn.Module, inputs: Mapping[str, Any], expected: Sequence[Tensor]) -> nn.Module:
    """The smaller model, after a run in which it gave what is expected."""
    try:
        with _plainly():
            found = list(tensors(smaller(**inputs)))
    except Exception as error:  # whatever a part outside the attention makes of fewer heads
        why = f"without these heads it does not run ({type(error).__name__}: {error})"
    else:
        difference = largest_difference(expected, found)
        if difference <= tolerance(expected):
            return smaller
        why = (
            f"without these heads it gives something else than while they are ablated (a "
            f"difference of {difference:.2g} of the output's scale)"
        )
    raise ModelError(
        f"{type(smaller).__name__} cannot be pruned exactly: {why}. They can be ablated "
        f"(lobes.ablate)."
    )


def _was_pruned(model: nn.Module) -> bool:
    owners = (module for module in model.modules() if isinstance(module, PreTrainedModel))
    return any(plans_of(owner.config) for owner in owners)


def _remember(smaller: nn.Module, heads: HeadSet, plans: Sequence[SitePlan]) -> None:
    """Write the plan into the configuration of the part that `save_pretrained` can save."""
    owners = [
        (path, module)
        for path, module in smaller.named_modules()
        if isinstance(module, PreTrainedModel)
    ]
    for path, owner in owners:
        prefix = f"{path}." if path else ""
        inside = any(other != path and _is_in(path, other) for other, _ in owners)
        own = tuple(plan for plan in plans if plan.projection.startswith(prefix))
        if own and not inside:
            plan = Plan(type(owner).__name__, str(heads), own)
            plan = plan.renamed(functools.partial(_without, prefix))
            store(owner.config, [*plans_of(owner.config), plan])


def _is_in(path: str, other: str) -> bool:
    return not other or path.startswith(f"{other}.")


def _without(prefix: str, name: str) -> str:
    return name.removeprefix(prefix)
