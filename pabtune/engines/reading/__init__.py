"""Configurations that other engines run today, read from their files, a file for each format."""
