"""Serving: the engine port and desired state (torch-free), and the embedded OpenAI-style server (``embedded*``)."""
