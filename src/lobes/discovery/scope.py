"""Limit an intervention to the runs of the thread that entered it.

Hooks sit on modules, which all threads share. So each asks, as it is called, whose run this is:
runs of the thread (or task of asyncio) that entered the block are the intervention's, with what
gradient checkpointing computes again of them, whenever and in whatever thread that is. A thread
that has entered a block of its own sees that one only. In any other thread nobody can know
whether the intervention was meant (text that is generated in a thread and read in another) or not
(somebody else's run): such a run is refused.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

from torch import nn

from lobes.discovery.functional import opened
from lobes.discovery.recomputation import carried, recomputable, repeating
from lobes.discovery.shared import lock
from lobes.discovery.wrappers import uncompiled
from lobes.errors import ConfigError, ModelError
from lobes.heads import HeadLayout
from lobes.sites import Site

Hook = Callable[[nn.Module, Any], Any]
_entered: ContextVar[tuple["Scope", ...]] = ContextVar("entered", default=())
_again: ContextVar[tuple["Scope", ...]] = ContextVar("again", default=())
_alone: ContextVar[bool] = ContextVar("alone", default=False)
_open: list["Scope"] = []


@contextmanager
def without_others() -> Iterator[None]:
    """Keep the interventions of other threads out of this thread's runs inside the block."""
    before = _alone.get()
    _alone.set(True)
    try:
        yield
    finally:
        _alone.set(before)


def block_around(model: nn.Module) -> str | None:
    """Return what any thread's block around a part of the model does to it; None for no block."""
    parts = set(model.modules())
    return next((one.what for one in tuple(_open) if one.hooks and parts & one.modules), None)


class Scope:
    """Forward pre-hooks at sites' output projections, for the runs of one block.

    `hooks` are by the number of the site. With `first` they come before the modules' other hooks.
    `repeats` says whether they act again on what gradient checkpointing computes again; without,
    `once` says what for the contexts have to be computed once.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: HeadLayout,
        hooks: dict[int, Hook],
        *,
        what: str,
        first: bool = False,
        repeats: bool = False,
        once: bool = False,
    ) -> None:
        self.model, self.layout, self.hooks = model, layout, hooks
        self.what, self.first, self.repeats, self.once = what, first, repeats, once
        self.modules = {model.get_submodule(site.projection) for site in layout.sites}
        self.thread = 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Install the hooks inside the block, to act in this thread's runs."""
        with ExitStack() as stack:
            stack.enter_context(self._installed())
            if self.repeats and self.hooks:
                stack.enter_context(carried(self.model, lambda: self.again))
            self.thread = threading.get_ident()
            _open.append(self)
            _entered.set((*_entered.get(), self))
            try:
                yield
            finally:
                _open.remove(self)
                _entered.set(tuple(one for one in _entered.get() if one is not self))

    @contextmanager
    def again(self) -> Iterator[None]:
        """Let the hooks act in what is computed again, also after the block has ended."""
        before = _again.get()
        with ExitStack() as stack:
            # While the block lasts its hooks are there already; twice would multiply a mask twice.
            if self not in _open:
                stack.enter_context(self._installed())
            _again.set((*before, self))
            stack.callback(_again.set, before)
            yield

    @contextmanager
    def _installed(self) -> Iterator[None]:
        with ExitStack() as stack:
            if self.hooks:
                stack.enter_context(uncompiled())
                projections = [site.projection for site in self.layout.sites]
                stack.enter_context(opened(self.model, projections))
            with lock:
                for index, hook in self.hooks.items():
                    site = self.layout.sites[index]
                    module = self.model.get_submodule(site.projection)
                    guarded = self._guarded(site, module, hook)
                    handle = module.register_forward_pre_hook(guarded, prepend=self.first)
                    stack.callback(handle.remove)
            yield

    def _guarded(self, site: Site, own: nn.Module, hook: Hook) -> Hook:
        def guarded(module: nn.Module, args: Any) -> Any:
            return hook(module, args) if self._acts(site, own, module) else None

        return guarded

    def _acts(self, site: Site, own: nn.Module, module: nn.Module) -> bool:
        # What is computed again may run in a thread of autograd's, where `_entered` is empty.
        if repeating():
            return self in _again.get()
        if self not in _entered.get():
            return self._acts_elsewhere(own, module)
        if (self.repeats or self.once) and recomputable():
            raise ModelError(
                f"Site {site.index} ({site.name}) runs inside torch.utils.checkpoint, and would be "
                f"computed again without {self.what}: switch gradient checkpointing off for the "
                f"block, or, in a model of transformers, on before the block and not inside it, "
                f"as a Trainer with gradient_checkpointing=True does."
            )
        return True

    def _acts_elsewhere(self, own: nn.Module, module: nn.Module) -> bool:
        """Whether to act in a run of another thread; raises `ConfigError` where that is open."""
        about = [scope for scope in tuple(_open) if own in scope.modules]
        if self not in about or _alone.get() or any(one in about for one in _entered.get()):
            return False
        if getattr(module, "_is_replica", False) and len({one.thread for one in about}) == 1:
            return True  # a thread of DataParallel's
        raise ConfigError(
            f"The model runs in one thread while another is inside {self.what}, which acts in the "
            f'thread that entered it only: enter one here too (lobes.ablate(model, "") ablates '
            f"nothing), or give each thread a copy of the model."
        )
