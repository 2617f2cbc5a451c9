"""People as judges: a sample of replies, the blind page to rate them on, agreement of the judges with them."""
