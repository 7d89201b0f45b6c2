"""Losses that training methods share."""
