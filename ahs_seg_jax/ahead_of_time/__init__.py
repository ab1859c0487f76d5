"""Compiling for devices that are not there: programs without data, their memory, TPU topologies."""
