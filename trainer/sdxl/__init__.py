"""SDXL as the trainer sees it, and without a host: networks, tokens and text read from files."""
