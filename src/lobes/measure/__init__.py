"""Measure a model: evaluation under lesions, importance, lesion matrices, task similarity."""
