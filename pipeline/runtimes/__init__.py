"""What a model runs on: torch, or a graph exported from it once for OpenVINO or ONNX Runtime."""
