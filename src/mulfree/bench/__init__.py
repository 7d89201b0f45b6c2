"""Timing of operators, training steps and whole networks against the convolution."""
