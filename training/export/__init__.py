"""Models outside of this project: ONNX files, and a page that runs one in a browser."""
