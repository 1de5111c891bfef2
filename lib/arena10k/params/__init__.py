"""The params schema: one YAML file describes one experiment."""
