"""Profile, evaluate, search: what uses the runtime to learn about a model."""
