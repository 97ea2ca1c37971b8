"""Read the autograd graph of a trace: find what a tensor was computed from."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from lobes.discovery.tracing import Call

Edge = tuple[Any, int]  # an autograd node and which of its outputs
# Matrix products, and which of a node's inputs are the two factors.
_PRODUCTS = {
    **dict.fromkeys(("Bmm", "Mm", "Mv", "Dot"), slice(0, 2)),
    **dict.fromkeys(("Baddbmm", "Addbmm", "Addmm", "Addmv"), slice(1, 3)),
}


def edges_of(*tensors: Tensor) -> list[Edge]:
    """Return where the graphs of tensors begin; nothing for a tensor without one."""
    edges = [get_gradient_edge(tensor) for tensor in tensors if tensor.requires_grad]
    return [(edge.node, edge.output_nr) for edge in edges]


def factors(node: Any) -> list[Edge] | None:
    """Return the two factors of a matrix product; None for any other node."""
    span = _PRODUCTS.get(node.name().removesuffix("Backward0"))
    return None if span is None else list(node.next_functions[span])


def leaf_of(node: Any) -> Tensor | None:
    """Return the leaf tensor that a node stands for; None for a node that computes something."""
    return getattr(node, "variable", None)


def walk(
    edges: Iterable[Edge], *, since: int = 0, into_products: bool = True, stop: Edge | None = None
) -> Iterator[Edge]:
    """Yield every edge upstream of `edges`, these included, that was made at `since` or later.

    With `into_products=False` the walk goes up to matrix products and not beyond. It does not
    enter `stop`.
    """
    waiting = [edge for edge in edges if edge[0] is not None and edge != stop]
    visited = {*waiting, stop}
    while waiting:
        node, number = waiting.pop()
        yield node, number
        if not into_products and factors(node) is not None:
            continue
        for edge in node.next_functions:
            # leaves count as the newest of all nodes
            if edge[0] is None or edge in visited or edge[0]._sequence_nr() < since:
                continue
            visited.add(edge)
            waiting.append(edge)


def leaves(edges: Iterable[Edge], *, since: int = 0, into_products: bool = True) -> list[Tensor]:
    """Return the leaf tensors upstream of `edges`, each once."""
    found = (leaf_of(node) for node, _ in walk(edges, since=since, into_products=into_products))
    return list({id(leaf): leaf for leaf in found if leaf is not None}.values())


def products(edges: Iterable[Edge], *, since: int = 0) -> list[list[Edge]]:
    """Return the factors of each nearest matrix product upstream of `edges`."""
    # a dictionary, to keep the order of the walk
    met = {node: None for node, _ in walk(edges, since=since, into_products=False)}
    return [found for node in met if (found := factors(node)) is not None]


def sources(edges: Iterable[Edge], since: int, calls: Mapping[int, Call]) -> set[Any]:
    """Return where tensors came from when the module was called that began at `since`.

    Each source is a tensor that existed before (its edge), a lookup in an embedding, or a leaf
    that is no parameter. `calls` are the projections by the id of the leaf that stands for their
    output; the way goes on through their inputs.
    """
    found: set[Any] = set()
    waiting = [edge for edge in edges if edge[0] is not None]
    visited = set(waiting)
    while waiting:
        edge = waiting.pop()
        leaf = leaf_of(edge[0])
        before = edge[0]._sequence_nr() < since
        following = list(edge[0].next_functions)
        if leaf is not None and id(leaf) in calls:
            call = calls[id(leaf)]
            edge, before = (call, 0), call.since < since
            following = edges_of(call.input)
        elif leaf is not None:
            before = not _is_parameter(leaf)
        if before or (leaf is None and edge[0].name().startswith("Embedding")):
            found.add(edge)
            continue
        for other in following:
            if other[0] is not None and other not in visited:
                visited.add(other)
                waiting.append(other)
    return found


def _is_parameter(leaf: Tensor) -> bool:
    from torch.nn import Parameter

    return isinstance(leaf, Parameter)
