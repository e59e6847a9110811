"""How good a video is: fidelity to a reference, scores, and the statistics of a budget."""
