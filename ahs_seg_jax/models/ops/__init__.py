"""How the model's operations are computed fast: same results as the plain formulas, one topic a file.

Hand-written gradients live here and nowhere else: in `products`, `convolution` and `inverse`.
"""
