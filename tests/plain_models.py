"""Attention written by hand in plain torch, in the ways that discovery has to tell apart."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

WIDTH = 13


def split(x: Tensor, n_heads: int) -> Tensor:
    """[batch, length, heads * dim] as [batch, heads, length, dim]."""
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def join(x: Tensor) -> Tensor:
    """The reverse of `split`."""
    return x.transpose(1, 2).flatten(-2)


def attend(
    q: Tensor, k: Tensor, v: Tensor, change: Callable[[Tensor], Tensor] = lambda scores: scores
) -> Tensor:
    """Contexts [batch, heads, length, dim]; `change` is applied to the scores."""
    return change(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v


class Attention(nn.Module):
    """Grouped-query self-attention whose projection is separate, fused, or fused head by head."""

    def __init__(
        self,
        n_heads: int = 3,
        head_dim: int = 5,
        group: int = 1,
        layout: Literal["separate", "stacked", "interleaved"] = "separate",
        fast: bool = False,
    ) -> None:
        super().__init__()
        self.n_heads, self.head_dim, self.group, self.fast = n_heads, head_dim, group, fast
        self.layout = layout
        wide, narrow = n_heads * head_dim, n_heads // group * head_dim
        if layout == "separate":
            self.q, self.k, self.v = (nn.Linear(WIDTH, n) for n in (wide, narrow, narrow))
        else:
            self.qkv = nn.Linear(WIDTH, wide + 2 * narrow)
        self.out = nn.Linear(wide, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        kept = self.n_heads // self.group
        if self.layout == "separate":
            q, k, v = self.q(x), self.k(x), self.v(x)
        elif self.layout == "stacked":
            wide, narrow = self.n_heads * self.head_dim, kept * self.head_dim
            q, k, v = self.qkv(x).split([wide, narrow, narrow], -1)
        else:  # for each group: its queries, its key, its value
            parts = self.qkv(x).unflatten(-1, (kept, self.group + 2, self.head_dim))
            q = parts[..., :-2, :].flatten(-3)
            k, v = parts[..., -2, :].flatten(-2), parts[..., -1, :].flatten(-2)
        q = split(q, self.n_heads)
        k, v = (split(one, kept).repeat_interleave(self.group, 1) for one in (k, v))
        return self.out(
            join(F.scaled_dot_product_attention(q, k, v) if self.fast else attend(q, k, v))
        )


class Encoder(nn.Module):
    """Blocks with a residual way around each, and a classifier; `depth` runs of each block."""

    def __init__(self, *blocks: nn.Module, depth: int = 1) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.mlps = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in blocks)
        self.norm = nn.LayerNorm(WIDTH)
        self.classifier = nn.Linear(WIDTH, 2)
        self.depth = depth

    def forward(self, x: Tensor) -> Tensor:
        for block, mlp in zip(self.blocks, self.mlps, strict=True):
            for _ in range(self.depth):
                x = x + block(self.norm(x))
                x = x + mlp(self.norm(x)).relu()
        return self.classifier(x.mean(1))


class SelfAndCross(nn.Module):
    """Self-attention of 3 heads and cross-attention of 2 over a memory, all in one flat module."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("q", "k", "v", "cross_q", "cross_k", "cross_v"):
            setattr(self, name, nn.Linear(WIDTH, 12))
        self.out, self.cross_out = nn.Linear(12, WIDTH), nn.Linear(12, WIDTH)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        contexts = attend(*(split(one(x), 3) for one in (self.q, self.k, self.v)))
        x = x + self.out(join(contexts))
        keys, values = (split(one(memory), 2) for one in (self.cross_k, self.cross_v))
        return x + self.cross_out(join(attend(split(self.cross_q(x), 2), keys, values)))


class Functional(nn.Module):
    """A fused projection applied as a function, its bias put together from parts, as EVA does."""

    def __init__(self, out_is_module: bool = True) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 30, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.rand(10)), nn.Parameter(torch.rand(10))
        self.out, self.out_is_module = nn.Linear(10, WIDTH), out_is_module

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros(10), self.v_bias])
        q, k, v = F.linear(x, self.qkv.weight, bias).chunk(3, -1)
        contexts = join(attend(*(split(one, 2) for one in (q, k, v))))
        if self.out_is_module:
            return self.out(contexts)
        return F.linear(contexts, self.out.weight, self.out.bias)


class LowRank(nn.Module):
    """A linear module with a low-rank addition beside it, as adapters make."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Adapted(Attention):
    """Attention with low-rank additions on its value and output projections."""

    def __init__(self) -> None:
        super().__init__(3, 5)
        self.v, self.out = LowRank(self.v), LowRank(self.out)


class Mixed(Attention):
    """Talking heads: the probabilities of the heads are mixed, before or after the softmax."""

    def __init__(self, after: bool) -> None:
        super().__init__(3, 5)
        self.mix, self.after = nn.Linear(3, 3), after

    def _mixed(self, x: Tensor) -> Tensor:
        return self.mix(x.movedim(1, -1)).movedim(-1, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split(one(x), 3) for one in (self.q, self.k, self.v))
        scores = q @ k.transpose(-2, -1)
        if self.after:
            return self.out(join(self._mixed(scores.softmax(-1)) @ v))
        return self.out(join(self._mixed(scores).softmax(-1) @ v))


class Transposed(nn.Module):
    """A linear map whose weight has its output along the second axis."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(linear.weight.detach().T.clone()), linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Square(Attention):
    """Attention as wide as its input, queries and keys with transposed weights."""

    def __init__(self) -> None:
        super().__init__(1, WIDTH)
        self.q, self.k = Transposed(self.q), Transposed(self.k)


class Normed(Attention):
    """A norm over all heads: of the contexts, the values, or the queries."""

    def __init__(self, what: Literal["contexts", "values", "queries"]) -> None:
        super().__init__(3, 5)
        self.what, self.norm = what, nn.LayerNorm(15)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        q = self.norm(q) if self.what == "queries" else q
        v = self.norm(v) if self.what == "values" else v
        contexts = join(attend(*(split(one, 3) for one in (q, k, v))))
        return self.out(self.norm(contexts) if self.what == "contexts" else contexts)


class Summed(Attention):
    """Contexts of all heads are added up before the projection, by no module."""

    def forward(self, x: Tensor) -> Tensor:
        contexts = join(attend(*(split(one(x), 3) for one in (self.q, self.k, self.v))))
        return self.out(contexts.cumsum(-1))


class Bypassed(Normed):
    """The contexts are normed, but also go past the norm."""

    def __init__(self) -> None:
        super().__init__("contexts")

    def forward(self, x: Tensor) -> Tensor:
        contexts = join(attend(*(split(one(x), 3) for one in (self.q, self.k, self.v))))
        return self.out(self.norm(contexts) + contexts.flip(-1))


class Difference(nn.Module):
    """Each of 3 heads is the difference of two maps of attention over the same values."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, 12) for _ in range(3))
        self.out = nn.Linear(12, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k = (split(one(x), 6) for one in (self.q, self.k))
        v = split(self.v(x), 3).repeat(1, 2, 1, 1)
        first, second = attend(q, k, v).chunk(2, 1)
        return self.out(join(first - 0.5 * second))


class Ordered(Attention):
    """The projection is given [batch, length, …], [length, batch, …], or positions in a row."""

    def __init__(self, order: str) -> None:
        super().__init__(3, 5)
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        contexts = join(attend(*(split(one(x), 3) for one in (self.q, self.k, self.v))))
        if self.order == "batch first":
            return self.out(contexts)
        if self.order == "length first":
            return self.out(contexts.transpose(0, 1)).transpose(0, 1)
        if self.order == "by example":
            return self.out(contexts.flatten(0, 1)).unflatten(0, x.shape[:2])
        by_position = contexts.transpose(0, 1)
        return (
            self.out(by_position.flatten(0, 1)).unflatten(0, by_position.shape[:2]).transpose(0, 1)
        )


class Twice(nn.Module):
    """A fused projection called once for the queries and once for the keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 30), nn.Linear(10, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).chunk(3, -1)[0], *self.qkv(x).chunk(3, -1)[1:]
        return self.out(join(attend(*(split(one, 2) for one in parts))))


class TwoKinds(Attention):
    """The first 2 of 4 heads attend in one way, the others in another."""

    def __init__(self) -> None:
        super().__init__(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split(one(x), 4).split(2, 1) for one in (self.q, self.k, self.v))
        near = attend(q[0], k[0], v[0])
        return self.out(join(torch.cat([near, attend(q[1], k[1], v[1], torch.square)], 1)))


class Restless(nn.Module):
    """Draws from the global random state, also in evaluation mode."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.rand_like(x)


class Unprojected(nn.Module):
    """Attention whose contexts go on without an output projection."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH - 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        contexts = attend(*(split(one(x), 3) for one in (self.q, self.k, self.v)))
        return F.pad(join(contexts), (0, 1))


class Routed(nn.Module):
    """A mixture of experts: a softmax of three dimensions that is no attention."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, 4)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        shares = self.router(x).softmax(-1)
        answers = torch.stack([expert(x) for expert in self.experts], -1)
        return (answers * shares.unsqueeze(-2)).sum(-1)
