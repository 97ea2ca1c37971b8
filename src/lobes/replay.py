"""Run a model under many lesions without computing again what two of them have in common.

A lesion changes nothing that was finished before the first lesioned site's output projection ran,
and two lesions with the same heads in the first sites give the same up to where they differ. So
lesions are run in the order of their heads, site by site: each run plays back what the one before
it computed below the first site where they differ. Which modules those are is read off a trace of
one run: for a site, the largest modules that returned before its projection was called.

Exact for a model whose modules depend on their inputs alone (no cache that they write to, no
output changed in place afterwards). A `Replay` tries that out when it is made; where it fails,
every run is computed in full.

A small batch does not fill a GPU. There a run can hold several copies of it, each with a lesion of
its own.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from threading import get_ident
from typing import Any

import torch
from torch import nn

from lobes.ablation import ablate, ablate_copies
from lobes.discovery.functional import opened
from lobes.discovery.wrappers import uncompiled
from lobes.errors import HeadError
from lobes.heads import HeadLayout, HeadSet

Run = Callable[[], Any]
Copies = Callable[[int], Run]  # of a batch, one copy after the other
_ABSENT = object()


@dataclass(slots=True, eq=False)
class _Call:
    """One call of a module, and the calls that it made; times count entries and exits."""

    module: nn.Module
    number: int
    entered: int
    left: int = -1
    children: list["_Call"] = field(default_factory=list)


class Replay:
    """Runs a model under many lesions, each from where it differs from the one before.

        replay = Replay(model, layout, run)       # traces run() once, and tries itself out
        for index, outputs in replay.runs(run, lesions): ...

    `run` is one forward pass of `model`, the same modules in the same order at each call, on
    whatever batch. `share=False` computes every run in full. `sharing` says what is done.
    """

    def __init__(
        self, model: nn.Module, layout: HeadLayout, run: Run, *, share: bool = True
    ) -> None:
        self.model, self.layout = model, layout
        self._outputs: dict[tuple[nn.Module, int], Any] = {}
        if share:
            with self._opened():
                self._finished = _finished_before(layout, model, _trace(model, run))
        self.sharing = share
        self.sharing = share and self.holds(run)

    def packs(self, run: Run, copies: Copies) -> bool:
        """Return whether copies of a batch in one run, each with its lesion, give what one gives.

        That is so, beyond rounding, unless the batch's examples depend on one another, or lie in
        the contexts in an unknown order.
        """
        if any(site.batch_axis is None for site in self.layout.sites):
            return False
        lesions = [HeadSet([(site.index, 0)]) for site in self.layout.sites]
        together = [HeadSet(), self.layout.all_heads(), *lesions[:1], *lesions[-1:]]
        try:
            packed = dict(self._packed(copies, together, len(together), {}))
        except HeadError:
            return False
        alone = dict(self.runs(run, together))
        precise = next(self.model.parameters()).dtype in (torch.float32, torch.float64)
        share = 1e-3 if precise else 0.1
        return all(_close(packed[index], alone[index], share) for index in alone)

    def runs_packed(
        self, copies: Copies, lesions: Sequence[HeadSet], most: int, **instead: Any
    ) -> Iterator[tuple[int, Any]]:
        """Yield what `runs` yields, from runs of at most so many copies of the batch."""
        if most < 2 or len(lesions) < 2:
            yield from self.runs(copies(1), lesions, **instead)
        else:
            yield from self._packed(copies, lesions, most, instead)

    def _packed(
        self, copies: Copies, lesions: Sequence[HeadSet], most: int, instead: dict[str, Any]
    ) -> Iterator[tuple[int, Any]]:
        sites, number = len(self.layout.sites), -(-len(lesions) // most)
        most = -(-len(lesions) // number)  # so that no run is much smaller than the others
        starts = [lesion.heads[0][0] if lesion else sites for lesion in lesions]
        order = sorted(range(len(lesions)), key=starts.__getitem__)
        groups = [order[at : at + most] for at in range(0, len(order), most)]
        # what is played back has the rows of a whole group
        first = {g[0]: starts[g[0]] for g in groups if len(g) == most and starts[g[0]] < sites}
        sharing = self.sharing and sum(first.values()) > sites  # one more run saves more than one
        try:
            if sharing:
                with self._opened(), self.recording(set(first.values())):
                    copies(most)()
            for group in groups:
                chosen = [lesions[index] for index in group]
                with ExitStack() as stack:
                    if sharing and group[0] in first:
                        stack.enter_context(self._opened())
                        stack.enter_context(self.playing(first[group[0]]))
                    each = ablate_copies(self.model, chosen, layout=self.layout, **instead)
                    stack.enter_context(each)
                    output = copies(len(group))()
                yield from ((index, _part(output, k, len(group))) for k, index in enumerate(group))
        finally:
            self._outputs.clear()

    def runs(
        self, run: Run, lesions: Sequence[HeadSet], **instead: Any
    ) -> Iterator[tuple[int, Any]]:
        """Yield (number of the lesion, result of `run` under it) for every lesion, in any order.

        `instead` are the arguments `value` and `data` of `ablate`.
        """
        if not self.sharing or len(lesions) < 2:
            for index, lesion in enumerate(lesions):
                with ablate(self.model, lesion, layout=self.layout, **instead):
                    output = run()
                yield index, output
            return
        keys, sites = [self._key(lesion) for lesion in lesions], len(self.layout.sites)
        order = sorted(range(len(keys)), key=keys.__getitem__)
        # each goes on from the lesion before it, at the first site where the two differ
        starts = [-1, *(_common(keys[one], keys[other]) for one, other in pairwise(order))]
        output = None
        try:
            for place, (index, start) in enumerate(zip(order, starts, strict=True)):
                if start < sites:  # else the same lesion again
                    later = _needed([s for s in starts[place + 1 :] if s < sites], start)
                    with ExitStack() as stack:
                        stack.enter_context(self._opened())
                        stack.enter_context(self.recording(later))
                        if place:
                            stack.enter_context(self.playing(start))
                        each = ablate(self.model, lesions[index], layout=self.layout, **instead)
                        stack.enter_context(each)
                        output = run()
                yield index, output
        finally:
            self._outputs.clear()

    def _key(self, lesion: HeadSet) -> tuple[tuple[int, ...], ...]:
        """The heads of every site, in the order of execution."""
        heads = lesion.by_site()
        return tuple(heads.get(site.index, ()) for site in self.layout.sites)

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Every run alike: compiled programs and attention in one kernel round in other ways."""
        with uncompiled(), opened(self.model, [site.projection for site in self.layout.sites]):
            yield

    @contextmanager
    def recording(self, sites: set[int]) -> Iterator[None]:
        """Record, during the run inside the block, what ends before `sites`, to be played back."""
        wanted = {call for site in sites for call in self._finished[site]}
        counts: dict[nn.Module, int] = {}
        thread = get_ident()

        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if get_ident() != thread:
                return
            number = counts.get(module, 0)
            counts[module] = number + 1
            if (module, number) in wanted:
                self._outputs[module, number] = output

        with ExitStack() as stack:
            for module in {module for module, _ in wanted}:
                stack.callback(module.register_forward_hook(hook).remove)
            yield

    @contextmanager
    def playing(self, site: int) -> Iterator[None]:
        """Return recorded outputs for modules that end before `site`, inside the block."""
        calls: dict[nn.Module, set[int]] = {}
        for module, number in self._finished[site]:
            calls.setdefault(module, set()).add(number)
        with ExitStack() as stack:
            for module, numbers in calls.items():
                before = module.__dict__.get("forward", _ABSENT)
                stack.callback(_restore_forward, module, before)
                module.forward = self._player(module, numbers)
            yield

    def _player(self, module: nn.Module, numbers: set[int]) -> Callable[..., Any]:
        original, count, thread = module.forward, iter(range(1 << 62)), get_ident()

        def play(*args: Any, **kwargs: Any) -> Any:
            if get_ident() != thread:
                return original(*args, **kwargs)
            number = next(count)
            if number in numbers:
                return self._outputs[module, number]
            return original(*args, **kwargs)

        return play

    def holds(self, run: Run) -> bool:
        """Return whether replayed runs equal full runs to the bit, for lesions at each site."""
        alone = [HeadSet([(site.index, 0)]) for site in self.layout.sites]
        lesions = [HeadSet(), *alone, alone[0] | alone[-1]]
        for index, played in self.runs(run, lesions):
            with self._opened(), ablate(self.model, lesions[index], layout=self.layout):
                full = run()
            if not _equal(full, played):
                return False
        return True


def _common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many sites at the beginning have the same heads in two lesions."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))


def _needed(starts: Sequence[int], known: int) -> set[int]:
    """The sites that a run records: those where later runs start, and that none between records.

    `known` is the site where the run itself starts: what ends before it is recorded already.
    """
    found: set[int] = set()
    for start in starts:
        if start <= known:
            break
        if start < min(found, default=start + 1):
            found.add(start)
    return found


def _trace(model: nn.Module, run: Run) -> list[_Call]:
    """The calls of all modules in one run, outermost first, as trees."""
    roots: list[_Call] = []
    open_calls: list[_Call] = []
    counts: dict[nn.Module, int] = {}
    clock = iter(range(1 << 62))
    thread = get_ident()

    def enter(module: nn.Module, args: Any) -> None:
        if get_ident() != thread:
            return
        number = counts.get(module, 0)
        counts[module] = number + 1
        call = _Call(module, number, next(clock))
        (open_calls[-1].children if open_calls else roots).append(call)
        open_calls.append(call)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if get_ident() != thread:
            return
        open_calls.pop().left = next(clock)

    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        run()
    return roots


def _finished_before(
    layout: HeadLayout, model: nn.Module, roots: list[_Call]
) -> list[list[tuple[nn.Module, int]]]:
    """For each site, the largest calls that ended before its projection was first entered."""
    entered: dict[nn.Module, int] = {}
    pending = list(roots)
    while pending:
        call = pending.pop()
        entered[call.module] = min(call.entered, entered.get(call.module, call.entered))
        pending += call.children
    finished = []
    for site in layout.sites:
        moment = entered.get(model.get_submodule(site.projection), -1)
        finished.append(_ended(roots, moment))
    return finished


def _ended(calls: list[_Call], moment: int) -> list[tuple[nn.Module, int]]:
    found: list[tuple[nn.Module, int]] = []
    for call in calls:
        if call.left < moment:
            found.append((call.module, call.number))
        elif call.entered < moment:
            found += _ended(call.children, moment)
    return found


def _restore_forward(module: nn.Module, before: object) -> None:
    if before is _ABSENT:
        module.__dict__.pop("forward", None)
    else:
        module.__dict__["forward"] = before


def _part(output: Any, number: int, copies: int) -> Any:
    """What a run of several copies of a batch gave for one of them."""
    if isinstance(output, torch.Tensor):
        return output.unflatten(0, (copies, -1))[number]
    return {name: _part(values, number, copies) for name, values in output.items()}


def _close(one: Any, other: Any, share: float) -> bool:
    """Whether tensors differ by at most a share of their largest number, where they are numbers."""
    if isinstance(one, dict):
        return all(_close(one[key], other[key], share) for key in one)
    difference = (one.float() - other.float()).abs().max()
    return not bool(difference > share * other.float().abs().max())


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one == other
