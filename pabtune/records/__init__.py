"""Plain data and its files: sites, policies, profiles, evaluations, prompts, errors. No torch."""
