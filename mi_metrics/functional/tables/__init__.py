"""Joint tables: axes of bins, whole counts and soft counts."""
