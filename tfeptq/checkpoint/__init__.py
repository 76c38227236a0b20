"""Finished steps on disk, whole or not there."""
