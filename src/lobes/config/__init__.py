"""The study file: its tables, checked and resolved."""
