"""What `ingest` and `edit` do to episodes: maps, conversions, expressions, cuts, merges. Episode to episode, spec to spec."""
