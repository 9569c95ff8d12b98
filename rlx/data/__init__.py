"""Text to tensors: tokenizers, corpora, order, packing. The one place that imports tokenizers and datasets."""
