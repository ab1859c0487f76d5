"""Files of other programs: their layouts and sizes, reading, converting and writing them."""
