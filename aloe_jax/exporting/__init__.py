"""Trained models written for other programs: a Hugging Face directory, adapters for peft, MaxText's checkpoints."""
