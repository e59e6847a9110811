"""Models that pabtune ships, and where the sites of known models are."""
