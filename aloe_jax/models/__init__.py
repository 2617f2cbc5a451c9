"""Decoders: what they are (spec, weights), what they compute (decoder, attention), how they are stored."""
