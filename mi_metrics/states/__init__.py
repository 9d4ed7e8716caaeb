"""What a metric holds: how it was built, what it counted, what it kept; each merges with its
like.
"""
