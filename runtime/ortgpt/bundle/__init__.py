"""Opening a bundle: files, digests and the graph's contract. Knows no onnxruntime and no tokenizer."""
