"""The row gate: a batch trains the rows of some heads only (docs/method.md#iat).

A head's rows are those of the projections that its queries, keys and values come from: weights
and biases, wherever discovery found them (separate or fused, interleaved, transposed). Every
gated projection reads its weight through a function that is the identity forward, to the bit, and
backward lets no gradient through to the rows of other heads. So a gradient obeys its own batch's
task before anything else sees it: accumulation, clipping, the reduction over processes.

Heads that share rows (grouped-query attention shares keys and values in a group) train them when
any of them may. Rows that belong to no head are like any other parameter.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import MethodType, TracebackType
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from lobes.discovery.recomputation import carried
from lobes.errors import ModelError
from lobes.heads import HeadLayout, HeadSet
from lobes.training.sharding import own_part

_GATE = "_lobes_gate"


class RowGate:
    """Lets each task train only its own heads' rows, while the block it guards lasts.

    `heads[task]` are the heads that the task may train. Between entering and leaving, `select`
    says whose batch comes next; until it is called, every row trains. Names and values of the
    parameters stay as they are, and leaving the gate removes all of it. What gradient checkpointing
    computes again of a batch is gated as that batch was, whatever has been selected since.

    A model has one gate at a time, in all threads. Raises `ModelError` for a second one, and for a
    model with a head whose rows are not known to be all of it.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: HeadLayout,
        heads: Mapping[str, HeadSet],
        *,
        train_other: bool = True,
    ) -> None:
        check_gateable(layout)
        for chosen in heads.values():
            layout.check(chosen)
        self.model, self.tasks = model, tuple(heads)
        self._task: str | None = None
        self._block = ExitStack()
        self.parts = [
            _part(model, name, axis, layout, heads, train_other)
            for name, axis in owned_parameters(layout)
        ]

    def __enter__(self) -> "RowGate":
        if self._is_entered():
            raise ModelError(
                f"{type(self.model).__name__} is being trained under a row gate already: a model "
                f"has one at a time; end that training first, or train a copy of the model."
            )
        # A forward pass around the plain one, not hooks: after an exception no hook would take the
        # gated weights away.
        for module, parts in self._by_module():
            gates = {part.attribute: part.gate for part in parts}
            module.__dict__[_GATE] = _Gated(module.forward, "forward" in module.__dict__, gates)
            # a method, so that a copy of the module calls its own
            module.__dict__["forward"] = MethodType(_gated_forward, module)
        self._block.enter_context(carried(self.model, lambda: partial(self._again, self._task)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self._block.close()
        for module, _ in self._by_module():
            gated = module.__dict__.pop(_GATE, None)
            if gated is None:
                continue
            if gated.own:
                module.__dict__["forward"] = gated.plain
            else:
                del module.__dict__["forward"]

    def select(self, task: str | None) -> None:
        """Let the next batches train the rows that `task` may; all rows for None."""
        self._task = task
        for part in self.parts:
            mask = part.everything if task is None else part.learns[task]
            part.gate.learns = part.shaped(mask)

    def _is_entered(self) -> bool:
        return any(_GATE in module.__dict__ for module, _ in self._by_module())

    @contextmanager
    def _again(self, task: str | None) -> Iterator[None]:
        """The gate as it was when `task` was selected, also where it has been left since."""
        with ExitStack() as stack:
            if not self._is_entered():
                stack.enter_context(self)
            stack.callback(self.select, self._task)
            self.select(task)
            yield

    def _by_module(self) -> Iterator[tuple[nn.Module, list["_Part"]]]:
        modules = {id(part.module): part.module for part in self.parts}
        for key, module in modules.items():
            yield module, [part for part in self.parts if id(part.module) == key]


class KeptRows:
    """Strict mode: the rows that nobody may train keep their values through an optimizer step.

    A gradient of zero does not keep a row still: AdamW's momentum goes on moving it, and weight
    decay shrinks it. `keep` before the step and `restore` after it put such rows back to the bit,
    whatever the optimizer does. Its state goes on: a row's momentum fades while it rests.
    Parameters may be sharded over processes (FSDP2): each process keeps its own part.
    """

    def __init__(self, gate: RowGate) -> None:
        self._gate = gate
        self._views: dict[frozenset[str], tuple[list[Tensor], list[Tensor]]] = {}
        self._kept: tuple[list[Tensor], list[Tensor]] = ([], [])

    def keep(self, tasks: Iterable[str]) -> None:
        """Remember the rows that none of `tasks` may train."""
        key = frozenset(tasks)
        if key not in self._views:
            rows = [view for part in self._gate.parts for view in part.resting(key)]
            self._views[key] = rows, [torch.empty_like(view) for view in rows]
        rows, copies = self._kept = self._views[key]
        if rows:
            torch._foreach_copy_(copies, rows)

    def restore(self) -> None:
        """Put back what `keep` remembered."""
        rows, copies = self._kept
        if rows:
            torch._foreach_copy_(rows, copies)


def check_gateable(layout: HeadLayout) -> None:
    """Raise `ModelError` naming the first site whose heads cannot be trained one by one."""
    for site in layout.sites:
        if not site.gateable or not site.rows:
            reason = site.gate_reason or "no projection that belongs to one head was found"
            raise ModelError(
                f"The heads of site {site.index} ({site.name}) cannot be trained one by one: "
                f"{reason}. IAT needs a model whose query, key and value projections have rows "
                f"for each head; train this one without iat."
            )


def owned_parameters(layout: HeadLayout) -> list[tuple[str, int]]:
    """Return (name, axis) of each parameter with rows of heads, once, in the order of the sites."""
    return list({(rows.parameter, rows.axis): None for site in layout.sites for rows in site.rows})


def learning_rows(
    layout: HeadLayout,
    parameter: str,
    length: int,
    heads: HeadSet,
    *,
    train_other: bool = True,
) -> Bool[Tensor, " rows"]:
    """Return which of a parameter's `length` rows train if only `heads` may.

    Those are the rows of these heads, and with `train_other` those that belong to no head at all.
    """
    owned, allowed = torch.zeros(2, length, dtype=torch.bool)
    chosen = heads.by_site()
    for site in layout.sites:
        for rows in (rows for rows in site.rows if rows.parameter == parameter):
            for head, spans in enumerate(rows.ranges):
                for start, stop in spans:
                    owned[start:stop] = True
                    if head in chosen.get(site.index, ()):
                        allowed[start:stop] = True
    return allowed | ~owned if train_other else allowed


@dataclass(eq=False)
class _Gate:
    """What the forward pass of a gated projection reads: which rows train, broadcast to it."""

    learns: Tensor


@dataclass(eq=False)
class _Gated:
    """A module's gates by the names of its parameters, and its forward pass without them."""

    plain: Any
    own: bool
    gates: dict[str, _Gate]


@dataclass(frozen=True, eq=False)
class _Part:
    """One gated parameter: where it is, and which of its rows each task trains."""

    module: nn.Module
    attribute: str
    axis: int
    gate: _Gate
    everything: Bool[Tensor, " rows"]
    learns: Mapping[str, Tensor]

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter as it is now: sharding puts another in its place."""
        return self.module._parameters[self.attribute]  # type: ignore[return-value]

    def shaped(self, mask: Bool[Tensor, " rows"]) -> Tensor:
        """Return a mask over the rows in the form that broadcasts to the parameter."""
        dimensions = self.parameter.dim()
        return mask.reshape([-1 if axis == self.axis else 1 for axis in range(dimensions)])

    def resting(self, tasks: frozenset[str]) -> list[Tensor]:
        """Return views of this process's part of the rows that none of the tasks trains."""
        resting = ~torch.stack([self.learns[task] for task in sorted(tasks)]).any(0)
        local, mask = own_part(self.parameter.detach(), resting, self.axis)
        return [local.narrow(self.axis, start, size) for start, size in _runs(mask)]


def _part(
    model: nn.Module,
    name: str,
    axis: int,
    layout: HeadLayout,
    heads: Mapping[str, HeadSet],
    train_other: bool,
) -> _Part:
    path, _, attribute = name.rpartition(".")
    parameter = model.get_parameter(name)
    # where the weight is when it is used: a sharded one may rest on the CPU
    mesh = getattr(parameter, "device_mesh", None)
    length, device = parameter.shape[axis], mesh.device_type if mesh else parameter.device
    learns = {
        task: learning_rows(layout, name, length, chosen, train_other=train_other).to(device)
        for task, chosen in heads.items()
    }
    everything = torch.ones(length, dtype=torch.bool, device=device)
    part = _Part(model.get_submodule(path), attribute, axis, _Gate(everything), everything, learns)
    part.gate.learns = part.shaped(everything)
    return part


class _Pass(torch.autograd.Function):
    """The identity; its gradient reaches only the rows that train."""

    @staticmethod
    def forward(weight: Tensor, learns: Tensor) -> Tensor:
        return weight.view_as(weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (learns,) = ctx.saved_tensors
        # not a product: what is not a number times 0 is not 0
        return torch.where(learns, gradient, 0), None


def _gated_forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """A module's own forward pass; it finds gated weights where its parameters were."""
    gated = module.__dict__[_GATE]
    for attribute, gate in gated.gates.items():
        # an instance's own attribute comes before the parameter of that name
        module.__dict__[attribute] = _Pass.apply(module._parameters[attribute], gate.learns)
    try:
        return gated.plain(*args, **kwargs)
    finally:
        for attribute in gated.gates:
            del module.__dict__[attribute]


def _runs(mask: Bool[Tensor, " rows"]) -> Iterator[tuple[int, int]]:
    """(start, length) of each run of true entries."""
    edges = torch.diff(mask.cpu().int(), prepend=torch.zeros(1), append=torch.zeros(1))
    starts, stops = (torch.nonzero(edges == sign).flatten().tolist() for sign in (1, -1))
    for start, stop in zip(starts, stops, strict=True):
        yield start, stop - start
