"""Context managers that several blocks share, also across threads."""

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager

# Held while a model is looked into and while something is attached to it or taken away.
lock = threading.RLock()
# Held by a measurement, for which a model is in evaluation mode and plays back its own outputs.
measurements = threading.RLock()
_held: dict[Hashable, tuple[AbstractContextManager, int]] = {}


@contextmanager
def shared(key: Hashable, make: Callable[[], AbstractContextManager]) -> Iterator[None]:
    """Hold the context called `key` open: the first block enters it, the last one leaves it.

    So a thread that leaves its block takes nothing away from one that is still inside.
    """
    with lock:
        context, count = _held.pop(key, (None, 0))
        if context is None:
            context = make()
            context.__enter__()
        _held[key] = context, count + 1
    try:
        yield
    finally:
        with lock:
            context, count = _held.pop(key)
            if count > 1:
                _held[key] = context, count - 1
            else:
                context.__exit__(None, None, None)
