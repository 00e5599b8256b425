"""What a machine can do: the limits that measured speeds are compared with."""
