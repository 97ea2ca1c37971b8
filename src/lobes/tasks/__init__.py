"""Tasks: a name, labelled texts, label names and a metric; and where they come from."""
