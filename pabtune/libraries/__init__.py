"""Private names of other libraries that pabtune uses, one file per library, to be reviewed at an upgrade."""
