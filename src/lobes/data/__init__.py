"""What a model is given: texts, their tokens in batches, and what is kept of them on disk."""
