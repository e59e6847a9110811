"""Methods of the literature, one a file under its name: what to compute when, at a setting of its one knob."""
