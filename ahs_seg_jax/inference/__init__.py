"""From views of an image to labels."""
