"""The embedded model `shapes`: its world, its captions, its network, its training."""
