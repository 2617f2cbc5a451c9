"""The ALOE benchmark: dialogues with simulated users, ratings, alignment metrics and the report."""
