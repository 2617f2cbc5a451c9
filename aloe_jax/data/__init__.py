"""From stored conversations to rows of tokens."""
