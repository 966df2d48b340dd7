"""From accepted rows to curated splits, and the proof of what was done."""
