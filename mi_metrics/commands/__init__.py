"""What `mi-metrics estimate` and `mi-metrics study` do."""
