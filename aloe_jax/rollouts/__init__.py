"""Rollouts: the policy talks to simulated users, and what it drew is a token tree with a reward for every reply."""
