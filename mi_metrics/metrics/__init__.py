"""Mutual information as torchmetrics metrics, whose state adds up over batches and devices."""
