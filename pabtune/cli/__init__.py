"""The command line, one file per verb: it parses arguments, calls one function and prints the result."""
