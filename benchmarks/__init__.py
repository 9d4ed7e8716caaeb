"""Speed, memory and accuracy, measured."""
