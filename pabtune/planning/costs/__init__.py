"""What a compute mask costs: FLOPs, time, stored values. Pure arithmetic on measured facts."""
