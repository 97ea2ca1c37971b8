"""The report: a function of `results.json` and nothing else."""
