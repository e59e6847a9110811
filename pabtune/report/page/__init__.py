"""One page of a folder: what profile, search, evaluate and compare left there, as plain data, then as HTML."""
