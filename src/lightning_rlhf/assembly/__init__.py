"""From a configuration to a run: what the commands call, and what Python users may call as well."""
