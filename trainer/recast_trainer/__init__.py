"""Trains foundations and experts from event streams, measures them, and lands them as versions."""
