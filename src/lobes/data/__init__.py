"""The data that a model reads: texts, their tokens in batches, and their cache on disk."""
