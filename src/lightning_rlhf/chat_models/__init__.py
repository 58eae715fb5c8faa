"""The one client of chat models that judges, scoring and the making of data share, and what it asks them."""
