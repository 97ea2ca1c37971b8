"""Remove heads from a model for good.

`prune` (`cutting`) cuts the rows that the heads own (`kept_rows`), changes the numbers that modules
keep (`search`, by trying), and compares the result with ablation. What was done is a plan
(`plan`), stored in the model's configuration; to load such a model the same is done (`surgery`)
to a freshly built one, so that the saved weights fit. `exports` makes ordinary models of it.
"""

from lobes.pruning.cutting import prune

__all__ = ["prune"]
