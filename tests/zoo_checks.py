"""What holds for one type of the zoo, each claim checked without the code that is under test.

`examine(kind)` returns {check: ""} where the claim holds and {check: reason} where `lobes` refuses;
a claim that does not hold although nothing was refused raises `AssertionError`.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode
from transformers import logging

import lobes
import zoo
from lobes.discovery.contexts import argument_with, contexts_of
from lobes.discovery.functional import opened
from lobes.errors import HeadError, LobesError, ModelError
from lobes.heads import HeadLayout, HeadSet
from lobes.sites import Site
from lobes.training.row_gate import RowGate
from zoo_exceptions import EXCEPTIONS

CHECKS = ("discover", "ablate", "examples", "gate", "prune", "save", "generate")
_SOFTMAX = (F.softmax, torch.softmax, torch.Tensor.softmax, torch.special.softmax)
_NEW_TOKENS = 4


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a site's projection: its contexts, and the leaf that went on in their place.

    `until` is how many attention events there were before it.
    """

    site: int
    contexts: Tensor
    leaf: Tensor
    until: int


@dataclass(eq=False)
class Attention(TorchFunctionMode):
    """Sees the probabilities of all attention in one run, and what the projections are given.

    The graph is cut at the projections, so that contexts depend on their own block alone.
    `others` are the shapes of softmaxes that are no attention. `zeroed(event, probabilities)`,
    if given, returns what takes their place.
    """

    model: nn.Module
    layout: HeadLayout
    others: tuple[tuple[int, ...], ...] = ()
    zeroed: Callable[[int, Tensor], Tensor] | None = None
    events: list[Tensor] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            with self:  # its softmax comes back to here
                return _plain_attention(*args, **kwargs)
        output = func(*args, **kwargs)
        if func not in _SOFTMAX or output.dim() < 3:
            return output
        if self.zeroed is not None:
            output = self.zeroed(len(self.events), output)
        self.events.append(output)
        return output

    def run(self, inputs: Mapping[str, Any]) -> Any:
        """The model's answer, watched."""
        with ExitStack() as stack:
            stack.enter_context(opened(self.model, [s.projection for s in self.layout.sites]))
            for site in self.layout.sites:
                module = self.model.get_submodule(site.projection)
                hook = partial(self._before, site)
                stack.callback(module.register_forward_pre_hook(hook).remove)
            stack.enter_context(torch.random.fork_rng(devices=[]))
            torch.manual_seed(0)
            stack.enter_context(self)
            return self.model(**inputs)

    def _before(self, site: Site, module: nn.Module, args: Any) -> Any:
        contexts = contexts_of(site, module, args[0])
        leaf = contexts.detach().clone().requires_grad_()
        self.calls.append(Call(site.index, contexts, leaf, len(self.events)))
        return argument_with(site, module, args[0], leaf), *args[1:]

    def read_by(self, call: Call) -> list[int]:
        """The numbers of the events that a call's contexts depend on.

        Where the model computes without gradients: those since the call before.
        """
        if call.contexts.requires_grad:
            return [n for n, gradient in self._gradients(call.contexts) if gradient is not None]
        number = next(n for n, one in enumerate(self.calls) if one is call)
        since = self.calls[number - 1].until if number else 0
        return [n for n in self.attention() if since <= n < call.until]

    def attention(self) -> list[int]:
        """The numbers of the events that are attention, and not one of the `others`."""
        return [n for n, event in enumerate(self.events) if tuple(event.shape) not in self.others]

    def read_by_head(self, call: Call, head: int) -> list[tuple[int, Tensor]]:
        """(event, gradient) of each event that one head's slice depends on."""
        mine = call.contexts.unflatten(-1, (self.layout.sites[call.site].n_heads, -1))[..., head, :]
        return [(n, g) for n, g in self._gradients(mine) if g is not None]

    def _gradients(self, value: Tensor) -> list[tuple[int, Tensor | None]]:
        known = [n for n in self.attention() if self.events[n].requires_grad]
        if not value.requires_grad or not known:
            return []
        noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
        events = [self.events[n] for n in known]
        total = (value * noise).sum()
        found = torch.autograd.grad(total, events, allow_unused=True, retain_graph=True)
        return list(zip(known, found, strict=True))


def _plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Scaled dot-product attention spelled out, so that its softmax is seen."""
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    scores = query @ key.transpose(-2, -1) * (scale or query.shape[-1] ** -0.5)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.softmax(scores, -1) @ value


@dataclass(eq=False)
class Specimen:
    """A tiny model of one type with inputs for it, and what discovery says of it."""

    kind: str
    model: nn.Module
    inputs: dict[str, Any]
    layout: HeadLayout

    def run(self, model: nn.Module | None = None, inputs: Any = None) -> list[Tensor]:
        """All numbers that the model (or another of its kind) answers with."""
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            outputs = (model or self.model)(**(self.inputs if inputs is None else inputs))
        return list(tensors(outputs))


def tensors(outputs: Any) -> Iterator[Tensor]:
    """The floating-point tensors in a model's answer, in order, without its attention maps."""
    if isinstance(outputs, Tensor):
        if outputs.is_floating_point():
            yield outputs
    elif isinstance(outputs, Mapping):
        for name, value in outputs.items():
            if "attention" not in name:
                yield from tensors(value)
    elif isinstance(outputs, (list, tuple)):
        for value in outputs:
            yield from tensors(value)


def same(left: Sequence[Tensor], right: Sequence[Tensor], tolerance: float = 0.0) -> bool:
    """Whether two answers are equal, up to `tolerance` of each tensor's largest number."""
    if len(left) != len(right) or any(a.shape != b.shape for a, b in zip(left, right, strict=True)):
        return False
    for a, b in zip(left, right, strict=True):
        scale = max(1.0, float(a[a.isfinite()].abs().max())) if a.isfinite().any() else 1.0
        if not torch.allclose(a, b, rtol=0, atol=tolerance * scale, equal_nan=True):
            return False
    return True


def specimen(kind: str) -> Specimen | dict[str, str]:
    """A type with its heads found; or, where that cannot be, {check: reason}."""
    if kind in zoo.SKIPPED:
        return {"build": zoo.SKIPPED[kind]}
    try:
        model = zoo.build(kind)
    except Exception as error:
        return {"build": _sentence(error)}
    try:
        inputs = zoo.inputs(kind, model)
        with torch.no_grad(), Attention(model, HeadLayout(())) as seen:
            model(**inputs)
    except Exception as error:
        return {"inputs": _sentence(error)}
    given = inputs if zoo.needs_example(kind) else None
    try:
        layout = lobes.find_heads(model, example_inputs=given)
    except ModelError as error:
        return (
            {"discover": str(error)}
            if seen.events
            else {"attention": "no softmax of three or more dimensions"}
        )
    return Specimen(kind, model, inputs, layout)


def _sentence(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def examine(kind: str) -> dict[str, str]:
    """{check: reason}, "" where the claim holds; checks that make no sense are left out."""
    one = specimen(kind)
    return one if isinstance(one, dict) else examine_specimen(one)


def examine_specimen(one: Specimen) -> dict[str, str]:
    """`examine` of a type whose heads have been found."""
    seen = Attention(one.model, one.layout, zoo.OTHER_EVENTS.get(one.kind, ()))
    with torch.enable_grad():
        outputs = seen.run(one.inputs)
    check_discovery(one, seen)
    check_ablation(one, seen, outputs)
    found = {"discover": "", "ablate": "", "examples": check_examples(one)}
    found["gate"] = check_gate(one)
    return found | check_pruning(one)


# Discovery


def check_discovery(one: Specimen, seen: Attention) -> None:
    """Each attention event is read by one call of one site, head by head."""
    readers = [seen.read_by(call) for call in seen.calls]
    read = [event for events in readers for event in events]
    assert len(read) == len(set(read)), "two projections read the same attention"
    unread = [list(seen.events[n].shape) for n in seen.attention() if n not in read]
    assert not unread, f"no site reads the attention events {unread}"
    assert {call.site for call in seen.calls} == set(range(len(one.layout.sites))), "silent sites"
    for call, events in zip(seen.calls, readers, strict=True):
        heads = one.layout.sites[call.site].n_heads
        assert events, f"site {call.site} reads no attention"
        for head in range(heads if one.kind not in zoo.UNVERIFIED else 0):
            for event, gradient in seen.read_by_head(call, head):
                owners = _owners(gradient, heads)
                assert owners == {head}, (
                    f"slice {head} of site {call.site} reads heads {owners} of event {event}, "
                    f"{list(gradient.shape)}"
                )


def _by_head(probabilities: Tensor, heads: int) -> Tensor:
    """A view of probabilities with the heads first: [batch, heads, …] or [batch · heads, …]."""
    shape = probabilities.shape
    axis = next((axis for axis in range(1, len(shape) - 1) if shape[axis] == heads), None)
    if len(shape) == 3 and shape[0] % heads == 0:
        return probabilities.unflatten(0, (-1, heads)).movedim(1, 0)
    if axis is None:
        raise AssertionError(f"no axis of the probabilities {list(shape)} is {heads} heads long")
    return probabilities.movedim(axis, 0)


def _owners(gradient: Tensor, heads: int) -> set[int]:
    rows = _by_head(gradient, heads).flatten(1).abs().sum(1)
    return set(torch.nonzero(rows).flatten().tolist())


# Ablation


def a_head_of_each_site(layout: HeadLayout) -> HeadSet:
    """Another head in every site."""
    return HeadSet((site.index, (site.index + 1) % site.n_heads) for site in layout.sites)


def check_ablation(one: Specimen, seen: Attention, outputs: Any) -> None:
    """None changes nothing; one does, where it reaches the output; all equal zeroed attention."""
    plain = one.run()
    with lobes.ablate(one.model, HeadSet(), layout=one.layout):
        assert same(plain, one.run()), "ablating no head changes the output"
    chosen = a_head_of_each_site(one.layout)
    with lobes.ablate(one.model, chosen, layout=one.layout):
        ablated = one.run()
    assert same(plain, one.run()), "the ablation leaves something behind"
    reaching = _reaching(one, seen, outputs)
    for head in chosen:
        with lobes.ablate(one.model, HeadSet([head]), layout=one.layout):
            changed = not same(plain, one.run())
        assert changed or head not in reaching, f"ablating {head} changes nothing"
    if one.kind in zoo.UNVERIFIED:
        return
    alone = not any(site.beside_attention for site in one.layout.sites)
    equal = same(ablated, _zeroed(one, seen, chosen), 1e-5)
    assert equal or not alone, "ablation is not zeroed probabilities"
    assert alone or not equal, "a site says that there is more than attention, and there is not"


def _reaching(one: Specimen, seen: Attention, outputs: Any) -> set[tuple[int, int]]:
    """The heads that the model's answer depends on."""
    loss = _loss(outputs)
    leaves = [call.leaf for call in seen.calls]
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    reaching = set()
    for call, gradient in zip(seen.calls, found, strict=True):
        if gradient is not None:
            site = one.layout.sites[call.site]
            rows = gradient.unflatten(-1, (site.n_heads, -1)).movedim(-2, 0).flatten(1)
            reaching |= {(site.index, int(h)) for h in torch.nonzero(rows.abs().sum(1)).flatten()}
    return reaching


def _loss(outputs: Any) -> Tensor:
    """The answer's numbers, weighted at random and summed."""
    generator = torch.Generator().manual_seed(0)
    numbers = [o for o in tensors(outputs) if o.requires_grad]
    return sum(
        ((o * torch.randn(o.shape, generator=generator)).sum() for o in numbers),
        start=torch.zeros(()),
    )


def _zeroed(one: Specimen, seen: Attention, chosen: HeadSet) -> list[Tensor]:
    """The model's answer with the chosen heads' probabilities multiplied by 0."""
    targets = {n: call.site for call in seen.calls for n in seen.read_by(call)}

    def zero(event: int, probabilities: Tensor) -> Tensor:
        if event not in targets:
            return probabilities
        changed = probabilities.clone()
        heads = chosen.by_site().get(targets[event], ())
        _by_head(changed, one.layout.sites[targets[event]].n_heads)[list(heads)] = 0
        return changed

    with torch.no_grad():
        return list(tensors(Attention(one.model, one.layout, zeroed=zero).run(one.inputs)))


def check_examples(one: Specimen) -> str:
    """A head set for each half of a batch: each half as if the whole batch had its set."""
    chosen = a_head_of_each_site(one.layout)
    rest = HeadSet((site, head) for site, head in one.layout.all_heads() if head == 0) - chosen
    doubled = {
        name: torch.cat([value, value.flip(-1) if value.is_floating_point() else value])
        for name, value in one.inputs.items()
    }
    half = len(next(iter(one.inputs.values())))
    if any(len(value) != half for value in one.inputs.values()):
        return "its inputs are not laid out example by example"
    if one.kind in zoo.MIXED_EXAMPLES:
        return zoo.MIXED_EXAMPLES[one.kind]
    try:
        with lobes.ablate(one.model, [chosen] * half + [rest] * half, layout=one.layout):
            both = one.run(inputs=doubled)
    except HeadError as error:
        return str(error)
    with lobes.ablate(one.model, chosen, layout=one.layout):
        first = one.run(inputs=doubled)
    with lobes.ablate(one.model, rest, layout=one.layout):
        second = one.run(inputs=doubled)
    for mixed, left, right in zip(both, first, second, strict=True):
        # not the similarities of all examples with all
        if mixed.dim() and len(mixed) == 2 * half and mixed.shape[1:2] != (2 * half,):
            assert same([mixed[:half]], [left[:half]], 1e-6), "masks for each example differ"
            assert same([mixed[half:]], [right[half:]], 1e-6), "masks for each example differ"
    return ""


# Training


def check_gate(one: Specimen) -> str:
    """With one head of each site allowed, its rows get gradients and other heads' rows none."""
    allowed = a_head_of_each_site(one.layout)
    try:
        gate = RowGate(one.model, one.layout, {"task": allowed})
    except ModelError as error:
        return str(error)
    with gate, torch.enable_grad():
        gate.select("task")
        loss = _loss(one.model(**one.inputs))
        weights = [part.parameter for part in gate.parts]
        found = torch.autograd.grad(loss, weights, allow_unused=True)
    reached = False
    for part, gradient in zip(gate.parts, found, strict=True):
        if gradient is None:
            continue
        learns = part.shaped(part.learns["task"])
        assert not (gradient * ~learns).any(), f"{part.attribute} gets a gradient past the gate"
        reached |= bool((gradient * learns).any())
    assert reached, "no row gets a gradient"
    return ""


# Pruning


def a_third(layout: HeadLayout) -> HeadSet:
    """All heads of the second site; in the others by turns the last one, or all but the first."""
    chosen: list[tuple[int, int]] = []
    alone = len(layout.sites) == 1
    for site in layout.sites:
        heads = [(site.index, head) for head in range(site.n_heads)]
        if site.index == 1:
            chosen += heads
        else:
            chosen += heads[-1:] if site.index % 4 == 0 and not alone else heads[1:]
    return HeadSet(chosen)


def check_pruning(one: Specimen) -> dict[str, str]:
    """Pruned equals ablated, with either attention, again from disk, and when generating."""
    prune = partial(lobes.prune, layout=one.layout)
    if zoo.needs_example(one.kind):
        prune = partial(prune, example_inputs=one.inputs)
    prunable = {site.index for site in one.layout.sites if site.prunable}
    if not prunable:
        reason = _refused(lambda: prune(one.model, a_third(one.layout)))
        assert reason, "what is not prunable was pruned"
        return {"prune": reason}
    chosen = HeadSet(head for head in a_third(one.layout) if head[0] in prunable)
    try:
        pruned = prune(one.model, chosen)
    except ModelError as error:
        return {"prune": str(error)}
    _check_equal(one, one.model, pruned, chosen)
    fast = _with_sdpa(one)
    if fast is not None:
        _check_equal(one, fast, prune(fast, chosen), chosen)
    rest = [site.reason for site in one.layout.sites if not site.prunable]
    found = {"prune": rest[0] if rest else ""}
    if hasattr(pruned, "save_pretrained"):
        check_saving(one, pruned)
        found["save"] = ""
    if generation := check_generation(one, chosen):
        found["generate"] = generation[0]
    return found


def _refused(call: Callable[[], Any]) -> str:
    try:
        call()
    except LobesError as error:
        return str(error)
    return ""


def _with_sdpa(one: Specimen) -> nn.Module | None:
    """The same model with SDPA in place of eager attention, where it has that."""
    if one.kind in zoo.OTHERS or not getattr(one.model, "_supports_sdpa", False):
        return None
    try:
        return zoo.build(one.kind, attention="sdpa")
    except ValueError:  # a part of it has none
        return None


def _check_equal(one: Specimen, model: nn.Module, pruned: nn.Module, chosen: HeadSet) -> None:
    with lobes.ablate(model, chosen, layout=one.layout):
        ablated = one.run(model)
    assert same(ablated, one.run(pruned), 1e-5), "the pruned model differs from the ablated one"
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, pruned))
    assert after < before, "the pruned model is not smaller"


def check_saving(one: Specimen, pruned: nn.Module) -> None:
    """What was saved answers as before when it is loaded."""
    with tempfile.TemporaryDirectory() as folder:
        pruned.save_pretrained(folder)
        used = getattr(one.model.config, "_attn_implementation", None)
        loaded = lobes.load_pruned(folder, type(one.model), attn_implementation=used).eval()
    assert same(one.run(pruned), one.run(loaded), 1e-5), "the loaded model differs"


# Generation


def check_generation(one: Specimen, chosen: HeadSet) -> tuple[str] | None:
    """None for a type without a class that generates text from tokens."""
    model = zoo.build_generator(one.kind)
    if model is None or set(one.inputs) - {"input_ids", "decoder_input_ids", "attention_mask"}:
        return None
    layout = lobes.find_heads(model)
    heads = HeadSet(h for h in chosen if h in layout and layout.sites[h[0]].prunable)
    try:
        pruned = lobes.prune(model, heads, layout=layout)
    except ModelError as error:
        return (str(error),)
    for cache in ("dynamic", "static"):
        with lobes.ablate(model, heads, layout=layout):
            try:
                expected = _generate(model, one, cache)
            except Exception:
                assert cache == "static", "the type cannot generate"
                continue  # nor can the model itself with a static cache
        assert torch.equal(expected, _generate(pruned, one, cache)), f"{cache} cache"
    return ("",)


def _generate(model: nn.Module, one: Specimen, cache: str) -> Tensor:
    tokens = {"max_new_tokens": _NEW_TOKENS, "min_new_tokens": _NEW_TOKENS, "do_sample": False}
    ids = one.inputs["input_ids"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            cache_implementation=cache,
            **tokens,
        )


# What is expected


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny products are slower on several threads than on one; nothing is written to the log."""
    threads, verbosity = torch.get_num_threads(), logging.get_verbosity()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(verbosity)
    torch.set_num_threads(threads)


def differences(kind: str) -> list[str]:
    """What `examine` found otherwise than the table of exceptions says; empty where all is so.

    Both ways: a refusal that the table does not know, and an exception that is no longer needed.
    """
    found = {check: reason for check, reason in examine(kind).items() if reason}
    unlike: list[str] = []
    for check in EXCEPTIONS.keys() | found.keys():
        reason, known = found.get(check), zoo.exceptions(check).get(kind)
        if reason is None and known is not None:
            unlike.append(f"{kind} {check}: the exception {known!r} is no longer needed")
        elif reason is not None and known is None:
            unlike.append(f"{kind} {check}: {reason}")
        elif reason is not None and check not in ("build", "inputs") and known not in reason:
            unlike.append(f"{kind} {check}: {reason} (expected: {known})")
    return unlike
