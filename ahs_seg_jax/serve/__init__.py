"""The server behind `ahs-seg serve`: an image and words by HTTP, labels as the answer."""
