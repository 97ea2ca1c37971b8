"""How many workers there are, and where."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from lobes.errors import ConfigError

Where = Literal["local", "ray", "slurm"]


@dataclass(frozen=True)
class WorkerSettings:
    """How many workers, where, and with how many GPUs each: by default one where there are any.

    `options` are for the executor: of Ray "address", of Slurm what submitit takes.
    """

    number: int
    on: Where = "local"
    devices: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, number in (("workers", self.number), ("devices per worker", self.devices)):
            if number is not None and (type(number) is not int or number < 1):
                raise ConfigError(f"{number!r} {name} cannot compute anything: expected 1 or more.")
        if self.on not in get_args(Where):
            raise ConfigError(
                f"There are no workers on {self.on!r}: expected {', '.join(get_args(Where))}."
            )
        if self.on == "local" and self.options:
            first = next(iter(self.options))
            raise ConfigError(
                f"Workers on this machine take no options, and there is {first}: "
                f"expected them with --on ray or --on slurm."
            )
