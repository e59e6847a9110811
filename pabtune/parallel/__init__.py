"""Many processes on one video: who they are, what they exchange, and how a transformer is split among them."""
