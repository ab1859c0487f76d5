"""The command `ahs-seg`."""
