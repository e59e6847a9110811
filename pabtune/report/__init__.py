"""Draws records: figures, TensorBoard, video files. Holds no formula."""
