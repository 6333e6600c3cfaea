"""What tokenizers share: devices, threads, k-means, the residual loop, exact nearest-codeword search."""
