"""Measurements of speed and memory, and the tables and plots made from them."""
