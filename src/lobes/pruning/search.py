"""Find out how a site can be made smaller, by trying: cut rows, change numbers, run the block.

Which numbers an attention module keeps (heads, widths, groups), and whether a bias with a slice
for each head reaches it, differs between architectures. Instead of a list of them there is a
test: a block without some heads must give what the whole block gave while they were ablated.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from itertools import combinations, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedConfig

from lobes.ablation import ablate
from lobes.discovery import find_heads
from lobes.discovery.kept import seeded
from lobes.discovery.ownership import shared_path
from lobes.errors import LobesError
from lobes.heads import HeadLayout, HeadSet
from lobes.pruning import t5_and_bigbird
from lobes.pruning.blocks import (
    Called,
    Sample,
    axes_given,
    block_path,
    bound,
    computing,
    first_tensor,
    put,
    single,
    single_precision,
    taken,
)
from lobes.pruning.kept_rows import (
    Anatomy,
    Arrangement,
    Rows,
    Unfit,
    anatomy,
    arrangements,
    in_place,
    new_length,
    plain_rows,
    rows_by_slot,
    rows_of,
)
from lobes.pruning.plan import PAD, Bypass, Cut, Narrowing, Runs, Setting, SitePlan, runs
from lobes.pruning.settings import Change, Number, Watch, combined
from lobes.pruning.surgery import operate, places
from lobes.pruning.torch_attention import known_rows, owner_of
from lobes.pruning.verification import largest_difference, tolerance
from lobes.sites import OwnedRows, Site

_TRIES = 400  # of settings, for each arrangement of the heads and each set of narrowings


def alone(model: nn.Module, site: Site, layout: HeadLayout) -> Site:
    """Return a site with only the rows that no other site shares.

    What several sites use stays whole; what it gives is cut where it arrives.
    """
    owner = owner_of(model, site)
    if owner is not None:
        return replace(site, rows=known_rows(owner, site))
    others = {r.parameter for other in layout.sites if other != site for r in other.rows}
    return replace(site, rows=tuple(r for r in site.rows if r.parameter not in others))


def plan_site(model: nn.Module, site: Site, kept: Sequence[int], sample: Sample) -> SitePlan:
    """Search the plan that leaves a site only its `kept` heads; `model` is restored afterwards.

    Raises `Unfit`, saying why, where nothing that was tried gives the same as ablation.
    """
    return _Search(model, site, kept, sample).run()


Extra = Narrowing | Bypass | Cut


class _Search:
    def __init__(self, model: nn.Module, site: Site, kept: Sequence[int], sample: Sample) -> None:
        self.model, self.site, self.kept, self.sample = model, site, tuple(kept), sample
        self.path = block_path(site)
        self.block = model.get_submodule(self.path)
        self.tables = {
            cut.parameter
            for cut in t5_and_bigbird.table_cuts(self.path, self.block, site.n_heads, ())
        }
        own = replace(site, rows=tuple(r for r in site.rows if r.parameter not in self.tables))
        lengths = {r.parameter: _tensor(model, r.parameter).shape[r.axis] for r in own.rows}
        self.body: Anatomy = anatomy(own, lengths)
        self.failure = ""
        self.stepwise = () if owner_of(model, site) is None else (self.path,)
        self.input_axis = input_axis(model.get_submodule(site.projection), site)

    def run(self) -> SitePlan:
        with single_precision(self.model, self.path):
            self.pristine = taken(self.model, self.path)
            gone = set(range(self.site.n_heads)) - set(self.kept)
            self.expected = {kind: self._ablated(kind, gone) for kind in self._attentions()}
            try:
                for way in self._ways():
                    for extras in self._extras(way):
                        found = self._try_all(way, extras)
                        if found is not None:
                            return found
            finally:
                self._put(self.pristine)
        raise Unfit(
            f"its code does not do with fewer heads what it does while they are ablated"
            f"{f' ({self.failure})' if self.failure else ''}"
        )

    def _ways(self) -> Iterator[Arrangement]:
        """Arrangements to try; the last, as large as what was, where only some numbers will do."""
        for way in arrangements(self.body, self.kept, *self._costs()):
            # a cache takes the keys of no head for those of no token, and texts begin anew
            if way.slots or not self._may_have_cache():
                yield way
        heads = range(self.site.n_heads)
        if not self.body.shares and any(
            self._runs(in_place(heads[:n], set(), 1)) for n in heads[1:]
        ):
            yield in_place(heads, set(self.kept), 1)

    def _may_have_cache(self) -> bool:
        """Whether the block keeps keys and values for the next token, or would if it were asked."""
        given = (*self.sample.args, *self.sample.kwargs.values())
        config: Any = getattr(self.model, "config", None)
        if isinstance(config, PreTrainedConfig):
            config = config.get_text_config(decoder=True)
        is_off = getattr(config, "use_cache", None) is False
        takes_one = "past_key_values" in places(self.block)
        return any(isinstance(one, Cache) for one in given) or (is_off and takes_one)

    def _runs(self, way: Arrangement) -> bool:
        """Whether the block gives what it should with so many heads, all of them zeros."""
        self._put(copy.deepcopy(self.pristine))
        expected = self._ablated(None, range(self.site.n_heads))
        cuts = [_cut(rows, self._plain_rows(rows, way)) for rows in self.body.rows]
        cuts.append(self._projection_cut(way))
        plan = SitePlan(self.site.projection, way.slots, cuts=tuple(cuts))
        self._operate(plan)
        for settings in self._settings(way, cuts):
            with _set(self.model, settings):
                if _agree(expected, self._output()):
                    return True
        return False

    def _costs(self) -> tuple[int, int]:
        """How many numbers belong to a head alone, and to a group of heads."""
        head = group = 0
        for rows in self.body.rows:
            one = _tensor(self.model, rows.parameter)
            width = one.numel() // one.shape[rows.axis]
            head += int(rows.own[0]) * width
            group += int(rows.grouped.sum()) // len(self.body.groups) * width
        weight = _tensor(self.model, f"{self.site.projection}.weight")
        return head + weight.numel() // self.site.n_heads, group

    def _try_all(self, way: Arrangement, extras: tuple["Extra", ...]) -> SitePlan | None:
        narrowings = tuple(one for one in extras if isinstance(one, Narrowing))
        bypasses = tuple(one for one in extras if isinstance(one, Bypass))
        cuts = tuple(one for one in extras if isinstance(one, Cut))
        whole = {n.module for n in narrowings if n.argument is None}
        rows = [r for r in self.body.rows if r.parameter.rpartition(".")[0] not in whole]
        counts = [(self.site.n_heads, len(way.slots))]
        counts += [(len(self.body.groups), way.n_groups)] if self.body.shares else []
        base = SitePlan(
            self.site.projection,
            way.slots,
            self.site.head_dim,
            tuple(counts),
            narrowings=narrowings,
            bypasses=bypasses,
            stepwise=self.stepwise,
        )
        cuts = (*cuts, self._projection_cut(way))
        cuts += tuple(
            t5_and_bigbird.table_cuts(self.path, self.block, self.site.n_heads, way.slots)
        )
        sized = [_cut(r, self._plain_rows(r, way)) for r in rows]
        first = replace(base, cuts=(*sized, *cuts))
        try:
            self._operate(first)
        except (LobesError, RuntimeError, IndexError):
            return None
        for settings in self._settings(way, [*sized, *cuts]):
            plan = replace(first, settings=settings)
            with _set(self.model, settings):
                if self._output() is None:
                    continue
                # Rows in their old order are the plain case; else a run shows their places.
                if way.held is not None and self._agrees():
                    return plan
                placed = self._placed(rows, way)
            if placed is None:
                continue
            moved = replace(base, settings=settings, cuts=(*placed, *cuts))
            self._operate(moved)
            if self._agrees():
                return moved
            self._operate(first)
        return None

    def _put(self, block: nn.Module) -> None:
        put(self.model, self.path, block)

    def _attentions(self) -> list[str | None]:
        """The implementation of attention that the block uses, and others that it may."""
        configs: list[Any] = [getattr(module, "config", None) for module in self.pristine.modules()]
        used = [getattr(config, "_attn_implementation", None) for config in configs]
        known = [one for one in used if one in ("eager", "sdpa")][:1]
        return [None, *({"eager", "sdpa"}.difference(known) if known else ())]

    def _ablated(self, attention: str | None, gone: Iterable[int]) -> Tensor | None:
        """What the block gives while heads are ablated."""
        heads = HeadSet((0, head) for head in gone)
        with ablate(self.model, heads, layout=HeadLayout((replace(self.site, index=0),))):
            return self._output(attention)

    def _agrees(self) -> bool:
        """Whether the block in the model gives what it should, whatever computes the attention."""
        for attention, expected in self.expected.items():
            if expected is None and attention is not None:
                continue  # what the whole block cannot do either
            if not _agree(expected, self._output(attention)):
                return False
        return True

    def _operate(self, plan: SitePlan) -> None:
        """Put a fresh copy of the block into the model and carry the plan out on it."""
        self._put(copy.deepcopy(self.pristine))
        operate(self.model, plan)

    def _output(self, attention: str | None = None) -> Tensor | None:
        """What the block in the model gives for the sample; None where it fails.

        `attention` is what computes it, where that is not what does anyway.
        """
        block = self.model.get_submodule(self.path)
        args, kwargs = self._arguments_of_call()
        try:
            with torch.no_grad(), seeded(0), computing(block, attention):
                return first_tensor(block(*args, **kwargs))
        except Exception as error:  # whatever a wrong cut makes an unknown module raise
            text = " ".join(str(error).split())
            self.failure = self.failure or f"{type(error).__name__}: {text}"
            return None

    def _arguments_of_call(self) -> tuple[Any, Any]:
        """A fresh copy of the sample, which the block may change, in single precision."""
        return single(copy.deepcopy((self.sample.args, self.sample.kwargs)))

    def _plain_rows(self, rows: Rows, way: Arrangement) -> np.ndarray:
        if way.held is not None:
            return plain_rows(rows, way)
        # only the length counts here: what stands where is found out from a block of this size
        return np.arange(new_length(rows, self.body, way)) % rows.owners.shape[1]

    def _projection_cut(self, way: Arrangement) -> Cut:
        name = f"{self.site.projection}.weight"
        return Cut(name, self.input_axis, self.site.width, self._channels(way))

    def _channels(self, way: Arrangement) -> Runs:
        """The channels of the new heads' contexts."""
        width = self.site.head_dim
        return runs(
            PAD if head == PAD else head * width + channel
            for head in way.slots
            for channel in range(width)
        )

    def _placed(self, rows: Sequence[Rows], way: Arrangement) -> list[Cut] | None:
        """The cuts that put each new head's rows where the smaller block has them."""
        block = self.model.get_submodule(self.path)
        # The smaller block runs, with rows in an arbitrary order: discovery shows which rows each
        # new head owns, and the old heads' rows go there.
        args, kwargs = self._arguments_of_call()
        with suppress(LobesError, Unfit, RuntimeError, ValueError, IndexError, TypeError):
            layout = find_heads(Called(block, args, kwargs), example_inputs={})
            prefix = len(self.path) + 1 if self.path else 0
            for site in layout.sites:
                fits = site.projection == f"block.{self.site.projection[prefix:]}"
                if not fits or (site.n_heads, site.head_dim) != (
                    len(way.slots),
                    self.site.head_dim,
                ):
                    continue
                found = {one.parameter.removeprefix("block."): one for one in site.rows}
                cuts = []
                for one in rows:
                    length = new_length(one, self.body, way)
                    # where a single head is left, all rows are its own
                    whole = OwnedRows(one.parameter, one.axis, (((0, length),),) * len(way.slots))
                    new = found.get(one.parameter[prefix:], whole)
                    source = rows_by_slot(one, rows_of(new, len(way.slots), length), way)
                    cuts.append(_cut(one, source))
                return cuts
        return None

    def _extras(self, way: Arrangement) -> Iterator[tuple["Extra", ...]]:
        """What else may have to be done: hide channels, cut a bias on its way, a norm's output."""
        norms = tuple(self._norms(way))  # of queries and of keys: both, or none
        found: list[tuple[Extra, ...]] = [(one,) for one in self._bypasses(way)]
        found += [(one,) for one in self._arguments(way)]
        found += [norms] if norms else []
        found += [(one,) for one in self._buffers(way)]
        for number in range(4):
            for chosen in combinations(found, number):
                yield tuple(one for part in chosen for one in part)

    def _bypasses(self, way: Arrangement) -> Iterator[Bypass]:
        """Ways to hide an argument's last channels from the module that holds the projections."""
        width = len(way.slots) * self.site.head_dim
        modules = {rows.parameter.rpartition(".")[0] for rows in self.body.rows}
        readers = sorted(modules - {self.path})
        holder = shared_path(readers)
        calls = self._watched([holder, *readers]) if readers else {}
        if holder not in calls:
            return
        for name, whole in bound(self.model.get_submodule(holder), calls[holder]).items():
            if whole.dim() < 2 or whole.shape[-1] <= width:
                continue
            orders = {
                path: axes_given(whole, calls[path].args) for path in readers if path in calls
            }
            found = tuple((path, order) for path, order in orders.items() if order is not None)
            if found:
                yield Bypass(holder, name, width, found)

    def _watched(self, paths: Sequence[str]) -> dict[str, Sample]:
        """What modules in the whole block are given when it runs on the sample."""
        calls: dict[str, Sample] = {}
        before = taken(self.model, self.path)
        self._put(copy.deepcopy(self.pristine))

        def watch(path: str) -> None:
            def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
                calls.setdefault(path, Sample(args, kwargs))

            self.model.get_submodule(path).register_forward_pre_hook(hook, with_kwargs=True)

        inside = f"{self.path}." if self.path else ""
        for path in paths:
            if path == self.path or path.startswith(inside):
                watch(path)
        self._output()
        self._put(before)
        return calls

    def _arguments(self, way: Arrangement) -> Iterator[Narrowing]:
        heads, kept = self.site.n_heads, runs(max(slot, 0) for slot in way.slots)
        named = bound(self.block, self._watched([self.path])[self.path])
        batch = next((len(t) for t in named.values() if t.dim()), 1)
        for name, tensor in named.items():
            for axis, size in enumerate(tensor.shape):
                if size == heads or (axis == 0 and size == batch * heads):
                    yield Narrowing(self.path, name, axis - tensor.dim(), heads, kept)

    def _norms(self, way: Arrangement) -> Iterator[Narrowing]:
        """Norms over all heads' queries or keys: they need them all, and what follows does not."""
        width, groups = self.site.head_dim, self.body.groups
        heads = [max(slot, 0) for slot in way.slots]
        sources = {self.site.n_heads: heads}
        if self.body.shares:
            leaders = heads[:: way.per_group]
            number = {head: index for index, group in enumerate(groups) for head in group}
            sources[len(groups)] = [number[head] for head in leaders]
        for path, module in self.block.named_modules():
            weight = module._parameters.get("weight")
            for count, chosen in sources.items():
                if weight is not None and tuple(weight.shape) == (count * width,):
                    channels = [c for one in chosen for c in range(one * width, (one + 1) * width)]
                    yield Narrowing(_join(self.path, path), None, -1, count * width, runs(channels))

    def _buffers(self, way: Arrangement) -> Iterator[Cut]:
        kept = {self.site.width: self._channels(way), self.site.n_heads: runs(way.slots)}
        for name, buffer in self.block.named_buffers():
            for axis, size in enumerate(buffer.shape):
                if size in kept:
                    yield Cut(_join(self.path, name), axis, size, kept[size])

    def _settings(self, way: Arrangement, cuts: Sequence[Cut]) -> Iterator[tuple[Setting, ...]]:
        """What the block's numbers may become, the likeliest first; configurations last."""
        changes = self._changes(way, cuts)
        own = [number for number in self._numbers if not number.name.startswith("config.")]
        yield from islice(combined(own, changes), _TRIES)
        if len(own) < len(self._numbers):
            yield from islice(combined(self._numbers, changes), _TRIES)

    @cached_property
    def _numbers(self) -> list[Number]:
        before = taken(self.model, self.path)
        block = copy.deepcopy(self.pristine)
        self._put(block)
        watch = Watch(self.path, block)
        self._output()
        self._put(before)
        return list(watch.numbers())

    def _changes(self, way: Arrangement, cuts: Sequence[Cut]) -> list[Change]:
        """Every count or length that changes."""
        site, groups = self.site, len(self.body.groups)
        changes = [
            ("heads", site.n_heads, len(way.slots)),
            ("width", site.width, len(way.slots) * site.head_dim),
        ]
        if self.body.shares:
            changes += [
                ("groups", groups, way.n_groups),
                ("per group", self.body.group_size, way.per_group),
            ]
        changes += [("length", cut.size, cut.new_size) for cut in cuts]
        return changes


def _agree(expected: Tensor | None, found: Tensor | None) -> bool:
    if expected is None or found is None:
        return False
    return largest_difference([expected], [found]) <= tolerance([expected])


def _cut(rows: Rows, source: np.ndarray) -> Cut:
    return Cut(rows.parameter, rows.axis, rows.owners.shape[1], runs(source.tolist()))


def _tensor(model: nn.Module, name: str) -> Tensor:
    path, _, attribute = name.rpartition(".")
    return getattr(model.get_submodule(path), attribute)


def _join(path: str, name: str) -> str:
    return ".".join(part for part in (path, name) if part)


def input_axis(projection: Any, site: Site) -> int:
    """Return the axis of an output projection's weight along which the contexts lie.

    Raises `Unfit` where it is no plain linear map.
    """
    weight = getattr(projection, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 2 or site.width not in weight.shape:
        raise Unfit(
            f"its output projection {site.projection} ({type(projection).__name__}) is no plain "
            f"linear map, so that columns could be cut"
        )
    if any(isinstance(child, nn.Linear) for child in projection.children()):
        raise Unfit(
            f"its output projection {site.projection} is wrapped ({type(projection).__name__}): "
            f"merge an adapter first (merge_and_unload)"
        )
    if weight.shape[0] != weight.shape[1]:
        return int(weight.shape[0] != site.width)
    # A square weight may be that of nn.Linear or transposed (Conv1D): multiply, and see.
    generator = torch.Generator(weight.device).manual_seed(0)
    given = torch.randn(4, site.width, generator=generator, device=weight.device).to(weight)
    with torch.no_grad():
        answer, bias = projection(given), projection(torch.zeros_like(given))
        if not isinstance(answer, Tensor):
            raise Unfit(f"its output projection {site.projection} gives more than one tensor")
        answer = answer - bias
        errors = [(given @ w - answer).float().norm() for w in (weight, weight.T)]
    return int(errors[1] < errors[0])


@contextmanager
def _set(model: nn.Module, settings: Sequence[Setting]) -> Iterator[None]:
    """Numbers on modules, changed for the time of the block."""
    before = [(model.get_submodule(s.module), s) for s in settings]
    old = [
        (module, s, module.config if s.name.startswith("config.") else getattr(module, s.name))
        for module, s in before
    ]
    operate(model, SitePlan("", (), settings=tuple(settings)))
    try:
        yield
    finally:
        for module, setting, value in reversed(old):
            name = "config" if setting.name.startswith("config.") else setting.name
            setattr(module, name, value)
