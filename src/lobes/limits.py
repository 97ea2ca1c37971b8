"""The range of every numeric setting, and how long names and paths may be.

A setting is declared once, by its annotation: `controls: Annotated[int, limits.CONTROLS] = 20`.
The library's dataclasses check themselves by it (`check_settings`), the tables of a study file
are pydantic models that inherit from them, and `rule_of` says in words what is expected. So both
refuse the same values in the same words. The largest values are where NumPy and torch take no more
(seeds), or beyond any useful amount of work (steps, controls).
"""

import difflib
import math
import os
import re
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from lobes.errors import ConfigError

# What most file systems take as the name of one file, and as a whole path, in bytes.
LONGEST_FILE_NAME = 255
LONGEST_PATH = 4096
# Leave room for what lobes puts around a name: .lobes-tmp-, -compare, .unfinished.
LONGEST_WRITTEN = 200
LONGEST_NAME = 100
# Windows gives these to devices, with any ending.
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Limit:
    """What a number may be: whole or not, from `least` to `most`; `above` leaves `least` out.

    `below` leaves `most` out. `what` names the quantity, as in "a number of steps".
    """

    what: str
    least: float
    most: float
    whole: bool = True
    above: bool = False
    below: bool = False

    def __str__(self) -> str:
        low = f"above {_plain(self.least)}" if self.above else f"from {_plain(self.least)}"
        high = f"below {_plain(self.most)}" if self.below else f"to {_plain(self.most)}"
        if self.above or self.below:
            high = high if self.below else f"at most {_plain(self.most)}"
            return f"{self.what} {low} and {high}"
        return f"{self.what} {low} {high}"

    def allows(self, value: Any) -> bool:
        """Return whether a value is a number of the right type in the range; NaN never is."""
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        number: Any = value
        low = number > self.least if self.above else number >= self.least
        return bool(low and (number < self.most if self.below else number <= self.most))

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """Bound a number of a pydantic model: called by pydantic, which is not imported here."""
        kind = int if self.whole else float
        return {
            **handler(source),
            "gt" if self.above else "ge": kind(self.least),
            "lt" if self.below else "le": kind(self.most),
        }


@dataclass(frozen=True, slots=True)
class Choice:
    """What a text may be: one of some names."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        *others, last = (f'"{name}"' for name in self.names)
        return " or ".join(filter(None, (", ".join(others), last)))

    def allows(self, value: Any) -> bool:
        """Return whether a value is one of the names."""
        return isinstance(value, str) and value in self.names

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """Allow these names only in a pydantic model; see `Limit`."""
        return {"type": "literal", "expected": [*self.names]}


@dataclass(frozen=True, slots=True)
class Flag:
    """What a switch may be: no number stands for true or false."""

    def __str__(self) -> str:
        return "true or false"

    def allows(self, value: Any) -> bool:
        """Return whether a value is a bool."""
        return isinstance(value, bool)


SEED = Limit("a whole number", 0, 2**32 - 1)
STEPS = Limit("a number of steps", 1, 10**7)
EPOCHS = Limit("a number of epochs", 0, 10**6, whole=False, above=True)
BATCH_SIZE = Limit("a number of examples", 1, 10**6)
ACCUMULATE = Limit("a number of batches", 1, 10**6)
EXAMPLES = Limit("a number of examples", 1, 10**9)
EXAMPLES_OR_NONE = Limit("a number of examples", 0, 10**9)
TOKENS = Limit("a number of tokens", 2, 10**6)
TOKENS_PER_BATCH = Limit("a number of tokens", 1, 10**9)
LEARNING_RATE = Limit("a number such as 2e-5,", 0, 1000, whole=False, above=True)
WEIGHT_DECAY = Limit("a number", 0, 1000, whole=False)
WARMUP = Limit("a number of steps, or below 1 a share of them,", 0, 10**7, whole=False)
WARMUP_SHARE = Limit("a share of the steps", 0, 1, whole=False, below=True)
TEMPERATURE = Limit("a number", 0, 1e300, whole=False, above=True)
RANK = Limit("a rank", 1, 10**5)
LORA_ALPHA = Limit("a number", 0, 10**6, whole=False, above=True)
DROPOUT = Limit("a share", 0, 1, whole=False, below=True)
FRACTION = Limit("a share of all heads", 0, 1, whole=False, above=True)
SHARE_OF_HEADS = Limit("a share of all heads", 0, 1, whole=False)
SHARE_OF_STEPS = Limit("a share of the steps", 0, 1, whole=False)
LEVEL = Limit("a number such as 0.95,", 0, 1, whole=False, above=True, below=True)
CONTROLS = Limit("a number of exchanges", 0, 10_000)
RANDOM = Limit("a number of random lesions", 0, 10_000)
RESAMPLES = Limit("a number of bootstrap resamples", 0, 100_000)
HEADS_KEPT = Limit("a number of heads", 0, 10**6)
CHECKPOINTS = Limit("a number of models of the training", 1, 1000)
SEEDS = Limit("a number of seeds", 1, 1000)
EVALUATIONS = Limit("a number of evaluations", 1, 10_000)
HELD_OUT = Limit("a share of the training data", 0, 0.5, whole=False, above=True)
PENALTY = Limit("a number", 1e-12, 1e12, whole=False)
TASK_WEIGHT = Limit("a number", 0, 1000, whole=False, above=True)
CLASS_WEIGHT = Limit("a number", 0, 10**6, whole=False, above=True)
SMOOTHING = Limit("a share", 0, 1, whole=False, below=True)
PATH_STEPS = Limit("a number of steps on the path of integrated gradients", 1, 1000)
GATE_SHARE = Limit("a share", 0.5, 1, whole=False, below=True)
METHOD = Choice(("taylor", "ablation", "integrated_gradients", "gates"))
PATH_START = Choice(("zero", "mean"))
AGGREGATE = Choice(("token", "sequence", "signed"))
NORMALIZE = Choice(("none", "layer"))
MATCHED = Choice(("site", "total"))
VALUE = Choice(("zero", "mean", "resample"))
LESION = Choice(("remove", "keep"))
ORDER = Choice(("descending", "ascending"))
SPLIT = Choice(("train", "validation"))
EPOCHS_OF_SAMPLER = Limit("a number of epochs", 1, 10**7)


def check_number(name: str, value: Any, limit: Limit) -> None:
    """Raise `ConfigError`, naming the setting, for a value that the limit does not allow."""
    if limit.allows(value):
        return
    percent = (
        f"; for {value:g} % write {value / 100:g}"
        if limit.what.startswith("a share") and limit.most == 1 and _is_percent(value)
        else ""
    )
    raise ConfigError(f"{name} is {short(value)}; expected {limit}{percent}.")


def check_choice(name: str, value: Any, choice: Choice | Flag) -> None:
    """Raise `ConfigError`, naming the setting, for a value that is none of the choices."""
    if not choice.allows(value):
        names = choice.names if isinstance(choice, Choice) else ()
        near = difflib.get_close_matches(str(value).lower(), names, n=1)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        raise ConfigError(f"{name} is {short(value)}; expected {choice}.{hint}")


def check_settings(settings: Any) -> None:
    """Raise `ConfigError` for the first field of a dataclass that its annotation does not allow.

    A field that is declared as optional may be None; those without a rule are not checked.
    """
    for name, kind in get_type_hints(type(settings), include_extras=True).items():
        value, rule = getattr(settings, name), rule_of(kind)
        if rule is None or (value is None and type(None) in get_args(kind)):
            continue
        if isinstance(rule, Limit):
            check_number(name, value, rule)
        else:
            check_choice(name, value, rule)


Class = TypeVar("Class", bound=type)


def plain_signature(settings: Class) -> Class:
    """Show the types of a dataclass in its signature without their rules, and return it.

    What `help` and a notebook print; the class's own annotations keep the rules.
    """
    construct: Any = vars(settings)["__init__"]
    construct.__annotations__ = get_type_hints(construct) | {"return": None}
    return settings


def rule_of(kind: Any) -> Limit | Choice | Flag | None:
    """Return what a setting annotated with `kind` may be, in words its `str`; None for any value.

    >>> from typing import Annotated
    >>> str(rule_of(Annotated[int, SEEDS] | None))
    'a number of seeds from 1 to 1,000'
    """
    if kind is bool:
        return Flag()
    if get_origin(kind) is Literal:
        return Choice(get_args(kind))
    for part in (*getattr(kind, "__metadata__", ()), *get_args(kind)):
        rule = part if isinstance(part, Limit | Choice) else rule_of(part)
        if rule is not None:
            return rule
    return None


def fault_of_name(name: str) -> str | None:
    """Return why a name cannot be that of a file or folder on every system; None if it can."""
    if name.strip(" .") == "":
        return "which is no name for a file"
    if re.search(r"[/\\\x00-\x1f\x7f]", name):
        return "which holds a slash or a control character"
    if _size(name) > LONGEST_NAME:
        return f"which has {_size(name):,} bytes where a name takes at most {LONGEST_NAME}"
    if _DEVICES.fullmatch(name):
        return "which some systems reserve for a device"
    return None


def as_path(what: str, path: Any, *, written: bool = False) -> Path:
    """Return a path that a caller gave; raises `ConfigError` for other values, and as `check_path`.

    `what` names the path, as in "The file of scores".
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise ConfigError(f"{what} is {short(path)}; expected a path.")
    if written and not Path(path).name:
        raise ConfigError(f"{what} is {short(path)}; expected the name of a file.")
    check_path(what, path, written=written)
    return Path(path)


def check_path(what: str, path: str | os.PathLike[str], *, written: bool = False) -> None:
    """Raise `ConfigError` for a path that no file system takes, before anything is opened.

    A path that is `written` to leaves room for the temporary names beside it.
    """
    text, most = os.fspath(path), LONGEST_WRITTEN if written else LONGEST_FILE_NAME
    if "\0" in text:
        raise ConfigError(f"{what} is {short(text)}, which holds a NUL character; leave it out.")
    for part in re.split(r"[/\\]", text):
        if _size(part) > most:
            raise ConfigError(
                f"{what} has a part of {_size(part):,} bytes, {short(part)}; the name of a file "
                f"or folder takes at most {most} here."
            )
    if _size(text) > LONGEST_PATH:
        raise ConfigError(
            f"{what} has {_size(text):,} bytes, {short(text)}; a path takes at most "
            f"{LONGEST_PATH:,}."
        )


def short(value: Any) -> str:
    """Return a value's `repr`, cut to fit a sentence, whatever its size."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        # Python refuses to write an integer of more than 4,300 digits
        sign = "-" if value < 0 else ""
        return f"{sign}an integer of about {math.ceil(value.bit_length() * 0.30103):,} digits"
    return _SHORT.repr(value)


def _is_percent(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 1 < value <= 100


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _plain(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def _shortened() -> reprlib.Repr:
    shortened = reprlib.Repr()
    shortened.maxstring = shortened.maxother = 70
    return shortened


_SHORT = _shortened()
