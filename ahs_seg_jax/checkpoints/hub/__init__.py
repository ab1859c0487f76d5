"""Repositories of the Hugging Face hub: their names, their files, downloads into the hub's own cache, uploads."""
