"""Drawing replies from a model with its key/value cache kept over the turns of a conversation."""
