"""A study: its configuration, its results on disk, and the stages that fill them."""
