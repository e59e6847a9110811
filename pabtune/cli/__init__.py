"""The command line: one file per verb. Translates arguments, calls one function, prints; decides nothing."""
