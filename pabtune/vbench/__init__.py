"""VBench, the real one, in an environment of its own: setting it up, what of it can run, scores of videos."""
