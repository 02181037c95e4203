"""The configuration: config.toml and the environment, checked as a whole."""
