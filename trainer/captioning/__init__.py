"""Captions from models: which there are, where their files lie, and one picture into one text."""
