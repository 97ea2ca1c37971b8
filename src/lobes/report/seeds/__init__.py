"""The pages of results over seeds: comparisons of ways to train, and transfer studies."""
