"""Tasks: a name, labeled texts, label names and a metric; and where they come from."""
