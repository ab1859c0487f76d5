"""Colours, overlays, legends and charts."""
