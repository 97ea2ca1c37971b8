"""Move numbers between the host and a device without making either wait for the other.

Reading a number off a GPU (`item`, `cpu`, an index of booleans) stops the host until all that is
queued there is done, and then the device waits for the host to queue more. So results are copied
into pinned memory while the device goes on, and are read when the next batch is queued.
"""

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Transfers:
    """Copies of results that are on their way to the host.

    `send(tensors, receive)` calls `receive` with them as arrays, in their order: at once where
    they are on a CPU, else when the next are sent, or in `finish`.
    """

    def __init__(self) -> None:
        self._pending: deque[tuple[list[torch.cuda.Event], list[Tensor], Callable[..., None]]]
        self._pending = deque()

    def send(self, tensors: Sequence[Tensor], receive: Callable[..., None]) -> None:
        """Copy the tensors, and hand over those that were sent before."""
        devices = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
        # from a CUDA device into pinned memory, which `to` takes for a copy that does not wait
        host = [tensor.detach().to("cpu", non_blocking=bool(devices)) for tensor in tensors]
        self._pending.append(([_after(device) for device in devices], host, receive))
        self.finish(keep=1 if devices else 0)

    def finish(self, keep: int = 0) -> None:
        """Wait for all but the last `keep`, and hand them over."""
        while len(self._pending) > keep:
            events, host, receive = self._pending.popleft()
            for event in events:
                event.synchronize()
            receive(*(tensor.numpy() for tensor in host))


def _after(device: torch.device) -> torch.cuda.Event:
    """An event after all that is queued on a device."""
    with torch.cuda.device(device):
        event = torch.cuda.Event()
        event.record()
    return event


def moved(
    tensor: Tensor, device: torch.device | str | None, dtype: torch.dtype | None = None
) -> Tensor:
    """Return a tensor on a device; a copy from the host to a GPU waits for nothing there."""
    if device is None or torch.device(device).type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device, dtype)
    return tensor.to(dtype=dtype).pin_memory().to(device, non_blocking=True)
