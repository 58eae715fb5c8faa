"""Pages for people: servers, and what their pages are made of."""
