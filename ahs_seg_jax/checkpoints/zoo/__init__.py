"""The model zoo: published weights by a short name. `models.toml` says what is known of each."""
