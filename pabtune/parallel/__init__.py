"""Several processes on one video: process groups, collectives, and strategies that split a transformer."""
