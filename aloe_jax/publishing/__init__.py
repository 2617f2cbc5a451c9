"""Models for others: exports, their model cards, and what they were made from."""
