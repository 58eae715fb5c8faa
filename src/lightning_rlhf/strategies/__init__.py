"""How nets are spread over processes; the only package that knows."""
