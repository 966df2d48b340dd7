"""From rendered text to shards of token ids that a trainer maps into memory."""
