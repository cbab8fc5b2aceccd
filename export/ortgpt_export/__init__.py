"""Checkpoint to bundle: reads GPT-2 weights and authors the ONNX graph that ortgpt runs. No torch."""
