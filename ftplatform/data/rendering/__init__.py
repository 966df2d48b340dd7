"""From rows to the text a model reads, and which characters of it are learned."""
