"""The configuration: config.toml with the environment on top, checked as a whole."""
