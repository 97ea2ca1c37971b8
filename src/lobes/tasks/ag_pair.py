"""AG-Pair: from a corpus with topics, pairs of articles of the same or of different topics.

What holds exactly (docs/method.md#ag-pair): as many pairs as articles; every article stands in
exactly two pairs, so that the words of the pairs are those of the corpus; no article is paired with
itself; half of the pairs are *same*. Here no pair occurs twice either, and an article stands in
one *same* and one *different* pair wherever the topics' sizes let it, so that no article gives
the answer away by itself.

How: each topic's articles are laid out in paths, and neighbors on a path are *same* pairs. A
path has two ends (an article alone on its path is both), and ends are joined with ends of other
topics' paths: the *different* pairs. Then each article has two neighbors. With n articles on d
paths there are d *different* and n - d *same* pairs.

Why no other construction can do more: take any pairs with the properties above. A topic with n_t
articles and s_t *same* pairs has 2 n_t - 2 s_t places in *different* pairs, as many as the ends of
p_t = n_t - s_t paths; the other side of each is in another topic, so p_t is at most half of their
sum d. Conversely `_join` finds a joining whenever no p_t is above d / 2. So what `_path_counts`
cannot do is impossible.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Shaped

from lobes.errors import DataError
from lobes.tasks.examples import Examples

# The classes of AG-Pair in the order of the class indices.
LABELS = ("same", "different")


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Pairs of articles: pair k is (`first[k]`, `second[k]`), indices into `texts`."""

    texts: Sequence[str]
    first: Int[np.ndarray, " pairs"]
    second: Int[np.ndarray, " pairs"]
    is_same: Bool[np.ndarray, " pairs"]

    def __len__(self) -> int:
        return len(self.first)

    def examples(self) -> Examples:
        """Return the pairs as examples of a task with two text columns and the labels `LABELS`."""
        pairs = zip(self.first.tolist(), self.second.tolist(), strict=True)
        rows = tuple((self.texts[i], self.texts[j]) for i, j in pairs)
        return Examples(rows, np.where(self.is_same, 0, 1))


def ag_pairs(
    texts: Sequence[str],
    topics: Sequence[str] | Sequence[int] | Shaped[np.ndarray, " articles"],
    *,
    seed: int | np.random.Generator = 0,
) -> Pairs:
    """Pair the articles `texts` whose topics are `topics`, in random order and on random sides.

    Of n articles, n pairs: n/2 of them *same* if n is even, (n - 1)/2 if it is odd; where the
    topics' sizes do not allow that number, one more or one fewer (two topics allow only an even
    number of *different* pairs). A pair occurs twice only where that is unavoidable: in corpora
    that are little but topics with one or two articles. Takes time in proportion to n log n.

    Raises DataError, saying by name what makes it impossible: fewer than two topics, a topic with
    more than three quarters of the articles, too many topics with a single article.
    """
    for name, given in (("texts", texts), ("topics", topics)):
        if isinstance(given, str | bytes) or not hasattr(given, "__len__"):
            raise DataError(
                f"{name} are a list with an entry for each article, not a {type(given).__name__}."
            )
    if len(texts) != len(topics):
        raise DataError(
            f"{len(texts)} articles and {len(topics)} topics: expected one topic for each article."
        )
    labels = np.asarray(topics)
    if labels.size and labels.dtype.kind not in "Uiu":
        raise DataError(
            f"The topics are of the kind {labels.dtype}: expected text, or whole numbers, for all."
        )
    generator = np.random.default_rng(seed)
    names, topic = np.unique(labels, return_inverse=True)
    sizes = np.bincount(topic, minlength=len(names))
    counts = _path_counts(sizes, names.tolist())
    # From here on an article is its place in `order`: sorted by topic, at random within a topic.
    order = generator.permutation(len(topic))
    order = order[np.argsort(topic[order], kind="stable")]
    path = _paths(sizes, counts)
    same = _neighbors(path, np.repeat(counts == 0, sizes))
    different = _different(path, np.repeat(counts > 0, sizes), topic[order], generator)
    places = np.concatenate([same, different], axis=1)
    is_same = np.arange(len(topic)) < same.shape[1]
    places = generator.permuted(places, axis=0)
    shuffled = generator.permutation(len(topic))
    first, second = order[places[:, shuffled]]
    return Pairs(texts, first, second, is_same[shuffled])


def _path_counts(sizes: Int[np.ndarray, " topics"], names: list[object]) -> np.ndarray:
    """The number of paths of each topic; their sum is the number of *different* pairs."""
    n = int(sizes.sum())
    half = [n // 2 + 1, n // 2] if n % 2 else [n // 2, n // 2 + 1, n // 2 - 1]
    for total in half:
        # A path has two ends to join with another topic's, so that one path cannot be all.
        counts = _apportion(sizes, total) if 2 <= total < n else None
        if counts is not None:
            return counts
    raise DataError(_obstacle(sizes, names))


def _apportion(sizes: Int[np.ndarray, " topics"], total: int) -> np.ndarray | None:
    """Share `total` paths out to the topics in proportion to their sizes, or None.

    At most one path for each article, at most half of all paths for one topic. A topic without a
    path is a ring of *same* pairs: impossible for one article, and for two it is their pair
    twice, so that they get a path unless there are too few. Within these bounds the shares are
    those of Webster and Sainte-Laguë: each path goes to the topic furthest below its share.
    """
    most = np.minimum(sizes, total // 2)
    counts = np.where(sizes <= 2, 1, 0)
    lacking = max(int(counts.sum()) - total, 0)
    counts[np.flatnonzero(sizes == 2)[:lacking]] = 0
    if counts.sum() > total or most.sum() < total:
        return None
    queue = [((counts[t] + 0.5) / sizes[t], t) for t in range(len(sizes)) if counts[t] < most[t]]
    heapq.heapify(queue)
    for _ in range(total - int(counts.sum())):
        _, t = queue[0]
        counts[t] += 1
        if counts[t] < most[t]:
            heapq.heapreplace(queue, ((counts[t] + 0.5) / sizes[t], t))
        else:
            heapq.heappop(queue)
    return counts


def _paths(sizes: Int[np.ndarray, " topics"], counts: Int[np.ndarray, " topics"]) -> np.ndarray:
    """The path of each article, ascending; the paths of a topic are as equal as can be.

    A topic with the count 0 is one path, of which `_neighbors` makes a ring.
    """
    parts = np.maximum(counts, 1)
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    part = within * np.repeat(parts, sizes) // np.repeat(sizes, sizes)
    return part + np.repeat(np.cumsum(parts) - parts, sizes)


def _neighbors(
    path: Int[np.ndarray, " articles"], in_ring: Bool[np.ndarray, " articles"]
) -> Int[np.ndarray, "2 pairs"]:
    """The *same* pairs: neighbors on a path, and the two ends of each ring."""
    head, tail = _ends(path)
    left = np.flatnonzero(path[:-1] == path[1:])
    rings = in_ring[head]
    return np.stack([np.concatenate([left, tail[rings]]), np.concatenate([left + 1, head[rings]])])


def _ends(path: Int[np.ndarray, " articles"]) -> tuple[np.ndarray, np.ndarray]:
    breaks = np.flatnonzero(np.diff(path))
    return np.concatenate([[0], breaks + 1]), np.concatenate([breaks, [len(path) - 1]])


def _different(
    path: Int[np.ndarray, " articles"],
    is_open: Bool[np.ndarray, " articles"],
    topic: Int[np.ndarray, " articles"],
    generator: np.random.Generator,
) -> Int[np.ndarray, "2 pairs"]:
    """The *different* pairs: each path's tail with the head of the path that follows it."""
    head, tail = _ends(path)
    head, tail = head[is_open[head]], tail[is_open[head]]
    following = _join(topic[head], generator)
    _part_twins(following, topic[head], head == tail, generator)
    return np.stack([tail, head[following]])


def _join(topic: Int[np.ndarray, " paths"], generator: np.random.Generator) -> np.ndarray:
    """A random permutation in which no path is followed by one of its own topic.

    Start with a random circle. For a topic t with b joints t-t, exchange the followers of these
    with those of b joints that have no t on either side. There are enough: 2 p_t - b joints touch
    t, so d - 2 p_t + b do not, and that is at least b since p_t is at most d / 2. An exchange
    makes no new joint within a topic, so one look at each topic is enough.
    """
    circle = generator.permutation(len(topic))
    following = np.empty_like(circle)
    following[circle] = np.roll(circle, -1)
    for t in np.unique(topic[topic == topic[following]]):
        before, after = topic == t, topic[following] == t
        wrong = np.flatnonzero(before & after)
        free = generator.choice(np.flatnonzero(~before & ~after), size=len(wrong), replace=False)
        following[wrong], following[free] = following[free], following[wrong]
    return following


def _part_twins(
    following: Int[np.ndarray, " paths"],
    topic: Int[np.ndarray, " paths"],
    is_lone: Bool[np.ndarray, " paths"],
    generator: np.random.Generator,
) -> None:
    """Change `following` where two lone articles follow each other, which pairs them twice.

    Their circle is opened into any other joint x -> y, in one of two ways; since x and y have
    different topics, as p and q have, one of them joins no path with its own topic.
    """
    in_twos = following[following] == np.arange(len(following))
    twins = np.flatnonzero(is_lone & is_lone[following] & in_twos)
    for p in twins if len(following) > 2 else ():
        q = following[p]
        if following[q] != p:  # opened with an earlier one
            continue
        x = p
        while x in (p, q):
            x = generator.integers(len(following))
        y = following[x]
        if topic[x] != topic[q] and topic[y] != topic[p]:
            following[p], following[x] = y, q
        else:
            following[q], following[x] = y, p


def _obstacle(sizes: Int[np.ndarray, " topics"], names: list[object]) -> str:
    """Why a corpus has no AG-Pair, in one sentence."""
    n = int(sizes.sum())
    if n < 3:
        return f"AG-Pair needs three articles or more, and the corpus has {n}."
    if len(sizes) == 1:
        return (
            f"All {n} articles have the topic {names[0]!r}: pairs of different topics need two "
            f"topics or more."
        )
    lone = np.flatnonzero(sizes == 1)
    if 2 * len(lone) > n:
        shown = ", ".join(repr(names[t]) for t in lone[:3]) + (", …" if len(lone) > 3 else "")
        return (
            f"{len(lone)} of {n} articles are alone in their topic ({shown}), and at most half "
            f"may be, since a pair of the same topic needs two; merge topics, or leave some out."
        )
    largest = int(np.argmax(sizes))
    return (
        f"The topic {names[largest]!r} has {sizes[largest]} of {n} articles, and at most three "
        f"quarters may share a topic, since each stands in two pairs and half of the pairs are "
        f"of different topics; leave some of them out."
    )
