"""Our own decoder, for Llama-like families."""
