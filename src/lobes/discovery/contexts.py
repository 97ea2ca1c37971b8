"""Convert the contexts of a site between the layout of its projection's input and one layout.

That layout is [batch, …, heads * head_dim]: the batch first, with the windows or positions that
lie in front in some models, and the channels last.
"""

from jaxtyping import Float
from torch import Tensor, nn

from lobes.discovery.tracing import channel_axis
from lobes.errors import ConfigError
from lobes.sites import Site


def contexts_of(
    site: Site, projection: nn.Module, argument: Tensor
) -> Float[Tensor, "*positions width"]:
    """Return the contexts in the input of a site's projection, as a view.

    Raises `ConfigError` where they are not as wide as the site: a layout of another model.
    """
    contexts = _channels_last(projection, argument)
    if contexts.shape[-1] != site.width:  # groups of heads along the axis before
        contexts = contexts.flatten(-2)
    if contexts.shape[-1] != site.width:
        raise ConfigError(
            f"The layout is another model's, or that of this one before it was pruned: it has "
            f"{site.n_heads} heads of {site.head_dim} at site {site.index} ({site.name}), whose "
            f"contexts have the shape {list(argument.shape)}; leave layout out."
        )
    return contexts.movedim(site.batch_axis, 0) if site.batch_axis else contexts


def argument_with(
    site: Site, projection: nn.Module, argument: Tensor, contexts: Float[Tensor, "*positions width"]
) -> Tensor:
    """Return the input of a site's projection with `contexts` in place of those in `argument`."""
    if site.batch_axis:
        contexts = contexts.movedim(0, site.batch_axis)
    contexts = contexts.reshape(_channels_last(projection, argument).shape)
    axis = channel_axis(projection)
    return contexts if axis == -1 else contexts.movedim(-1, axis)


def _channels_last(projection: nn.Module, argument: Tensor) -> Tensor:
    axis = channel_axis(projection)
    return argument if axis == -1 else argument.movedim(axis, -1)
