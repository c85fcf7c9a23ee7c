"""The feed-forward of routed experts."""
