"""The page of several runs taken together."""
