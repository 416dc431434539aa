"""What can be set, where each value comes from, and what cannot go together."""
