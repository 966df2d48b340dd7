"""What can be said about a text: its characters, language, tone, tags, and tokens per word."""
