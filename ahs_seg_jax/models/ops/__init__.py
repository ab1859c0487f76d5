"""How the model's operations are computed fast; all hand-written gradients live here."""
