"""Running the graph: the onnxruntime session, the cache and the decoders. Knows no text and no strategy."""
