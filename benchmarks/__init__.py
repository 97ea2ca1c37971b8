"""Timings, each a ratio of two ways measured side by side in one run."""
