"""Multi-task training on `transformers.Trainer`."""
