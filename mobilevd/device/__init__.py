"""Down to the phone: export, quantize, run and profile the one-step network (the only door to onnx and runtimes)."""
