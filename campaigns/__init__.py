"""Long runs that no test waits for: random calls, endless streams, several hosts."""
