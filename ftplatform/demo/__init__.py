"""What the demonstration uploads: small seeded data sets, good and spoilt. Needs neither torch nor a network."""
