"""One attention block of a model, as a value: its heads, and the rows that each of them owns."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

Attention = Literal["multi-head", "grouped-query", "multi-query", "low-rank", "unknown"]


@dataclass(frozen=True, slots=True)
class OwnedRows:
    """The slices of one parameter that belong to the heads of a site.

    `ranges[h]` are head h's half-open index ranges along `axis` of the parameter called
    `parameter` (axis 0 for `torch.nn.Linear`, 1 for the transposed `Conv1D`; a bias has axis 0).
    Two heads that share rows (grouped-query attention) list the same ranges.
    """

    parameter: str
    axis: int
    ranges: tuple[tuple[tuple[int, int], ...], ...]

    def rows(self, head: int) -> Int[np.ndarray, " rows"]:
        """Return the indices that head `head` owns along `axis`, ascending."""
        spans = [np.arange(start, stop) for start, stop in self.ranges[head]]
        return np.concatenate(spans) if spans else np.arange(0)

    def owners(self) -> Bool[np.ndarray, "heads rows"]:
        """Return which heads own which indices along `axis`, up to the last owned index."""
        stops = [stop for ranges in self.ranges for _, stop in ranges]
        owners = np.zeros((len(self.ranges), max(stops, default=0)), dtype=bool)
        for head in range(len(self.ranges)):
            owners[head, self.rows(head)] = True
        return owners


@dataclass(frozen=True, slots=True)
class Site:
    """One attention block: the place whose output projection mixes `n_heads` heads.

    The input of the module `projection` is the concatenation of the heads' contexts, head-major:
    its last dimension is `n_heads * head_dim` long and `[h * head_dim : (h + 1) * head_dim]` is
    head h. `rows` are the rows of the query, key and value projections that each head owns.
    `prunable` says that nothing known speaks against cutting those rows to remove exactly that
    head (`lobes.prune` tries it out); if not, `reason` says why.
    `gateable` says whether they are all that the head has, so that it can be trained alone (IAT);
    if not, `gate_reason` says why.
    `batch_axis` is the axis of the input of `projection` along which the examples of a batch lie,
    one after the other (with their windows or positions, where these share the axis); None where
    the examples are mixed, so that only one set of heads for the whole batch can be ablated.
    `beside_attention` says, where it is not empty, that the contexts hold more than attention (a
    query or a local term that is added): `ablate` takes that away too, and so does more than
    setting the heads' attention probabilities to 0.
    """

    index: int
    name: str
    projection: str
    n_heads: int
    head_dim: int
    kind: Literal["self", "cross"]
    rows: tuple[OwnedRows, ...] = ()
    prunable: bool = True
    reason: str = ""
    gateable: bool = True
    gate_reason: str = ""
    batch_axis: int | None = 0
    beside_attention: str = ""

    def __repr__(self) -> str:
        kind = "" if self.kind == "self" else f", {self.kind}-attention"
        return f"Site({self.index}, {self.name!r}, {self.n_heads} heads of {self.head_dim}{kind})"

    @property
    def width(self) -> int:
        """The length of the concatenated contexts, `n_heads * head_dim`."""
        return self.n_heads * self.head_dim

    @property
    def attention(self) -> Attention:
        """The kind of attention, told by which heads share `rows`; "unknown" where there are none.

        Groups of heads share keys and values in "grouped-query" attention, all heads do in
        "multi-query". In "low-rank" (multi-head latent) attention all share a small part of their
        keys, while each has values of its own. A norm across heads is no kind of its own.
        """
        if not self.rows:
            return "unknown"
        own, common, groups = self._sharing()
        if len(groups) < self.n_heads:
            return "grouped-query"
        if self.n_heads == 1 or not common or common > 3 * own:
            return "multi-head"
        # all heads share a key and a value, beside the query that each has; or part of a key
        return "multi-query" if common > own else "low-rank"

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The heads by whom they share keys and values with: ((0, 1), (2, 3)) in two groups.

        In multi-head and low-rank attention every head is alone, in multi-query all are together.
        """
        if self.attention == "multi-query":
            return (tuple(range(self.n_heads)),)
        return self._sharing()[2]

    def _sharing(self) -> tuple[float, int, tuple[tuple[int, ...], ...]]:
        """Rows that each head has alone and that all share; the heads by those they share with."""
        alone = common = 0
        together = np.eye(self.n_heads, dtype=bool)
        for owned in self.rows:
            owners = owned.owners()
            number = owners.sum(axis=0)
            alone += int((number == 1).sum())
            common += int((number == self.n_heads).sum())
            for some in np.unique(owners[:, (number > 1) & (number < self.n_heads)], axis=1).T:
                together[np.ix_(some, some)] = True
        groups = dict.fromkeys(tuple(np.flatnonzero(row).tolist()) for row in together)
        return alone / self.n_heads, common, tuple(groups)
