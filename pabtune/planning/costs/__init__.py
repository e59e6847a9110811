"""Cost of a compute mask: FLOPs, time, communication and memory, by arithmetic on measurements."""
